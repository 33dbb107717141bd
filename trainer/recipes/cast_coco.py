"""CAST on COCO (Selvaraju et al. 2021, Tables 1 and 2; numbers of the released command).

Command: python cli.py pretrain --method cast --dataset coco
COCO train2017 (118,287 images), ResNet-50, 200 epochs, batch 256 on 8 GPUs, about 92,000 steps.
Expected: VOC07 linear SVM 74.0 mAP, ImageNet linear top-1 48.7 (Table 1, row 6). Its other rows are this command with:
| Table | change | VOC07 | ImageNet |
|---|---|---|---|
| 1, row 4: MoCo-COCO | the recipe moco_coco, or --set cast.weight=0 --set views.min_foreground=0 | 67.5 | 46.5 |
| 1, row 5 and 2b: lambda 0 | --set cast.weight=0 | 71.1 | 46.0 (2b: 46.5) |
| 2a: phi 0 | --set views.min_foreground=0 | 73.3 | 47.4 |
| 2b: lambda 1 | --set cast.weight=1 | 74.0 | 48.7 |
| 2b: lambda 5 | --set cast.weight=5 | 73.3 | 47.6 |
| 2c: projection of two layers | --recipe cast_coco_mlp | 74.3 | 50.1 |
| 2d: supervision of the intersection | --set cast.region=intersection | 72.0 | 49.4 |
| none: second crop held to the first (released option) | --set pair_constraint=true | - | - |
Cost: about 6 hours on 8 V100, by arithmetic from MoCo's 168 images/s each and 5/4 of its work.

The released loss is a quarter of the paper's (L_cont + 3 L_att) at rate 0.5, weight decay 1e-4 and clip 2. The same
steps follow from the paper's loss at rate 0.125, weight decay 4e-4 and clip 8. At another lambda the release divides by
1 + lambda: its steps are ours at rate 0.5 / (1 + lambda), decay 1e-4 * (1 + lambda) and clip 2 * (1 + lambda), which
those three are by themselves unless they are set. All of the release's deviations at once, on its own loss and
numbers: --set cast.variant=released
The scores were made with the released crops: proposed around the foreground's centroid, falling back to its box. At
views.min_foreground=0 crops are ordinary random ones ("recovers the unconstrained random crop", 3.1) unless
crop_proposal is set.
"""

from dataclasses import replace

from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.trainer import cast
from backdrop.trainer.methods import moco
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.recipes._paper import only_for, views_and_cast
from backdrop.trainer.settings import RunSettings


def photometrics(plan: ViewPlan) -> ViewPlan:
    """Return the plan with the colours of the released code: grey first, then the jitter, and no blur."""
    views = [
        replace(
            view,
            jitter=(0.4, 0.4, 0.4, 0.4),
            jitter_probability=0.5,
            greyscale_order="before",
            blur_probability=0.0,
        )
        for view in plan.views
    ]
    return replace(plan, views=tuple(views))


def optimiser(loss_scale: float) -> optimisers.Settings:
    """Return the released command's, made for a loss over 1 + lambda.

    Args: loss_scale: how many times as large as that the loss is.
    """
    return optimisers.Settings(
        name="sgd", lr=0.5 / loss_scale, lr_per_images=0, weight_decay=1e-4 * loss_scale, clip_norm=2.0 * loss_scale
    )


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings; CAST is on in any case.

    Raises: UserError: another method.
    """
    only_for("cast_coco", "cast", method)
    plan = replace(photometrics(moco.view_plan(background)), crop_proposal="centroid", crop_fallback="bbox")
    added = cast.Settings(scales_optimiser=True)
    return RunSettings(
        method="cast",
        algorithm=moco.Settings(temperature=0.07, head="linear"),
        epochs=200,
        batch_size=256,
        optimiser=optimiser(cast.loss_scale(added)),
        schedule=schedules.Settings(is_per_epoch=True),
        **views_and_cast(plan, with_cast=True) | {"cast": added},
    )
