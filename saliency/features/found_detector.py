"""FOUND in use as a detector: its coarse masks, or what its trained 1x1 head makes of the same features.

Simeoni et al. 2023. Shapes: H W rows and columns, h w of patches, N = h * w, D width.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from scipy.special import expit
from torch import Tensor

from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.saliency.features.background_discovery import discover_background
from backdrop.saliency.features.refinement import refined_by_solver
from backdrop.saliency.features.regions import enlarged, largest_region
from backdrop.saliency.features.token_features import (
    BATCH_SIZE,
    FeatureBackbone,
    TokenFeatures,
    within_max_patches,
)
from backdrop.saliency.networks.published_weights import PublishedVit
from backdrop.saliency.networks.vit import VisionTransformer, VitShape
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE, WEIGHTS_FILE
from backdrop.tensor_files import named_below, read_published, read_tensors, weights_sha256

ALGORITHM_VERSION = 1
NAME = "found"


@dataclass(frozen=True, kw_only=True)
class Head:
    """FOUND's 1x1 convolution onto one channel: 385 numbers of a ViT-S. weight_D, float32; its bias."""

    weight_D: np.ndarray
    bias: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Under the names and in the shapes of the published file, (1, D, 1, 1) and (1)."""
        weight_1D11 = torch.from_numpy(self.weight_D.astype(np.float32))[None, :, None, None]
        return {"weight": weight_1D11, "bias": torch.tensor([self.bias], dtype=torch.float32)}


def head_of(tensors: dict[str, Tensor], width: int, what: str) -> Head:
    """Return the head of a file's tensors.

    Args: tensors: weight (1, D, 1, 1) and bias (1). width: D, the network's. what: whose, for messages.
    Raises: UserError: other names or shapes.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {"weight": (1, width, 1, 1), "bias": (1,)}:
        raise UserError(
            f"{what} holds no head of FOUND for this network: it has {shapes or 'nothing'}, allowed are weight "
            f"(1, {width}, 1, 1) and bias (1,). The published one fits dino_deitsmall8_300ep_pretrain.pth"
        )
    return Head(weight_D=tensors["weight"].flatten().float().numpy(), bias=float(tensors["bias"]))


