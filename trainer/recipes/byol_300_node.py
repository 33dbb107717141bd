"""BYOL as `byol_300` on one machine: the same steps of 4096 images, 512 of them at a time (Ryali et al. 2021, Table 2).

Command: python cli.py pretrain --method byol --bg none|rm|random --dataset imagenet --recipe byol_300_node
Grill et al. 2020 make small batches of large ones by averaging the gradients of N passes before the networks move
(section 5): rate, warm-up and momentum stay those of 4096. A pass of 512 is as many images as the paper's BatchNorms
see, 8 of its GPUs: on 8, 4, 2 or 1 GPUs here they are all of the pass. Running statistics follow every pass.
Expected linear top-1: as `byol_300`, none 72.7, rm 73.3, random 73.9 (Table 2).
Memory: 64 images a GPU on 8 GPUs; --set accumulation_steps=16 for passes of 256, the fewest without a loss in section 5
(then --set sync_bn_group=256).
Cost: no figure published; about 8 days of 8 V100, by arithmetic from BYOL's work, 8 forward passes, and MoCo's 168
images/s each of 4.
"""

from dataclasses import replace

from backdrop.trainer.recipes import byol_300
from backdrop.trainer.recipes._paper import SYNC_BN_GROUP, only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("byol_300_node", "byol", method)
    large = byol_300.settings(method, background, with_cast)
    return replace(large, accumulation_steps=large.batch_size // SYNC_BN_GROUP)
