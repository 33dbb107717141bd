"""Supervised, longer training (Ryali et al. 2021, A.4.3 and Table 8).

Command: python cli.py pretrain --method supervised --bg none|rm|random --dataset imagenet --recipe supervised_300
As `supervised_90`, for 300 epochs with a tenth of the rate from epochs 75, 150 and 225.
Expected top-1: rm 76.5, random 76.6 (Table 8, p 0.2).
Cost: 3.3 hours on 256 P100, from the hour of Goyal et al. for 90 epochs.
"""

from dataclasses import replace

from backdrop.trainer.recipes import supervised_90
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("supervised_300", "supervised", method)
    short = supervised_90.settings(method, background, with_cast)
    return replace(short, epochs=300, schedule=replace(short.schedule, tenth_at_epochs=(75, 150, 225)))
