"""Stores against a model: builds, kills, resumes, new thresholds and recomputed rows in any order, beside a dictionary.

The model knows for every store which images and which threshold it stands for, and computes each row's mask from them
by itself. Whatever happened before, a finished store must be, byte for byte, the one an undisturbed build gives.
"""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import stores.writer
from pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from pipeline.build.recompute import recompute_store
from pipeline.build.rethreshold import rethreshold_store
from stores.dataset_index import DatasetIndex
from stores.errors import UserError
from stores.image_codec import decode_rgb
from stores.reader import open_store
from stores.schema import NOT_BUILT, ROOT_METADATA, Status
from stores.verify import verify
from tests.small_images import NUM_IMAGES, PART_ROWS, UNREADABLE, FormulaDetector, index_of, make_images, repair
from tests.small_store import tree

THRESHOLDS = (0.25, 0.8, 0.9)
VERSIONS = ("damaged", "repaired")  # of the data set
MOST_STORES = 6
# About the number of files and flushes of a whole store: a kill may come anywhere, or too late.
kills = st.none() | st.integers(0, 700)
rows = st.sets(st.integers(0, NUM_IMAGES - 1), min_size=1, max_size=4)


class Killed(BaseException):
    """What stands for SIGKILL here: nothing catches it, and nothing is tidied up after it."""


@dataclass
class ModelStore:
    """What a store must be once it is finished."""

    version: str
    threshold: float
    work: Callable[[Path], dict]
    """Begins it, or goes on with it."""
    is_finished: bool = False


@functools.cache
def images(version: str) -> tuple[Path, DatasetIndex]:
    folder = tempfile.mkdtemp(prefix="backdrop-model-")
    atexit.register(shutil.rmtree, folder)
    root = make_images(Path(folder) / version)
    if version == "repaired":
        repair(root)
    return root, index_of(root)


@functools.cache
def expected_masks(version: str, threshold: float) -> list[np.ndarray | None]:
    """The dictionary's own arithmetic: eight bits first, then the cut."""
    root, index = images(version)
    masks: list[np.ndarray | None] = []
    for row, key in enumerate(index.keys):
        if row == UNREADABLE and version == "damaged":
            masks.append(None)
            continue
        image_HWC = decode_rgb((root / key).read_bytes())
        levels_HW = np.floor(FormulaDetector()(image_HWC, key).astype(np.float64) * 255 + 0.5)
        masks.append((levels_HW > threshold * 255 + 1e-4).astype(np.uint8))
    return masks


@functools.cache
def undisturbed(version: str, threshold: float) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _build(version, threshold, Path(folder) / "s.zarr")
        return tree(Path(folder) / "s.zarr")


def _build(version: str, threshold: float, out: Path) -> dict:
    chosen = BuildSettings(threshold=threshold, keeps_soft_maps=True)
    return build_store(images(version)[1], FormulaDetector(), out, chosen, num_workers=0)


