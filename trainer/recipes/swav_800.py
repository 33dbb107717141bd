"""SwAV, full setting (Ryali et al. 2021, A.1 and Table 2).

Command: python cli.py pretrain --method swav --bg none|rm|random --dataset imagenet --recipe swav_800
As `swav_100`, for 800 epochs.
Expected linear top-1: none 74.9, rm 76.1, random 76.1 (Table 2; Caron et al. 75.3).
Cost: 49 hours on 64 V100, from the 3 min 40 s an epoch of Caron et al.
"""

from dataclasses import replace

from backdrop.trainer.recipes import swav_100
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("swav_800", "swav", method)
    return replace(swav_100.settings(method, background, with_cast), epochs=800)
