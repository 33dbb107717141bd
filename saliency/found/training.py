"""The training of FOUND's head: minutes, resumable, into a run folder as DeepUSPS2 writes one.

Simeoni et al. 2023, section 3.3. Shapes: B images, S side in pixels, s in patches, N = s * s, D width.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.devices import num_cores
from backdrop.durable_files import write_aside
from backdrop.errors import ImageError, UserError
from backdrop.progress import stage_bar, warn
from backdrop.saliency.deepusps2 import training_state
from backdrop.saliency.deepusps2.random_streams import stream
from backdrop.saliency.deepusps2.training_log import FOUND_STAGE, LOG_FILE
from backdrop.saliency.features.background_discovery import discover_background
from backdrop.saliency.features.found_detector import FoundDetector, Head, save_found
from backdrop.saliency.features.token_features import FeatureBackbone, TokenFeatures, open_backbone
from backdrop.saliency.found.pseudo_masks import refined_targets
from backdrop.saliency.found.settings import FoundSettings
from backdrop.saliency.scoring.sanity_check import measure
from backdrop.saliency.trained_detector.run_claim import claim
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE
from backdrop.settings import check_settings
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex

TRAINING_VERSION = 1  # raised by every change that makes the same settings give other weights
ORDER, WEIGHTS, AUGMENTATION = range(10, 13)  # purposes of draws, beside those of DeepUSPS2
BLUR_KERNEL_PX = 23
MAX_NAMED = 5

# Images and, of each, masks; those refined.
Refine = Callable[[list[np.ndarray], list[list[np.ndarray]]], list[list[np.ndarray]]]


@dataclass(frozen=True, kw_only=True)
class _Batch:
    images: list[np.ndarray]
    # uint8 (S, S, 3)
    keys_BND: Tensor
    features: list[TokenFeatures]


def train(
    index: DatasetIndex,
    out: Path | str,
    settings: FoundSettings,
    *,
    seed: int = 0,
    backbone_weights: Path | str | None = None,
    validation: Path | str | None = None,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Train a head on the images of a data set; the same call finishes what an interrupted one began.

    On a CPU, a training interrupted anywhere gives the same weights, bit for bit, as one that was not.

    Args:
        index: the images; labels are not used.
        out: the run folder, made where it is absent; holds the network beside the head in the end.
        settings: of the training.
        seed: of the initial weights, the order of the images and the augmentations.
        backbone_weights: a file of a published ViT.
        validation: a folder with `images` and true `masks` that the finished detector is scored on; None = drawn
            pictures (`sanity_check.measure`). Nothing is chosen by it.
        num_workers: processes that refine masks; None = one per core.

    Returns: JSON-able summary: run, num_images, num_left_out, left_out (keys), final_loss, sanity (scores).

    Raises: UserError: no weights, settings that do not go together, `out` cannot be used, or images cannot be decoded.
    """
    check_settings(settings)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a head of FOUND trains in one process, within minutes: start it without torchrun")
    if backbone_weights is None:
        raise UserError(
            "--preset found trains on a published ViT: give --backbone-weights FILE, such as "
            "dino_deitsmall8_300ep_pretrain.pth"
        )
    run = Path(out)
    backbone = open_backbone(Path(backbone_weights), None)
    if settings.size_px % backbone.patch_px:
        raise UserError(f"size_px={settings.size_px} must be a multiple of the network's patch, {backbone.patch_px}")
    claim(run, _identity(index, settings, seed, backbone))
    if not (run / DETECTOR_FILE).is_file():
        with _workers(num_workers or num_cores()) as refine:
            _HeadTraining(run, index, settings, seed, backbone, refine).run_to_end()
    score = measure(run, validation=Path(validation) if validation else None, kept=FoundDetector.threshold)
    return {**_summary(run, index), "sanity": asdict(score)}


def _identity(index: DatasetIndex, settings: FoundSettings, seed: int, backbone: FeatureBackbone) -> dict[str, Any]:
    dataset = {"name": index.dataset, "split": index.split, "num_images": len(index), "digest": index.digest}
    own = {"training": "found", "training_version": TRAINING_VERSION, "seed": seed, "dataset": dataset}
    identity = {**own, "backbone": backbone.identity, "settings": asdict(settings)}
    return json.loads(json.dumps(identity))  # tuples become lists, as they come back from the file


