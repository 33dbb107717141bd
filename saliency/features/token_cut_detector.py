"""TokenCut in use as a detector."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from backdrop.saliency.features.grid_detector import GridDetector
from backdrop.saliency.features.token_cut import TAU, token_cut
from backdrop.settings import within


@dataclass(frozen=True, kw_only=True)
class TokenCutSettings:
    """What decides a map besides the network."""

    tau: Annotated[float, within(-1, 1), "Cosine above which two patches are alike; .2 was found with DINO"] = TAU
    has_corner_rule: Annotated[
        bool, "Whether a side with three of the four corners is the background (CutLER's; the paper has none)"
    ] = True
    has_solver: Annotated[bool, "Whether the mask is drawn to the image's edges by the bilateral solver"] = False


class TokenCutDetector(GridDetector):
    """TokenCut: the object that stands out most, alone."""

    name = "tokencut"

    def found(self, keys_ND: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
        """Find the object's patches, bool (h, w)."""
        cut = token_cut(keys_ND, size, tau=self._settings.tau, has_corner_rule=self._settings.has_corner_rule)
        return None if cut is None else cut.component_hw