class FoundDetector(Detector):
    """FOUND.

    Args:
        backbone: whose features are looked at.
        head: trained on them; None = the coarse masks of background discovery, without training.
        is_single: the largest region alone, as a mask (the paper's single protocol); else the soft map (multi).
        has_solver: whether the mask is drawn to the image's edges by the bilateral solver.
    """

    uses_gpu = True
    batch_size = BATCH_SIZE
    threshold = Threshold(value=0.5, source="Simeoni et al. 2023: the head is trained as a probability")

    def __init__(
        self, backbone: FeatureBackbone, head: Head | None, *, is_single: bool = False, has_solver: bool = False
    ) -> None:
        self._backbone, self._head, self._is_single, self._has_solver = backbone, head, is_single, has_solver

    @property
    def identity(self) -> dict[str, Any]:
        """Network and head with the digests of their weights, and what is made of their maps."""
        return {
            "name": NAME,
            "algorithm_version": ALGORITHM_VERSION,
            **self._backbone.identity,
            "head_sha256": weights_sha256(self._head.tensors) if self._head else None,
            "is_single": self._is_single,
            "has_solver": self._has_solver,
        }

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """Map float32 (H, W) in [0, 1] of one uint8 RGB image; `key` is not used."""
        return self._maps([image_HWC])[0]

    def maps(self, images_HWC: Sequence[np.ndarray], keys: Sequence[str]) -> list[np.ndarray | MaskError]:
        """Maps of several images; those of one size go through the network together. `keys` are not used."""
        return [*self._maps(images_HWC)]

    def _maps(self, images_HWC: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen_HWC = [within_max_patches(image_HWC, self._backbone.patch_px) for image_HWC in images_HWC]
        features = self._backbone.features(seen_HWC)
        return [
            self._finished(image_HWC, self._soft(one, seen.shape[:2], image_HWC.shape[:2]))
            for image_HWC, seen, one in zip(images_HWC, seen_HWC, features, strict=True)
        ]

    def _soft(self, features: TokenFeatures, seen: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """The soft map at the image's size: enlarged with the padding, cropped, brought back where it was too large."""
        if self._head is None:
            found = discover_background(features.keys_AND, features.attention_AN)
            grid_N = found.foreground_N.astype(np.float32)
        else:
            grid_N = features.keys_ND @ self._head.weight_D + np.float32(self._head.bias)
        padded = (features.size[0] * self._backbone.patch_px, features.size[1] * self._backbone.patch_px)
        whole_HW = enlarged(grid_N.reshape(features.size), padded)[: seen[0], : seen[1]]
        soft_HW = whole_HW if self._head is None else expit(whole_HW)
        return soft_HW if seen == size else np.clip(enlarged(soft_HW, size), 0, 1)

    def _finished(self, image_HWC: np.ndarray, soft_HW: np.ndarray) -> np.ndarray:
        if not self._is_single and not self._has_solver:
            return np.clip(soft_HW, 0, 1).astype(np.float32)
        mask_HW = soft_HW > 0.5
        if self._is_single:
            mask_HW = largest_region(mask_HW)
        if self._has_solver:
            mask_HW = refined_by_solver(image_HWC, mask_HW, is_single=self._is_single)
        return mask_HW.astype(np.float32)


def read_head(path: Path, width: int) -> Head:
    """Read a published head (`decoder` of a .pt file), or one in safetensors.

    Args: path: of the file. width: of the network that it is for.
    Raises: UserError: there is none, or it is for another network.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: after a comma stands FOUND's head, decoder_weights.pt say")
    tensors, _ = read_published(path)
    return head_of(named_below(tensors, "decoder.") or tensors, width, str(path))


def save_found(run: Path, network: VisionTransformer, head: Head) -> None:
    """Write a run's network and head and, last, detector.json, which makes the folder a detector.

    Args: run: the folder. network: the frozen ViT, kept so that the folder needs no other file. head: trained on it.
    """
    tensors = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"head.{name}": tensor for name, tensor in head.tensors.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_aside(run / WEIGHTS_FILE, save(tensors))
    content = {
        "name": NAME,
        "algorithm_version": ALGORITHM_VERSION,
        "network": asdict(network.shape),
        "weights_sha256": weights_sha256(tensors),
    }
    write_aside(run / DETECTOR_FILE, (json.dumps(content, indent=2) + "\n").encode())


def load_found(run: Path, device: str | None, *, is_single: bool = False, has_solver: bool = False) -> FoundDetector:
    """Open what `save_found` wrote.

    Raises: UserError: a file is damaged, of another version or another detector's.
    """
    try:
        content = json.loads((run / DETECTOR_FILE).read_bytes())
        name, version = content["name"], content["algorithm_version"]
        shape = VitShape(**content["network"]) if name == NAME else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the detector in {run} cannot be read ({error}): train it again") from error
    if shape is None or version != ALGORITHM_VERSION:
        raise UserError(
            f"{run} holds {name} of version {version}; {NAME} of version {ALGORITHM_VERSION} was wanted: train it "
            "again, or use the version of the project that made it"
        )
    tensors, _ = read_tensors(run / WEIGHTS_FILE, "train it again or take a fresh copy")
    if weights_sha256(tensors) != content["weights_sha256"]:
        raise UserError(f"{run / WEIGHTS_FILE} is not the file that {DETECTOR_FILE} describes: take a fresh copy")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten; no one else's draws may move
        network = VisionTransformer(shape)
    network.load_state_dict(named_below(tensors, "backbone."))
    published = PublishedVit(
        network=network.eval(), recognised=NAME, left_out=(), weights_sha256=weights_sha256(network.state_dict())
    )
    head = head_of(named_below(tensors, "head."), shape.width, str(run / WEIGHTS_FILE))
    backbone = FeatureBackbone(published, device)
    return FoundDetector(backbone, head, is_single=is_single, has_solver=has_solver)
