"""Images to what a frozen ViT's last layer sees in their patches: keys, and the attention of CLS.

Shapes: H W rows and columns of pixels, h w of patches, N = h * w, A heads, d width of a head.
"""

import math
import multiprocessing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from backdrop.progress import note
from backdrop.saliency.networks.drn import normalise_images
from backdrop.saliency.networks.published_weights import PublishedVit, load_vit
from backdrop.saliency.networks.weight_names import said_of
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD

# Ours, as every image must be taken: larger ones are scaled down. 512 x 512 px at a patch of 8; a graph of 0.13 GB.
MAX_PATCHES = 4096
# Images handed over at once; those of one size among them are computed together.
BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class TokenFeatures:
    """Of one image's patches, without CLS and registers; float32 arrays.

    keys_AND: keys of the last layer by head. attention_AN: of CLS to each patch, by head; sums to one only together
    with what CLS and registers get.
    """

    size: tuple[int, int]
    # rows and columns of patches
    keys_AND: np.ndarray
    attention_AN: np.ndarray

    @property
    def keys_ND(self) -> np.ndarray:
        """The heads' keys side by side, (N, A * d)."""
        return side_by_side(self.keys_AND)


def side_by_side(keys_AND: np.ndarray) -> np.ndarray:
    """Put the heads' keys, (A, N, d), side by side: (N, A * d)."""
    return keys_AND.transpose(1, 0, 2).reshape(keys_AND.shape[1], -1)


def cls_attention(queries_BAd: Tensor, keys_BATd: Tensor) -> Tensor:
    """Attention of one query per head over all tokens, CLS and registers too: (B, A, T).

    Args: queries_BAd: of CLS. keys_BATd: of all tokens.
    """
    scores_BAT = torch.einsum("bad,batd->bat", queries_BAd, keys_BATd) / math.sqrt(keys_BATd.shape[-1])
    return scores_BAT.softmax(dim=-1)


class FeatureBackbone:
    """A frozen ViT in use. A GPU computes in half precision.

    Args: published: the network; it is moved to the device. device: of torch; None = the GPU where there is one.
    """

    def __init__(self, published: PublishedVit, device: str | None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.network = published.network.to(device)
        self.patch_px = published.network.shape.patch_px
        self._device, self._weights_sha256 = device, published.weights_sha256

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able: the network's shape and the digest of its weights."""
        return {"weights_sha256": self._weights_sha256, "network": asdict(self.network.shape)}

    def features(self, images_HWC: Sequence[np.ndarray]) -> list[TokenFeatures]:
        """Find the features of images; those of one size are computed together.

        Args: images_HWC: uint8 RGB, any sizes; padded below and to the right to whole patches, with the mean colour.
        """
        found: dict[int, TokenFeatures] = {}
        for numbers in by_size(images_HWC):
            batch_BHWC = torch.from_numpy(np.stack([images_HWC[number] for number in numbers]))
            found |= zip(numbers, self._of_one_size(batch_BHWC), strict=True)
        return [found[number] for number in range(len(images_HWC))]

    def _of_one_size(self, images_BHWC: Tensor) -> list[TokenFeatures]:
        height, width = images_BHWC.shape[1:3]
        size = (-(-height // self.patch_px), -(-width // self.patch_px))
        queries, keys = self.queries_and_keys(images_BHWC)
        attention_BAT = cls_attention(queries[:, :, 0], keys)
        first = 1 + self.network.shape.num_registers
        keys, attention_BAT = keys[:, :, first:].cpu(), attention_BAT[:, :, first:].cpu()
        return [
            TokenFeatures(size=size, keys_AND=one_keys.numpy(), attention_AN=one_attention.numpy())
            for one_keys, one_attention in zip(keys, attention_BAT, strict=True)
        ]

    @torch.inference_mode()
    def queries_and_keys(self, images_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of the last layer, float32 (B, A, T, d) on the device.

        Args: images_BHWC: uint8 RGB, on any device; padded to whole patches after the normalisation.
        """
        images_BCHW = normalise_images(images_BHWC.to(self._device), IMAGENET_MEAN, IMAGENET_STD)
        below_px, right_px = (-length % self.patch_px for length in images_BCHW.shape[2:])
        images_BCHW = functional.pad(images_BCHW, (0, right_px, 0, below_px))
        is_gpu = images_BCHW.is_cuda
        with torch.autocast("cuda" if is_gpu else "cpu", torch.float16, enabled=is_gpu):
            queries, keys = self.network.last_queries_keys(images_BCHW)
        return queries.float(), keys.float()


def open_backbone(path: Path, device: str | None) -> FeatureBackbone:
    """Read published weights, and say once what they are.

    Args: path: of the file. device: torch device; None = the GPU where there is one.
    Raises: UserError: they are of no ViT.
    """
    published = load_vit(path)
    say_once(path, published.recognised, published.left_out)
    return FeatureBackbone(published, device)


def say_once(path: Path, recognised: str, not_taken: Sequence[str]) -> None:
    """Say what was made of a file of weights; workers, which read the same file, do not."""
    if multiprocessing.parent_process() is None:
        note(f"{path.name}: {said_of(recognised, not_taken)}")


def by_size(images_HWC: Sequence[np.ndarray]) -> Iterable[list[int]]:
    """Return the numbers of images, those of one size together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, image_HWC in enumerate(images_HWC):
        groups.setdefault(image_HWC.shape, []).append(number)
    return groups.values()


def resized_to_patches(image_HWC: np.ndarray, patch_px: int) -> np.ndarray:
    """Resize each side to the nearest multiple of the patch, as TokenCut does (Lanczos; halves to even).

    Args: image_HWC: uint8 RGB; one of more than MAX_PATCHES is made smaller. patch_px: side of a patch.
    """
    height, width = image_HWC.shape[:2]
    scale = min(1.0, math.sqrt(MAX_PATCHES * patch_px**2 / (height * width)))
    rows, columns = (max(1, round(length * scale / patch_px)) for length in (height, width))
    if rows * columns > MAX_PATCHES:  # rounding went up
        rows, columns = min(rows, MAX_PATCHES // columns or 1), min(columns, MAX_PATCHES)
    if (rows * patch_px, columns * patch_px) == (height, width):
        return image_HWC
    return np.asarray(
        Image.fromarray(image_HWC).resize((columns * patch_px, rows * patch_px), Image.Resampling.LANCZOS)
    )


def within_max_patches(image_HWC: np.ndarray, patch_px: int) -> np.ndarray:
    """Make an image of more than MAX_PATCHES smaller; any other stays as it is.

    Args: image_HWC: uint8 RGB. patch_px: side of a patch.
    """
    height, width = image_HWC.shape[:2]
    if -(-height // patch_px) * -(-width // patch_px) <= MAX_PATCHES:
        return image_HWC
    return resized_to_patches(image_HWC, patch_px)
