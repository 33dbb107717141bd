"""BYOL, medium setting (Ryali et al. 2021, A.1 and Table 2; numbers of Grill et al. 2020's 300-epoch preset).

Command: python cli.py pretrain --method byol --bg none|rm|random --dataset imagenet
ImageNet-1k, ResNet-50, 300 epochs of which 10 are warm-up, batch 4096 on 64 GPUs, BatchNorm over 8 of them.
Expected linear top-1: none 72.7, rm 73.3, random 73.9 (Table 2).
Cost: 2.4 hours on 512 TPU v3, from the 8 hours of Grill et al. for 1000 epochs.
"""

from backdrop.trainer.methods import byol
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.recipes._paper import SYNC_BN_GROUP, only_for, views_and_cast
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings; CAST adds its crop constraint and its loss.

    Raises: UserError: another method.
    """
    only_for("byol_300", "byol", method)
    return RunSettings(
        method="byol",
        algorithm=byol.Settings(),
        epochs=300,
        batch_size=4096,
        optimiser=optimisers.Settings(name="lars", lr=0.3, weight_decay=1e-6, includes_bias_and_norm=False),
        schedule=schedules.Settings(warmup_epochs=10),
        sync_bn_group=SYNC_BN_GROUP,
        **views_and_cast(byol.view_plan(background), with_cast),
    )
