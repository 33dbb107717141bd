"""TokenCut in use as a detector."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np

from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.saliency.features.refinement import refined_by_solver
from backdrop.saliency.features.regions import enlarged
from backdrop.saliency.features.token_cut import TAU, token_cut
from backdrop.saliency.features.token_features import BATCH_SIZE, FeatureBackbone, resized_to_patches
from backdrop.settings import check_settings, within

ALGORITHM_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TokenCutSettings:
    """What decides a map besides the network."""

    tau: Annotated[float, within(-1, 1), "Cosine above which two patches are alike; .2 was found with DINO"] = TAU
    has_corner_rule: Annotated[
        bool, "Whether a side with three of the four corners is the background (CutLER's; the paper has none)"
    ] = True
    has_solver: Annotated[bool, "Whether the mask is drawn to the image's edges by the bilateral solver"] = False


class TokenCutDetector(Detector):
    """TokenCut: the object that stands out most, alone; nothing where no two patches can be told apart.

    Args: backbone: whose keys are compared. settings: of the cut.
    Raises: UserError: an impossible setting.
    """

    uses_gpu = True
    batch_size = BATCH_SIZE
    threshold = Threshold(value=0.5, source="the middle of background and object: the grid's mask is 0 or 1")

    def __init__(self, backbone: FeatureBackbone, settings: TokenCutSettings) -> None:
        check_settings(settings, "tokencut")
        self._backbone, self._settings = backbone, settings

    @property
    def identity(self) -> dict[str, Any]:
        """The network with the digest of its weights, and the settings."""
        own = {"name": "tokencut", "algorithm_version": ALGORITHM_VERSION}
        return {**own, **self._backbone.identity, "settings": asdict(self._settings)}

    def __call__(self, image_HWC: np.ndarray, key: str) -> np.ndarray:
        """Map float32 (H, W) in [0, 1] of one uint8 RGB image; `key` is not used."""
        return self._maps([image_HWC])[0]

    def maps(self, images_HWC: Sequence[np.ndarray], keys: Sequence[str]) -> list[np.ndarray | MaskError]:
        """Maps of several images; those of one size go through the network together. `keys` are not used."""
        return [*self._maps(images_HWC)]

    def _maps(self, images_HWC: Sequence[np.ndarray]) -> list[np.ndarray]:
        patch_px = self._backbone.patch_px
        features = self._backbone.features([resized_to_patches(image_HWC, patch_px) for image_HWC in images_HWC])
        return [
            self._map(image_HWC, one.keys_ND, one.size) for image_HWC, one in zip(images_HWC, features, strict=True)
        ]

    def _map(self, image_HWC: np.ndarray, keys_ND: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        found = token_cut(keys_ND, size, tau=self._settings.tau, has_corner_rule=self._settings.has_corner_rule)
        if found is None:
            return np.zeros(image_HWC.shape[:2], np.float32)
        soft_HW = enlarged(found.component_hw, image_HWC.shape[:2])
        if not self._settings.has_solver:
            return soft_HW
        return refined_by_solver(image_HWC, soft_HW > 0.5, is_single=True).astype(np.float32)
