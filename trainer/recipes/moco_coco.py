"""MoCo on COCO, the baseline of CAST (Selvaraju et al. 2021, Table 1, row 4; Table 3, Default).

Command: python cli.py pretrain --method moco --dataset coco --recipe moco_coco
It knows no mask: ordinary random crops, one key network pass, InfoNCE alone. The same steps, bit for bit, are those of
`cast_coco` at lambda 0 and phi 0. COCO train2017 (118,287 images), ResNet-50, 200 epochs, batch 256 on 8 GPUs.
Rate, decay and clipping are the released command's, whose loss at lambda 0 is InfoNCE.
Expected: VOC07 linear SVM 67.5 mAP, ImageNet linear top-1 46.5.
Cost: about 5 hours on 8 V100, by arithmetic from MoCo's 168 images/s each.
"""

from dataclasses import replace

from backdrop.errors import UserError
from backdrop.trainer.methods import moco
from backdrop.trainer.recipes import cast_coco
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings, plan_fields


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings.

    Raises: UserError: another method; a background or CAST, which want masks.
    """
    only_for("moco_coco", "moco", method)
    if background != "none" or with_cast:
        raise UserError(
            "recipe 'moco_coco' is the baseline that knows no mask: leave out --bg and --cast; with CAST it is "
            "--method cast --recipe cast_coco"
        )
    plan = plan_fields(cast_coco.photometrics(moco.view_plan()))
    with_its_loss = cast_coco.settings("cast", "none", True)
    return replace(with_its_loss, method="moco", cast=None, optimiser=cast_coco.optimiser(1.0), **plan)
