"""What a paper's recipe expects of the store it is trained on, and how a store at hand departs from that.

The tables are of one data set, one detector and one threshold; a run on another store is possible, and is no row of
them. Ryali et al. cut DeepUSPS2's (Table 5: U2Net's) maps at 0.9; CAST's release cuts DeepUSPS's at 0.5 and reads
COCO's files as they are. Masks from a folder may be anybody's, so they pass.
"""

from dataclasses import dataclass

from backdrop.pipeline.beton.reader import side_px_of
from backdrop.progress import warn
from backdrop.trainer import cast
from backdrop.trainer.recipes import NAMES
from backdrop.trainer.run.trained_store import TrainedStore
from backdrop.trainer.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class TableStore:
    """What a table's store is. detectors: their names in a store's identity."""

    dataset: str
    threshold: float
    detectors: tuple[str, ...] = ("deepusps", "masks")


# By paper.
STORES = {"ryali": TableStore(dataset="imagenet", threshold=0.9), "cast": TableStore(dataset="coco", threshold=0.5)}
_OF_NO_TABLE = ("smoke",)
_OF_CAST = ("cast_coco", "cast_coco_mlp", "moco_coco", "supervised_coco")


def departures(recipe: str, settings: RunSettings, store: TrainedStore) -> list[str]:
    """Return in what a store is not that of a recipe's table, one sentence each; [] for a recipe of no table.

    Args:
        recipe: a name of trainer/recipes.
        settings: of the run; one that knows no mask is indifferent to how they were made.
        store: that the run is trained on.
    """
    if recipe not in NAMES or recipe in _OF_NO_TABLE:
        return []
    table = STORES["cast" if recipe in _OF_CAST else "ryali"]
    found = []
    if store.dataset != table.dataset:
        found.append(f"its data set is {table.dataset}, this one is {store.dataset}")
    elif store.max_side_px != (wanted := side_px_of(table.dataset)):
        found.append(f"its images have up to {wanted} px, these {store.max_side_px}")
    if store.detector is None or not knows_masks(settings):
        return found
    if store.threshold != table.threshold:
        found.append(f"its masks are cut at {table.threshold:g}, these at {store.threshold:g}")
    if store.detector not in table.detectors:
        found.append(f"its masks are of {table.detectors[0]} or from a folder, these of {store.detector}")
    return found


def departures_line(recipe: str, found: list[str]) -> str:
    """Return `departures` as a line for the user."""
    return (
        f"recipe {recipe} on this store is no row of its paper's tables: {'; '.join(found)}. Its scores are not to be "
        "set beside the paper's"
    )


def knows_masks(settings: RunSettings) -> bool:
    """Return whether a run's views depend on masks."""
    return (
        settings.background.name != "none"
        or cast.in_use(settings.cast) is not None
        or any(view.min_foreground > 0 for view in settings.views)
    )


def say_departures(recipe: str, settings: RunSettings, store: TrainedStore) -> None:
    """Warn where a store is not that of the recipe's table. Args: store: which it is."""
    if found := departures(recipe, settings, store):
        warn(departures_line(recipe, found))
