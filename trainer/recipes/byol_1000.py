"""BYOL, full setting (Ryali et al. 2021, A.1 and Table 2; numbers of Grill et al. 2020's 1000-epoch preset).

Command: python cli.py pretrain --method byol --bg none|rm|random --dataset imagenet --recipe byol_1000
As `byol_300`, for 1000 epochs at rate 0.2, weight decay 1.5e-6 and a target that starts at momentum 0.996.
Expected linear top-1: none 73.8, rm 74.6, random 74.8 (Table 2; Grill et al. 74.3).
Cost: Grill et al. report about 8 hours on 512 TPU v3.
"""

from dataclasses import replace

from backdrop.trainer.recipes import byol_300
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("byol_1000", "byol", method)
    medium = byol_300.settings(method, background, with_cast)
    return replace(
        medium,
        epochs=1000,
        algorithm=replace(medium.algorithm, momentum=0.996),
        optimiser=replace(medium.optimiser, lr=0.2, weight_decay=1.5e-6),
    )
