"""CAST on COCO with MoCo-v2's projection of two layers (Selvaraju et al. 2021, Table 2c).

Command: python cli.py pretrain --method cast --dataset coco --recipe cast_coco_mlp
As `cast_coco`, with head mlp. Its ablations go with the same --set options.
Expected: VOC07 linear SVM 74.3 mAP, ImageNet linear top-1 50.1.
Cost: as `cast_coco`, about 6 hours on 8 V100.
"""

from dataclasses import replace

from backdrop.trainer.recipes import cast_coco
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("cast_coco_mlp", "cast", method)
    linear = cast_coco.settings(method, background, with_cast)
    return replace(linear, algorithm=replace(linear.algorithm, head="mlp"))
