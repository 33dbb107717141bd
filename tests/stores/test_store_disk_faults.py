"""Every command that writes beside or into a store, on a disk that is full, read-only or not ours to write.

Each ends with exit code 2 and one message that names the place and the next step; nothing half written can be taken for
whole; and once the disk is as it should be the same command gives, byte for byte, what it would have given.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import backdrop.stores.engines.local
from backdrop import cli
from backdrop.errors import UserError
from backdrop.pipeline.beton.reader import read_sidecar
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import MANIFEST, ROOT_METADATA
from backdrop.stores.format.writer import staging_folder
from backdrop.stores.maintenance.verify import verify
from backdrop.stores.sharing.remote import publish
from tests.material.small_images import build, index_of, make_images, parts_of_few_rows
from tests.material.small_store import tree

DISK_BYTES = 24 << 20  # a .beton of a few rows has 8 MiB
NOBODY = 65534
NEXT_STEP = {"full": "the same command again", "read-only": "give another place", "no permission": "give another place"}


@dataclass(frozen=True)
class Inputs:
    """What the commands read; on another disk, open to everybody."""

    images: Path
    masks: Path
    store: Path
    """Finished, with soft maps."""
    halves: tuple[Path, Path]
    """The same store in two halves."""
    url: str
    """Where it is published."""


@dataclass(frozen=True)
class Verb:
    """A command, and what it leaves."""

    words: Callable[[Inputs, Path], list[object]]
    """Of the inputs and the folder to write to."""
    made: tuple[str, ...]
    """Names of what must be there in the end, in that folder."""
    is_store: bool = False


def _images(inputs: Inputs) -> list[object]:
    return ["--root", inputs.images]


VERBS = {
    "build-store": Verb(
        lambda inputs, place: [
            "build-store", "--dataset", "folder", *_images(inputs), "--detector", f"masks:{inputs.masks}",
            "--soft-maps", "--no-beton", "--out", place / "s.zarr",
        ],
        ("s.zarr",),
        is_store=True,
    ),
    "build-store --from": Verb(
        lambda inputs, place: [
            "build-store", "--dataset", "folder", *_images(inputs), "--from", inputs.store, "--threshold", "0.5",
            "--no-beton", "--out", place / "s.zarr",
        ],
        ("s.zarr",),
        is_store=True,
    ),
    "recompute": Verb(
        lambda inputs, place: [
            "store", "recompute", inputs.store, "--rows", "5", "--detector", f"masks:{inputs.masks}",
            *_images(inputs), "--out", place / "s.zarr",
        ],
        ("s.zarr",),
        is_store=True,
    ),
    "merge": Verb(
        lambda inputs, place: ["store", "merge", *inputs.halves, "--out", place / "s.zarr"], ("s.zarr",), is_store=True
    ),
    "publish": Verb(lambda inputs, place: ["store", "publish", inputs.store, f"file://{place}/public"], ("public",)),
    "pull": Verb(lambda inputs, place: ["store", "pull", inputs.url, "--out", place / "s.zarr"], ("s.zarr",)),
    "export from a URL": Verb(
        lambda inputs, place: [
            "store", "export", inputs.url, "--cache", place / "cache", "--format", "coco-rle",
            "--out", place / "s.json",
        ],
        ("s.json", "s.json.export.json"),
    ),
    "card": Verb(lambda inputs, place: ["store", "card", inputs.store, "--out", place / "card.json"], ("card.json",)),
    "export hdf5": Verb(
        lambda inputs, place: ["store", "export", inputs.store, "--format", "hdf5", "--out", place / "s.h5"], ("s.h5",)
    ),
    "export png": Verb(
        lambda inputs, place: ["store", "export", inputs.store, "--format", "png", "--out", place / "s.masks"],
        ("s.masks",),
    ),
    "export coco-rle": Verb(
        lambda inputs, place: ["store", "export", inputs.store, "--format", "coco-rle", "--out", place / "s.json"],
        ("s.json", "s.json.export.json"),
    ),
    "export beton": Verb(
        lambda inputs, place: ["store", "export", inputs.store, *_images(inputs), "--out", place / "s.beton"],
        ("s.beton", "s.beton.json"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    """Small parts, no workers: they take a second to start, and hand errors on as test_local_engine shows."""
    run = backdrop.stores.engines.local.run
    with parts_of_few_rows(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            backdrop.stores.engines.local, "run", lambda *words, **named: run(*words, **{**named, "num_workers": 0})
        )
        yield


@pytest.fixture(scope="module")
def inputs() -> Iterator[Inputs]:
    with tempfile.TemporaryDirectory(prefix="backdrop-faults-") as name:
        folder = Path(name)
        images, masks = make_images(folder / "images"), folder / "masks"
        for row, key in enumerate(index_of(images).keys):
            file = (masks / key).with_suffix(".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            levels_HW = np.random.default_rng(row).integers(0, 256, (24 + row, 33 - row), dtype=np.uint8)
            Image.fromarray(levels_HW).save(file)
        build(images, folder / "s.zarr", detector=f"masks:{masks}")
        halves = (folder / "even.zarr", folder / "odd.zarr")
        for half, parts in zip(halves, ("part-00001", "part-0000[02]"), strict=True):
            shutil.copytree(folder / "s.zarr", half, ignore=shutil.ignore_patterns("MANIFEST.json", parts))
        publish(folder / "s.zarr", f"file://{folder}/public", progress=False)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield Inputs(images, masks, folder / "s.zarr", halves, f"file://{folder}/public")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small disk of its own."""
    with tempfile.TemporaryDirectory(prefix="backdrop-disk-") as folder:
        os.chmod(folder, 0o755)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "backdrop-test", folder], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("a small disk cannot be mounted here (that takes root)")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@contextmanager
