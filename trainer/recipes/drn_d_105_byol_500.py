"""The backbone of DeepUSPS2: BYOL on a DRN-D-105 (Ryali et al. 2021, A.2), for saliency train --backbone-weights.

Command: python cli.py pretrain --method byol --bg none --dataset imagenet --recipe drn_d_105_byol_500
As `byol_300`, 500 epochs: base rate 0.3, weight decay 1e-6, target's momentum from 0.99, batch 4096.
Expected linear top-1: 73.9 (A.2).
Cost: 43.3 GMAC an image at 224 px; about 17 days of one H200 at 300 TFLOP/s, by arithmetic.
"""

from dataclasses import replace

from backdrop.trainer.recipes import byol_300
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("drn_d_105_byol_500", "byol", method)
    return replace(byol_300.settings(method, background, with_cast), backbone="drn_d_105", epochs=500)
