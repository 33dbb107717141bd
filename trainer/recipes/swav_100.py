"""SwAV, medium setting (Ryali et al. 2021, A.1 and Table 2: "identical to the original", Caron et al. 2020).

Command: python cli.py pretrain --method swav --bg none|rm|random --dataset imagenet
ImageNet-1k, ResNet-50, 100 epochs of which 10 are warm-up, batch 4096 on 64 GPUs.
Expected linear top-1: none 72.2, rm 73.6, random 73.4. Ryali's stabilisers (section 4.6) are options:
--set algorithm.hidden_dim=4096 --set algorithm.embedding_dim=256 --set background.warmup_epochs=10
Cost: Caron et al. report 3 min 40 s an epoch on 64 V100 (91 images/s each).
"""

from stores.errors import UserError
from trainer.methods import swav
from trainer.recipes._paper import only_for
from trainer.run import optimisers, schedules
from trainer.run.settings import RunSettings, plan_fields


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings.

    Raises: UserError: another method, or CAST, which is not defined on SwAV.
    """
    only_for("swav_100", "swav", method)
    if with_cast:
        raise UserError("--cast is not defined for method 'swav'; use it with --method moco or --method byol")
    plan = swav.view_plan(background)
    return RunSettings(
        method=method,
        algorithm=swav.Settings(),
        epochs=100,
        batch_size=4096,
        # Absolute: the released 4.8 at 4096 and 0.6 at 256 are not in linear proportion.
        optimiser=optimisers.Settings(name="lars", lr=4.8, lr_per_images=0, weight_decay=1e-6),
        schedule=schedules.Settings(warmup_epochs=10, warmup_start_fraction=0.3 / 4.8, final_fraction=0.001),
        **plan_fields(plan),
    )
