"""Images to the last feature map of a frozen network with published weights, a ViT or a ResNet-50 of stride 8.

Shapes: H W rows and columns of pixels, h w of the map, D channels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from backdrop.saliency.features.token_features import by_size, say_once, within_max_patches
from backdrop.saliency.networks.drn import normalise_images
from backdrop.saliency.networks.published_weights import PublishedResNet50, PublishedVit, load_network
from backdrop.saliency.networks.vit import VisionTransformer
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """Of one image. map_hwD: float32. stride_px: pixels a cell. seen: rows and columns of pixels that it is of; cells
    reach beyond them, where the image was padded.
    """

    map_hwD: np.ndarray
    stride_px: int
    seen: tuple[int, int]


class MapBackbone:
    """A frozen network in use. A GPU computes in half precision.

    Args: published: the network; it is moved to the device. device: of torch; None = the GPU where there is one.
    """

    def __init__(self, published: PublishedVit | PublishedResNet50, device: str | None) -> None:
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._published, network = published, published.network.to(self._device)
        if isinstance(network, VisionTransformer):
            self._forward, self.stride_px = network.forward_map, network.shape.patch_px
            self._kind: Any = asdict(network.shape)
        else:
            self._forward, self.stride_px, self._kind = network, network.stride_px, "resnet50_s8"

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able: which network, and the digest of its weights."""
        return {"weights_sha256": self._published.weights_sha256, "network": self._kind}

    def maps(self, images_HWC: Sequence[np.ndarray]) -> list[FeatureMap]:
        """Find the feature maps of images; those of one size are computed together.

        Args: images_HWC: uint8 RGB, any sizes; one of too many cells is made smaller, the others are padded below and
            to the right to whole cells, with the mean colour.
        """
        small = [within_max_patches(image_HWC, self.stride_px) for image_HWC in images_HWC]
        found: dict[int, np.ndarray] = {}
        for numbers in by_size(small):
            found |= zip(numbers, self._of_one_size(np.stack([small[number] for number in numbers])), strict=True)
        return [
            FeatureMap(map_hwD=found[number], stride_px=self.stride_px, seen=(one_HWC.shape[0], one_HWC.shape[1]))
            for number, one_HWC in enumerate(small)
        ]

    @torch.inference_mode()
    def _of_one_size(self, images_BHWC: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(images_BHWC).to(self._device)
        images_BCHW = normalise_images(images, IMAGENET_MEAN, self._published.std_RGB)
        below_px, right_px = (-length % self.stride_px for length in images_BCHW.shape[2:])
        images_BCHW = functional.pad(images_BCHW, (0, right_px, 0, below_px))
        is_gpu = images_BCHW.is_cuda
        with torch.autocast("cuda" if is_gpu else "cpu", torch.float16, enabled=is_gpu):
            return self._forward(images_BCHW).float().permute(0, 2, 3, 1).cpu().numpy()


def open_map_backbone(path: Path, device: str | None) -> MapBackbone:
    """Read published weights, and say once what they are.

    Args: path: of the file. device: torch device; None = the GPU where there is one.
    Raises: UserError: they are of no ViT and no ResNet-50.
    """
    published = load_network(path)
    say_once(path, published.recognised, published.left_out)
    return MapBackbone(published, device)
