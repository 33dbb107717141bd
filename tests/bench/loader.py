"""Images per second of the loader beside FFCV and torchvision, on one core."""

from collections.abc import Callable
from pathlib import Path

from pipeline.build.export_beton import export_beton
from pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from pipeline.loader.loader import Loader
from pipeline.views.device_stage import DeviceStage
from pipeline.views.view_plan import Background, View, ViewPlan
from stores.dataset_index import open_index
from stores.reader import open_store
from tests.bench.ffcv_peer import ffcv_epoch
from tests.bench.photographs import write_dataset
from tests.bench.timing import best_seconds, one_core, row
from tests.bench.torchvision_peer import torchvision_epoch

NUM_IMAGES = 512
BATCH_SIZE = 64
BACKGROUND = Background(name="random", probability=0.2)
GLOBAL = View(min_foreground=0.1)
LOCAL = View(size_px=96, scale=(0.05, 0.14), min_foreground=0.1, is_global=False)
PLANS = {
    "two_view": ViewPlan(views=(GLOBAL, GLOBAL), background=BACKGROUND),
    "multicrop": ViewPlan(views=(GLOBAL, GLOBAL, *[LOCAL] * 6), background=BACKGROUND),
}


def measure(folder: Path) -> dict[str, dict]:
    """Return the lines named `loader.*`."""
    write_dataset(folder / "data", NUM_IMAGES)
    index = open_index("folder", root=folder / "data" / "images")
    store = folder / "s.zarr"
    build_store(index, f"masks:{folder / 'data' / 'masks'}", store, BuildSettings(), num_workers=2)
    beton = export_beton(open_store(store), index, folder / "s.beton")
    paths = [index.path(number) for number in range(len(index))]
    results = {}
    for name, plan in PLANS.items():
        results.update(compare(name, plan, beton, paths, folder))
    return results


def compare(name: str, plan: ViewPlan, beton: Path, paths: list[Path], folder: Path) -> dict[str, dict]:
    """Measure one plan on both paths and beside both peers."""
    sizes_px = tuple(view.size_px for view in plan.views)
    with one_core():
        ours = images_per_s(our_epoch(beton, plan, None))
        with_device = images_per_s(our_epoch(beton, plan, DeviceStage(plan, device="cpu")))
        ffcv = images_per_s(ffcv_epoch(paths, folder, sizes_px, BATCH_SIZE))
        vision = images_per_s(torchvision_epoch(paths[: 2 * BATCH_SIZE], sizes_px, BATCH_SIZE), repetitions=1)
    views = f"{len(plan.views)} views; ours with masks, FG_min 0.1 and BG_Random p 0.2; one core"
    return {
        f"loader.{name}_vs_ffcv": row(
            ours, "images/s", peer=ffcv, ratio=ours / ffcv, what=f"{views}; FFCV: random resized crop and flip per view"
        ),
        f"loader.{name}_vs_torchvision": row(
            ours, "images/s", peer=vision, ratio=ours / vision,
            what=f"{views}; photometrics left to the device; torchvision: PIL, MoCo-v2 recipe on the CPU",
        ),
        f"loader.{name}_cpu_only_vs_torchvision": row(
            with_device, "images/s", peer=vision, ratio=with_device / vision,
            what=f"{views}; device stage on the CPU too; torchvision: PIL, MoCo-v2 recipe on the CPU",
        ),
    }  # fmt: skip


def images_per_s(epoch: Callable[[], int], repetitions: int = 3) -> float:
    counted = []
    seconds = best_seconds(lambda: counted.append(epoch()), repetitions=repetitions)
    return counted[-1] / seconds


def our_epoch(beton: Path, plan: ViewPlan, stage: DeviceStage | None) -> Callable[[], int]:
    loader = Loader(beton, plan, batch_size=BATCH_SIZE, seed=0, num_threads=1)

    def epoch() -> int:
        count = 0
        for batch in loader.epoch(0):
            count += len(batch.row_B)
            if stage is not None:
                stage(batch)
        return count

    return epoch