def filled(disk: Path, num_free: int) -> Iterator[None]:
    """Leave that many bytes."""
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - num_free))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@contextmanager
def not_ours(folder: Path, mode: int) -> Iterator[None]:
    """Work as somebody to whom the folder does not belong; root may do everything."""
    folder.chmod(mode)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        folder.chmod(0o755)


def give(verb: Verb, inputs: Inputs, place: Path) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in verb.words(inputs, place)])


def made(verb: Verb, place: Path) -> dict[str, bytes]:
    """Content of all that a command leaves, apart from its logs."""
    return {name: data for name, data in tree(place).items() if name.partition("/")[0] in verb.made}


def check_refused(result: Result, place: Path, fault: str) -> None:
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    message = result.output[result.output.rindex("Error: ") :]
    assert str(place) in message
    assert NEXT_STEP[fault] in message, message
    assert "Traceback" not in result.output


def check_nothing_passes_for_whole(verb: Verb, place: Path) -> None:
    for name in verb.made:
        path = place / name
        if verb.is_store and (path / ROOT_METADATA).exists():
            assert verify(path, allow_partial=True) == []
            assert not open_store(path, allow_partial=True).is_complete
        elif name.endswith(".beton"):  # named before its sidecar is written; nothing opens it until then
            with pytest.raises(UserError):
                read_sidecar(path)
        elif name == "public":
            assert not (path / MANIFEST).exists()
        elif not verb.is_store and not name.endswith("export.json"):
            assert not path.exists(), path
    names = {path.name for path in place.iterdir()}
    assert not [name for name in names if name.endswith(".partial") and not name.endswith(".masks.partial")], names


@pytest.fixture(scope="module")
def wanted(inputs: Inputs) -> Callable[[str], dict[str, bytes]]:
    """What a command leaves on a good disk."""
    found: dict[str, dict[str, bytes]] = {}

    def of(name: str) -> dict[str, bytes]:
        if name not in found:
            with tempfile.TemporaryDirectory() as folder:
                assert give(VERBS[name], inputs, Path(folder)).exit_code == 0
                found[name] = made(VERBS[name], Path(folder))
        return found[name]

    return of


def taken_bytes(data: bytes, block: int = 4096) -> int:
    """What a file takes of a disk; a .beton's pages end in holes."""
    return block * sum(any(data[at : at + block]) for at in range(0, len(data), block))


CASES = [(name, fraction) for name in VERBS if name != "export beton" for fraction in (0, 0.2, 0.5, 0.9)]
# Of a .beton the middle is half a page, which FFCV itself would not notice.
BETON = [
    pytest.param("export beton", fraction, marks=[pytest.mark.slow] if fraction != 0.5 else [])
    for fraction in (0, 0.0001, 0.5, 0.9, 0.9999)
]


@pytest.mark.parametrize(("name", "fraction"), [*CASES, *BETON])
def test_a_full_disk(
    name: str, fraction: float, inputs: Inputs, disk: Path, wanted: Callable[[str], dict[str, bytes]]
) -> None:
    verb, num_bytes = VERBS[name], sum(map(taken_bytes, wanted(name).values()))
    with filled(disk, int(fraction * num_bytes)):
        check_refused(give(verb, inputs, disk), disk, "full")
        check_nothing_passes_for_whole(verb, disk)
    again = give(verb, inputs, disk)
    assert again.exit_code == 0, again.output
    assert made(verb, disk) == wanted(name)


@pytest.mark.parametrize("name", VERBS)
def test_a_read_only_disk_and_one_that_is_not_ours(
    name: str, inputs: Inputs, disk: Path, wanted: Callable[[str], dict[str, bytes]]
) -> None:
    verb, place = VERBS[name], disk / "place"
    place.mkdir()
    with read_only(disk):
        check_refused(give(verb, inputs, place), place, "read-only")
    for mode in (0o555, 0o700):
        with not_ours(place, mode):
            result = give(verb, inputs, place)
        check_refused(result, place, "no permission")
    assert not list(place.iterdir())
    assert give(verb, inputs, place).exit_code == 0
    assert made(verb, place) == wanted(name)


def test_sweeping_up(inputs: Inputs, disk: Path) -> None:
    """What makes room must work where there is none."""
    store = Path(shutil.copytree(inputs.store, disk / "s.zarr"))
    before = tree(store)
    left = staging_folder(store) / "part-00000-x" / "zarr.json"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(5000))
    words = ["store", "gc", str(store), "--min-age", "0"]
    with read_only(disk):
        refused = [CliRunner().invoke(cli.main, words)]
    with not_ours(left.parent, 0o755):
        refused.append(CliRunner().invoke(cli.main, words))
    with not_ours(disk, 0o700):
        refused.append(CliRunner().invoke(cli.main, words))
    for result in refused:
        assert result.exit_code == 2, (result.output, result.exception)
        assert str(store) in result.output
        assert "owner" in result.output
    assert left.exists()
    with filled(disk, 0):
        dry = CliRunner().invoke(cli.main, [*words, "--dry-run"])
        assert dry.output.splitlines() == [f"would remove {left.parent}: 5000 bytes", "would free 5000 bytes"]
        done = CliRunner().invoke(cli.main, words)
        assert done.output.splitlines() == [f"removed {left.parent}: 5000 bytes", "freed 5000 bytes"]
    assert not staging_folder(store).exists()
    assert tree(store) == before
