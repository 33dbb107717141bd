"""Publishing and pulling: what arrives is what was sent, whole or not at all; no stranger gets in, no secret out."""

import dataclasses
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
import zstandard

import backdrop.stores.sharing.object_storage
import backdrop.stores.sharing.published
import backdrop.stores.sharing.remote
from backdrop.durable_files import sync_all
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format import schema
from backdrop.stores.format.mask_codec import decode_mask
from backdrop.stores.format.provenance import canonical_json
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.writer import finish, missing_parts, open_for_build, write_part
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.maintenance.verify import verify
from backdrop.stores.sharing.object_storage import ObjectStorage, without_credentials
from backdrop.stores.sharing.published import CLAIM
from backdrop.stores.sharing.remote import publish, pull
from backdrop.stores.sharing.s3_profile import settings_of_profile
from tests.material.s3_server import ACCESS_KEY, BUCKET, FEW_RETRIES, SECRET_KEY, Cable, S3Server, environment
from tests.material.schema_versions import to_schema_1, to_schema_2
from tests.material.small_store import IDENTITY, row_of, tree

PART_ROWS = 4


def written(path: Path, identity: dict, num_parts: int = 1) -> Path:
    """A store of 4 rows a part; its first rows are the last of `row_of`, which have masks."""
    open_for_build(path, identity, num_parts * PART_ROWS, PART_ROWS)
    for part in missing_parts(path):
        rows = range(part * PART_ROWS, (part + 1) * PART_ROWS)
        write_part(path, part, [dataclasses.replace(row_of(PART_ROWS + row % 8), row=row) for row in rows])
    finish(path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("store") / "toy.zarr", IDENTITY)


@pytest.fixture(scope="module")
def two_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("two") / "toy.zarr", IDENTITY, 2)


@pytest.fixture(scope="module")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows under another identity: all files have the same sizes."""
    return written(tmp_path_factory.mktemp("other") / "toy.zarr", {**IDENTITY, "threshold": 0.8})


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An address of its own on the server, and the keys in the environment."""
    for name, value in environment(server.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backdrop.stores.sharing.object_storage, "RETRY", FEW_RETRIES)
    return f"s3://{BUCKET}/{tmp_path.name}/toy"


