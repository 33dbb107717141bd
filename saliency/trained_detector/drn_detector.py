"""The trained detector: a DRN segmentation network with everything that decides its maps, on disk and in use."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from backdrop.devices import num_cores
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.saliency.classical_detector import ClassicalDetector
from backdrop.saliency.crf.dense_crf import DEFAULTS, REFERENCE_SIDE_PX, CrfSettings, refine
from backdrop.saliency.crf.dense_crf_torch import refine_batch
from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.saliency.networks.drn import ARCHITECTURES, DrnSegmenter, normalise_images
from backdrop.saliency.networks.preprocessing import resize_to_square
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE, WEIGHTS_FILE
from backdrop.saliency.trained_detector.sanity_score import read_score
from backdrop.tensor_files import weights_sha256

ALGORITHM_VERSION = 2  # raised by every change of the code below, or of drn.py, that can change a map
# Of the papers' procedure, and of a detector that was never measured.
PAPERS_THRESHOLD = Threshold(value=0.9, source="Ryali et al. 2021, appendix A, for DeepUSPS2")
# Images found at once: enough to fill a GPU at the papers' 432 x 432, few enough for 2 GiB of decoded photographs.
BATCH_SIZE = 16
# Maps of companions are made probabilities as first labels are: logistic((map - threshold) / softness).
COMPANION_SOFTNESS = 0.08


@dataclass(frozen=True, kw_only=True)
class DetectorDescription:
    """detector.json of a run folder."""

    name: str = "deepusps"
    # the training procedure
    architecture: str
    # a name of backdrop.saliency.networks.drn.ARCHITECTURES
    algorithm_version: int = ALGORITHM_VERSION
    # of the inference code
    working_size_px: int
    # images are resized to a square of this side, as in training
    mean_RGB: tuple[float, float, float]
    # subtracted after scaling to [0, 1]
    std_RGB: tuple[float, float, float]
    # divided by
    crf: CrfSettings | None = None
    # the dense CRF that sharpens the map; None = none
    crf_size_px: int
    # side of the square it works at
    mirrors: bool = False
    # the network's map is the mean with that of the mirrored image, mirrored back
    companions: tuple[str, ...] = ()
    # classical detectors whose maps are averaged in before the CRF
    companion_share: float = 0.0
    # what they weigh together, the rest being the network's map

    def content(self) -> dict[str, Any]:
        """What detector.json and a store's identity say, JSON-able.

        What came to be described later is left out where it changes nothing: older detectors keep their identity.
        """
        content = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in content.items() if name not in _ADDED or value}


_ADDED = ("mirrors", "companions", "companion_share")


class DrnDetector(Detector):
    """A trained network in use.

    Args:
        model: in evaluation mode.
        description: what it was trained for.
        device: torch device of the model.
        threshold: where its maps are cut.
    """

    uses_gpu = True
    batch_size = BATCH_SIZE

    def __init__(
        self,
        model: DrnSegmenter,
        description: DetectorDescription,
        device: str,
        threshold: Threshold = PAPERS_THRESHOLD,
    ) -> None:
        self._model, self._description, self._device = model.to(device).eval(), description, device
        self._weights_sha256 = weights_sha256(model.state_dict())
        self._threshold = threshold
        self._companions = [ClassicalDetector(name) for name in description.companions]

    @property
    def threshold(self) -> Threshold:
        """What its training found where it was measured, else the papers'."""
        return self._threshold

    @property
    def identity(self) -> dict[str, Any]:
        """What detector.json says, and the digest of the weights."""
        versions = {"companions": [each.identity for each in self._companions]} if self._companions else {}
        return {**self._description.content(), **versions, "weights_sha256": self._weights_sha256}

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """Soft map float32 (H, W) in [0, 1] of one uint8 RGB image at its own size; `key` is not used."""
        return self._maps([image_HWC])[0]

    def maps(self, images_HWC: Sequence[np.ndarray], keys: Sequence[str]) -> list[np.ndarray | MaskError]:
        """Soft maps of several images, each at its own size.

        All are resized to one square, so any images make a batch. A GPU computes in bfloat16, its CRF in float32.

        Args:
            images_HWC: uint8 RGB, of any sizes.
            keys: not used.

        Returns:
            float32 (H, W) in [0, 1], one per image.
        """
        return [*self._maps(images_HWC)] if images_HWC else []

    @torch.inference_mode()
    def _maps(self, images_HWC: Sequence[np.ndarray]) -> list[np.ndarray]:
        description = self._description
        square_BHWC = torch.from_numpy(
            np.stack([resize_to_square(image, description.working_size_px) for image in images_HWC])
        )
        batch_BCHW = normalise_images(square_BHWC.to(self._device), description.mean_RGB, description.std_RGB)
        foreground_BHW = self._foreground(batch_BCHW)
        if description.mirrors:
            foreground_BHW = (foreground_BHW + self._foreground(batch_BCHW.flip(-1)).flip(-1)) / 2
        side_px = description.working_size_px if description.crf is None else description.crf_size_px
        if side_px != description.working_size_px:
            foreground_BHW = functional.interpolate(foreground_BHW[:, None], (side_px, side_px), mode="bilinear")[:, 0]
        if self._companions:
            foreground_BHW = self._with_companions(images_HWC, foreground_BHW)
        if description.crf is not None:
            foreground_BHW = self._sharpened(images_HWC, foreground_BHW, description.crf)
        return [
            _resized(map_HW, *image_HWC.shape[:2])
            for map_HW, image_HWC in zip(foreground_BHW.cpu().numpy(), images_HWC, strict=True)
        ]

    def _foreground(self, batch_BCHW: Tensor) -> Tensor:
        is_gpu = batch_BCHW.is_cuda
        with torch.autocast("cuda" if is_gpu else "cpu", torch.bfloat16, enabled=is_gpu):
            logits_BCHW = self._model(batch_BCHW).float()
        return logits_BCHW.softmax(dim=1)[:, 0]

    def _with_companions(self, images_HWC: Sequence[np.ndarray], foreground_BHW: Tensor) -> Tensor:
        """The network's maps, and those of the companions, unsure near each one's threshold."""
        share, side_px = self._description.companion_share, foreground_BHW.shape[-1]

        def mean_map(image_HWC: np.ndarray) -> np.ndarray:
            labels = [
                1 / (1 + np.exp((each.threshold.value - each(image_HWC, "")) / COMPANION_SOFTNESS))
                for each in self._companions
            ]
            mean_HW: np.ndarray = np.mean(labels, axis=0).astype(np.float32)
            return cv2.resize(mean_HW, (side_px, side_px), interpolation=cv2.INTER_AREA)

        with ThreadPoolExecutor(num_cores()) as pool:
            companions_BHW = torch.from_numpy(np.stack(list(pool.map(mean_map, images_HWC)))).to(self._device)
        return (1 - share) * foreground_BHW + share * companions_BHW

    def _sharpened(self, images_HWC: Sequence[np.ndarray], foreground_BHW: Tensor, crf: CrfSettings) -> Tensor:
        square_HWC = [resize_to_square(image_HWC, self._description.crf_size_px) for image_HWC in images_HWC]
        if foreground_BHW.is_cuda:
            return refine_batch(torch.from_numpy(np.stack(square_HWC)).to(self._device), foreground_BHW, crf)
        with ThreadPoolExecutor(num_cores()) as pool:  # the CRF's kernels hold no lock of Python's
            maps_HW = pool.map(refine, square_HWC, foreground_BHW.numpy(), repeat(crf))
            return torch.from_numpy(np.stack(list(maps_HW)))


