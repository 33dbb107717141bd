"""MoCo-v2, full setting (Ryali et al. 2021, A.1 and Table 2).

Command: python cli.py pretrain --method moco --bg none|rm|random|swaps --dataset imagenet --recipe moco_v2_800
As `moco_v2_220`, for 800 epochs.
Expected linear top-1: none 71.0, rm 71.9, swaps 72.2 (Table 2).
Cost: 212 hours on 8 V100, from the 53 hours of He et al. for 200 epochs.
"""

from dataclasses import replace

from backdrop.trainer.recipes import moco_v2_220
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("moco_v2_800", "moco", method)
    return replace(moco_v2_220.settings(method, background, with_cast), epochs=800)