@contextmanager
def _workers(num: int) -> Iterator[Refine]:
    """Give what refines the masks of several images, in processes of their own where there are several."""
    if num == 1:
        yield lambda images, masks: list(map(refined_targets, images, masks))
        return
    with ProcessPoolExecutor(num, mp_context=get_context("spawn")) as pool:
        yield lambda images, masks: list(pool.map(refined_targets, images, masks))


class _HeadTraining:
    """One training, from where its state says it stands."""

    def __init__(
        self,
        run: Path,
        index: DatasetIndex,
        settings: FoundSettings,
        seed: int,
        backbone: FeatureBackbone,
        refine: Refine,
    ) -> None:
        self.run, self.index, self.settings, self.seed = run, index, settings, seed
        self.backbone, self.refine = backbone, refine
        self.progress, tensors = training_state.load_state(run)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(stream(seed, WEIGHTS).integers(2**63)))
            # On the CPU, where its 385 numbers take no time and give the same bits everywhere.
            self.head = nn.Linear(backbone.network.shape.width, 1)
        self.optimiser = torch.optim.AdamW(
            self.head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        if tensors:
            training_state.restore(self.head, self.optimiser, tensors)

    def run_to_end(self) -> None:
        """Train what is left and write the detector."""
        first, losses = self.progress.num_epochs, []
        left_out: set[str] = set()
        with stage_bar(total=self.settings.iterations, initial=first, stage="train FOUND's head", unit="step") as bar:
            for iteration in range(first, self.settings.iterations):
                batch = self._batch(iteration, left_out)
                losses.append(self._step(iteration, batch))
                bar.update()
                if (iteration + 1) % self.settings.decay_iterations == 0 or iteration + 1 == self.settings.iterations:
                    bar.set_postfix(loss=f"{np.mean(losses):.4f}")
                    self._record(iteration, float(np.mean(losses)), left_out)
                    losses, left_out = [], set()
        weight_D = self.head.weight.detach().flatten().numpy()
        head = Head(weight_D=weight_D, bias=float(self.head.bias.detach()))
        save_found(self.run, self.backbone.network, head)
        (self.run / training_state.FILE).unlink(missing_ok=True)

    def _batch(self, iteration: int, left_out: set[str]) -> _Batch:
        rows = rows_of(iteration, len(self.index), self.settings.batch_size, self.seed)
        with ThreadPoolExecutor(num_cores()) as pool:
            found = list(pool.map(self._image, rows, [iteration] * len(rows)))
        images = [image for image in found if image is not None]
        left_out |= {self.index.keys[row] for row, image in zip(rows, found, strict=True) if image is None}
        if not images:
            raise UserError(f"none of {len(rows)} images below {self.index.root} can be decoded: give other images")
        features = self.backbone.features(images)
        return _Batch(
            images=images, keys_BND=torch.from_numpy(np.stack([one.keys_ND for one in features])), features=features
        )

    def _image(self, row: int, iteration: int) -> np.ndarray | None:
        """An image as this step sees it; None where it cannot be read."""
        try:
            image_HWC = decode_rgb(self.index.read(row))
        except (OSError, ImageError):
            return None  # named in the log, and at the end
        return augmented(image_HWC, self.settings, stream(self.seed, AUGMENTATION, iteration, row))

    def _step(self, iteration: int, batch: _Batch) -> float:
        settings = self.settings
        learning_rate = settings.learning_rate * settings.decay ** (iteration // settings.decay_iterations)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        logits_BN = self.head(batch.keys_BND)[..., 0]
        own_BN = (logits_BN > 0).float()
        masks_BN = [[own_N] for own_N in own_BN.bool().numpy()]
        is_coarse = iteration < settings.coarse_iterations
        if is_coarse:
            for masks, one in zip(masks_BN, batch.features, strict=True):
                found = discover_background(one.keys_AND, one.attention_AN, threshold=settings.background_threshold)
                masks.append(found.foreground_N)
        size = batch.features[0].size
        refined = self.refine(batch.images, [[mask_N.reshape(size) for mask_N in masks] for masks in masks_BN])
        targets = [torch.from_numpy(np.stack(of_all)).flatten(1).float() for of_all in zip(*refined, strict=True)]
        loss = head_loss(logits_BN, own_BN, targets[0], targets[1] if is_coarse else None, settings)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def _record(self, iteration: int, loss: float, left_out: set[str]) -> None:
        """Make the steps since the last time count."""
        self.progress.num_epochs = iteration + 1
        self.progress.log.append(
            {
                "stage": FOUND_STAGE,
                "method": None,
                "round": 0,
                "epoch": len(self.progress.log),
                "loss": loss,
                "learning_rate": self.optimiser.param_groups[0]["lr"],
                "left_out": sorted(left_out),
            }
        )
        tensors = training_state.training_tensors(self.head, self.optimiser)
        training_state.save_state(self.run, self.progress, tensors)
        write_aside(self.run / LOG_FILE, "".join(json.dumps(record) + "\n" for record in self.progress.log))


def rows_of(iteration: int, num_images: int, batch_size: int, seed: int) -> list[int]:
    """Return the rows of a step: of each pass over the images in an order of its own, the last batch smaller.

    Args: iteration: from 0. num_images: there are. batch_size: at most. seed: of the training.
    """
    num_batches = -(-num_images // batch_size)
    epoch, number = divmod(iteration, num_batches)
    order = stream(seed, ORDER, epoch).permutation(num_images)
    return [int(row) for row in order[number * batch_size : (number + 1) * batch_size]]


def augmented(image_HWC: np.ndarray, settings: FoundSettings, draws: np.random.Generator) -> np.ndarray:
    """Scale an image by a draw, squash it to the square and perhaps blur it: uint8 (S, S, 3).

    Args: image_HWC: uint8 RGB. settings: of the training. draws: of this image in this step.
    """
    side_px = settings.size_px
    scale, sigma_px = draws.uniform(*settings.scales), draws.uniform(*settings.blur_sigmas_px)
    is_blurred = draws.random() < settings.blur_probability
    height, width = image_HWC.shape[:2]
    # The scale changes resolution alone, being undone; what it would show above the image's own size is nothing.
    factor = min(1.0, scale * side_px / min(height, width))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    scaled_HWC = cv2.resize(image_HWC, small, interpolation=cv2.INTER_AREA)
    square_SSC = cv2.resize(scaled_HWC, (side_px, side_px), interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(square_SSC, (BLUR_KERNEL_PX, BLUR_KERNEL_PX), sigma_px) if is_blurred else square_SSC


def head_loss(
    logits_BN: Tensor, own_BN: Tensor, refined_BN: Tensor, coarse_BN: Tensor | None, settings: FoundSettings
) -> Tensor:
    """Return the loss of a step: cross-entropy with the refined own mask, and with the refined coarse or the own one.

    Args: logits_BN: of the head. own_BN: 1 where they are positive. refined_BN: that, refined. coarse_BN: the coarse
        masks, refined; None = the head has left them. settings: the weights.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits
    loss = settings.refined_weight * cross_entropy(logits_BN, refined_BN)
    if coarse_BN is not None:
        return loss + settings.coarse_weight * cross_entropy(logits_BN, coarse_BN)
    return loss + settings.own_weight * cross_entropy(logits_BN, own_BN)


def _summary(run: Path, index: DatasetIndex) -> dict[str, Any]:
    records = [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]
    left_out = sorted({key for record in records for key in record["left_out"]})
    if left_out:
        named = ", ".join(left_out[:MAX_NAMED]) + (", ..." if len(left_out) > MAX_NAMED else "")
        warn(f"warning: {len(left_out)} images cannot be decoded and were left out: {named}")
    return {
        "run": str(run),
        "num_images": len(index) - len(left_out),
        "num_left_out": len(left_out),
        "left_out": left_out,
        "final_loss": records[-1]["loss"],
    }
