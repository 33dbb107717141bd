"""A run says so, once, when many of its crops are not where the plan wants them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backdrop.pipeline.views import crops
from backdrop.pipeline.views.batch import Batch
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, View, ViewPlan
from backdrop.ranks import Ranks
from backdrop.trainer.run.crop_fallbacks import NUM_CROPS, FallbackWatch
from backdrop.trainer.run.metrics_log import read_metrics
from backdrop.trainer.run.run_folder import Origin
from backdrop.trainer.run.training import train
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny

LOCAL = View(size_px=96, scale=(0.05, 0.14), min_foreground=0.5, is_global=False)
PLAN = ViewPlan(views=(View(min_foreground=0.2), LOCAL))


def records(num: int, *num_fallbacks: int) -> list[np.ndarray]:
    """One batch in which the first so many crops of each view are fallbacks."""
    drawn = [np.zeros(num, VIEW_DTYPE) for _ in num_fallbacks]
    for record_B, fallbacks in zip(drawn, num_fallbacks, strict=True):
        record_B["is_fallback"][:fallbacks] = 1
    return drawn


def test_one_line_names_view_constraint_share_and_what_the_crops_are() -> None:
    watch = FallbackWatch(PLAN)
    batch = NUM_CROPS // 4
    for _ in range(3):
        assert watch.add(records(batch, 10, 370)) is None
    message = watch.add(records(batch, 10, 370))
    assert message is not None
    assert "view 1 (96 px, scale 0.05 to 0.14, min_foreground 0.5) 74%." in message
    assert "view 0" not in message
    assert "the whole image" in message
    assert "\n" not in message
    assert watch.add(records(NUM_CROPS, 0, NUM_CROPS)) is None
    assert watch.warning() is None


def test_what_is_rare_is_not_worth_a_line() -> None:
    watch = FallbackWatch(PLAN)
    assert watch.add(records(NUM_CROPS, 0, NUM_CROPS // 5)) is None
    assert watch.add(records(NUM_CROPS, 0, NUM_CROPS)) is None
    assert FallbackWatch(PLAN).warning() is None


@pytest.mark.parametrize(("fallback", "words"), [("bbox", "foreground's box"), ("best", "most foreground")])
def test_the_line_knows_the_other_fallbacks(fallback: str, words: str) -> None:
    watch = FallbackWatch(replace(PLAN, crop_fallback=fallback))
    message = watch.add(records(NUM_CROPS, 0, NUM_CROPS))
    assert message is not None
    assert words in message
    assert ("set crop_fallback=best" in message) == (fallback != "best")


def test_local_crops_under_a_hard_constraint_are_found_out() -> None:
    """Drawn by the sampler: an object of a quarter of the image is too large for crops of 5 to 14 %."""
    mask_HW = np.zeros((120, 160), np.uint8)
    mask_HW[30:90, 40:120] = 1
    mask = crops.foreground(np.packbits(mask_HW, axis=1), 160)
    no_donors = crops.donors(*(np.empty(0, np.int64) for _ in range(3)))
    drawn = np.stack([crops.draw_views(PLAN, mask, no_donors, seed=0, epoch=0, row=row) for row in range(300)])
    watch = FallbackWatch(PLAN)
    assert watch.add([drawn[:, view] for view in range(2)]) is None
    message = watch.warning()
    assert message is not None
    assert "view 1" in message
    assert "view 0" not in message


class FailingCrops(MemoryLoader):
    """Half of the last view's crops are fallbacks."""

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, first_batch=first_batch):
            batch.views[-1].record_B["is_fallback"][::2] = 1
            yield batch


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard")
def test_a_run_of_multi_crop_says_it_once_and_logs_every_view(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(tiny("swav"), epochs=2)
    loader = FailingCrops(settings.plan, num_rows=8, batch_size=settings.batch_size)
    train(settings, loader, tmp_path / "run", origin=Origin(recipe="smoke"), resume=False, ranks=Ranks(device="cpu"))
    said = [line for line in capsys.readouterr().err.splitlines() if "warning:" in line]
    assert len(said) == 1
    assert "view 7 (16 px" in said[0]
    assert "50%" in said[0]
    for metrics in read_metrics(tmp_path / "run"):
        assert [metrics[f"view{view}/fallback"] for view in range(8)] == [0] * 7 + [0.5]
        assert [metrics[f"view{view}/tries"] for view in range(8)] == [1] * 8
