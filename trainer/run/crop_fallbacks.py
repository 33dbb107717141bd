"""Says when many crops of a run are not where its plan wants them.

A crop that holds `min_foreground` of the foreground in none of its 10 tries is replaced by a fallback. With the
fallback of Ryali et al. (2021, A.1) that is the whole image: small local views of multi-crop under a hard constraint
quietly turn global (74 % of crops of 5 to 14 % of the image at min_foreground 0.5).
"""

from collections.abc import Sequence

import numpy as np

from backdrop.pipeline.views.view_plan import MAX_CROP_TRIES, View, ViewPlan

# Of a view's crops; rarer fallbacks are part of the papers' procedure.
LARGE_SHARE = 0.2
# Crops of a view after which its share is known to 2 %.
NUM_CROPS = 2000
INSTEAD = {
    "center": "the whole image, cut around its centre to the aspect ratio",
    "bbox": "the foreground's box, grown at random",
    "best": f"the one of the {MAX_CROP_TRIES} tries with the most foreground",
}


class FallbackWatch:
    """Counts the fallbacks of each view until there is enough to judge by."""

    def __init__(self, plan: ViewPlan) -> None:
        self._plan = plan
        self._num_fallbacks_V = np.zeros(len(plan.views), np.int64)
        self._num_crops = 0
        self._is_done = False

    def add(self, records: Sequence[np.ndarray]) -> str | None:
        """Count one batch; returns what there is to say once enough crops were seen.

        Args: records: (B,) of VIEW_DTYPE per view.
        """
        if self._is_done:
            return None
        self._num_crops += len(records[0])
        self._num_fallbacks_V += [int(np.count_nonzero(record_B["is_fallback"])) for record_B in records]
        return self.warning() if self._num_crops >= NUM_CROPS else None

    def warning(self) -> str | None:
        """Judge by what was counted, once; None where no view takes its fallback often."""
        if self._is_done or not self._num_crops:
            return None
        self._is_done = True
        share_V = self._num_fallbacks_V / self._num_crops
        often = [
            f"view {number} ({_described(self._plan.views[number])}) {share_V[number]:.0%}"
            for number in np.flatnonzero(share_V > LARGE_SHARE)
        ]
        if not often:
            return None
        fallback = self._plan.crop_fallback
        advice = "" if fallback == "best" else " or set crop_fallback=best"
        return (
            f"warning: of many crops none of the {MAX_CROP_TRIES} tries fits the image and holds min_foreground of its "
            f"foreground: {'; '.join(often)}. Each of them is {INSTEAD[fallback]} instead "
            f"(crop_fallback={fallback}); lower min_foreground of these views, widen their scale{advice}"
        )


def _described(view: View) -> str:
    low, high = view.scale
    return f"{view.size_px} px, scale {low:g} to {high:g}, min_foreground {view.min_foreground:g}"
