"""SwAV, medium setting (Ryali et al. 2021, A.1 and Table 2: "identical to the original", Caron et al. 2020).

Command: python cli.py pretrain --method swav --bg none|rm|random --dataset imagenet
ImageNet-1k, ResNet-50, 100 epochs of which 10 are warm-up, batch 4096 on 64 GPUs, BatchNorm over 8 of them.
Expected linear top-1: none 72.2, rm 73.6, random 73.4 (Table 2).
A background that comes up slowly (C.7) is an option: --set background.warmup_epochs=10
Cost: 6 hours on 64 V100; Caron et al. report 3 min 40 s an epoch (91 images/s each).
"""

from backdrop.trainer.methods import swav
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.recipes._paper import SYNC_BN_GROUP, only_for, views_and_cast
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("swav_100", "swav", method)
    return RunSettings(
        method="swav",
        algorithm=swav.Settings(),
        epochs=100,
        batch_size=4096,
        # Absolute: the released 4.8 at 4096 and 0.6 at 256 are not in linear proportion.
        optimiser=optimisers.Settings(name="lars", lr=4.8, lr_per_images=0, weight_decay=1e-6),
        schedule=schedules.Settings(warmup_epochs=10, warmup_start_fraction=0.3 / 4.8, final_fraction=0.001),
        sync_bn_group=SYNC_BN_GROUP,
        **views_and_cast(swav.view_plan(background), with_cast),
    )
