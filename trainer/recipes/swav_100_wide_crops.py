"""SwAV whose local crops may cover more of the image (Ryali et al. 2021, section 4.6 and C.7).

Command: python cli.py pretrain --method swav --bg rm|random --dataset imagenet --recipe swav_100_wide_crops
As `swav_100_wide`, with local crops of (0.05, s) and global ones of (s, 1) of the image, s 0.26 (rm) or 0.2 (random),
and backgrounds that come up over 5 epochs. Section 4.6 gives no p: it is that of `swav_100_wide`.
Expected linear top-1: rm 74.4, random 74.2; without backgrounds (s 0.2) the loss stays at chance.
Cost: as `swav_100`, 6 hours on 64 V100.
"""

from dataclasses import replace

from backdrop.trainer.recipes import swav_100_wide
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings

_BOUNDARIES = {"rm": 0.26}
_BOUNDARY = 0.2


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("swav_100_wide_crops", "swav", method)
    wide = swav_100_wide.settings(method, background, with_cast)
    boundary = _BOUNDARIES.get(background, _BOUNDARY)
    views = [replace(view, scale=(boundary, 1.0) if view.is_global else (0.05, boundary)) for view in wide.views]
    return replace(wide, views=tuple(views), background=replace(wide.background, warmup_epochs=5.0))
