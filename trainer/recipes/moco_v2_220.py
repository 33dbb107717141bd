"""MoCo-v2, medium setting (Ryali et al. 2021, A.1 and Table 2).

Command: python cli.py pretrain --method moco --bg none|rm|random|swaps --dataset imagenet
ImageNet-1k, ResNet-50, 220 epochs of which 20 are warm-up, batch 1024 on 32 GPUs (batch statistics of 32 images).
Expected linear top-1: none 67.7, rm 69.1, swaps 69.5.
Cost: He et al. report 53 hours for 200 epochs on 8 V100 (168 images/s each).
"""

from trainer import cast
from trainer.methods import moco
from trainer.recipes._paper import only_for
from trainer.run import optimisers, schedules
from trainer.run.settings import RunSettings, plan_fields


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings; CAST adds its crop constraint and its loss.

    Raises: UserError: another method.
    """
    only_for("moco_v2_220", "moco", method)
    plan = moco.view_plan(background)
    return RunSettings(
        method=method,
        algorithm=moco.Settings(),
        cast=cast.Settings() if with_cast else None,
        epochs=220,
        batch_size=1024,
        # Goyal et al. 2017, as MoCo: the rate grows with the batch, 0.12 here.
        optimiser=optimisers.Settings(name="sgd", lr=0.03, weight_decay=1e-4),
        schedule=schedules.Settings(warmup_epochs=20, is_per_epoch=True),
        **plan_fields(cast.constrained(plan) if with_cast else plan),
    )
