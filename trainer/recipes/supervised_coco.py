"""COCO-supervised network (Selvaraju et al. 2021, CAST, Table 1, row 3): every category in an image is its label.

Command: python cli.py pretrain --method supervised --dataset coco --recipe supervised_coco
The paper does not say how that network was trained. Here: cross-entropy with the image's categories in equal shares
(Mahajan et al. 2018), ResNet-50, and as long as the rows that it is compared with, COCO train2017 (118,287 images) 200
epochs at batch 256; rate, decay and warm-up of `supervised_90`, half a cosine.
Annotations: coco/annotations/instances_train2017.json below BACKDROP_DATA, or --set algorithm.annotations=FILE
Expected: VOC07 linear SVM 86.2 mAP, ImageNet linear top-1 46.4.
Cost: about 4 hours on 8 V100, by arithmetic from MoCo's 168 images/s each and three quarters of its work.
"""

from dataclasses import replace

from backdrop.errors import UserError
from backdrop.trainer.optimisation import schedules
from backdrop.trainer.recipes import supervised_90
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings

NUM_CATEGORIES = 80


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method; a background, which the row has none of."""
    only_for("supervised_coco", "supervised", method)
    if background != "none":
        raise UserError("recipe 'supervised_coco' is a row without backgrounds: leave out --bg")
    trained = supervised_90.settings(method, background, with_cast)
    return replace(
        trained,
        algorithm=replace(trained.algorithm, num_classes=NUM_CATEGORIES, labels="categories"),
        epochs=200,
        batch_size=256,
        schedule=schedules.Settings(warmup_epochs=5),
    )
