"""CAST on COCO (Selvaraju et al. 2021, Tables 1 and 2; numbers of the released command).

Command: python cli.py pretrain --method cast --dataset coco
COCO train2017 (118,287 images), ResNet-50, 200 epochs, batch 256 on 8 GPUs, about 92,000 steps.
Expected: VOC07 linear SVM 74.0 mAP, ImageNet linear top-1 48.7 (MoCo without CAST: 67.5 and 46.5).

The released loss is a quarter of the paper's (L_cont + 3 L_att) at rate 0.5, weight decay 1e-4 and clip 2. The same
steps follow from the paper's loss at rate 0.125, weight decay 4e-4 and clip 8, which is what stands below.
The scores were made with the released crops: proposed around the foreground's centroid, falling back to its box.
"""

from dataclasses import replace

from trainer import cast
from trainer.methods import moco
from trainer.recipes._paper import only_for
from trainer.run import optimisers, schedules
from trainer.run.settings import RunSettings, plan_fields


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings.

    Raises: UserError: another method.
    """
    only_for("cast_coco", "cast", method)
    plan = cast.constrained(moco.view_plan(background))
    views = [
        replace(view, jitter=(0.4, 0.4, 0.4, 0.4), jitter_probability=0.5, blur_probability=0.0) for view in plan.views
    ]
    return RunSettings(
        method=method,
        algorithm=moco.Settings(temperature=0.07, head="linear"),
        cast=cast.Settings(),
        epochs=200,
        batch_size=256,
        optimiser=optimisers.Settings(name="sgd", lr=0.125, lr_per_images=0, weight_decay=4e-4, clip_norm=8.0),
        schedule=schedules.Settings(is_per_epoch=True),
        **plan_fields(replace(plan, views=tuple(views), crop_proposal="centroid", crop_fallback="bbox")),
    )
