"""LOST in use as a detector."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from backdrop.saliency.features.grid_detector import GridDetector
from backdrop.saliency.features.lost import NUM_LOWEST, lost
from backdrop.settings import at_least


@dataclass(frozen=True, kw_only=True)
class LostSettings:
    """What decides a map besides the network."""

    num_lowest: Annotated[
        int, at_least(1), "Of the patches like the fewest others, how many may speak for the object (k of the paper)"
    ] = NUM_LOWEST
    has_corner_rule: Annotated[
        bool, "Whether a side with three of the four corners is the background (CutLER's; the paper has none)"
    ] = True
    has_solver: Annotated[bool, "Whether the mask is drawn to the image's edges by the bilateral solver"] = False


class LostDetector(GridDetector):
    """LOST: what is like the patch that is like the fewest others."""

    name = "lost"

    def found(self, keys_ND: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
        """Find the object's patches, bool (h, w)."""
        settings = self._settings
        found = lost(keys_ND, size, num_lowest=settings.num_lowest, has_corner_rule=settings.has_corner_rule)
        return None if found is None else found.component_hw
