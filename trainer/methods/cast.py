"""CAST (Selvaraju et al. 2021, "CASTing your model"): MoCo with the saliency-constrained crop and the attention loss.

Everything is MoCo's; only the recipe differs and the attention loss is always on. Its equations are in
`trainer/losses/saliency_attention.py`, what it adds to a step in `trainer/cast.py`.
"""

from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.trainer.cast import constrained
from backdrop.trainer.downstream_settings import Downstream, LinearProtocol, Schedule
from backdrop.trainer.methods import moco
from backdrop.trainer.methods.moco import (
    HAS_CAST,
    HAS_NEGATIVES,
    SMOKE_LR,
    Method,
    Settings,
    check,
    check_labels,
    check_parts,
    expected_curve,
)

__all__ = [
    "ALWAYS_CAST",
    "DEFAULT_RECIPE",
    "DOWNSTREAM",
    "HAS_CAST",
    "HAS_NEGATIVES",
    "SMOKE",
    "SMOKE_LR",
    "Method",
    "Settings",
    "check",
    "check_labels",
    "check_parts",
    "expected_curve",
    "view_plan",
]

DEFAULT_RECIPE = "cast_coco"
ALWAYS_CAST = True
DOWNSTREAM = Downstream(
    # MoCo's released script, which CAST follows.
    linear=LinearProtocol(
        bn_mode="eval",
        schedule=Schedule(epochs=100, batch_size=256, lr=30.0, step_epochs=(60, 80), step_fractions=(0.1, 0.01)),
    ),
    finetuning={},
    # MoCo's configurations, as the paper says.
    voc_detection=moco.DOWNSTREAM.voc_detection,
)
# A BatchNorm in the head leaves half of the maps on a few cells zero, which have no gradient.
SMOKE = moco.SMOKE | {"head": "mlp"}


def view_plan(background: str = "none") -> ViewPlan:
    """Return MoCo-v2's two views under CAST's crop constraint.

    Args: background: a name of backdrop.pipeline.views.backgrounds.
    """
    return constrained(moco.view_plan(background))
