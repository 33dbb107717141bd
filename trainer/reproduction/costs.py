"""What trainings cost: hours and bytes, from the rates of pipeline/build/COSTS.md, which says where each is from."""

from dataclasses import dataclass

from backdrop.trainer.paper_tables.records import Training
from backdrop.trainer.settings import RunSettings

NUM_IMAGES = {"imagenet": 1_281_167, "coco": 118_287}
# Images a second: of a V100 on ResNet-50 views of 224 px as their authors had it (p); of one CPU core on
# ResNet-18 views of 32 px (m, tests/golden/study.csv); cast's there are of 48 px.
V100 = {"moco": 168.0, "cast": 134.4, "swav": 91.0, "byol": 120.0, "supervised": 500.0, "rotnet": 450.0}
CORE = {"moco": 225.0, "cast": 115.0, "swav": 75.0, "byol": 134.0, "supervised": 400.0, "rotnet": 225.0}
_CORE_PX = {"cast": 48}
# Of a small run: opening the loader, scoring, the page.
_CORE_OVERHEAD_S = 12.0
_PARAMETERS = {"resnet18": 11.2e6, "resnet50": 23.5e6, "alexnet": 57e6}
# Weights, their momentum and a second network, of 4 bytes each.
_COPIES, _BYTES = 3, 4


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run. hours: of `device`. run_bytes: of its folder."""

    hours: float
    device: str
    run_bytes: int


def cost_of(training: Training, images: int | None, *, has_gpu: bool) -> Cost:
    """Return what one run of a training costs.

    Args: training: at its scale. images: that it passes over, None = the data set's published number. has_gpu: whether
        it runs on one: then it counts in hours of a V100, as COSTS.md does, else in hours of a core.
    """
    settings = training.resolved()
    passes = (images or NUM_IMAGES.get(training.data, 0)) * settings.epochs
    return Cost(
        hours=(passes / V100[training.method] if has_gpu else _core_seconds(training.method, settings, passes)) / 3600,
        device="V100" if has_gpu else "core",
        run_bytes=int(settings.keep_checkpoints * _COPIES * _BYTES * _PARAMETERS.get(settings.backbone, 25e6)),
    )


def _core_seconds(method: str, settings: RunSettings, passes: int) -> float:
    """Work grows with the pixels of the global views; a ResNet-50 has twice a ResNet-18's."""
    pixels = (settings.views[0].size_px / _CORE_PX.get(method, 32)) ** 2
    depth = 1.0 if settings.backbone == "resnet18" else 2.2
    return passes * pixels * depth / CORE[method] + _CORE_OVERHEAD_S
