"""SwAV without multi-crop, two global views alone (Ryali et al. 2021, Table 20 and A28: shape bias 27.4).

Command: python cli.py pretrain --method swav --bg none --dataset imagenet --recipe swav_400_two_crops
The paper scores the released network of Caron et al. 2020, 400 epochs; this trains one: `swav_100` for 400 epochs and
without the six local views. The crops' scale of that release is not stated: (0.14, 1) stays.
Expected shape bias: 27.4 (17.0 with multi-crop, 800 epochs).
Cost: about 10 hours on 64 V100: 2 of the 3.1 global views' worth of pixels of `swav_100`, four times as long.
"""

from dataclasses import replace

from backdrop.trainer.recipes import swav_100
from backdrop.trainer.recipes._paper import only_for
from backdrop.trainer.settings import RunSettings


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings. Raises: UserError: another method."""
    only_for("swav_400_two_crops", "swav", method)
    large = swav_100.settings(method, background, with_cast)
    return replace(large, epochs=400, views=tuple(view for view in large.views if view.is_global))
