"""BYOL, medium setting (Ryali et al. 2021, A.1 and Table 2; numbers of Grill et al. 2020's 300-epoch preset).

Command: python cli.py pretrain --method byol --bg none|rm|random --dataset imagenet
ImageNet-1k, ResNet-50, 300 epochs of which 10 are warm-up, batch 4096 on 64 GPUs.
Expected linear top-1: none 72.7, rm 73.3, random 73.9.
Cost: Grill et al. report about 8 hours for 1000 epochs on 512 TPU v3.
"""

from trainer import cast
from trainer.methods import byol
from trainer.recipes._paper import only_for
from trainer.run import optimisers, schedules
from trainer.run.settings import RunSettings, plan_fields


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings; CAST adds its crop constraint and its loss.

    Raises: UserError: another method.
    """
    only_for("byol_300", "byol", method)
    plan = byol.view_plan(background)
    return RunSettings(
        method=method,
        algorithm=byol.Settings(),
        cast=cast.Settings() if with_cast else None,
        epochs=300,
        batch_size=4096,
        optimiser=optimisers.Settings(name="lars", lr=0.3, weight_decay=1e-6, includes_bias_and_norm=False),
        schedule=schedules.Settings(warmup_epochs=10),
        **plan_fields(cast.constrained(plan) if with_cast else plan),
    )
