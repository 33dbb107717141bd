"""A new classifier, trained without backgrounds, on a supervised backbone (Ryali et al. 2021, A.4.1 and Table 7).

Command: python cli.py pretrain --method supervised --bg none --dataset imagenet --recipe supervised_retrain
Also takes --set algorithm.start_from=RUN, the folder of a run of `supervised_90`, whose backbone stays as it is.
40 epochs, batch 4096, base rate 0.01, cosine.
Expected top-1 for p 0.1, 0.2, 0.3, 0.5 of RUN: rm 76.5, 76.3, 76.0, 75.1, random 76.4, 76.2, 75.9, 73.5 (Table 7).
Cost: no figure published; 40 forward passes over the set, about 2 hours of 8 V100.
"""

from dataclasses import replace

from backdrop.trainer.optimisation import schedules
from backdrop.trainer.recipes import supervised_90
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings, which want algorithm.start_from. Raises: UserError: another method."""
    only_for("supervised_retrain", "supervised", method)
    trained = supervised_90.settings(method, background, with_cast)
    return replace(
        trained,
        # A name that is refused until it is replaced, so that nobody trains on random weights.
        algorithm=replace(trained.algorithm, trained="classifier", start_from="RUN"),
        epochs=40,
        # A.4 names one weight decay and no exception, unlike section 2 for the network itself.
        optimiser=replace(trained.optimiser, lr=0.01, includes_bias_and_norm=True),
        schedule=schedules.Settings(),
    )
