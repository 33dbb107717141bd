"""SwAV with the wider projection that strong backgrounds ask for (Ryali et al. 2021, section 4.6 and Figure 4, left).

Command: python cli.py pretrain --method swav --bg none|rm|random --dataset imagenet --recipe swav_100_wide
As `swav_100`, with a projection of 4096/256 in place of 2048/128 and backgrounds at p 0.25.
Expected linear top-1: none 72.6, rm 74.1, random 74.1 (table of Figure 4; after 800 epochs 75.0, 76.1 and 76.1).
Cost: as `swav_100`, 6 hours on 64 V100.
"""

from dataclasses import replace

from backdrop.trainer.recipes import swav_100
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("swav_100_wide", "swav", method)
    medium = swav_100.settings(method, background, with_cast)
    probability = 0.0 if background == "none" else 0.25
    return replace(
        medium,
        algorithm=replace(medium.algorithm, hidden_dim=4096, embedding_dim=256),
        background=replace(medium.background, probability=probability),
    )
