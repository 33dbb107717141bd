"""SelfMask's pseudo-masks as a detector: the parts of an image that several networks see, and a vote among them.

Shin et al. 2022; its trained network is not here. Shapes: H W rows and columns, K parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import cv2
import numpy as np

from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.saliency.features.feature_maps import FeatureMap, MapBackbone
from backdrop.saliency.features.refinement import refined_by_solver
from backdrop.saliency.features.region_vote import vote
from backdrop.saliency.features.spectral_clusters import ENLARGEMENT, doubled, spectral_clusters
from backdrop.settings import check_settings

BATCH_SIZE = 8
# Candidates are compared at this many pixels at most; 27 of them would otherwise take gigabytes of a large photograph.
MAX_PIXELS = 2**18


@dataclass(frozen=True, kw_only=True)
class SelfMaskSettings:
    """What decides a map besides the networks."""

    has_solver: Annotated[bool, "Whether the mask is drawn to the image's edges by the bilateral solver"] = False


class SelfMaskDetector(Detector):
    """The winner of a vote among the parts that each network divides an image into, in two, three and four.

    An object of any size wins while it leaves one border free; where every part reaches two opposite borders the
    background may. Nothing is found where no network can tell parts apart.

    Args: backbones: the networks, one or more. settings: what else decides a map.
    """

    uses_gpu = True
    batch_size = BATCH_SIZE
    threshold = Threshold(value=0.5, source="the middle of background and object: the mask is 0 or 1")

    def __init__(self, backbones: Sequence[MapBackbone], settings: SelfMaskSettings) -> None:
        check_settings(settings, "selfmask")
        self._backbones, self._settings = backbones, settings

    @property
    def identity(self) -> dict[str, Any]:
        """The networks with the digests of their weights, and the settings."""
        return {
            "name": "selfmask",
            "algorithm_version": 1,
            "networks": [backbone.identity for backbone in self._backbones],
            "settings": asdict(self._settings),
        }

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """Map float32 (H, W) of 0 and 1 of one uint8 RGB image; `key` is not used."""
        return self._maps([image_HWC])[0]

    def maps(self, images_HWC: Sequence[np.ndarray], keys: Sequence[str]) -> list[np.ndarray | MaskError]:
        """Maps of several images; those of one size go through the networks together. `keys` are not used."""
        return [*self._maps(images_HWC)]

    def _maps(self, images_HWC: Sequence[np.ndarray]) -> list[np.ndarray]:
        of_networks = [backbone.maps(images_HWC) for backbone in self._backbones]
        return [self._map(image_HWC, features) for image_HWC, *features in zip(images_HWC, *of_networks, strict=True)]

    def _map(self, image_HWC: np.ndarray, features: Sequence[FeatureMap]) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        scale = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        regions = [region_HW for one in features for region_HW in _parts(one, size)]
        chosen = vote(np.stack(regions)) if regions else None
        if chosen is None:
            return np.zeros((height, width), np.float32)
        winner_HW = regions[chosen.winner].astype(np.uint8)
        mask_HW = cv2.resize(winner_HW, (width, height), interpolation=cv2.INTER_NEAREST) > 0
        if self._settings.has_solver:
            mask_HW = refined_by_solver(image_HWC, mask_HW, is_single=False)
        return mask_HW.astype(np.float32)


def _parts(features: FeatureMap, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Every part of every division of a map, bool (H, W): what stands nearest to a pixel, without the padding."""
    cell_px = features.stride_px / ENLARGEMENT
    rows, columns = (
        ((np.arange(length) + 0.5) * seen_px / length // cell_px).astype(int)
        for length, seen_px in zip(size, features.seen, strict=True)
    )
    for clusters in spectral_clusters(doubled(features.map_hwD)):
        labels_HW = clusters.labels_hw[rows[:, None], columns]
        for part in range(clusters.labels_hw.max() + 1):
            yield labels_HW == part
