"""A published store read through a folder of this machine: fetched once, checked, shared by processes of every kind."""

import json
import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import backdrop.stores.sharing.object_storage
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format import schema
from backdrop.stores.format.provenance import canonical_json
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.format.schema import COLUMNS
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.sharing.object_storage import ObjectStorage
from backdrop.stores.sharing.remote import publish
from backdrop.stores.sharing.store_cache import open_published
from tests.material.part_arrays import array_bytes
from tests.material.s3_server import BUCKET, S3Server, environment
from tests.material.schema_versions import to_schema_1
from tests.material.small_store import digest_of_all, mask_of, small_store, tree


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store") / "toy.zarr")


@pytest.fixture
def s3(server: S3Server, store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store, published on a server."""
    for name, value in environment(server.port).items():
        monkeypatch.setenv(name, value)
    publish(store, f"s3://{BUCKET}/toy", progress=False)
    return f"s3://{BUCKET}/toy"


@pytest.fixture
def public(store: Path, tmp_path: Path) -> Path:
    """The store, published in a folder."""
    publish(store, f"file://{tmp_path}/public", progress=False)
    return tmp_path / "public"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """Names of the objects that are downloaded, and from which byte on."""
    names, download = [], ObjectStorage.download

    def listed(self: ObjectStorage, name: str, *rest: object) -> None:
        names.append((name, rest[-1]))
        download(self, name, *rest)

    monkeypatch.setattr(ObjectStorage, "download", listed)
    return names


def everything(store: Store) -> list[object]:
    """All that a store can be asked for."""
    rows = [row for row in range(len(store)) if row not in (3, 8)]
    of_rows = [(store.mask(row).tobytes(), store.background_jpeg(row)) for row in rows]
    soft_maps = [None if store.saliency(row) is None else store.saliency(row).tobytes() for row in rows]
    columns = [getattr(store, column.name).tolist() for column in COLUMNS if column.name != "source_sha256"]
    texts = [(store.message(row), store.source_sha256(row)) for row in range(len(store))]
    return [of_rows, soft_maps, columns, texts, store.keys(), store.store_id, store.identity]


def test_it_reads_as_the_store_itself(
    s3: str, store: Path, tmp_path: Path, downloads: list[tuple[str, int | None]]
) -> None:
    opened = open_published(s3, tmp_path / "cache")
    assert downloads == []
    assert everything(opened) == everything(open_store(store))
    assert len(set(downloads)) == len(downloads)
    fetched = len(downloads)
    again = open_published(s3, tmp_path / "cache")
    assert everything(again) == everything(open_store(store))
    assert len(downloads) == fetched
    cached = tree(opened.path)
    arrays = [name for name in cached if not name.endswith(".json")]
    for name in arrays:
        _, part, array = name.split("/", 2)
        assert cached.pop(name) == array_bytes(store / "parts" / part, array)
    assert len(arrays) > 60
    assert cached.items() <= tree(store).items()
    assert not list((tmp_path / "cache").glob("*.partial/*"))


def test_only_what_is_asked_for_is_fetched(
    public: Path, tmp_path: Path, downloads: list[tuple[str, int | None]]
) -> None:
    opened = open_published(f"file://{public}", tmp_path / "cache")
    assert opened.mask(5).shape == mask_of(5).shape
    of_a_mask = ("status", "mask", "mask_offsets", "mask_crc32c", "height", "width")
    assert set(downloads) == {array_of(public, 1, f"{name}/c/0") for name in of_a_mask}
    downloads.clear()
    assert opened.status.tolist() == [0, 0, 0, 3, 0, 1, 0, 0, 4, 0, 0]
    assert sorted(downloads) == [array_of(public, part, "status/c/0") for part in (0, 2)], "of the others"


def array_of(public: Path, part: int, name: str) -> tuple[str, int]:
    """The object that an array lies in, and at which byte."""
    place = f"parts/part-{part:05d}"
    return f"{place}/arrays.zip", json.loads((public / place / "part.json").read_bytes())["arrays"][name]["offset"]


def test_threads_fetch_a_part_once(public: Path, tmp_path: Path, downloads: list[tuple[str, int | None]]) -> None:
    stores_opened = [open_published(f"file://{public}", tmp_path / "cache") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(digest_of_all, stores_opened))) == 1
    assert len(set(downloads)) == len(downloads)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it(method: str, s3: str, store: Path, tmp_path: Path) -> None:
    """One opened here is used there; after a fork this process's connections must not be."""
    opened = open_published(s3, tmp_path / "cache")
    assert opened.status[0] == 0
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=digest_of_all, args=(opened, queue)) for _ in range(2)]
    for child in children:
        child.start()
    digests = {queue.get(timeout=60) for _ in children}
    for child in children:
        child.join()
    assert digests == {digest_of_all(open_store(store))}


