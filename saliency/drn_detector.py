"""The trained detector: a DRN segmentation network with everything that decides its maps, on disk and in use."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from saliency.atomic_write import write_aside
from saliency.deepusps_settings import has_dense_crf
from saliency.detector import DETECTOR_FILE
from saliency.drn import TABLES, DrnSegmenter
from saliency.preprocessing import normalise_images, squash
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
        batch_1CHW = normalise_images(small_HWC[None], description.mean_RGB, description.std_RGB)
        small_HW = self._model.foreground(torch.from_numpy(batch_1CHW).to(self._device))[0].float().cpu().numpy()
        if description.crf:
            small_HW = import_module("saliency.dense_crf").refine(small_HWC, small_HW)
        height, width = image_HWC.shape[:2]
        return np.clip(cv2.resize(small_HW, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)


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
        content: dict[str, Any] = json.loads((run / DETECTOR_FILE).read_bytes())
        expected_sha256 = content.pop("weights_sha256")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        description = DetectorDescription(**values)
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
    if description.crf and not has_dense_crf():
        raise UserError(f"the detector in {run} ends in a dense CRF, which this version of the project does not have")
    if weights_sha256(tensors) != expected_sha256:
        raise UserError(f"{run / WEIGHTS_FILE} is not the file that {DETECTOR_FILE} describes: take a fresh copy")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten; no one else's draws may move
        model = DrnSegmenter(description.architecture)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"the weights in {run} do not fit {description.architecture}: {error}") from error
    return DrnDetector(model, description, device)
