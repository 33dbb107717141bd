"""MoCo-v2, medium setting (Ryali et al. 2021, A.1 and Table 2).

Command: python cli.py pretrain --method moco --bg none|rm|random|swaps --dataset imagenet
ImageNet-1k, ResNet-50, 220 epochs of which 20 are warm-up, batch 1024 on 32 GPUs. algorithm.shuffle_bn_group=32 stands
for a GPU's 32 images: queries are normalised in groups of 32, keys and BG_Swaps' negatives, shuffled together over the
whole batch, in groups of 32 of both. The paper does not say whether a GPU normalised 32 keys and their 32 negatives
together or apart.
Expected linear top-1: none 67.7, rm 69.1, swaps 69.5 (Table 2); random 69.2 (Table A6, p 0.2).
Cost: 58 hours on 8 V100, from the 53 hours of He et al. for 200 epochs (168 images/s each).
"""

from backdrop.trainer.methods import moco
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.recipes._paper import only_for, views_and_cast
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings; CAST adds its crop constraint and its loss.

    Raises: UserError: another method.
    """
    only_for("moco_v2_220", "moco", method)
    return RunSettings(
        method="moco",
        algorithm=moco.Settings(),
        epochs=220,
        batch_size=1024,
        # Goyal et al. 2017, as MoCo: the rate grows with the batch, 0.12 here.
        optimiser=optimisers.Settings(name="sgd", lr=0.03, weight_decay=1e-4),
        schedule=schedules.Settings(warmup_epochs=20, is_per_epoch=True),
        **views_and_cast(moco.view_plan(background), with_cast),
    )
