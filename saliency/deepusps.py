"""DeepUSPS2: a saliency network trained on the noisy maps of classical detectors, without labels.

Stage 1, for each classical method on its own: a fresh network learns the method's maps; what it predicts on the way is
folded into a moving average per image, which is the next round's target. Stage 2: one fresh network learns the refined
maps of all methods at once. Both stages are phases of one loop (`_train_phase`); they differ in their targets.

Nguyen et al. 2019 ("DeepUSPS"), section 3 and its published code; Ryali et al. 2021, appendix A ("DeepUSPS2").
Shapes: B images, H rows, W columns (H = W = working size).
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from saliency import pseudo_labels, training_state
from saliency.atomic_write import write_aside
from saliency.deepusps_settings import DEFAULT_PRESET, DeepUspsSettings, preset_settings, require_everything
from saliency.detector import DETECTOR_FILE
from saliency.drn import DrnSegmenter
from saliency.drn_detector import DetectorDescription, save_detector, weights_sha256
from saliency.losses import mean_f_loss
from saliency.preprocessing import normalise_images
from stores.dataset_index import DatasetIndex
from stores.errors import UserError

TRAINING_VERSION = 1  # raised by every change that makes the same settings give other weights
SETTINGS_FILE = "settings.json"
LOG_FILE = "training.jsonl"
SUBSET_STREAM, WEIGHTS_STREAM, ORDER_STREAM = range(3)

__all__ = ["DEFAULT_PRESET", "train"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One network's training: a round of stage 1, or stage 2."""

    stage: int
    # 1 or 2
    method: str | None
    # whose maps a round of stage 1 refines; None in stage 2
    round: int
    # from 1; 1 in stage 2
    targets: tuple[str, ...]
    # arrays of the pseudo-label file
    thresholds: tuple[float, ...]
    # one per target
    beta_squared: float
    # of the F-loss
    learning_rate: float
    # of epoch 0
    num_epochs: int
    # of this phase
    batch_size: int
    # images per step

    @property
    def title(self) -> str:
        """For the progress bar."""
        return f"stage 1 {self.method} round {self.round}" if self.stage == 1 else "stage 2"


def phases(settings: DeepUspsSettings, first_thresholds: tuple[float, ...]) -> list[Phase]:
    """The networks to train, in order.

    Args:
        settings: of the training.
        first_thresholds: of the classical maps, one per method.
    """
    rounds = [
        Phase(
            stage=1,
            method=method,
            round=number,
            targets=(f"classical/{method}" if number == 1 else f"refined/{method}",),
            thresholds=(first_threshold if number == 1 else settings.refined_threshold,),
            beta_squared=settings.stage1_beta_squared,
            learning_rate=learning_rate,
            num_epochs=settings.stage1_epochs,
            batch_size=settings.stage1_batch_size,
        )
        for method, first_threshold in zip(settings.methods, first_thresholds, strict=True)
        for number, learning_rate in enumerate(settings.stage1_learning_rates, start=1)
    ]
    last = Phase(
        stage=2,
        method=None,
        round=1,
        targets=tuple(f"refined/{method}" for method in settings.methods),
        thresholds=(settings.refined_threshold,) * len(settings.methods),
        beta_squared=settings.stage2_beta_squared,
        learning_rate=settings.stage2_learning_rate,
        num_epochs=settings.stage2_epochs,
        batch_size=settings.stage2_batch_size,
    )
    return [*rounds, last]


