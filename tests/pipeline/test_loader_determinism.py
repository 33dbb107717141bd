"""One row, one epoch, one seed: one set of bytes, however many threads, ranks, batches and restarts it took.

`test_loader.py` holds single cases of this and the comparison of pixels with the plain loader over a whole epoch.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.pipeline.beton.reader import BetonSettings
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.reference_loader import ReferenceLoader
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.stores.format.reader import Store
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.material.loader_rows import EPOCH, Row, all_rows

MAX_SIDE_PX = 200
SEED = 5
GLOBAL = View(size_px=40, min_foreground=0.2)
LOCAL = View(size_px=17, scale=(0.05, 0.2), min_foreground=0.1, is_global=False)
PLANS = {
    "cast": ViewPlan(views=(GLOBAL, GLOBAL), pair_constraint=True, crop_proposal="centroid", crop_fallback="bbox"),
    "multi-crop": ViewPlan(
        views=(GLOBAL, GLOBAL, LOCAL, LOCAL), background=Background(name="random", probability=0.7, warmup_epochs=5)
    ),
    "swaps": ViewPlan(views=(GLOBAL, LOCAL), background=Background(name="swaps", probability=0.6)),
    "recombine": ViewPlan(
        views=(GLOBAL, GLOBAL, LOCAL),
        pair_constraint=True,
        background=Background(name="recombine", probability=0.7, applies_to="all"),
    ),
}


@pytest.fixture(scope="module")
def beton(built: tuple[Store, DatasetIndex], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_beton(*built, tmp_path_factory.mktemp("beton") / "small.beton", max_side_px=MAX_SIDE_PX)


@pytest.fixture(scope="module")
def single(beton: Path) -> dict[str, list[tuple[int, Row]]]:
    """Every plan's epoch by one thread of one rank in one batch, all rows."""
    whole = {}
    for name, plan in PLANS.items():
        with Loader(beton, plan, LoaderOptions(batch_size=50, seed=SEED, num_threads=1, drop_last=False)) as loader:
            whole[name] = all_rows(loader)
            assert len(whole[name]) == loader.num_rows == 20
    return whole


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(PLANS)), batch_size=st.integers(1, 21), threads=st.sampled_from([1, 2, 8]),
    world_size=st.sampled_from([1, 2, 3, 4]), drop_last=st.booleans(), ahead=st.integers(1, 4), data=st.data(),
)  # fmt: skip
def test_every_row_is_the_same_however_it_came(
    beton: Path, single: dict, name: str, batch_size: int, threads: int, world_size: int, drop_last: bool, ahead: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    if drop_last:
        batch_size = min(batch_size, 20 // world_size)
    whole = single[name]
    together: dict[int, list[tuple[int, Row]]] = {}
    for rank in range(world_size):
        with Loader(
            beton,
            PLANS[name],
            LoaderOptions(
                batch_size=batch_size,
                seed=SEED,
                num_threads=threads,
                batches_ahead=ahead,
                rank=rank,
                world_size=world_size,
                drop_last=drop_last,
            ),
        ) as loader:
            first_batch = data.draw(st.integers(0, loader.num_batches), label=f"first batch of rank {rank}")
            ours = all_rows(loader)
            resumed = all_rows(loader, first_batch=first_batch)
            assert resumed == ours[first_batch * batch_size :]
        together[rank] = ours
    # Place by place: place i of rank r is place i * world_size + r of the common order.
    for rank, ours in together.items():
        assert ours == whole[rank::world_size][: len(ours)]
    if drop_last:
        assert {len(ours) for ours in together.values()} == {20 // world_size // batch_size * batch_size}
    else:
        assert sorted(row for ours in together.values() for row, _ in ours) == sorted(row for row, _ in whole)


@pytest.mark.parametrize("name", sorted(PLANS))
def test_the_plain_loader_draws_the_same(
    built: tuple[Store, DatasetIndex], beton: Path, single: dict, name: str
) -> None:
    """Order, labels, records and masks byte for byte; pixels within 1 grey level; for some ranks and a restart."""
    whole = dict(single[name])
    for rank, world_size, first_batch in ((0, 1, 0), (1, 3, 1)):
        reference = ReferenceLoader(
            *built,
            PLANS[name],
            LoaderOptions(batch_size=3, seed=SEED, rank=rank, world_size=world_size),
            settings=BetonSettings(max_side_px=MAX_SIDE_PX),
        )
        theirs = all_rows(reference, first_batch=first_batch)
        assert [row for row, _ in theirs] == [row for row, _ in single[name]][rank::world_size][
            first_batch * 3 : first_batch * 3 + len(theirs)
        ]
        assert theirs
        for row, (label, *views) in theirs:
            our_label, *our_views = whole[row]
            assert label == our_label
            for ours, other in zip(our_views, views, strict=True):
                assert ours[1] == other[1]
                assert ours[3] == other[3]
                for mine, yours in ((ours[0], other[0]), (ours[2], other[2])):
                    assert (mine is None) == (yours is None)
                    if mine is not None:
                        levels = [np.frombuffer(pixels, np.uint8).astype(int) for pixels in (mine, yours)]
                        assert np.abs(levels[0] - levels[1]).max() <= 1


def test_epochs_seeds_and_plans_differ_and_only_what_changed_changes(beton: Path, single: dict) -> None:
    """The comparisons above could not fail if everything were constant; and draws do not depend on one another."""
    plan = PLANS["multi-crop"]
    options = {"batch_size": 20, "num_threads": 2}
    with Loader(beton, plan, LoaderOptions(seed=SEED, **options)) as loader:
        other_epoch = all_rows(loader, epoch=EPOCH + 1)
    with Loader(beton, plan, LoaderOptions(seed=SEED + 1, **options)) as loader:
        other_seed = all_rows(loader)
    whole = dict(single["multi-crop"])
    for others in (other_epoch, other_seed):
        assert [row for row, _ in others] != list(whole)
        assert all(views[1][3] != whole[row][1][3] for row, views in others), "every box or parameter is another"
    fewer = replace(plan, views=plan.views[:3], background=replace(plan.background, probability=0.0))
    with Loader(beton, fewer, LoaderOptions(seed=SEED, **options)) as loader:
        for row, views in all_rows(loader):
            for number in (1, 2, 3):  # the label stands first
                assert views[number][:2] == whole[row][number][:2], "a view left out, and no backgrounds: same crops"
