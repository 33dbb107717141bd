"""Which masks are doubted, and why: five rows by hand."""

from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.pipeline.gallery.doubt import Doubts, Facts, facts_of, ious
from backdrop.pipeline.gallery.folder import write_gallery
from backdrop.pipeline.gallery.source_images import find_images
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import Status
from tests.material.gallery_store import KEYS, mask_of, write_store
from tests.material.small_store import small_store


def facts(
    fraction: float, box: tuple[int, int, int, int], status: Status = Status.OK, iou: float | None = None
) -> Facts:
    """Of one row of 100 x 200 px."""
    return Facts(
        status=np.array([status], np.uint8),
        fraction=np.array([fraction], np.float32),
        box=np.array([box], np.int32),
        size=np.array([(100, 200)], np.int32),
        iou=None if iou is None else np.array([iou]),
    )


@pytest.mark.parametrize(
    ("row", "doubt", "said"),
    [
        (facts(0.2, (10, 10, 60, 80)), 0.0, []),
        (facts(0.01, (10, 10, 20, 20)), 0.4 + 0.5 * 0.5, ["next to nothing is foreground"]),
        (facts(0.85, (1, 1, 98, 198)), 0.4 + 0.5 * 0.5, ["nearly everything is foreground"]),
        (facts(0.5, (0, 0, 100, 120)), 0.3, ["reaches 3 borders"]),
        (facts(0.5, (0, 0, 100, 200)), 0.6, ["reaches 4 borders"]),
        (facts(0.05, (10, 10, 80, 125)), 0.8 * (0.4 + 0.5 * 0.5), ["scattered, 10% of its box"]),
        (facts(0.2, (10, 10, 60, 80), iou=0.25), 0.9 * 0.75, ["IoU 0.25 with the other masks"]),
        (facts(0.2, (10, 10, 60, 80), iou=float("nan")), 0.0, []),
        (facts(0.0, (0, 0, 0, 0), Status.NO_FOREGROUND), 0.95, []),
        (facts(0.0, (0, 0, 0, 0), Status.DECODE_ERROR), 0.5, []),
        (facts(0.01, (0, 0, 100, 20), iou=0.0), 1 - 0.35 * 0.7 * (1 - 0.8 * 0.65) * 0.1,
         ["next to nothing is foreground", "reaches 3 borders", "scattered, 10% of its box",
          "IoU 0.00 with the other masks"]),
    ],
)  # fmt: skip
def test_doubts_by_hand(row: Facts, doubt: float, said: list[str]) -> None:
    doubts = Doubts(row)
    assert doubts.value[0] == pytest.approx(doubt, abs=1e-5)
    assert doubts.reasons(0) == said


def test_two_detectors_are_compared_by_their_masks(tmp_path: Path) -> None:
    store = open_store(write_store(tmp_path / "a.zarr"))
    rows = np.arange(len(KEYS))
    assert np.isnan(ious(store, store, [40, 41])).all(), "no mask"
    assert ious(store, store, [0, 5, 6, 7]).tolist() == [1.0] * 4
    assert Doubts(facts_of(store, rows, store)).value.tolist() == Doubts(facts_of(store, rows)).value.tolist()
    page = write_gallery(store, find_images(store, None), rows[:4], tmp_path / "g", other=store)
    with pytest.raises(UserError, match=r"compared with other masks or with none.*--overwrite"):
        write_gallery(store, find_images(store, None), rows[:4], page.parent)
    small_store(tmp_path / "b.zarr")
    with pytest.raises(UserError, match=r"b\.zarr is a store of other images"):
        facts_of(store, rows, open_store(tmp_path / "b.zarr"))
    assert facts_of(store, rows).fraction[9] == pytest.approx(mask_of(9).mean())