@contextmanager
def killed_after(num_operations: int | None) -> Iterator[None]:
    """Kill at the n-th file written or flushed; what is staged then stays."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        if num_operations is not None:
            left, write, remove = [num_operations], stores.writer._write, shutil.rmtree

            def tick() -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed

            def remove_unless_killed(*arguments: object, **options: object) -> None:
                if left[0] >= 0:
                    remove(*arguments, **options)

            patched.setattr(os, "fsync", lambda descriptor: tick())
            patched.setattr(stores.writer, "_write", lambda file, data: (tick(), write(file, data)))
            patched.setattr(shutil, "rmtree", remove_unless_killed)
        yield


class StoreModel(RuleBasedStateMachine):
    """The rules below are what users do; the invariant is what they rely on."""

    def __init__(self) -> None:
        super().__init__()
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(stores.writer, "MIN_PART_ROWS", PART_ROWS)
        self.folder = Path(tempfile.mkdtemp(prefix="backdrop-model-"))
        self.stores: dict[str, ModelStore] = {}
        self.touched: str | None = None

    def teardown(self) -> None:
        """Give every command once more, then compare everything: nothing may have changed, nothing lie about."""
        try:
            for name in self.stores:
                self._work(name, None)
            for name in self.stores:
                self._check(name)
            assert not list(self.folder.glob("*.staging"))
        finally:
            self.patched.undo()
            shutil.rmtree(self.folder)

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _add(self, version: str, threshold: float, work: Callable[[Path], dict], kill_after: int | None) -> None:
        name = f"{len(self.stores)}.zarr"
        self.stores[name] = ModelStore(version, threshold, work)
        self._work(name, kill_after)

    def _work(self, name: str, kill_after: int | None) -> None:
        store, self.touched = self.stores[name], name
        try:
            with killed_after(kill_after):
                store.work(self._path(name))
        except Killed:
            # The last flush comes after the manifest has its name: such a kill leaves a finished store.
            store.is_finished = (self._path(name) / "MANIFEST.json").exists()
        else:
            store.is_finished = True

    def _chosen(self, number: int, is_finished: bool) -> str:
        names = [name for name, store in self.stores.items() if store.is_finished == is_finished]
        return names[number % len(names)]

    def _has(self, is_finished: bool) -> bool:
        return any(store.is_finished == is_finished for store in self.stores.values())

    @precondition(lambda self: len(self.stores) < MOST_STORES)
    @rule(version=st.sampled_from(VERSIONS), threshold=st.sampled_from(THRESHOLDS), kill_after=kills)
    def build(self, version: str, threshold: float, kill_after: int | None) -> None:
        """Begin a store."""
        self._add(version, threshold, functools.partial(_build, version, threshold), kill_after)

    @precondition(lambda self: self._has(False))
    @rule(number=st.integers(0, 9), kill_after=kills)
    def resume(self, number: int, kill_after: int | None) -> None:
        """Give the command of an unfinished store again."""
        self._work(self._chosen(number, False), kill_after)

    @precondition(lambda self: self._has(True))
    @rule(number=st.integers(0, 9))
    def give_the_command_of_a_finished_store_again(self, number: int) -> None:
        """Nothing is built, nothing changes."""
        self.touched = self._chosen(number, True)
        assert self.stores[self.touched].work(self._path(self.touched))["rows_built"] == 0

    @precondition(lambda self: self._has(True) and len(self.stores) < MOST_STORES)
    @rule(number=st.integers(0, 9), threshold=st.sampled_from(THRESHOLDS), kill_after=kills)
    def rethreshold(self, number: int, threshold: float, kill_after: int | None) -> None:
        """Cut a finished store again."""
        parent = self._chosen(number, True)
        version = self.stores[parent].version

        def work(out: Path) -> dict:
            index = images(version)[1]
            return rethreshold_store(self._path(parent), index, out, threshold=threshold, num_workers=0)

        self._add(version, threshold, work, kill_after)

    @precondition(lambda self: self._has(True) and len(self.stores) < MOST_STORES)
    @rule(number=st.integers(0, 9), version=st.sampled_from(VERSIONS), chosen=rows, kill_after=kills)
    def recompute(self, number: int, version: str, chosen: set[int], kill_after: int | None) -> None:
        """Compute rows of a finished store anew, with the images as they are in `version`."""
        parent = self._chosen(number, True)
        old = self.stores[parent]

        def work(out: Path) -> dict:
            index = images(version)[1]
            return recompute_store(self._path(parent), index, FormulaDetector(), out, sorted(chosen), num_workers=0)

        if version != old.version and UNREADABLE not in chosen:
            with pytest.raises(UserError, match=f"row {UNREADABLE} .* changed"):
                work(self._path("refused"))
            assert not self._path("refused").exists()
            return
        self._add(version, old.threshold, work, kill_after)

    @precondition(lambda self: self._has(False) or self._has(True))
    @rule(number=st.integers(0, 9), is_finished=st.booleans(), threshold=st.sampled_from(THRESHOLDS))
    def build_something_else_there(self, number: int, is_finished: bool, threshold: float) -> None:
        """Refused by name, and nothing changes."""
        if not self._has(is_finished):
            return
        self.touched = self._chosen(number, is_finished)
        store = self.stores[self.touched]
        if threshold != store.threshold and (self._path(self.touched) / ROOT_METADATA).exists():
            with pytest.raises(UserError, match=r"mask\.threshold"):
                _build(store.version, threshold, self._path(self.touched))

    @invariant()
    def the_store_just_touched_is_as_the_model_says(self) -> None:
        """All others are compared in the end."""
        if self.touched is not None:
            self._check(self.touched)

    def _check(self, name: str) -> None:
        path, model = self._path(name), self.stores[name]
        if not (path / ROOT_METADATA).exists():  # killed before it was anything
            assert not model.is_finished
            return
        if model.is_finished:
            there, expected = tree(path), undisturbed(model.version, model.threshold)
            # Names, not contents: pytest takes minutes to say how two trees of bytes differ.
            assert not [file for file in {*there, *expected} if there.get(file) != expected.get(file)]
        else:
            with pytest.raises(UserError, match="half built"):
                open_store(path)
            assert verify(path, allow_partial=True) == []
        store = open_store(path, allow_partial=True)
        for row, mask_HW in enumerate(expected_masks(model.version, model.threshold)):
            if store.status[row] == NOT_BUILT:
                assert not model.is_finished
            elif mask_HW is None:
                assert store.status[row] == Status.DECODE_ERROR
            else:
                np.testing.assert_array_equal(store.mask(row), mask_HW)
                assert (store.status[row] == Status.NO_FOREGROUND) == (not mask_HW.any())


QUIET = (HealthCheck.too_slow, HealthCheck.filter_too_much)


class TestStoreModel(StoreModel.TestCase):
    """A few short histories."""

    settings = settings(max_examples=12, stateful_step_count=8, deadline=None, suppress_health_check=QUIET)


@pytest.mark.slow
class TestManyHistories(StoreModel.TestCase):
    """Many long ones."""

    settings = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=QUIET)
