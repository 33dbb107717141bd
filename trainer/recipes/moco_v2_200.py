"""MoCo-v2 as published (Chen et al. 2020, "Improved baselines", Table 2), for one machine of 8 GPUs.

Command: python cli.py pretrain --method moco --bg none|rm|random|swaps --dataset imagenet --recipe moco_v2_200
ImageNet-1k, ResNet-50, 200 epochs without warm-up, batch 256 on 8 GPUs, rate 0.03. Backgrounds as in Ryali A.1.
Expected linear top-1: none 67.5 (67.7 for the released weights); the others were not measured at this batch.
Cost: He et al. report 53 hours on 8 V100 (168 images/s each).
"""

from dataclasses import replace

from backdrop.trainer.recipes import moco_v2_220
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("moco_v2_200", "moco", method)
    medium = moco_v2_220.settings(method, background, with_cast)
    return replace(medium, epochs=200, batch_size=256, schedule=replace(medium.schedule, warmup_epochs=0.0))
