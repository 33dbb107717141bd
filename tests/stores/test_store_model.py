"""Stores against a model: all that teams do with stores, in any order and killed anywhere, beside a dictionary.

Stores are built, resumed, merged, cut at a new threshold, recomputed in some rows, published, pulled and swept. The
model knows for every store which images and which threshold it stands for, and computes each row's mask from them by
itself. Whatever happened before, a finished store must be, byte for byte, the one an undisturbed build gives.
"""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import backdrop.stores.format.writer
from backdrop.errors import UserError
from backdrop.pipeline.build.masks_and_backgrounds import (
    BuildSettings,
    BuildSpec,
    build_store,
    run_part,
    store_identity,
)
from backdrop.pipeline.build.recompute import recompute_store
from backdrop.pipeline.build.rethreshold import rethreshold_store
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import MANIFEST, NOT_BUILT, PARTS, ROOT_METADATA, Status, part_name
from backdrop.stores.format.writer import open_for_build, part_rows_for, staging_folder
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.maintenance.gc import gc
from backdrop.stores.maintenance.merge import merge
from backdrop.stores.maintenance.verify import verify
from backdrop.stores.sharing.object_storage import ObjectStorage
from backdrop.stores.sharing.published import CLAIM
from backdrop.stores.sharing.remote import publish, pull
from tests.material.small_images import (
    NUM_IMAGES,
    PART_ROWS,
    UNREADABLE,
    FormulaDetector,
    index_of,
    make_images,
    repair,
)
from tests.material.small_store import tree

