"""MaskCut in use as a detector: the mask of an image is the union of its objects."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from backdrop.saliency.features.grid_detector import GridDetector
from backdrop.saliency.features.mask_cut import NUM_OBJECTS, TAU, mask_cut
from backdrop.settings import at_least, within


@dataclass(frozen=True, kw_only=True)
class MaskCutSettings:
    """What decides a map besides the network."""

    tau: Annotated[float, within(-1, 1), "Cosine above which two patches are alike; .15 was found with DINO"] = TAU
    num_objects: Annotated[int, at_least(1), "Objects of an image, at most"] = NUM_OBJECTS
    has_solver: Annotated[bool, "Whether the mask is drawn to the image's edges by the bilateral solver"] = False


class MaskCutDetector(GridDetector):
    """MaskCut: several objects, as one mask."""

    name = "maskcut"
    is_single = False

    def found(self, keys_ND: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
        """Find the objects' patches, bool (h, w)."""
        masks_Khw = mask_cut(keys_ND, size, tau=self._settings.tau, num_objects=self._settings.num_objects)
        return masks_Khw.max(axis=0) if len(masks_Khw) else None
