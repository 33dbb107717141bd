"""What the papers' recipes share: whom a recipe is for, and how a plan and CAST go into a run's settings."""

from typing import Any

from backdrop.errors import UserError
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.trainer import cast
from backdrop.trainer.settings import plan_fields

# Ryali A.1: BatchNorm is synchronised over 8 GPUs of 64 images each, of the 64 GPUs of a run.
SYNC_BN_GROUP = 8 * 64


def only_for(recipe: str, described: str, method: str) -> None:
    """Raise UserError unless the method is the one the recipe describes."""
    if method != described:
        raise UserError(
            f"recipe {recipe!r} is for method {described!r}, not {method!r}; leave --recipe out to get the "
            "method's own, or give --recipe smoke"
        )


def views_and_cast(plan: ViewPlan, with_cast: bool) -> dict[str, Any]:
    """Return the fields of a run that say how views are made and whether CAST is on, its crop constraint included."""
    return {
        **plan_fields(cast.constrained(plan) if with_cast else plan),
        "cast": cast.Settings() if with_cast else None,
    }