THRESHOLDS = (0.25, 0.9)
VERSIONS = ("damaged", "repaired")  # of the data set
NUM_PARTS = -(-NUM_IMAGES // PART_ROWS)
MOST_STORES = 5
# In memory where there is room: these histories are thousands of small files.
FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
ADDRESSES = ("here", "there")
NUM_CLAIMINGS = 3  # what publishing does besides sending each file: claim, see whether that is honoured, let go
numbers = st.integers(0, 9)
# About the number of files and flushes of a whole store: a kill may come anywhere, or too late.
kills = st.none() | st.integers(0, 700)
# Of a publishing also counted from its end, where the manifest is put and the claim goes.
cuts = kills | st.integers(-4, -1)
rows = st.sets(st.integers(0, NUM_IMAGES - 1), min_size=1, max_size=4)


class Killed(BaseException):
    """What stands for SIGKILL here: nothing catches it, and nothing is tidied up after it."""


class Cut(UserError):
    """What stands for a network that goes away: whoever sends or fetches must give up in good order."""


@dataclass
class ModelStore:
    """What a store must be once it is finished."""

    version: str
    threshold: float
    work: Callable[[Path], int]
    """Begins it, or goes on with it; how many rows or objects it had to make or fetch."""
    is_finished: bool = False

    @property
    def content(self) -> tuple[str, float]:
        """Two stores are to be equal, byte for byte, where this is."""
        return self.version, self.threshold


@dataclass
class ModelAddress:
    """What a published store must be."""

    content: tuple[str, float]
    is_finished: bool


@functools.cache
def images(version: str) -> tuple[Path, DatasetIndex]:
    folder = tempfile.mkdtemp(prefix="backdrop-model-", dir=FOLDER)
    atexit.register(lambda: shutil.rmtree(folder))  # looked up then: here it may be patched
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
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        _build(version, threshold, Path(folder) / "s.zarr")
        return tree(Path(folder) / "s.zarr")


def _spec(version: str, threshold: float, out: Path) -> BuildSpec:
    return BuildSpec(
        images(version)[1], FormulaDetector(), out, BuildSettings(threshold=threshold, keeps_soft_maps=True)
    )


def _build(version: str, threshold: float, out: Path) -> int:
    spec = _spec(version, threshold, out)
    return build_store(spec.index, spec.detector, out, spec.settings, num_workers=0)["rows_built"]


def _build_parts(version: str, threshold: float, parts: set[int], out: Path) -> None:
    """What one of several machines does."""
    spec = _spec(version, threshold, out)
    open_for_build(out, store_identity(spec), NUM_IMAGES, part_rows_for(NUM_IMAGES))
    for part in parts:
        run_part(spec, part)


@contextmanager
def ended_after(num_operations: int | None, error: type[BaseException] = Killed) -> Iterator[None]:
    """End it at the n-th file written, flushed, sent or fetched; after a kill what is staged stays."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        patched.setattr(os, "sync", lambda: None)
        if num_operations is not None:
            left = [num_operations]

            def ticks(function: Callable) -> Callable:
                def ticking(*arguments: object, **options: object) -> object:
                    left[0] -= 1
                    if left[0] < 0:
                        raise error
                    return function(*arguments, **options)

                return ticking

            def spared(remove: Callable) -> Callable:
                return lambda *arguments, **options: None if left[0] < 0 else remove(*arguments, **options)

            for name in ("put", "put_file", "create", "delete", "download"):
                patched.setattr(ObjectStorage, name, ticks(getattr(ObjectStorage, name)))
            if error is Killed:
                patched.setattr(os, "fsync", ticks(lambda descriptor: None))
                patched.setattr(backdrop.stores.format.writer, "_write", ticks(backdrop.stores.format.writer._write))
                patched.setattr(shutil, "rmtree", spared(shutil.rmtree))
                patched.setattr(Path, "unlink", spared(Path.unlink))
        yield


class StoreModel(RuleBasedStateMachine):
    """The rules below are what users do; the invariant is what they rely on."""

    def __init__(self) -> None:
        super().__init__()
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(backdrop.stores.format.writer, "MIN_PART_ROWS", PART_ROWS)
        self.folder = Path(tempfile.mkdtemp(prefix="backdrop-model-", dir=FOLDER))
        self.stores: dict[str, ModelStore] = {}
        self.addresses: dict[str, ModelAddress] = {}
        self.touched: str | None = None

    def teardown(self) -> None:
        """Give every command once more, then compare everything: nothing may have changed, nothing lie about."""
        try:
            for name in self.stores:
                self._work(name, None)
            for name in self.stores:
                self._check(name)
            for address in self.addresses:
                self._check_address(address)
            assert not list(self.folder.glob("*.staging"))
        finally:
            self.patched.undo()
            shutil.rmtree(self.folder)

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _add(self, content: tuple[str, float], work: Callable[[Path], int], kill_after: int | None) -> str:
        name = f"{len(self.stores)}.zarr"
        self.stores[name] = ModelStore(*content, work)
        self._work(name, kill_after)
        return name

    def _work(self, name: str, end_after: int | None, error: type[BaseException] = Killed) -> None:
        store, self.touched = self.stores[name], name
        try:
            with ended_after(end_after, error):
                store.work(self._path(name))
        except (Killed, Cut):
            # The last flush comes after the manifest has its name: such a kill leaves a finished store.
            store.is_finished = (self._path(name) / MANIFEST).exists()
        else:
            store.is_finished = True

    def _url(self, address: str) -> str:
        return (self.folder / "published" / address).as_uri()

    def _there(self) -> list[str]:
        """Stores of which there is anything."""
        return [name for name in self.stores if (self._path(name) / ROOT_METADATA).exists()]

    def _chosen(self, number: int, is_finished: bool) -> str:
        names = [name for name, store in self.stores.items() if store.is_finished == is_finished]
        return names[number % len(names)]

    def _has(self, is_finished: bool) -> bool:
        return any(store.is_finished == is_finished for store in self.stores.values())

    @precondition(lambda self: len(self.stores) < MOST_STORES)
    @rule(version=st.sampled_from(VERSIONS), threshold=st.sampled_from(THRESHOLDS), kill_after=kills)
    def build(self, version: str, threshold: float, kill_after: int | None) -> None:
        """Begin a store."""
        self._add((version, threshold), functools.partial(_build, version, threshold), kill_after)

    @precondition(lambda self: len(self.stores) < MOST_STORES)
    @rule(
        version=st.sampled_from(VERSIONS),
        threshold=st.sampled_from(THRESHOLDS),
        parts=st.sets(st.integers(0, NUM_PARTS - 1)),
    )
    def build_some_parts(self, version: str, threshold: float, parts: set[int]) -> None:
        """Begin a store on one of several machines."""
        name = self._add((version, threshold), functools.partial(_build, version, threshold), 0)
        with ended_after(None):
            _build_parts(version, threshold, parts, self._path(name))

    @precondition(lambda self: self._has(False))
    @rule(number=numbers, end_after=kills, error=st.sampled_from((Killed, Cut)))
    def resume(self, number: int, end_after: int | None, error: type[BaseException]) -> None:
        """Give the command of an unfinished store again."""
        self._work(self._chosen(number, False), end_after, error)

    @precondition(lambda self: self._has(True))
    @rule(number=numbers)
    def give_the_command_of_a_finished_store_again(self, number: int) -> None:
        """Nothing is built, nothing changes."""
        self.touched = self._chosen(number, True)
        with ended_after(None):
            assert self.stores[self.touched].work(self._path(self.touched)) == 0

    @precondition(lambda self: self._there() and len(self.stores) < MOST_STORES)
    @rule(number=numbers, stranger=st.none() | numbers, kill_after=kills)
    def merge(self, number: int, stranger: int | None, kill_after: int | None) -> None:
        """Join all stores, whole or not, that stand for the same; one that stands for something else is refused."""
        there = self._there()
        model = self.stores[there[number % len(there)]]
        names = [name for name in there if self.stores[name].content == model.content]
        others = [] if stranger is None else [name for name in there if name not in names]
        names += [others[stranger % len(others)]] if others else []  # type: ignore[operator]
        parts = {part for part in range(NUM_PARTS) for name in names if self._has_part(name, part)}

        def work(out: Path) -> int:
            merge([self._path(name) for name in names], out)
            return 0

        if others or len(parts) < NUM_PARTS:
            with pytest.raises(UserError, match="not parts of one store" if others else "are in none of the stores"):
                work(self._path("refused"))
            assert not self._path("refused").exists()
            return
        self._add(model.content, work, kill_after)

    def _has_part(self, name: str, part: int) -> bool:
        return (self._path(name) / PARTS / part_name(part)).exists()

    @precondition(lambda self: self._has(True))
    @rule(number=numbers, address=st.sampled_from(ADDRESSES), end_after=cuts, error=st.sampled_from((Killed, Cut)))
    def publish(self, number: int, address: str, end_after: int | None, error: type[BaseException]) -> None:
        """Publish a finished store, or go on with it; where another one is, or is begun, it is refused."""
        self.touched = self._chosen(number, True)
        content, place = self.stores[self.touched].content, self.folder / "published" / address
        there = self.addresses.get(address)
        if there is not None and there.content != content:
            with pytest.raises(UserError, match=r"is taken|holds the store"), ended_after(None):
                publish(self._path(self.touched), self._url(address), progress=False)
        else:
            if end_after is not None and end_after < 0:
                end_after += len(undisturbed(*content)) + NUM_CLAIMINGS
            try:
                with ended_after(end_after, error):
                    report = publish(self._path(self.touched), self._url(address), progress=False)
                if there is not None and there.is_finished:
                    assert report["objects"] == 0
                assert not (place / CLAIM).exists()
            except (Killed, Cut):
                pass
            if (place / CLAIM).exists() or (place / MANIFEST).exists():
                self.addresses[address] = ModelAddress(content, (place / MANIFEST).exists())
        if address in self.addresses:
            self._check_address(address)

    @precondition(lambda self: len(self.stores) < MOST_STORES)
    @rule(address=st.sampled_from(ADDRESSES), end_after=kills, error=st.sampled_from((Killed, Cut)))
    def pull(self, address: str, end_after: int | None, error: type[BaseException]) -> None:
        """Fetch a published store; there is none before its publishing is finished."""

        def work(out: Path) -> int:
            return pull(self._url(address), out, progress=False)["objects"]

        there = self.addresses.get(address)
        if there is None or not there.is_finished:
            with pytest.raises(UserError, match="there is no store at"):
                work(self._path("refused"))
            assert not self._path("refused").exists()
            return
        name = f"{len(self.stores)}.zarr"
        self.stores[name] = ModelStore(*there.content, work)
        self._work(name, end_after, error)

    @precondition(lambda self: self.stores)
    @rule(number=numbers)
    def sweep(self, number: int) -> None:
        """Whatever was left behind goes; a later step needs none of it."""
        self.touched = f"{number % len(self.stores)}.zarr"
        path = self._path(self.touched)
        if (path / ROOT_METADATA).exists() or staging_folder(path).exists():
            gc(path, min_age_s=0)
            assert not staging_folder(path).exists()
        for address in self.addresses:
            with suppress(UserError):  # nothing but a claim is there
                gc(self.folder / "published" / address, min_age_s=0)
            self._check_address(address)

    @precondition(lambda self: self._has(True) and len(self.stores) < MOST_STORES)
    @rule(number=numbers, threshold=st.sampled_from(THRESHOLDS), kill_after=kills)
    def rethreshold(self, number: int, threshold: float, kill_after: int | None) -> None:
        """Cut a finished store again."""
        parent = self._chosen(number, True)
        version = self.stores[parent].version

        def work(out: Path) -> int:
            index, path = images(version)[1], self._path(parent)
            return rethreshold_store(path, index, out, threshold=threshold, num_workers=0)["rows_built"]

        self._add((version, threshold), work, kill_after)

    @precondition(lambda self: self._has(True) and len(self.stores) < MOST_STORES)
    @rule(number=numbers, version=st.sampled_from(VERSIONS), chosen=rows, kill_after=kills)
    def recompute(self, number: int, version: str, chosen: set[int], kill_after: int | None) -> None:
        """Compute rows of a finished store anew, with the images as they are in `version`."""
        parent = self._chosen(number, True)
        old = self.stores[parent]

        def work(out: Path) -> int:
            index, path = images(version)[1], self._path(parent)
            summary = recompute_store(path, index, FormulaDetector(), out, sorted(chosen), num_workers=0)
            return summary["rows_built"]

        if version != old.version and UNREADABLE not in chosen:
            with pytest.raises(UserError, match=f"row {UNREADABLE} .* changed"):
                work(self._path("refused"))
            assert not self._path("refused").exists()
            return
        self._add((version, old.threshold), work, kill_after)

    @precondition(lambda self: self._has(False) or self._has(True))
    @rule(number=numbers, is_finished=st.booleans(), threshold=st.sampled_from(THRESHOLDS))
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
            assert differing_files(path, model.content) == []
            assert verify(path) == []
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

    def _check_address(self, address: str) -> None:
        """Whole and equal to what was sent, or no store at all."""
        model, place = self.addresses[address], self.folder / "published" / address
        assert (place / MANIFEST).exists() == model.is_finished
        if model.is_finished:
            assert set(differing_files(place, model.content)) <= {CLAIM}
        elif (place / ROOT_METADATA).exists():
            with pytest.raises(UserError, match="half built"):
                open_store(place)


def differing_files(path: Path, content: tuple[str, float]) -> list[str]:
    """Names, not contents: pytest takes minutes to say how two trees of bytes differ."""
    there, expected = tree(path), undisturbed(*content)
    return [file for file in {*there, *expected} if there.get(file) != expected.get(file)]


QUIET = (HealthCheck.too_slow, HealthCheck.filter_too_much)


class TestStoreModel(StoreModel.TestCase):
    """A few short histories."""

    settings = settings(max_examples=6, stateful_step_count=8, deadline=None, suppress_health_check=QUIET)


@pytest.mark.slow
class TestManyHistories(StoreModel.TestCase):
    """Many long ones."""

    settings = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=QUIET)