@pytest.fixture
def cable(server: S3Server, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cable]:
    cable = Cable(server.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{cable.port}")
    yield cable
    cable.close()


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what one test is about."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(backdrop.stores.sharing.remote, "sync_all", lambda folder: None)
    monkeypatch.setattr(backdrop.stores.sharing.object_storage, "sync_all", lambda folder: None)


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("s3") if request.param == "s3" else f"file://{tmp_path}/shared%20stores/toy"


def send(store: Path, url: str) -> dict:
    return publish(store, url, progress=False)


def fetch(url: str, out: Path) -> dict:
    return pull(url, out, progress=False)


def id_of(store: Path) -> str:
    return sha256((store / schema.MANIFEST).read_bytes()).hex()


# ---------------------------------------------------------------------------------------------------- there and back


def test_a_store_comes_back_as_it_was_sent(url: str, two_parts: Path, tmp_path: Path) -> None:
    sent = send(two_parts, url)
    files = tree(two_parts)
    assert (sent["store_id"], sent["objects"]) == (id_of(two_parts), len(files))
    assert sent["bytes"] == sum(map(len, files.values()))
    assert sent["conditional_creates"] is True
    fetched = fetch(url, tmp_path / "back.zarr")
    assert fetched["store_id"] == sent["store_id"]
    assert tree(tmp_path / "back.zarr") == files
    assert not (tmp_path / "back.zarr.staging").exists()
    assert verify(tmp_path / "back.zarr") == []
    assert ObjectStorage(url).sizes().keys() == files.keys()
    for content in tree(tmp_path).values():
        assert ACCESS_KEY.encode() not in content
        assert SECRET_KEY.encode() not in content


def test_all_is_on_disk_before_anything_appears(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(folder: Path) -> None:
        seen.append((len(tree(folder)) >= len(tree(store)), (tmp_path / "out").exists()))

    monkeypatch.setattr(backdrop.stores.sharing.remote, "sync_all", look)
    monkeypatch.setattr(backdrop.stores.sharing.object_storage, "sync_all", look)
    send(store, f"file://{tmp_path}/public")
    fetch(f"file://{tmp_path}/public", tmp_path / "out")
    # Publishing: first with the claim in the manifest's place, then the manifest in the claim's. Pulling: all at once.
    assert seen == [(True, False)] * 3
    monkeypatch.undo()
    sync_all(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_all(tmp_path / "nowhere")


def test_zarr_alone_reads_a_published_store(two_parts: Path, tmp_path: Path) -> None:
    send(two_parts, f"file://{tmp_path}/public")
    arrays = zarr.storage.ZipStore(tmp_path / "public" / "parts" / "part-00001" / "arrays.zip", mode="r")
    assert zarr.open_group(arrays, mode="r")["source_bytes"][:].tolist() == [
        row_of(row).source_bytes for row in range(8, 12)
    ]


def test_publishing_again_is_done_at_once_and_another_store_refused(
    url: str, store: Path, other_store: Path, tmp_path: Path
) -> None:
    send(store, url)
    assert send(store, url)["objects"] == 0
    with pytest.raises(UserError, match=f"holds the store {id_of(store)}, yours is {id_of(other_store)}"):
        send(other_store, url)
    assert fetch(url, tmp_path / "back")["store_id"] == id_of(store)
    assert fetch(url, tmp_path / "back")["objects"] == 0


def test_where_a_pull_may_go(store: Path, other_store: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/public"
    send(store, url)
    other = Path(shutil.copytree(other_store, tmp_path / "other"))
    with pytest.raises(UserError, match=f"holds the store {id_of(other_store)}, there it is {id_of(store)}"):
        fetch(url, other)
    assert tree(other) == tree(other_store)
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "photos", "link"):
        with pytest.raises(UserError, match="is taken"):
            fetch(url, tmp_path / name)
    (tmp_path / "empty").mkdir()
    fetch(url, tmp_path / "empty")
    with pytest.raises(UserError, match="cannot be written"):
        fetch(url, tmp_path / "file" / "below")
    half = tmp_path / "half"
    open_for_build(half, IDENTITY, PART_ROWS, PART_ROWS)
    with pytest.raises(UserError, match="half built"):
        fetch(url, half)
    with pytest.raises(UserError, match="half built"):
        send(half, f"file://{tmp_path}/public2")


@pytest.mark.parametrize(
    "url",
    ["gs://bucket/x", "s3://", "/folder", "file://host/x", "s3://bucket/a/../b", "s3://bucket/a/%2e%2e/b", "s3://b/x?y=1",
     "file:relative", "s3://[b/x", "file:///"],
)  # fmt: skip
def test_addresses_that_are_not_allowed(url: str, store: Path, tmp_path: Path) -> None:
    for attempt in (lambda: send(store, url), lambda: fetch(url, tmp_path / "out")):
        with pytest.raises(UserError, match=r"s3://BUCKET/PREFIX|must hold no credentials"):
            attempt()


def test_nothing_there(url: str, s3: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no store at"):
        fetch(url, tmp_path / "out")
    with pytest.raises(UserError, match=r"NoSuchBucket\): there is no such bucket"):
        send(store, "s3://nowhere/toy")
    with pytest.raises(UserError, match="NoSuchBucket"):
        fetch("s3://nowhere/toy", tmp_path / "out")
    assert os.listdir(tmp_path) == [] or os.listdir(tmp_path) == ["shared stores"]


# ------------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize(
    "after_bytes", [15_000, *(pytest.param(after, marks=pytest.mark.slow) for after in (3_000, 10_000, 20_000, 30_000))]
)
def test_a_killed_publishing_shows_nothing_and_resumes(
    after_bytes: int, cable: Cable, s3: str, store: Path, tmp_path: Path
) -> None:
    words = f"pathlib.Path({str(store)!r}), {s3!r}"
    program = f"import pathlib; from backdrop.stores.sharing import remote; remote.publish({words})"
    # What the child has sent is in the server's hands before it is killed: the cable holds back what follows.
    child = subprocess.Popen(
        [sys.executable, "-c", f"input(); {program}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    cable.cut_after(after_bytes, child.kill)
    child.communicate(b"\n")
    assert child.returncode == -9
    cable.repair()
    assert_resumes(s3, store, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        backdrop.stores.sharing.object_storage,
        "CLIENT",
        {**backdrop.stores.sharing.object_storage.CLIENT, "read_timeout": "1s"},
    )
    monkeypatch.setattr(backdrop.stores.sharing.object_storage, "UPLOAD_TIMEOUT", "1s")


@contextmanager
def told_in_time(url: str) -> Iterator[None]:
    """A transfer that fails says where and what to do, after no more than its time limits and one retry."""
    begin = time.monotonic()
    with pytest.raises(UserError, match=f"^{url}: .* give the same command again, it resumes"):
        yield
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("fault", "after_bytes"),
    [
        ("cut", 5_000),
        *(
            pytest.param(of, at, marks=pytest.mark.slow)
            for of, at in (("stall", 12_000), ("cut", 20_000), ("reset", 20_000))
        ),
    ],
)
def test_a_network_that_fails_while_publishing(
    fault: str, after_bytes: int, cable: Cable, impatient: None, s3: str, store: Path, tmp_path: Path
) -> None:
    cable.cut_after(after_bytes, getattr(cable, fault))
    with told_in_time(s3):
        send(store, s3)
    cable.repair()
    assert_resumes(s3, store, tmp_path)


def assert_resumes(url: str, store: Path, tmp_path: Path) -> None:
    there = len(ObjectStorage(url).sizes())
    assert schema.MANIFEST not in ObjectStorage(url).sizes()
    with pytest.raises(UserError, match="was begun and not finished"):
        fetch(url, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    rest = send(store, url)["objects"]
    # The claim is none of the store's files; the two at the root are always sent again.
    assert rest <= len(tree(store)) - (there - 1) + 2
    fetch(url, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(store)
    assert ObjectStorage(url).sizes().keys() == tree(store).keys()


@pytest.mark.parametrize("faults", [("reset", "stall"), pytest.param(("stall", "cut"), marks=pytest.mark.slow)])
def test_a_network_that_fails_while_pulling(
    faults: tuple[str, str], cable: Cable, impatient: None, s3: str, tmp_path: Path
) -> None:
    store = written(tmp_path / "parts", IDENTITY, 6)
    send(store, s3)
    objects = []
    for fault, after_bytes in zip(faults, (50_000, 90_000), strict=True):
        cable.cut_after(after_bytes, getattr(cable, fault))
        with told_in_time(s3):
            fetch(s3, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        cable.repair()
        objects.append(len(tree(tmp_path / "out.staging")))
    assert 0 < objects[0] <= objects[1]  # parts come side by side, so that any number of them may be whole
    # Of the earlier tries, one file is damaged.
    staged = next((tmp_path / "out.staging").glob("*/store/parts/*/part.json"))
    staged.write_bytes(bytes([staged.read_bytes()[0] ^ 1]) + staged.read_bytes()[1:])
    fetch(s3, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(store)
    assert not (tmp_path / "out.staging").exists()


def test_a_killed_pull_leaves_nothing_in_sight_and_resumes(cable: Cable, s3: str, store: Path, tmp_path: Path) -> None:
    send(store, s3)
    out = tmp_path / "out"
    program = (
        f"from pathlib import Path; from backdrop.stores.sharing import remote; remote.pull({s3!r}, Path({str(out)!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", f"input(); {program}"], stdin=subprocess.PIPE)
    cable.cut_after(20_000, child.kill)
    child.communicate(b"\n")
    cable.repair()
    assert child.returncode == -9
    assert not out.exists()
    fetch(s3, out)
    assert tree(out) == tree(store)
    assert not (tmp_path / "out.staging").exists()


def test_objects_of_another_store_are_never_taken_for_ours(
    s3: str, store: Path, other_store: Path, tmp_path: Path
) -> None:
    """Somebody else's parts lie there with the same names and sizes, the claim was deleted by hand."""
    send(other_store, s3)
    storage = ObjectStorage(s3)
    storage.delete(schema.MANIFEST)
    storage.put("parts/part-00000/arrays.zip", bytes((store / "parts/part-00000/arrays.zip").stat().st_size))
    send(store, s3)
    fetch(s3, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(store)


def test_a_full_disk(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/public"
    send(store, url)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 999, 999))
        with pytest.raises(UserError, match=r"needs \d+ bytes more, the disk .* has 999;"):
            fetch(url, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(backdrop.stores.sharing.published, "sync", full_disk)
        with pytest.raises(UserError, match="is full"):
            fetch(url, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fetch(url, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(store)


def full_disk(path: Path) -> None:
    raise OSError(28, os.strerror(28), str(path))


# --------------------------------------------------------------------------------------------------------------- races


def test_of_two_publishers_of_two_stores_one_wins(s3: str, store: Path, other_store: Path, tmp_path: Path) -> None:
    def attempt(which: Path, url: str, barrier: threading.Barrier) -> str:
        barrier.wait()
        try:
            return send(which, url)["store_id"]
        except UserError as error:
            return str(error)

    both, barrier = (store, other_store), threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(attempt, both, (s3, s3), (barrier, barrier)))
    winner = next(store for store, answer in zip(both, answers, strict=True) if answer == id_of(store))
    refusal = next(answer for answer in answers if answer != id_of(winner))
    assert all(id_of(store) in refusal for store in both)
    fetch(s3, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(winner)


def test_publishers_and_pulls_of_one_store_may_race(url: str, store: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert {answer["store_id"] for answer in pool.map(send, (store, store), (url, url))} == {id_of(store)}
        answers = pool.map(fetch, (url, url), (tmp_path / "out", tmp_path / "out"))
        assert {answer["store_id"] for answer in answers} == {id_of(store)}
    assert tree(tmp_path / "out") == tree(store)
    assert ObjectStorage(url).sizes().keys() == tree(store).keys()


def test_a_pull_whose_stage_another_pull_took_is_done(
    url: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one puts the shared stage in place between this one's last fetch and its check of the whole."""
    send(store, url)
    check = backdrop.stores.sharing.remote.verify

    def verify_late(stage: Path, *, full: bool) -> list:
        monkeypatch.setattr(backdrop.stores.sharing.remote, "verify", check)
        fetch(url, tmp_path / "out")
        return check(stage, full=full)

    monkeypatch.setattr(backdrop.stores.sharing.remote, "verify", verify_late)
    assert fetch(url, tmp_path / "out")["store_id"] == id_of(store)
    assert tree(tmp_path / "out") == tree(store)


@pytest.mark.parametrize("answer", [True, None])
def test_storage_without_conditional_creates(
    answer: bool | None,
    store: Path,
    other_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Clones that put regardless of the condition, or that say that they cannot."""

    def create(self: ObjectStorage, name: str, data: bytes) -> bool | None:
        if answer:
            self.put(name, data)
        return answer

    monkeypatch.setattr(ObjectStorage, "create", create)
    url = f"file://{tmp_path}/public"
    assert send(store, url)["conditional_creates"] is False
    assert "does not honour conditional creates" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"holds the store {id_of(store)}, yours is {id_of(other_store)}"):
        send(other_store, url)
    ObjectStorage(f"{url}2", is_upload=True).put(CLAIM, canonical_json({"store_id": id_of(store)}))
    with pytest.raises(UserError, match=f"publishing of store {id_of(store)} was begun there, yours is"):
        send(other_store, f"{url}2")
    assert send(store, f"{url}2")["objects"] > 0


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("file", ["arrays.zip", "part.json"])
def test_a_damaged_local_file_is_not_published(file: str, two_parts: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(two_parts, tmp_path / "copy"))
    url = f"file://{tmp_path}/public"
    place = copy / "parts" / "part-00001" / file
    content = place.read_bytes()
    for damaged in (content[:-1], content + b"x", bytes([content[0] ^ 1]) + content[1:]):
        place.write_bytes(damaged)
        with pytest.raises(CorruptStore, match=r"does not match|damaged"):
            send(copy, url)
    place.unlink()
    with pytest.raises(CorruptStore, match=r"cannot be read|missing"):
        send(copy, url)
    place.write_bytes(content)
    send(copy, url)
    fetch(url, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(two_parts)


def test_a_damaged_object_is_named_and_nothing_appears(two_parts: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/public"
    send(two_parts, url)
    storage = ObjectStorage(url)
    for name in (
        "parts/part-00001/arrays.zip",
        "parts/part-00001/part.json",
        "parts/zarr.json",
        "zarr.json",
    ):
        content = (two_parts / name).read_bytes()
        for damaged in (content[:-1], content + b"x", bytes([content[0] ^ 1]) + content[1:]):
            storage.put(name, damaged)
            with pytest.raises(CorruptStore, match=name):
                fetch(url, tmp_path / "out")
        storage.delete(name)
        with pytest.raises(CorruptStore, match=f"{name} .*is missing|{name} is missing"):
            fetch(url, tmp_path / "out")
        storage.put(name, content)
        assert not (tmp_path / "out").exists()
        # What was fetched before the damage was met would hide it in the next round.
        shutil.rmtree(tmp_path / "out.staging", ignore_errors=True)
    fetch(url, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(two_parts)


def test_a_damaged_object_on_a_server(s3: str, store: Path, tmp_path: Path) -> None:
    send(store, s3)
    storage, name = ObjectStorage(s3), "parts/part-00000/arrays.zip"
    content = bytearray((store / name).read_bytes())
    content[7] ^= 1
    storage.put(name, bytes(content))
    with pytest.raises(CorruptStore, match=name):
        fetch(s3, tmp_path / "out")
    storage.delete(name)
    with pytest.raises(CorruptStore, match=f"{name} is missing"):
        fetch(s3, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_large_files_go_in_pieces_and_are_checked_on_the_way(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backdrop.stores.sharing.object_storage, "CHUNK_BYTES", 5 << 20)
    data = np.random.default_rng(0).bytes((11 << 20) + 3)
    (tmp_path / "large").write_bytes(data)
    storage, digest = ObjectStorage(url, is_upload=True), sha256(data).hex()
    for wrong in ((len(data), sha256(b"").hex()), (len(data) + 1, digest), (len(data) - 1, digest)):
        with pytest.raises(CorruptStore, match="does not match"):
            storage.put_file("large", tmp_path / "large", *wrong)
    assert storage.sizes() == {}
    storage.put_file("large", tmp_path / "large", len(data), digest)
    assert storage.digest("large") == digest
    storage.download("large", tmp_path / "back", len(data), digest)
    assert (tmp_path / "back").read_bytes() == data
    with pytest.raises(CorruptStore, match="more than 1000 bytes"):
        storage.read("large", 1000)


# ------------------------------------------------------------------------------------------------------ hostile stores


@pytest.fixture
def published(store: Path, tmp_path: Path) -> Path:
    """A published copy of it, to be tampered with."""
    return Path(shutil.copytree(store, tmp_path / "published"))


@pytest.fixture
def of_schema_1(published: Path) -> Path:
    """The same with each array in files of its own, which a hostile hand changes easily."""
    return to_schema_1(published)


def unchanged(_: dict) -> None:
    """Change nothing."""


def forge(folder: Path, change: Callable[[dict], None] = unchanged) -> None:
    """Make the receipt fit the files, then change it, and make the manifest fit the receipt."""
    file = folder / "parts" / "part-00000" / schema.RECEIPT
    receipt = json.loads(file.read_bytes())
    for name, stated in receipt["files"].items():
        content = (file.parent / name).read_bytes()
        stated.update(bytes=len(content), sha256=sha256(content).hex())
    change(receipt)
    file.write_bytes(canonical_json(receipt))
    forge_manifest(folder, lambda manifest: fit_receipt(manifest, folder))
    total = sum(stated["bytes"] for stated in receipt["files"].values() if isinstance(stated["bytes"], int))
    forge_manifest(folder, lambda manifest: manifest["totals"].update(bytes=total))


def forge_names(folder: Path, files: dict) -> None:
    """List files that are not there."""
    forge(folder, lambda receipt: receipt["files"].update(files))


def fit_receipt(manifest: dict, folder: Path) -> None:
    digest = sha256((folder / "parts" / "part-00000" / schema.RECEIPT).read_bytes()).hex()
    manifest["parts"][0]["receipt_sha256"] = digest


def forge_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((folder / schema.MANIFEST).read_bytes())
    change(manifest)
    (folder / schema.MANIFEST).write_bytes(canonical_json(manifest))


def restore(folder: Path, store: Path) -> None:
    for name in (schema.MANIFEST, "zarr.json", "parts/part-00000/part.json"):
        shutil.copyfile(store / name, folder / name)


def assert_refused(published: Path, match: str) -> None:
    """Neither pulled nor opened, and no file appears but in the stage."""
    target = published.parent / "target"

    def others() -> set[Path]:
        return {path for path in published.parent.rglob("*") if target not in (path, *path.parents)}

    before = others()
    with pytest.raises(UserError, match=match):
        fetch(f"file://{published}", target / "out")
    assert not (target / "out").exists()
    assert others() == before
    shutil.rmtree(target, ignore_errors=True)


def test_the_forger_alone_is_not_noticed(published: Path, tmp_path: Path) -> None:
    """So that what the following tests see refused is what they changed."""
    forge(published)
    fetch(f"file://{published}", tmp_path / "out")
    assert verify(tmp_path / "out") == []


def test_arrays_that_lie_elsewhere(published: Path, store: Path) -> None:
    for name, changed in (
        ("mask/c/0", {"offset": 1 << 40}), ("mask/c/0", {"offset": 0}), ("mask/c/0", {"offset": -5}),
        ("mask/c/0", {"offset": None}), ("label/c/0", {"offset": True}), ("mask/c/0", {"bytes": 1 << 40}),
    ):  # fmt: skip
        forge(published, lambda receipt, name=name, changed=changed: receipt["arrays"][name].update(changed))
        assert_refused(published, "is damaged at|cannot have")
        restore(published, store)
    for files in ({}, {"evil.zip": {"bytes": 1, "sha256": "0" * 64}}):
        forge(published, lambda receipt, files=files: receipt.update(files=files))
        assert_refused(published, "its files are not arrays.zip alone")
        restore(published, store)


def test_names_of_arrays_that_lead_elsewhere(published: Path, store: Path) -> None:
    for name in ("../evil", "/tmp/evil", "evil.pkl", "height/c/0/..", "", "zz/zz/zz"):
        last = {"bytes": 1, "sha256": "0" * 64}

        def add(receipt: dict, name: str = name, last: dict = last) -> None:
            receipt["arrays"] = dict(sorted({**receipt["arrays"], name: dict(last)}.items()))
            at = 0
            for stated in receipt["arrays"].values():
                stated["offset"] = at
                at += stated["bytes"]
            receipt["files"]["arrays.zip"]["bytes"] = at + 1

        forge(published, add)
        assert_refused(published, "is no file of a part")
        restore(published, store)


def test_names_that_lead_elsewhere(of_schema_1: Path, tmp_path: Path) -> None:
    published, store = of_schema_1, Path(shutil.copytree(of_schema_1, tmp_path / "as it was"))
    for name in (
        "../evil", "/tmp/evil", "..\\evil", "C:\\evil", "height/c/../../../../evil", "height//c/0", "./height/c/0",
        "evil.pkl", "height/c/0/..", "part.json", "height/c", "", "\x00", "height/c/0\n",
        "%2e%2e/evil", "~/evil", "label/c/0/0",
    ):  # fmt: skip
        stated = {name: {"bytes": 1, "sha256": sha256(b"x").hex()}}
        forge(published, lambda receipt, stated=stated: receipt["files"].update(stated))
        assert_refused(published, "is no file of a part")
        restore(published, store)
        forge_manifest(published, lambda manifest, name=name: manifest["parts"][0].update(name=name))
        assert_refused(published, "its entry 0 is not that of part-00000")
        restore(published, store)
        forge_manifest(published, lambda manifest, name=name: manifest["files"].update({name: "0" * 64}))
        assert_refused(published, "of no store that Backdrop wrote")
        restore(published, store)


def test_a_newer_minor_version_may_have_other_arrays_but_none_elsewhere(of_schema_1: Path, tmp_path: Path) -> None:
    published = of_schema_1
    array = published / "parts" / "part-00000" / "depth" / "c"
    array.mkdir(parents=True)
    (array / "0").write_bytes(b"x")
    (published / "zarr.json").write_text((published / "zarr.json").read_text().replace('"1.0"', '"1.9"'))
    digest = sha256((published / "zarr.json").read_bytes()).hex()
    forge_manifest(published, lambda manifest: manifest.update(schema_version="1.9"))
    forge_manifest(published, lambda manifest: manifest["files"].update({"zarr.json": digest}))
    stated = {"bytes": 1, "sha256": sha256(b"x").hex()}
    forge(published, lambda receipt: receipt["files"].update({"depth/c/0": stated}))
    fetch(f"file://{published}", tmp_path / "out")
    assert (tmp_path / "out" / "parts" / "part-00000" / "depth" / "c" / "0").read_bytes() == b"x"
    as_it_was = Path(shutil.copytree(published, tmp_path / "as it was"))
    for name in ("depth/../evil", "depth/c/1", "depth/.evil", "depth"):
        forge_names(published, {name: stated})
        assert_refused(published, "is no file of a part")
        restore(published, as_it_was)


def test_absurd_sizes(of_schema_1: Path, tmp_path: Path) -> None:
    published, store = of_schema_1, Path(shutil.copytree(of_schema_1, tmp_path / "as it was"))
    for file, num_bytes, match in (
        ("height/c/0", 10 << 30, "which 4 rows cannot have"),
        ("height/c/0", 15, "which 4 rows cannot have"),
        ("mask/c/0", 1 << 45, "cannot have"),
        ("mask/c/0", 1 << 30, "does not match|bytes more"),
        ("key/c/0", 1 << 20, "cannot have"),
        ("label/zarr.json", 1 << 21, "cannot have"),
        ("mask/c/0", -1, "is damaged at"),
        ("mask/c/0", True, "is damaged at"),
        ("mask/c/0", "9", "is damaged at"),
    ):
        stated = {"bytes": num_bytes}
        forge(published, lambda receipt, file=file, stated=stated: receipt["files"][file].update(stated))
        assert_refused(published, match)
        restore(published, store)


def test_manifests_edited_by_hand(published: Path, store: Path) -> None:
    changes: list[tuple[Callable[[dict], object], str]] = [
        (lambda manifest: manifest.update(num_rows=1 << 60), "of no store"),
        (lambda manifest: manifest.update(num_rows=0), "of no store"),
        (lambda manifest: manifest.update(num_rows=-5), "of no store"),
        (lambda manifest: manifest.update(num_rows=1000), "does not list the 250 parts"),
        (lambda manifest: manifest.update(part_rows=1 << 30), "of no store"),
        (lambda manifest: manifest.update(part_rows=True), "of no store"),
        (lambda manifest: manifest.update(parts={}), "does not list"),
        (lambda manifest: manifest["parts"][0].update(rows=3), "its entry 0"),
        (lambda manifest: manifest["parts"][0].update(receipt_sha256="../x"), "its entry 0"),
        (lambda manifest: manifest["parts"][0].update(receipt_sha256="0" * 64), "does not match"),
        (lambda manifest: manifest["identity"].update(threshold="0.1"), "of no store"),
        (lambda manifest: manifest["totals"].update(bytes=1 << 70), "of no store"),
        (lambda manifest: manifest["totals"].update(bytes=1), "says 1 bytes"),
        (lambda manifest: manifest["totals"].update(rows=99), "does not match"),
        (lambda manifest: manifest.update(schema="pickle"), "has schema 'pickle'"),
        (lambda manifest: manifest.update(schema_version="3.0"), "'3.0'; this version reads"),
        (lambda manifest: manifest.update(schema_version="9" * 5000), "states no version"),
    ]
    for change, match in changes:
        forge_manifest(published, change)
        assert_refused(published, match)
        restore(published, store)


def test_what_is_no_json_of_ours(published: Path, store: Path) -> None:
    """Pickle, nesting that exhausts the stack, repeated keys: one clear error each, wherever it stands."""
    contents = (
        b"", b"[]", b"\x80\x04\x95cposix\nsystem\n.", b"[" * 100_000, b'{"a":' * 100_000, b'{"a":1e999}\n',
        b"9" * 10_000, b'{"schema":1,"schema":2}\n', b"\xff\xfe{}",
    )  # fmt: skip
    for content in contents:
        (published / schema.MANIFEST).write_bytes(content)
        assert_refused(published, "damaged|no JSON")
        restore(published, store)
        (published / "parts" / "part-00000" / "part.json").write_bytes(content)
        forge_manifest(published, lambda manifest: fit_receipt(manifest, published))
        assert_refused(published, "damaged|no JSON")
        restore(published, store)
        (published / "zarr.json").write_bytes(content)
        digest = sha256(content).hex()
        forge_manifest(published, lambda manifest, digest=digest: manifest["files"].update({"zarr.json": digest}))
        assert_refused(published, "damaged|no JSON|no metadata")
        with pytest.raises(UserError, match="damaged"):
            open_store(published)
        restore(published, store)


def replace_blob(folder: Path, name: str, at: int, payload: bytes) -> None:
    """Put other bytes in a row's place, with offsets and checksum that fit."""
    data = (folder / name / "c" / "0").read_bytes()
    offsets = np.fromfile(folder / f"{name}_offsets" / "c" / "0", "<i8")
    checksums = np.fromfile(folder / f"{name}_crc32c" / "c" / "0", "<u4")
    (folder / name / "c" / "0").write_bytes(data[: offsets[at]] + payload + data[offsets[at + 1] :])
    offsets[at + 1 :] += len(payload) - (offsets[at + 1] - offsets[at])
    checksums[at] = google_crc32c.value(payload)
    (folder / f"{name}_offsets" / "c" / "0").write_bytes(offsets.tobytes())
    (folder / f"{name}_crc32c" / "c" / "0").write_bytes(checksums.tobytes())


def swell_mask(folder: Path) -> None:
    replace_blob(folder, "mask", 0, zstandard.compress(bytes(64 << 20)))


def swell_saliency(folder: Path) -> None:
    replace_blob(folder, "saliency", 1, zstandard.compress(bytes(64 << 20)))


def swell_background(folder: Path) -> None:
    data = bytearray((folder / "background" / "c" / "0").read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    (folder / "background" / "c" / "0").write_bytes(data)


def swell_height(folder: Path) -> None:
    (folder / "height" / "c" / "0").write_bytes(np.full(4, 2**31 - 1, "<i4").tobytes())


def negative_width(folder: Path) -> None:
    (folder / "width" / "c" / "0").write_bytes(np.full(4, -8, "<i4").tobytes())


def unknown_status(folder: Path) -> None:
    (folder / "status" / "c" / "0").write_bytes(bytes([0, 1, 0, 77]))


def wild_offsets(folder: Path) -> None:
    (folder / "mask_offsets" / "c" / "0").write_bytes(np.array([0, 1 << 60, -4, 9, 20], "<i8").tobytes())


@pytest.mark.parametrize(
    "damage",
    [swell_mask, swell_saliency, swell_background, swell_height, negative_width, unknown_status, wild_offsets],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_rows_that_would_swell_up(damage: Callable[[Path], None], is_packed: bool, of_schema_1: Path) -> None:
    damage(of_schema_1 / "parts" / "part-00000")
    forge(of_schema_1)
    if is_packed:
        to_schema_2(of_schema_1)
    assert_refused(of_schema_1, "of a store from elsewhere")


def test_a_frame_is_not_decoded_beyond_what_a_picture_can_be() -> None:
    frame = zstandard.compress(bytes(1 << 20))
    for height, width in ((1 << 16, 1 << 16), (-1024, -8192), (-1, 8), (1024, 8193)):
        with pytest.raises(CorruptStore):
            decode_mask(frame, height, width)
    assert decode_mask(frame, 1024, 8192).shape == (1024, 1024)


# ------------------------------------------------------------------------------------------------------------- secrets


class Echo(http.server.BaseHTTPRequestHandler):
    """Refuses everything, and quotes the key in its answer, as S3 does."""

    def do_GET(self) -> None:
        body = (
            f"<Error><Code>SignatureDoesNotMatch</Code><Message>key {ACCESS_KEY}</Message>"
            f"<AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId><StringToSign>{SECRET_KEY}</StringToSign></Error>"
        ).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_no_message_holds_a_credential(
    s3: str, echo: int, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message_of(url: str, endpoint: str) -> str:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(UserError) as caught:
            send(store, url)
        with pytest.raises(UserError):
            fetch(url, tmp_path / "out")
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert caught.value.__cause__ is None
        return str(caught.value)

    messages = [
        message_of(s3, f"http://127.0.0.1:{echo}"),
        message_of(s3, "http://somebody:hunter22@127.0.0.1:9"),
        message_of(s3, f"http://{SECRET_KEY}.invalid"),
        message_of(f"s3://{ACCESS_KEY}:{SECRET_KEY}@{BUCKET}/toy", "http://127.0.0.1:9"),
        message_of(f"s3://{BUCKET}/toy?X-Amz-Signature={SECRET_KEY}", "http://127.0.0.1:9"),
    ]
    for message in messages:
        assert not any(secret in message for secret in (ACCESS_KEY, SECRET_KEY, "hunter22", "somebody"))
    assert "403 Forbidden (SignatureDoesNotMatch): credentials are missing, wrong" in messages[0]
    assert "must hold no credentials" in messages[3]


def test_text_without_credentials() -> None:
    assert without_credentials("x https://me:pw@host/a?sig=1 y s3://k:s@b/c") == "x https://host/a y s3://b/c"


def test_keys_of_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = AKIA1\naws_secret_access_key = a%b\n")
    (tmp_path / "config").write_text(
        "[profile lab]\nregion = eu-north-1\nendpoint_url = http://s3.lab\n[profile sso]\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert settings_of_profile() == {
        "access_key_id": "AKIA1", "secret_access_key": "a%b", "region": "eu-north-1", "endpoint": "http://s3.lab",
    }  # fmt: skip
    for name in ("sso", "absent"):
        monkeypatch.setenv("AWS_PROFILE", name)
        with pytest.raises(UserError, match=f"aws configure export-credentials --profile {name}"):
            settings_of_profile()
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA2")
    assert settings_of_profile() == {}
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert settings_of_profile() == {}
    (tmp_path / "credentials").write_text("aws_secret_access_key = a%b\n")
    with pytest.raises(UserError, match="cannot be read as an AWS configuration file") as caught:
        settings_of_profile()
    assert "a%b" not in str(caught.value)
