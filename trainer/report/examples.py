"""What a run is fed: rows of its store, and the views its loader makes of them.

Every draw is a function of (seed, epoch, row, view), so what is drawn again here is what was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backdrop.errors import CorruptStore
from backdrop.pipeline.beton.plane_blobs import rgb_of_blob
from backdrop.pipeline.beton.reader import open_beton, read_blob
from backdrop.pipeline.beton.scene import decode_runs
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.batch import Batch, WholeBatch
from backdrop.pipeline.views.compositing import negative_sources
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.stores.format.mask_codec import unpack_rows
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD
from backdrop.stores.pages import pictures
from backdrop.trainer import cast
from backdrop.trainer.settings import RunSettings

NUM_EXAMPLES = 12
# Rows looked at for each row shown: enough to find some whose background was replaced, which is rare by design.
_CANDIDATES_PER_EXAMPLE = 4
_BOX = ("top", "left", "height", "width")


@dataclass(frozen=True, kw_only=True)
class Donor:
    """The row whose tiled background was pasted into a view: its key, and that background, uint8 RGB (H, W, 3)."""

    key: str
    background_HWC: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ViewPicture:
    """One view as the model sees it, before normalisation.

    name: query, key, view 3, ... image_HWC: uint8 RGB. mask_HW: uint8 {0, 1} of the same size, 1 = foreground.
    record: one `VIEW_DTYPE` record. is_global: see `View`. donor: None where no other row's background was pasted.
    masked_HWC: what CAST's key network sees of it, uint8 RGB; None without CAST, and for what is no key.
    """

    name: str
    image_HWC: np.ndarray
    mask_HW: np.ndarray
    record: np.void
    is_global: bool
    donor: Donor | None
    masked_HWC: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Negative:
    """An extra negative of BG_Swaps: uint8 RGB, the key of the row whose view fills it, and the name of the view whose
    background it has, "" where it is a plain other image."""

    image_HWC: np.ndarray
    key: str
    matches: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row of the store and its views.

    image_HWC: uint8 RGB, the pixels that boxes refer to. mask_HW: uint8 {0, 1}, 1 = foreground, same size.
    saliency_HW: uint8 or None where the store kept none. background_HWC: uint8 RGB or None where it lends none,
    or one that cannot be read.
    negatives: the query's extra negatives (BG_Swaps), none for other backgrounds.
    """

    row: int
    key: str
    foreground_fraction: float
    image_HWC: np.ndarray
    mask_HW: np.ndarray
    saliency_HW: np.ndarray | None
    background_HWC: np.ndarray | None
    views: tuple[ViewPicture, ...]
    negatives: tuple[Negative, ...] = ()


class Scenes:
    """Rows of a .beton, for pictures."""

    def __init__(self, beton: Path, store: Store | None) -> None:
        """Args: beton: what a run reads. store: where its saliency maps are, None = they are not at hand.

        Raises: UserError: the file is damaged or incomplete.
        """
        opened = open_beton(beton)
        self.records, self._bytes = opened.records, opened.file_bytes
        self._store = store

    def key(self, row: int) -> str:
        """Key of a row in its data set."""
        return read_blob(self._bytes, self.records[row], "key").decode("utf-8", "surrogateescape")

    def background(self, row: int) -> np.ndarray | None:
        """Filled background of a row as the file has it, uint8 RGB, None where there is none."""
        record = self.records[row]
        blob = read_blob(self._bytes, record, "background")
        size = int(record["background_height"]), int(record["background_width"])
        return rgb_of_blob(blob, size) if blob else None

    def example(self, row: int) -> Example:
        """What the store holds of a row, without views."""
        record = self.records[row]
        height, width = int(record["height"]), int(record["width"])
        try:
            background_HWC = self.background(row)
        except CorruptStore:  # no view of the row itself is made of it: the page says that there is none to show
            background_HWC = None
        runs = np.frombuffer(read_blob(self._bytes, record, "mask"), dtype=np.uint32)
        mask_HW = unpack_rows(decode_runs(runs, height, width), width)
        return Example(
            row=row,
            key=self.key(row),
            foreground_fraction=float(mask_HW.mean()),
            image_HWC=rgb_of_blob(read_blob(self._bytes, record, "image"), (height, width)),
            mask_HW=mask_HW,
            saliency_HW=None if self._store is None else self._store.saliency(row),
            background_HWC=background_HWC,
            views=(),
        )


