"""Settings that follow from others unless they are set: what a recipe's number means once another one is changed.

CAST's release divides its loss by 1 + lambda, so that its rate, weight decay and clipping mean something else at every
lambda (`trainer/recipes/cast_coco.py`); and a crop that need hold no foreground is an ordinary one, which
knows no mask.
"""

from collections.abc import Collection

from backdrop.settings.given import Given
from backdrop.trainer import cast
from backdrop.trainer.settings import RunSettings


def following(recipe: RunSettings, changed: RunSettings, given: Collection[str]) -> list[Given]:
    """Return the settings that follow from what was changed, as changes of their own.

    Args:
        recipe: as the recipe has them.
        changed: with what was given.
        given: paths of the settings that were given: these stay.
    """
    found = _of_lambda(recipe, changed) + _of_no_constraint(changed)
    return [one for one in found if one.path not in given]


def _of_lambda(recipe: RunSettings, changed: RunSettings) -> list[Given]:
    """Rate over 1 + lambda, decay and clipping times 1 + lambda; as released lambda counts as 0, see `cast.total`."""
    if recipe.cast is None or changed.cast is None or not changed.cast.scales_optimiser:
        return []
    ratio = cast.loss_scale(changed.cast) / cast.loss_scale(recipe.cast)
    if ratio == 1.0:
        return []
    scaled = {
        "optimiser.lr": recipe.optimiser.lr / ratio,
        "optimiser.weight_decay": recipe.optimiser.weight_decay * ratio,
        "optimiser.clip_norm": recipe.optimiser.clip_norm * ratio,
    }
    # Twelve digits: 4e-4 * 6 / 4 is 6e-4.
    return [Given(path=path, text=f"{value:.12g}", source="follows cast.weight") for path, value in scaled.items()]


def _of_no_constraint(changed: RunSettings) -> list[Given]:
    """phi = 0 "recovers the unconstrained random crop" (CAST 3.1): not one around the foreground's centroid."""
    if changed.crop_proposal != "centroid" or any(view.min_foreground > 0 for view in changed.views):
        return []
    ordinary = {"crop_proposal": "uniform", "crop_fallback": "center"}
    return [Given(path=path, text=text, source="follows views.min_foreground") for path, text in ordinary.items()]
