"""What detectors have in common that find their objects on the patches of a frozen ViT by its keys."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np

from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.saliency.features.refinement import refined_by_solver
from backdrop.saliency.features.regions import enlarged
from backdrop.saliency.features.token_features import BATCH_SIZE, FeatureBackbone, resized_to_patches
from backdrop.settings import check_settings


class GridDetector(Detector):
    """Keys to a mask of patches, and that to the image's size; nothing where no two patches can be told apart.

    Args: backbone: whose keys are compared. settings: what decides a map besides, with `has_solver`: whether the mask
        is drawn to the image's edges by the bilateral solver.
    Raises: UserError: an impossible setting.
    """

    uses_gpu = True
    batch_size = BATCH_SIZE
    threshold = Threshold(value=0.5, source="the middle of background and object: the grid's mask is 0 or 1")
    name: ClassVar[str]
    algorithm_version: ClassVar[int] = 1
    is_single: ClassVar[bool] = True
    """Whether there is one object at most, of which the solver leaves the largest region."""

    def __init__(self, backbone: FeatureBackbone, settings: Any) -> None:
        check_settings(settings, self.name)
        self._backbone, self._settings = backbone, settings

    @abstractmethod
    def found(self, keys_ND: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
        """Find the object's patches.

        Args: keys_ND: float, of the last layer. size: rows and columns of patches.
        Returns: bool (h, w); None where nothing can be told apart.
        """

    @property
    def identity(self) -> dict[str, Any]:
        """The network with the digest of its weights, and the settings."""
        own = {"name": self.name, "algorithm_version": self.algorithm_version}
        return {**own, **self._backbone.identity, "settings": asdict(self._settings)}

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """Map float32 (H, W) in [0, 1] of one uint8 RGB image; `key` is not used."""
        return self._maps([image_HWC])[0]

    def maps(self, images_HWC: Sequence[np.ndarray], keys: Sequence[str]) -> list[np.ndarray | MaskError]:
        """Maps of several images; those of one size go through the network together. `keys` are not used."""
        return [*self._maps(images_HWC)]

    def _maps(self, images_HWC: Sequence[np.ndarray]) -> list[np.ndarray]:
        patch_px = self._backbone.patch_px
        features = self._backbone.features([resized_to_patches(image_HWC, patch_px) for image_HWC in images_HWC])
        return [
            self._map(image_HWC, self.found(one.keys_ND, one.size))
            for image_HWC, one in zip(images_HWC, features, strict=True)
        ]

    def _map(self, image_HWC: np.ndarray, mask_hw: np.ndarray | None) -> np.ndarray:
        if mask_hw is None:
            return np.zeros(image_HWC.shape[:2], np.float32)
        soft_HW = enlarged(mask_hw, image_HWC.shape[:2])
        if not self._settings.has_solver:
            return soft_HW
        return refined_by_solver(image_HWC, soft_HW > 0.5, is_single=self.is_single).astype(np.float32)