@pytest.mark.parametrize("name", ["key", "mask", "background", "saliency", "status", "mask_offsets", "part.json"])
def test_damage_there_is_an_error_here_and_is_not_kept(name: str, public: Path, store: Path, tmp_path: Path) -> None:
    file = f"parts/part-00001/{'part.json' if '.' in name else 'arrays.zip'}"
    content = (store / file).read_bytes()
    at = 0 if "." in name else array_of(public, 1, f"{name}/c/0")[1]
    for damaged in (content[: at or -1], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], None):
        (public / file).unlink() if damaged is None else (public / file).write_bytes(damaged)
        with pytest.raises(CorruptStore, match=file):
            everything(open_published(f"file://{public}", tmp_path / "cache"))
    (public / file).write_bytes(content)
    assert everything(open_published(f"file://{public}", tmp_path / "cache")) == everything(open_store(store))


def test_damage_in_the_folder_is_an_error_too(public: Path, tmp_path: Path) -> None:
    opened = open_published(f"file://{public}", tmp_path / "cache")
    digest_of_all(opened)
    file = opened.path / "parts" / "part-00001" / "mask" / "c" / "0"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptStore, match="mask of row 4"):
        digest_of_all(open_published(f"file://{public}", tmp_path / "cache"))


def forge_receipt(public: Path, files: dict) -> None:
    """Let the receipt of part 1 state these files, and the manifest that receipt."""
    place = public / "parts" / "part-00001" / schema.RECEIPT
    receipt = json.loads(place.read_bytes())
    receipt["files"].update(files)
    place.write_bytes(canonical_json(receipt))
    manifest = json.loads((public / schema.MANIFEST).read_bytes())
    manifest["parts"][1]["receipt_sha256"] = sha256(place.read_bytes()).hex()
    (public / schema.MANIFEST).write_bytes(canonical_json(manifest))


def test_hostile_names_are_refused(public: Path, tmp_path: Path) -> None:
    to_schema_1(public)
    forge_receipt(public, {"../../../../evil": {"bytes": 1, "sha256": "0" * 64}})
    opened = open_published(f"file://{public}", tmp_path / "cache")
    assert opened.mask(0).any()
    with pytest.raises(CorruptStore, match="is no file of a part"):
        opened.mask(4)


@pytest.mark.parametrize(("name", "column"), [("mask", "height"), ("background", "width"), ("status", "status")])
def test_rows_that_would_swell_up_are_not_kept(name: str, column: str, public: Path, tmp_path: Path) -> None:
    """A publisher whose digests are right and whose rows are not: what `pull` refuses is refused here."""
    file = f"{column}/c/0"
    to_schema_1(public)
    (public / "parts" / "part-00001" / file).write_bytes(bytes([127]) * (4 if column == "status" else 16))
    content = (public / "parts" / "part-00001" / file).read_bytes()
    forge_receipt(public, {file: {"bytes": len(content), "sha256": sha256(content).hex()}})
    opened = open_published(f"file://{public}", tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(CorruptStore, match="part-00001 of a store from elsewhere"):
            opened.prefetch(name)
    assert not (opened.path / "parts" / "part-00001" / name / "c" / "0").exists()
    assert (opened.path / "parts" / "part-00000" / name / "c" / "0").exists()


def test_without_the_network_what_was_fetched_is_read(
    public: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, cache = f"file://{public}", tmp_path / "cache"
    opened = open_published(url, cache)
    opened.prefetch("status", "height", "width", "mask")
    public.rename(tmp_path / "away")
    assert everything_of(open_published(url, cache)) == everything_of(open_store(store))
    assert f"holds of store {opened.store_id}" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"parts/part-00000/arrays.zip is missing at {url}"):
        open_published(url, cache).background_jpeg(0)
    with pytest.raises(UserError, match="no such folder; correct the URL"):
        open_published(url + "2", cache)


def everything_of(store: Store) -> list[bytes]:
    return [store.mask(row).tobytes() for row in range(len(store)) if row not in (3, 8)]


def test_what_cannot_be_opened(public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no store"):
        open_published(f"file://{tmp_path}/nowhere", tmp_path / "cache")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        open_published(f"file://{public}", tmp_path / "file")
    opened = open_published(f"file://{public}", tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(UserError, match=r"the disk that holds .*cache is full"):
            opened.mask(0)
    assert opened.mask(0).any()


def test_a_failure_in_a_forked_process_is_told(public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_published(f"file://{public}", tmp_path / "cache")
    (public / "parts" / "part-00000" / "arrays.zip").unlink()
    monkeypatch.setattr(backdrop.stores.sharing.object_storage, "_process", -1)  # as after a fork
    with pytest.raises(UserError, match=r"parts/part-00000/arrays.zip is missing at file://"):
        opened.mask(0)
