"""A supervised network tuned without backgrounds (Ryali et al. 2021, A.4.2 and Table 7).

Command: python cli.py pretrain --method supervised --bg none --dataset imagenet --recipe supervised_finetune
Also takes --set algorithm.start_from=RUN, the folder of a run of `supervised_90`.
20 epochs, batch 4096, base rate 0.0005, cosine.
Expected top-1 for p 0.1, 0.2, 0.3, 0.5 of RUN: rm 76.5, 76.6, 76.5, 76.0, random 76.6, 76.6, 76.6, 76.4 (Table 7).
Cost: 13 minutes on 256 P100, from the hour of Goyal et al. for 90 epochs.
"""

from dataclasses import replace

from backdrop.trainer.recipes import supervised_retrain
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings, which want algorithm.start_from. Raises: UserError: another method."""
    only_for("supervised_finetune", "supervised", method)
    retrain = supervised_retrain.settings(method, background, with_cast)
    return replace(
        retrain,
        algorithm=replace(retrain.algorithm, trained="all"),
        epochs=20,
        optimiser=replace(retrain.optimiser, lr=0.0005),
    )