def _resized(map_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.clip(cv2.resize(map_HW, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)


def save_detector(run: Path, model: DrnSegmenter, description: DetectorDescription) -> None:
    """Write detector.safetensors and, last, detector.json, which makes the run folder a detector.

    Args:
        run: the run folder.
        model: the trained network.
        description: what decides its maps besides the weights.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_aside(run / WEIGHTS_FILE, save(tensors))
    content = {**description.content(), "weights_sha256": weights_sha256(tensors)}
    write_aside(run / DETECTOR_FILE, (json.dumps(content, indent=2) + "\n").encode())


def load_detector(run: Path, *, device: str | None = None, crf: bool | None = None) -> DrnDetector:
    """Open the trained detector of a run folder.

    Args:
        run: the run folder, with detector.json.
        device: torch device; None = the GPU where there is one.
        crf: whether the maps end in the dense CRF; None = as the training's settings say.

    Raises:
        UserError: a file is damaged, made by another version, or the weights are not those of detector.json.
    """
    try:
        content: dict[str, Any] = json.loads((run / DETECTOR_FILE).read_bytes())
        expected_sha256 = content.pop("weights_sha256")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        values["crf"] = CrfSettings(**content["crf"]) if content["crf"] else None
        description = DetectorDescription(**values)
        tensors = load_file(run / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        known = ", ".join(field.name for field in fields(DetectorDescription))
        raise UserError(
            f"the detector in {run} cannot be read ({error}): {DETECTOR_FILE} must hold {known} and weights_sha256, "
            f"and {WEIGHTS_FILE} the weights; train it again or take a fresh copy"
        ) from error
    if description.architecture not in ARCHITECTURES or description.algorithm_version != ALGORITHM_VERSION:
        raise UserError(
            f"the detector in {run} is a {description.architecture} for inference version "
            f"{description.algorithm_version}; this version runs {', '.join(ARCHITECTURES)} at version "
            f"{ALGORITHM_VERSION}: train it again, or use the version of the project that made it"
        )
    if crf is not None and crf != (description.crf is not None):
        kernels = DEFAULTS.at_scale(description.crf_size_px / REFERENCE_SIDE_PX)
        description = replace(description, crf=kernels if crf else None)
    if weights_sha256(tensors) != expected_sha256:
        raise UserError(f"{run / WEIGHTS_FILE} is not the file that {DETECTOR_FILE} describes: take a fresh copy")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten; no one else's draws may move
        model = DrnSegmenter(description.architecture)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"the weights in {run} do not fit {description.architecture}: {error}") from error
    score = read_score(run)
    threshold = Threshold(value=score.own.threshold, source=score.threshold_source) if score else PAPERS_THRESHOLD
    return DrnDetector(model, description, device or ("cuda" if torch.cuda.is_available() else "cpu"), threshold)
