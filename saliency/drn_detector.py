"""The trained detector: a DRN segmentation network with everything that decides its maps, on disk and in use."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from saliency.atomic_write import write_aside
from saliency.detector import DETECTOR_FILE
from saliency.drn import TABLES, DrnSegmenter
from stores.errors import UserError

ALGORITHM_VERSION = 1  # raised by every change of the code below, or of drn.py, that can change a map
WEIGHTS_FILE = "detector.safetensors"


@dataclass(frozen=True, kw_only=True)
class DetectorDescription:
    """detector.json of a run folder."""

    name: str = "deepusps"
    # the training procedure
    architecture: str
    # a name of saliency.drn.TABLES
    algorithm_version: int = ALGORITHM_VERSION
    # of the inference code
    working_size_px: int
    # images are squashed to a square of this side, as in training
    mean_RGB: tuple[float, float, float]
    # subtracted after scaling to [0, 1]
    std_RGB: tuple[float, float, float]
    # divided by
    crf: bool = False
    # whether a dense CRF sharpens the map


def squash(image_HWC: np.ndarray, side_px: int) -> np.ndarray:
    """Resize to a square, bicubic, the aspect ratio not kept (as DeepUSPS does): uint8 (side_px, side_px, 3).

    Args:
        image_HWC: uint8 RGB.
        side_px: of the square.
    """
    return cv2.resize(image_HWC, (side_px, side_px), interpolation=cv2.INTER_CUBIC)


def to_batch(images_BHWC: np.ndarray, mean_RGB: tuple[float, ...], std_RGB: tuple[float, ...]) -> Tensor:
    """Normalised float32 (B, 3, H, W) of uint8 RGB images (B, H, W, 3).

    Args:
        images_BHWC: uint8.
        mean_RGB: of the channels, [0, 1].
        std_RGB: of the channels.
    """
    mean, std = np.float32(mean_RGB), np.float32(std_RGB)
    normalised_BHWC = (images_BHWC.astype(np.float32) / 255 - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normalised_BHWC.transpose(0, 3, 1, 2)))


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of named tensors, the same however a file lays them out.

    Args:
        tensors: any shapes and dtypes.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


class DrnDetector:
    """A trained network in use.

    Args:
        model: in evaluation mode.
        description: what it was trained for.
        device: torch device of the model.
    """

    def __init__(self, model: DrnSegmenter, description: DetectorDescription, device: str) -> None:
        self._model, self._description, self._device = model.to(device).eval(), description, device
        self.identity: dict[str, Any] = {
            **json.loads(json.dumps(asdict(description))),
            "weights_sha256": weights_sha256(model.state_dict()),
        }

    @torch.inference_mode()
    def __call__(self, image_HWC: np.ndarray, key: str) -> np.ndarray:
        """Soft map of an image at its own size; `key` is not used.

        Args:
            image_HWC: uint8 RGB.
            key: of the image in its data set.

        Returns:
            saliency_HW: float32 in [0, 1].
        """
        description = self._description
        small_HWC = squash(image_HWC, description.working_size_px)
        batch_1CHW = to_batch(small_HWC[None], description.mean_RGB, description.std_RGB).to(self._device)
        small_HW = self._model.foreground(batch_1CHW)[0].float().cpu().numpy()
        if description.crf:
            small_HW = refine_by_crf(small_HWC, small_HW)
        height, width = image_HWC.shape[:2]
        return np.clip(cv2.resize(small_HW, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)


def has_crf() -> bool:
    """Whether this version of the project comes with the dense CRF."""
    return (Path(__file__).parent / "dense_crf.py").is_file()


def refine_by_crf(image_HWC: np.ndarray, foreground_HW: np.ndarray) -> np.ndarray:
    """Sharpen a soft map along the edges of its image: float32 (H, W) in [0, 1].

    Args:
        image_HWC: uint8 RGB, the size of the map.
        foreground_HW: float32, [0, 1].

    Raises:
        UserError: this version has no dense CRF.
    """
    if not has_crf():
        raise UserError("the dense CRF (saliency/dense_crf.py) is not part of this version: train with crf = false")
    from importlib import import_module

    return import_module("saliency.dense_crf").refine(image_HWC, foreground_HW)


def save_detector(run: Path, model: DrnSegmenter, description: DetectorDescription) -> None:
    """Write detector.safetensors and, last, detector.json, which makes the run folder a detector.

    Args:
        run: the run folder.
        model: the trained network.
        description: what decides its maps besides the weights.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_aside(run / WEIGHTS_FILE, save(tensors))
    content = {**asdict(description), "weights_sha256": weights_sha256(tensors)}
    write_aside(run / DETECTOR_FILE, (json.dumps(content, indent=2) + "\n").encode())


def load_detector(run: Path, *, device: str = "cpu") -> DrnDetector:
    """Open the trained detector of a run folder.

    Args:
        run: the run folder, with detector.json.
        device: torch device.

    Raises:
        UserError: a file is damaged, made by another version, or the weights are not those of detector.json.
    """
    try:
        content = json.loads((run / DETECTOR_FILE).read_bytes())
        expected_sha256 = content.pop("weights_sha256")
        description = DetectorDescription(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        )
        tensors = load_file(run / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        known = ", ".join(field.name for field in fields(DetectorDescription))
        raise UserError(
            f"the detector in {run} cannot be read ({error}): {DETECTOR_FILE} must hold {known} and weights_sha256, "
            f"and {WEIGHTS_FILE} the weights; train it again or take a fresh copy"
        ) from error
    if description.architecture not in TABLES or description.algorithm_version != ALGORITHM_VERSION:
        raise UserError(
            f"the detector in {run} is a {description.architecture} for inference version "
            f"{description.algorithm_version}; this version runs {', '.join(TABLES)} at version {ALGORITHM_VERSION}: "
            "train it again, or use the version of the project that made it"
        )
    if weights_sha256(tensors) != expected_sha256:
        raise UserError(f"{run / WEIGHTS_FILE} is not the file that {DETECTOR_FILE} describes: take a fresh copy")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten; no one else's draws may move
        model = DrnSegmenter(description.architecture)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"the weights in {run} do not fit {description.architecture}: {error}") from error
    return DrnDetector(model, description, device)
