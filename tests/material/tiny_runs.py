"""Settings of runs that take a second: ResNet-18 on 32-px views (48 px, 2x2 feature maps with CAST), batches of 8."""

from dataclasses import replace

from backdrop.pipeline.views.view_plan import View
from backdrop.trainer.recipes import smoke
from backdrop.trainer.settings import RunSettings

ALGORITHM = {
    "moco": {"queue_size": 32, "embedding_dim": 16, "shuffle_bn_group": 4},
    "cast": {"queue_size": 32, "embedding_dim": 16, "shuffle_bn_group": 4},
    "byol": {"hidden_dim": 32, "embedding_dim": 16},
    "swav": {"hidden_dim": 32, "embedding_dim": 16, "num_prototypes": 12, "freeze_prototypes_steps": 1},
    "supervised": {"num_classes": 3},
}


def tiny(method: str, background: str = "none", *, with_cast: bool = False, **changes: object) -> RunSettings:
    """Return the smoke recipe of a method made tiny."""
    settings = smoke.settings(method, background, with_cast)
    size_px = 32 if settings.cast is None else 48
    views = tuple(_tiny_view(view, size_px) for view in settings.views)
    return replace(
        settings,
        views=views,
        algorithm=replace(settings.algorithm, **ALGORITHM.get(method, {})),
        background=replace(settings.background, probability=0.5),
        batch_size=8,
        epochs=2,
        log_steps=1,
        **changes,
    )


def _tiny_view(view: View, size_px: int) -> View:
    return replace(view, size_px=size_px if view.is_global else 16, blur_probability=0.0)
