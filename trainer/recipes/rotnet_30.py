"""RotNet (Ryali et al. 2021, A.1 and Table 9; Gidaris et al. 2018).

Command: python cli.py pretrain --method rotnet --bg none|rm|random --dataset imagenet
ImageNet-1k, AlexNet with BatchNorm, 30 epochs, batch 192 (each image in four rotations), rate 0.01 and a tenth of it
from epochs 10 and 20, weight decay 5e-4. Backgrounds come before crop, flip and rotation.
Expected linear top-1 on conv5: none 36.1; for p 0.1, 0.2, 0.3, 0.5 (--set background.probability=0.2) rm 36.0, 35.5,
35.5, 34.8, random 36.1, 36.0, 35.9, 35.7 (Table 9).
A.1 says "SGD with momentum=0.9"; the released code of Gidaris et al. has Nesterov's, which is left out here.
Cost: no figure published; about a day of one V100, by arithmetic (0.7 GMAC an image, four rotations).
"""

from backdrop.trainer.methods import rotnet
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.recipes._paper import only_for, views_and_cast
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("rotnet_30", "rotnet", method)
    return RunSettings(
        method="rotnet",
        algorithm=rotnet.Settings(),
        epochs=30,
        batch_size=192,
        backbone="alexnet_bn",
        optimiser=optimisers.Settings(name="sgd", lr=0.01, lr_per_images=0, weight_decay=5e-4),
        schedule=schedules.Settings(tenth_at_epochs=(10, 20)),
        **views_and_cast(rotnet.view_plan(background), with_cast),
    )