class Drawing:
    """Pictures of a batch: what the loader drew, carried out by the stage that feeds the model."""

    def __init__(
        self, scenes: Scenes, plan: ViewPlan, names: Sequence[str], *, masked_views: Sequence[int] = ()
    ) -> None:
        """Args: plan: the run's. names: what to call the views. masked_views: those that CAST's key network sees."""
        self._scenes, self._plan, self._masked = scenes, plan, masked_views
        self._names = [names[at] if at < len(names) else f"view {at + 1}" for at in range(len(plan.views))]
        self._stage = DeviceStage(plan, device="cpu")

    def examples(self, batch: Batch | WholeBatch, places: Sequence[int] | None = None) -> list[Example]:
        """Return the rows of a batch with their views.

        Args: places: which rows of the batch, in this order; None = all of them.
        """
        views = self._stage(batch)
        chosen = range(len(views.row_B)) if places is None else places
        return [self._example(batch.records, views, place) for place in chosen]

    def _example(self, record_VB: Sequence[np.ndarray], views: Views, place: int) -> Example:
        pictured = tuple(
            self._view(number, record_B[place].copy(), views, place) for number, record_B in enumerate(record_VB)
        )
        stored = self._scenes.example(int(views.row_B[place]))
        return replace(stored, views=pictured, negatives=self._negatives(record_VB, views, place))

    def _view(self, number: int, record: np.void, views: Views, place: int) -> ViewPicture:
        image_3HW, mask_1HW = views.images[number][place], views.masks[number][place]
        masked = cast.masked_key(image_3HW, mask_1HW) if number in self._masked else None
        return ViewPicture(
            name=self._names[number],
            image_HWC=denormalised(image_3HW),
            mask_HW=mask_1HW[0].to(torch.uint8).numpy(),
            record=record,
            is_global=self._plan.views[number].is_global,
            donor=self._donor(record),
            masked_HWC=None if masked is None else denormalised(masked),
        )

    def _donor(self, record: np.void) -> Donor | None:
        row = int(record["donor_row"])
        if not record["has_background"] or row < 0:
            return None
        background_HWC = self._scenes.background(row)
        return None if background_HWC is None else Donor(key=self._scenes.key(row), background_HWC=background_HWC)

    def _negatives(self, record_VB: Sequence[np.ndarray], views: Views, place: int) -> tuple[Negative, ...]:
        if views.negative is None:
            return ()
        background = self._plan.background
        matched = {"query": 0, "key": 1}[background.negative_matches]
        record_B = record_VB[matched]
        sources = negative_sources(record_B["negative_source"], background.num_negatives)
        is_matched = record_B[place]["is_negative_matched"] and views.masks[matched][place].any()
        return tuple(
            Negative(
                image_HWC=denormalised(views.negative[at]),
                key=self._scenes.key(int(views.row_B[sources[at]])),
                matches=self._names[matched] if is_matched else "",
            )
            for at in range(place, len(views.negative), len(record_B))
        )


