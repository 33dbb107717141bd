"""What a run was fed: rows of its store, and the views its loader makes of them, drawn again.

Every draw is a function of (seed, epoch, row, view), so these are the very views of that epoch.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.build.export_beton import read_blob, read_records
from pipeline.build.scene import decode_runs
from pipeline.loader.loader import Loader
from pipeline.views.device_stage import DeviceStage
from pipeline.views.view_plan import ViewPlan
from stores.image_codec import decode_rgb
from stores.mask_codec import unpack_rows
from stores.reader import Store
from stores.schema import Status
from trainer.report import pictures

NUM_EXHIBITS = 12
# Rows looked at for each row shown: enough to find some whose background was replaced, which is rare by design.
_CANDIDATES_PER_EXHIBIT = 4
_BOX = ("top", "left", "height", "width")


@dataclass(frozen=True, kw_only=True)
class ViewPicture:
    """One view as the model sees it, before normalisation.

    name: query, key, view 3, ... image_HWC: uint8 RGB. record: one `VIEW_DTYPE` record. is_global: see `View`.
    donor_key: key of the row whose background was pasted, None where none was.
    """

    name: str
    image_HWC: np.ndarray
    record: np.void
    is_global: bool
    donor_key: str | None


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One row of the store and its views.

    image_HWC: uint8 RGB, the pixels that boxes refer to. mask_HW: uint8 {0, 1}, 1 = foreground, same size.
    saliency_HW: uint8 or None where the store kept none. background_HWC: uint8 RGB or None where it lends none.
    negative_HWC: the query's extra negative (BG_Swaps), else None.
    """

    row: int
    key: str
    foreground_fraction: float
    image_HWC: np.ndarray
    mask_HW: np.ndarray
    saliency_HW: np.ndarray | None
    background_HWC: np.ndarray | None
    views: tuple[ViewPicture, ...]
    negative_HWC: np.ndarray | None


def collect(
    beton: Path, store: Store | None, plan: ViewPlan, *, seed: int, epoch: int, names: tuple[str, ...]
) -> list[Exhibit]:
    """Draw an epoch's views of some rows again; half of them have a replaced background, where so many are found.

    Args:
        beton: what the run read. store: where its saliency maps are, None = they are not at hand.
        plan, seed: the run's. epoch: which epoch's draws. names: what to call the views.
    Returns: at most 12 exhibits in row order; rows with a mask, spread over the store.
    Raises: UserError: the file is damaged or incomplete.
    """
    records = read_records(beton)
    with_mask = np.flatnonzero(records["status"] == Status.OK)
    num_candidates = min(len(with_mask), NUM_EXHIBITS * _CANDIDATES_PER_EXHIBIT)
    if not num_candidates:
        return []
    rows = with_mask[np.linspace(0, len(with_mask) - 1, num_candidates).astype(np.int64)]
    stage = DeviceStage(plan, device="cpu", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    with Loader(beton, plan, batch_size=num_candidates, seed=seed, rows=rows, drop_last=False) as loader:
        for batch in loader.epoch(epoch):  # one batch, as large as the rows
            views = stage(batch)
            # The records are the ring buffer's: they are copied while it is there.
            record_VB = [record_B.copy() for record_B in batch.records]
    file_bytes = np.memmap(beton, np.uint8, mode="r")
    is_altered = np.any([record_B["has_background"] != 0 for record_B in record_VB], axis=0)
    exhibits = []
    for place in spread(is_altered):
        pictured = tuple(
            ViewPicture(
                name=names[number] if number < len(names) else f"view {number + 1}",
                image_HWC=_to_uint8(views.images[number][place]),
                record=record_VB[number][place],
                is_global=view.is_global,
                donor_key=_donor_key(file_bytes, records, record_VB[number][place]),
            )
            for number, view in enumerate(plan.views)
        )
        negative = None if views.negative is None else _to_uint8(views.negative[place])
        stored = _stored(file_bytes, records[int(views.row_B[place])], store)
        exhibits.append(replace(stored, views=pictured, negative_HWC=negative))
    return sorted(exhibits, key=lambda exhibit: exhibit.row)


def spread(is_altered: np.ndarray) -> np.ndarray:
    """Choose 12 places, half of them altered where there are enough, evenly spaced among their kind."""
    num_wanted = min(NUM_EXHIBITS, len(is_altered))
    altered, plain = np.flatnonzero(is_altered), np.flatnonzero(~is_altered)
    num_altered = min(len(altered), max(num_wanted // 2, num_wanted - len(plain)))
    chosen = [
        kind[np.linspace(0, len(kind) - 1, count).astype(np.int64)]
        for kind, count in ((altered, num_altered), (plain, num_wanted - num_altered))
        if count
    ]
    return np.concatenate(chosen)


def _stored(file_bytes: np.ndarray, record: np.void, store: Store | None) -> Exhibit:
    height, width, row = int(record["height"]), int(record["width"]), int(record["row"])
    runs = np.frombuffer(read_blob(file_bytes, record, "mask"), dtype=np.uint32)
    mask_HW = unpack_rows(decode_runs(runs, height, width), width)
    background_jpeg = read_blob(file_bytes, record, "background")
    return Exhibit(
        row=row,
        key=_key(file_bytes, record),
        foreground_fraction=float(mask_HW.mean()),
        image_HWC=decode_rgb(read_blob(file_bytes, record, "image")),
        mask_HW=mask_HW,
        saliency_HW=None if store is None else store.saliency(row),
        background_HWC=decode_rgb(background_jpeg) if background_jpeg else None,
        views=(),
        negative_HWC=None,
    )


def _key(file_bytes: np.ndarray, record: np.void) -> str:
    return read_blob(file_bytes, record, "key").decode("utf-8", "surrogateescape")


def _donor_key(file_bytes: np.ndarray, records: np.ndarray, drawn: np.void) -> str | None:
    has_donor = drawn["has_background"] and drawn["donor_row"] >= 0
    return _key(file_bytes, records[int(drawn["donor_row"])]) if has_donor else None


def _to_uint8(image_CHW: Tensor) -> np.ndarray:
    return (image_CHW.permute(1, 2, 0).clamp(0.0, 1.0) * 255).round().to(torch.uint8).numpy()


def boxed(exhibit: Exhibit) -> np.ndarray:
    """Return a thumbnail of the exhibit's image with the boxes of its views; uint8 RGB."""
    # Local boxes first, so that the global ones lie on top.
    order = sorted(range(len(exhibit.views)), key=lambda number: exhibit.views[number].is_global)
    boxes, colours = [], []
    for number in order:
        top, left, height, width = (int(exhibit.views[number].record[name]) for name in _BOX)
        boxes.append((top, left, height, width))
        is_global = exhibit.views[number].is_global
        colour = pictures.VIEW_COLOURS[number % len(pictures.VIEW_COLOURS)]
        colours.append(colour if is_global else pictures.LOCAL_COLOUR)
    return pictures.with_boxes(exhibit.image_HWC, boxes, colours)
