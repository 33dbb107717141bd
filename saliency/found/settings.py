"""Every setting of the training of FOUND's head. Simeoni et al. 2023; its published code where the text is silent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from backdrop.saliency.features.background_discovery import THRESHOLD
from backdrop.settings import above, above_within, at_least, check_settings, rising_above, within
from backdrop.settings.overrides import split_override, with_override

PRESET = "found"


@dataclass(frozen=True, kw_only=True)
class FoundSettings:
    """What decides a head besides the images, the seed and the network. Defaults: the published ones."""

    iterations: Annotated[
        int, at_least(1), "Steps (code: 500, looked at after the step); images are gone through as often as it takes"
    ] = 501
    batch_size: Annotated[int, at_least(1), "Images per step; what an epoch's end leaves is a smaller one"] = 50
    size_px: Annotated[int, at_least(8), "Images are squashed to squares of this side, a multiple of the patch"] = 224
    scales: Annotated[
        tuple[float, float],
        rising_above(0),
        "Sizes between which each image is scaled before it is squashed, in shares of size_px of its short side",
    ] = (0.1, 3.0)
    blur_probability: Annotated[float, within(0, 1), "Share of the images that are blurred (code)"] = 0.5
    blur_sigmas_px: Annotated[tuple[float, float], rising_above(0), "Least and largest width of that blur (code)"] = (
        0.1,
        2.0,
    )
    learning_rate: Annotated[float, above(0), "Of AdamW, at the start"] = 5e-2
    weight_decay: Annotated[float, at_least(0), "Of AdamW (code: PyTorch's default)"] = 0.01
    decay: Annotated[float, above_within(0, 1), "Factor of the learning rate every decay_iterations"] = 0.95
    decay_iterations: Annotated[int, at_least(1), "Steps between two decays, and between two saved states"] = 50
    background_threshold: Annotated[
        float, within(-1, 1), "Cosine to the seed above which a patch is background in the coarse masks"
    ] = THRESHOLD
    coarse_iterations: Annotated[int, at_least(0), "Steps in which the coarse masks are learnt"] = 100
    coarse_weight: Annotated[float, at_least(0), "Weight of the loss against the refined coarse mask, until then"] = 1.0
    own_weight: Annotated[float, at_least(0), "Weight of the loss against the own mask, from then on"] = 4.0
    refined_weight: Annotated[float, at_least(0), "Weight of the loss against the refined own mask, always"] = 1.5


def choose_settings(overrides: Sequence[str] = ()) -> FoundSettings:
    """The published settings with a user's changes.

    Args: overrides: `name=value` texts, applied in order.
    Raises: UserError: there is no such setting, or a value is impossible.
    """
    settings = FoundSettings()
    for override in overrides:
        settings = with_override(settings, *split_override(override))
    check_settings(settings)
    return settings
