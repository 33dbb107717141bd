"""Supervised baseline (Ryali et al. 2021, section 2 "Supervised training" and Tables 7 and 8; Goyal et al. 2017).

Command: python cli.py pretrain --method supervised --bg none|rm|random --dataset imagenet
ImageNet-1k, ResNet-50, 90 epochs of which 5 are warm-up, batch 4096, a tenth of the rate from epochs 30, 60 and 80.
BatchNorm is over 32 images, a worker's share in Goyal et al.: processes that have as many or more of a batch keep their
statistics to themselves, and the larger share of fewer processes is not split.
Expected top-1: none 76.4, rm 76.5, random 76.6 (Tables 7 and 8, p 0.2). Table 7's other rows:
--set background.probability=0.1 (rm 76.6, random 76.4), 0.3 (76.4, 76.6), 0.5 (75.9, 76.0).
Its classifier retrained or its network tuned without backgrounds: recipes `supervised_retrain`, `supervised_finetune`.
Cost: Goyal et al. report one hour on 256 P100 at batch 8192.
"""

from backdrop.trainer.methods import supervised
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.recipes._paper import only_for, views_and_cast
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("supervised_90", "supervised", method)
    return RunSettings(
        method="supervised",
        algorithm=supervised.Settings(),
        epochs=90,
        batch_size=4096,
        optimiser=optimisers.Settings(name="sgd", lr=0.1, weight_decay=1e-4, includes_bias_and_norm=False),
        sync_bn_group=32,
        schedule=schedules.Settings(warmup_epochs=5, tenth_at_epochs=(30, 60, 80)),
        **views_and_cast(supervised.view_plan(background), with_cast),
    )
