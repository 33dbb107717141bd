"""SwAV on one machine: the released small-batch command, 256 images a step (Caron et al. 2020, `swav_200ep_bs256`).

Command: python cli.py pretrain --method swav --bg none|rm|random --dataset imagenet --recipe swav_200_node
ImageNet-1k, ResNet-50, 200 epochs, batch 256 on 4 GPUs, BatchNorm over all. Rate 0.6 (no linear share of 4.8 at 4096)
down to 0.0006 without warm-up; a queue of 3840 embeddings from epoch 15; prototypes frozen for 5005 steps, an epoch.
Codes are assigned over the batch, so a step is not taken in parts.
Expected linear top-1: 72.7 with none, as released; no row of Ryali et al. (Table 2 has 100 and 800 epochs of 4096).
Cost: 7 days of 4 V100; Caron et al. report 52 min 10 s an epoch (102 images/s each).
"""

from dataclasses import replace

from backdrop.trainer.methods import swav
from backdrop.trainer.optimisation import schedules
from backdrop.trainer.recipes import swav_100
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("swav_200_node", "swav", method)
    large = swav_100.settings(method, background, with_cast)
    return replace(
        large,
        algorithm=swav.Settings(queue_size=3840, queue_start_epoch=15, freeze_prototypes_steps=5005),
        epochs=200,
        batch_size=256,
        optimiser=replace(large.optimiser, lr=0.6),
        schedule=schedules.Settings(final_fraction=0.001),
        sync_bn_group=0,
    )