def train(
    index: DatasetIndex,
    out: Path | str,
    *,
    preset: str = DEFAULT_PRESET,
    seed: int = 0,
    settings: DeepUspsSettings | None = None,
    backbone_weights: Path | str | None = None,
    device: str | None = None,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Train a detector on the images of a data set; the same call finishes what an interrupted one began.

    On a CPU, a training interrupted anywhere gives the same weights, bit for bit, as one that was not.

    Args:
        index: the images; labels are not used.
        out: the run folder, made where it is absent.
        preset: name of the settings.
        seed: of the subset, the initial weights and the order of the images.
        settings: instead of the preset's.
        backbone_weights: safetensors of a pretrained `Drn`; None = random initial weights.
        device: torch device; None = the GPU where there is one.
        num_workers: processes for the classical maps; None = one per core.

    Returns:
        JSON-able summary: run, num_images, num_left_out, left_out (keys), final_loss.

    Raises:
        UserError: the settings need what is missing, `out` cannot be used, or no image can be decoded.
    """
    settings, run = settings or preset_settings(preset), Path(out)
    require_everything(settings, preset)
    initial = _initial_weights(backbone_weights)
    _claim(run, _run_identity(index, settings, preset, seed, initial))
    labels_path = run / pseudo_labels.FILE
    if not labels_path.is_file():
        pseudo_labels.create(
            labels_path, _subset(len(index), settings, seed), settings.methods, settings.working_size_px
        )
    with pseudo_labels.open_labels(labels_path) as file:
        if not (run / DETECTOR_FILE).is_file():
            pseudo_labels.compute_classical_maps(file, index, settings.methods, num_workers or os.cpu_count() or 1)
            _require_images(file, index)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            with _torch_threads(settings.cpu_threads):
                Training(run, file, settings, seed, initial, device).run_to_end()
        return _summary(run, file, index)


@contextmanager
def _torch_threads(num_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _initial_weights(path: Path | str | None) -> dict[str, Tensor]:
    if path is None:
        return {}
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"backbone weights {path} cannot be read ({error}): give a safetensors file") from error


def _run_identity(
    index: DatasetIndex, settings: DeepUspsSettings, preset: str, seed: int, initial: dict[str, Tensor]
) -> dict[str, Any]:
    identity = {
        "training_version": TRAINING_VERSION,
        "preset": preset,
        "seed": seed,
        "dataset": {
            "name": index.dataset,
            "split": index.split,
            "num_images": len(index),
            "digest": index.digest,
        },
        "backbone_weights_sha256": weights_sha256(initial) if initial else None,
        "settings": asdict(settings),
    }
    return json.loads(json.dumps(identity))  # tuples become lists, as they come back from the file


def _claim(run: Path, identity: dict[str, Any]) -> None:
    """Make the folder this training's, or refuse it when it is something else's."""
    path = run / SETTINGS_FILE
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            strangers = [entry.name for entry in run.iterdir() if not entry.name.startswith(".")]
            if strangers:
                raise UserError(f"{run} is not empty and holds no training ({strangers[0]}, ...): give another --out")
            write_aside(path, (json.dumps(identity, indent=2) + "\n").encode())
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{run} cannot be a run folder ({error}): give another --out") from error
    differences = _differences(found, identity)
    if differences:
        raise UserError(
            f"{run} holds a training with other settings: {'; '.join(differences)}. Give another --out, or the same "
            "settings to go on with it"
        )


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """What two JSON values disagree on, one line per leaf."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        lines = [_differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for group in lines for line in group]
    return [] if found == wanted else [f"{name} is {found} there, {wanted} now"]


def _stream(seed: int, *place: int) -> np.random.Generator:
    """A generator that is a function of the seed and of what it is drawn for."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *place))))


def _subset(num_rows: int, settings: DeepUspsSettings, seed: int) -> np.ndarray:
    order = _stream(seed, SUBSET_STREAM).permutation(num_rows)
    return np.sort(order[: settings.max_images])


def _require_images(file: h5py.File, index: DatasetIndex) -> None:
    left_out = pseudo_labels.unreadable_keys(file, index)
    if left_out:
        print(
            f"warning: {len(left_out)} of {len(file['rows'])} images cannot be decoded and are left out: "
            f"{', '.join(left_out[:5])}{', ...' if len(left_out) > 5 else ''}"
        )
    if len(pseudo_labels.usable(file)) == 0:
        raise UserError(f"none of the {len(left_out)} images below {index.root} can be decoded: give other images")


class Training:
    """The loop over phases and epochs, with its state on disk.

    Args:
        run: the run folder.
        file: its pseudo-labels, classical maps complete.
        settings: of the training.
        seed: of initial weights and orders.
        initial: backbone weights, empty = random.
        device: torch device.
    """

    def __init__(
        self,
        run: Path,
        file: h5py.File,
        settings: DeepUspsSettings,
        seed: int,
        initial: dict[str, Tensor],
        device: str,
    ) -> None:
        self.run, self.file, self.settings, self.seed = run, file, settings, seed
        self.initial, self.device = initial, device
        self.places = pseudo_labels.usable(file)
        self.phases = phases(settings, self._first_thresholds())
        self.progress, self.tensors = training_state.load_state(run)

    def _first_thresholds(self) -> tuple[float, ...]:
        if self.settings.first_thresholds is not None:
            return self.settings.first_thresholds
        return tuple(1.5 * pseudo_labels.mean_map_value(self.file, method) for method in self.settings.methods)

    def run_to_end(self) -> None:
        """Train every phase that is left and write the detector."""
        while True:
            phase = self.phases[self.progress.phase]
            model = self._train_phase(phase)
            if phase.method is None:
                break
            pseudo_labels.finish_round(self.file, phase.method, phase.num_epochs, self.settings.average_decay)
            # The next phase overwrites the moving average: from here on this one must not be finished again.
            self.progress.phase, self.progress.num_epochs, self.tensors = self.progress.phase + 1, 0, {}
            training_state.save_state(self.run, self.progress, {})
        save_detector(self.run, model, self._description())
        (self.run / training_state.FILE).unlink(missing_ok=True)

    def _description(self) -> DetectorDescription:
        settings = self.settings
        return DetectorDescription(
            architecture=settings.architecture,
            working_size_px=settings.working_size_px,
            mean_RGB=settings.mean_RGB,
            std_RGB=settings.std_RGB,
            crf=settings.crf_at_test,
        )

    def _train_phase(self, phase: Phase) -> DrnSegmenter:
        model = self._fresh_model()
        optimiser = torch.optim.Adam(model.parameters(), lr=phase.learning_rate)
        if self.tensors:
            training_state.restore(model, optimiser, self.tensors)
        num_left = phase.num_epochs - self.progress.num_epochs
        with tqdm(total=num_left * len(self.places), desc=phase.title, unit="img") as bar:
            for epoch in range(self.progress.num_epochs, phase.num_epochs):
                learning_rate = decayed(phase.learning_rate, epoch, phase.num_epochs, self.settings.learning_rate_power)
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate
                loss = self._train_epoch(phase, epoch, model, optimiser, bar)
                self._record(phase, epoch, loss, learning_rate, training_state.training_tensors(model, optimiser))
                bar.set_postfix(loss=f"{loss:.4f}")
        return model

    def _fresh_model(self) -> DrnSegmenter:
        weights_seed = int(_stream(self.seed, WEIGHTS_STREAM, self.progress.phase).integers(2**63))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights_seed)
            model = DrnSegmenter(self.settings.architecture, self.settings.head_init_std)
        if self.initial:
            try:
                model.backbone.load_state_dict(self.initial)
            except RuntimeError as error:
                raise UserError(f"the backbone weights do not fit {self.settings.architecture}: {error}") from error
        return model.to(self.device).train()

    def _train_epoch(
        self, phase: Phase, epoch: int, model: DrnSegmenter, optimiser: torch.optim.Optimizer, bar: tqdm
    ) -> float:
        """One pass over all images; the mean loss per image."""
        losses = []
        for batch in self._batches(phase, epoch):
            images_BHWC = np.stack([self.file["images"][place] for place in batch])
            images_BCHW = normalise_images(images_BHWC, self.settings.mean_RGB, self.settings.std_RGB)
            targets = [self._target(name, batch) for name in phase.targets]
            foreground_BHW = model.foreground(torch.from_numpy(images_BCHW).to(self.device))
            loss = mean_f_loss(foreground_BHW, targets, phase.thresholds, phase.beta_squared)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{phase.title}, epoch {epoch}: the loss is {loss.item()}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if phase.stage == 1:
                # code: the train-mode prediction made before this batch's step, no pass of its own
                self._keep_predictions(epoch, batch, images_BHWC, foreground_BHW.detach().float().cpu().numpy())
            losses.append(loss.item() * len(batch))
            bar.update(len(batch))
        return sum(losses) / len(self.places)

    def _batches(self, phase: Phase, epoch: int) -> Iterator[np.ndarray]:
        """Places in this epoch's order, in batches whose sizes differ by one at most.

        The authors drop an incomplete last batch, which their 2,500 images never give; the moving average needs every
        image in every epoch.
        """
        order = _stream(self.seed, ORDER_STREAM, self.progress.phase, epoch).permutation(self.places)
        yield from np.array_split(order, -(-len(order) // phase.batch_size))

    def _target(self, name: str, batch: np.ndarray) -> Tensor:
        maps_BHW = np.stack([self.file[name][place] for place in batch])
        return torch.from_numpy(maps_BHW.astype(np.float32) / 255).to(self.device)

    def _keep_predictions(
        self, epoch: int, batch: np.ndarray, images_BHWC: np.ndarray, foreground_BHW: np.ndarray
    ) -> None:
        if self.settings.crf:
            refine = import_module("saliency.dense_crf").refine
            pairs = zip(images_BHWC, foreground_BHW, strict=True)
            foreground_BHW = np.stack([refine(image_HWC, map_HW) for image_HWC, map_HW in pairs])
        decay = self.settings.average_decay
        pseudo_labels.update_moving_average(self.file, epoch, batch.tolist(), foreground_BHW, decay)

    def _record(self, phase: Phase, epoch: int, loss: float, learning_rate: float, tensors: dict[str, Tensor]) -> None:
        """Make an epoch count: first the moving average on disk, then the state that says so."""
        self.file.flush()
        self.progress.num_epochs = epoch + 1
        self.progress.log.append(
            {
                "stage": phase.stage,
                "method": phase.method,
                "round": phase.round,
                "epoch": epoch,
                "loss": loss,
                "learning_rate": learning_rate,
            }
        )
        training_state.save_state(self.run, self.progress, tensors)
        lines = "".join(json.dumps(record) + "\n" for record in self.progress.log)
        write_aside(self.run / LOG_FILE, lines.encode())


def decayed(learning_rate: float, epoch: int, num_epochs: int, power: float) -> float:
    """Polynomial decay per epoch: lr * (1 - epoch / num_epochs)^power.

    Args:
        learning_rate: of epoch 0.
        epoch: from 0.
        num_epochs: of the phase.
        power: 0.9 in the authors' code.
    """
    return learning_rate * (1 - epoch / num_epochs) ** power


def _summary(run: Path, file: h5py.File, index: DatasetIndex) -> dict[str, Any]:
    left_out = pseudo_labels.unreadable_keys(file, index)
    last = json.loads((run / LOG_FILE).read_text().splitlines()[-1])
    return {
        "run": str(run),
        "num_images": len(pseudo_labels.usable(file)),
        "num_left_out": len(left_out),
        "left_out": left_out,
        "final_loss": last["loss"],
    }