def collect(
    beton: Path,
    store: Store | None,
    settings: RunSettings,
    *,
    epoch: int,
    names: tuple[str, ...],
    num_wanted: int = NUM_EXAMPLES,
) -> list[Example]:
    """Draw an epoch's views of some rows again; half of them have a replaced background, where so many are found.

    Args:
        beton: what the run read. store: where its saliency maps are, None = they are not at hand.
        settings: the run's. epoch: which epoch's draws. names: what to call the views.
        num_wanted: rows at most.
    Returns: examples in row order; rows with a mask, spread over the store.
    Raises: UserError: the file is damaged or incomplete.
    """
    scenes = Scenes(beton, store)
    rows = spread_rows(scenes.records, num_wanted * _CANDIDATES_PER_EXAMPLE)
    if not len(rows):
        return []
    drawing = Drawing(scenes, settings.plan, names)
    with Loader(
        beton,
        settings.plan,
        LoaderOptions(batch_size=len(rows), seed=settings.seed, rows=rows, drop_last=False, bad_rows=settings.bad_rows),
    ) as loader:
        (batch,) = loader.epoch(epoch)  # one batch, as large as the rows
        places = different_rows(batch.row_B)
        is_altered = np.any([record_B["has_background"][places] != 0 for record_B in batch.records], axis=0)
        examples = drawing.examples(batch, places[spread(is_altered, num_wanted)].tolist())
    return sorted(examples, key=lambda example: example.row)


def spread_rows(records: np.ndarray, num_wanted: int) -> np.ndarray:
    """Return rows with foreground and background, int64, at most so many, evenly spaced over a .beton's records."""
    with_mask = np.flatnonzero(records["status"] == Status.OK)
    if not len(with_mask):
        return with_mask
    return with_mask[np.linspace(0, len(with_mask) - 1, min(len(with_mask), num_wanted)).astype(np.int64)]


def different_rows(row_B: Tensor) -> np.ndarray:
    """Return a place in the batch for each of its rows, int64: a row may stand in for a damaged one as well."""
    return np.unique(row_B.cpu().numpy(), return_index=True)[1]


def spread(is_altered: np.ndarray, num_wanted: int = NUM_EXAMPLES) -> np.ndarray:
    """Choose places, half of them altered where there are enough, evenly spaced among their kind.

    Args: is_altered: bool (N,). num_wanted: at most so many. Returns: int64.
    """
    num_wanted = min(num_wanted, len(is_altered))
    altered, plain = np.flatnonzero(is_altered), np.flatnonzero(~is_altered)
    num_altered = min(len(altered), max(num_wanted // 2, num_wanted - len(plain)))
    chosen = [
        kind[np.linspace(0, len(kind) - 1, count).astype(np.int64)]
        for kind, count in ((altered, num_altered), (plain, num_wanted - num_altered))
        if count
    ]
    return np.concatenate(chosen)


def view_names(has_negatives: bool) -> tuple[str, str]:
    """What the first two views are called: contrastive methods have a query and a key, the others two equal views."""
    return ("query", "key") if has_negatives else ("view 1", "view 2")


def denormalised(image_3HW: Tensor) -> np.ndarray:
    """Return what the model sees as a picture; normalised float32 (3, H, W) to uint8 (H, W, 3)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    image_HW3 = (image_3HW.detach().cpu() * std + mean).permute(1, 2, 0)
    return (image_HW3.clamp(0.0, 1.0) * 255).round().to(torch.uint8).numpy()


def boxed(example: Example) -> np.ndarray:
    """Return a thumbnail of the example's image with the boxes of its views; uint8 RGB."""
    # Local boxes first, so that the global ones lie on top.
    order = sorted(range(len(example.views)), key=lambda number: example.views[number].is_global)
    boxes, colours = [], []
    for number in order:
        boxes.append(box(example.views[number].record))
        is_global = example.views[number].is_global
        colour = pictures.VIEW_COLOURS[number % len(pictures.VIEW_COLOURS)]
        colours.append(colour if is_global else pictures.LOCAL_COLOUR)
    return pictures.with_boxes(example.image_HWC, boxes, colours)


def box(record: np.void, prefix: str = "") -> tuple[int, int, int, int]:
    """Return a record's crop box, or with prefix "donor_" the donor's: (top, left, height, width) in pixels."""
    top, left, height, width = (int(record[f"{prefix}{name}"]) for name in _BOX)
    return top, left, height, width
