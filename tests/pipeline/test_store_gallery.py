"""The gallery's files and its server: what is said of a row is what the store holds, whatever its key is."""

import base64
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.pipeline.gallery import content
from backdrop.pipeline.gallery.folder import page_files, write_gallery
from backdrop.pipeline.gallery.row_pictures import KINDS, RowPictures
from backdrop.pipeline.gallery.selection import choose_rows, parse_num_rows, shares
from backdrop.pipeline.gallery.server import GalleryServer
from backdrop.pipeline.gallery.source_images import SourceImages, find_images
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.sharing.remote import publish
from backdrop.stores.sharing.store_cache import open_published
from tests.material.gallery_store import (
    CLASSES,
    HOSTILE,
    KEYS,
    MESSAGE,
    image_of,
    mask_of,
    status_of,
    write_images,
    write_store,
)
from tests.material.small_store import tree

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not what these tests are about."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_images(root / "folder")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(write_store(tmp_path_factory.mktemp("store") / "toy.zarr"))


@pytest.fixture(scope="module")
def images(store: Store, data: Path) -> SourceImages:
    return find_images(store, data / "folder")


@pytest.fixture(scope="module")
def page(store: Store, images: SourceImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gallery(store, images, choose_rows(store, None), tmp_path_factory.mktemp("out") / "toy.gallery").parent


def arguments(script: str, function: str) -> list:
    """What a script calls the page with. Nothing but JSON may stand there."""
    assert script.isascii()
    match = re.fullmatch(rf"gallery\.{function}\((.*)\);\n", script, flags=re.DOTALL)
    assert match
    return json.loads(f"[{match[1]}]")


def column(facts: dict, name: str) -> np.ndarray:
    bits = re.fullmatch(r"Uint(\d+)Array", facts["columns"][name]["type"])
    assert bits
    return np.frombuffer(base64.b64decode(facts["columns"][name]["data"]), f"<u{int(bits[1]) // 8}")


def test_filters_and_sorts_see_what_the_store_holds(page: Path) -> None:
    (facts,) = arguments((page / "data" / "store.js").read_text(), "store")
    assert column(facts, "step").tolist() == [1] * len(KEYS)
    assert column(facts, "status").tolist() == [status_of(row) for row in range(len(KEYS))]
    assert [facts["classes"][number] for number in column(facts, "class")] == [key.partition("/")[0] for key in KEYS]
    fractions = [mask_of(row).mean() * status_of(row).has_mask for row in range(len(KEYS))]
    np.testing.assert_allclose(column(facts, "fraction") / 65_535, fractions, atol=0.5001 / 65_535)
    assert {status["label"]: status["count"] for status in facts["statuses"]} == {
        "ok": 56, "no-foreground": 1, "all-foreground": 1, "decode-error": 1, "mask-error": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "num_bytes"), [([0], 1), ([254], 1), ([0, 1, 2], 1), ([255], 2), ([3, 259, 260], 2), ([7, 9_000_000], 4)]
)
def test_rows_are_the_sums_of_their_steps(rows: list[int], num_bytes: int) -> None:
    steps = column({"columns": {"step": content._column(content._steps(np.array(rows)))}}, "step")
    assert (steps.cumsum(dtype=np.int64) - 1).tolist() == rows
    assert steps.itemsize == num_bytes


def test_rows_are_told_whole_whatever_their_keys_are(page: Path, store: Store) -> None:
    number, rows = arguments((page / "data" / "rows-00000.js").read_text(), "rows")
    assert number == 0
    assert [row["key"] for row in rows] == KEYS
    assert HOSTILE in KEYS
    assert rows[41]["message"] == MESSAGE
    assert rows[7]["sha256"] == store.source_sha256(7).hex()
    assert rows[7]["fraction"] == pytest.approx(mask_of(7).mean())
    assert rows[7]["box"] == [4, 8, 8, 8]
    assert [row for row in range(len(rows)) if rows[row]["whyNot"]] == [6, 40, 41]
    assert set(rows[40]["whyNot"]) == set(KINDS)
    assert "decoded" in rows[40]["whyNot"]["image"] or "not an image" in rows[40]["whyNot"]["image"]


def test_every_promised_picture_is_there_and_shows_the_row(page: Path) -> None:
    _, rows = arguments((page / "data" / "rows-00000.js").read_text(), "rows")
    promised = {
        content.picture_path(row, kind) for row, told in enumerate(rows) for kind in KINDS if kind not in told["whyNot"]
    }
    assert promised == {path for path in tree(page) if path.startswith("pictures/")}
    drawn = {kind: decode_rgb((page / content.picture_path(30, kind)).read_bytes()).astype(int) for kind in KINDS}
    mask_HW = mask_of(30) == 1
    original_HWC = decode_rgb(image_of(30)).astype(int)
    assert np.abs(drawn["image"] - original_HWC).mean() < 3
    assert drawn["saliency"][mask_HW].mean() > 220
    assert drawn["saliency"][~mask_HW].mean() < 10
    # Away from the outline, of a picture that was enlarged for it: foreground as it is, the rest darkened.
    height, width = original_HWC.shape[:2]
    assert max(drawn["mask"].shape) > max(height, width)
    outlined_HWC = cv2.resize(drawn["mask"].astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(outlined_HWC[12:26, 16:30] - original_HWC[12:26, 16:30]).mean() < 12
    assert outlined_HWC[40:, 50:].mean() < 0.6 * original_HWC[40:, 50:].mean()
    assert np.abs(drawn["background"] - 120).max() < 6


def test_the_folder_names_no_place_and_no_network(page: Path) -> None:
    texts = {path: text for path, text in tree(page).items() if not path.startswith("pictures/")}
    assert {"index.html", "style.css", "gallery.css", "gallery.js", "gallery.json"} < set(texts)
    for path, text in texts.items():
        assert str(page.parent).encode() not in text, path
        assert not re.search(rb"https?:", text.replace(b"http://www.w3.org/2000/svg", b"")), path
    assert not re.search(rb"innerHTML|insertAdjacent|document\.write|\beval\b|new Function", texts["gallery.js"])


def test_a_kill_costs_no_finished_rows(
    store: Store, images: SourceImages, tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "CHUNK_ROWS", 16)
    drawn: list[int] = []
    draw = RowPictures.draw

    def count(self: RowPictures, row: int, stop_at: int | None) -> tuple[dict[str, bytes], dict[str, str]]:
        if row == stop_at:
            raise KeyboardInterrupt
        drawn.append(row)
        return draw(self, row)

    rows = choose_rows(store, None)
    monkeypatch.setattr(RowPictures, "draw", functools.partialmethod(count, stop_at=35))
    with pytest.raises(KeyboardInterrupt):
        write_gallery(store, images, rows, tmp_path / "g")
    assert not (tmp_path / "g").exists()
    drawn.clear()
    monkeypatch.setattr(RowPictures, "draw", functools.partialmethod(count, stop_at=None))
    write_gallery(store, images, rows, tmp_path / "g")
    assert sorted(drawn) == list(range(32, len(KEYS)))
    pictures = {path: data for path, data in tree(tmp_path / "g").items() if path.startswith("pictures/")}
    assert pictures == {path: data for path, data in tree(page).items() if path.startswith("pictures/")}
    drawn.clear()
    write_gallery(store, images, rows, tmp_path / "g")
    assert drawn == []


@pytest.fixture(scope="module")
def packed(store: Store, images: SourceImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as a page of very many rows has them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(content, "PACKED_FROM", 2)
        patched.setattr(content, "PACKED_CHUNK_ROWS", 32)
        return write_gallery(store, images, choose_rows(store, None), tmp_path_factory.mktemp("packed") / "g").parent


def test_of_very_many_rows_the_pictures_lie_in_the_scripts(packed: Path, page: Path) -> None:
    files = tree(packed)
    scripts = [files[path].decode() for path in sorted(files) if path.startswith("data/rows-")]
    assert len(scripts) == 2
    assert not [path for path in files if path.startswith("pictures/")]
    rows = [row for script in scripts for row in arguments(script, "rows")[1]]
    _, apart = arguments((page / "data" / "rows-00000.js").read_text(), "rows")
    (facts,) = arguments((packed / "data" / "store.js").read_text(), "store")
    assert (facts["isPacked"], facts["chunkRows"]) == (True, 32)
    order = np.argsort(-column(facts, "doubt").astype(int), kind="stable")
    assert order.tolist() != list(range(len(order)))
    for told, row in zip(rows, order.tolist(), strict=True):
        pictures = told.pop("pictures", {})
        assert told == apart[row]
        assert set(pictures) == set(KINDS) - set(told["whyNot"])
        if row == 30:
            image_HWC = decode_rgb(base64.b64decode(pictures["image"])).astype(int)
            assert np.abs(image_HWC - decode_rgb(image_of(30))).mean() < 3


def test_imagenets_rows_are_few_files() -> None:
    rows = np.arange(1_281_167)
    layout = content.folder_layout(rows)
    assert layout.is_packed
    assert layout.num_chunks(rows) + 6 <= 5000
    assert not content.folder_layout(rows[: content.PACKED_FROM - 1]).is_packed


def test_nothing_of_others_is_overwritten(store: Store, images: SourceImages, tmp_path: Path) -> None:
    rows = choose_rows(store, 4)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="no gallery of a store; remove it, or give another --out"):
        write_gallery(store, images, rows, tmp_path / "notes")
    write_gallery(store, images, rows, tmp_path / "g")
    with pytest.raises(
        UserError, match=r"holds a gallery of 4 rows of the same store, where 5 were asked for\..* --overwrite"
    ):
        write_gallery(store, images, choose_rows(store, 5), tmp_path / "g")
    words = "the same rows with the images of the data set's folder, where now .* with no images beside"
    with pytest.raises(UserError, match=words):
        write_gallery(store, find_images(store, None), rows, tmp_path / "g")


def test_a_gallery_is_written_over_another_when_asked_and_over_nothing_else(
    store: Store, images: SourceImages, tmp_path: Path
) -> None:
    out = tmp_path / "g"
    write_gallery(store, images, choose_rows(store, 4), out)
    (tmp_path / "g.partial").mkdir()
    shutil.copy(out / "gallery.json", tmp_path / "g.partial")  # a kill's, of another number of rows
    write_gallery(store, images, choose_rows(store, 5), out, overwrite=True)
    write_gallery(store, images, choose_rows(store, 5), tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")
    assert not (tmp_path / "g.partial").exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="no gallery of a store; remove it"):
        write_gallery(store, images, choose_rows(store, 4), tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------- which rows


def test_shares_by_hand() -> None:
    assert shares(np.array([1000, 10, 2]), 100).tolist() == [88, 10, 2]
    assert shares(np.array([500, 500]), 100).tolist() == [50, 50]
    assert shares(np.array([3, 4]), 100).tolist() == [3, 4]
    assert shares(np.array([996, 1, 1, 1, 1]), 3).sum() == 3


def test_rows_are_spread_and_rare_ones_kept(store: Store) -> None:
    rows = choose_rows(store, 20)
    assert len(rows) == 20
    assert (np.diff(rows) > 0).all()
    assert {5, 6, 40, 41} < set(rows.tolist())
    worst = {0, 1, 50, 51, 2}  # squares of 1 to 9 of 4,800 pixels
    assert worst < set(rows.tolist())
    assert np.diff(rows[~np.isin(rows, [5, 6, 40, 41])]).max() <= 7
    assert choose_rows(store, None).tolist() == list(range(len(KEYS)))
    assert (parse_num_rows(None), parse_num_rows("all"), parse_num_rows("7")) == (2000, None, 7)
    for wrong in ("0", "-3", "half", "1.5", "\u0663"):
        with pytest.raises(UserError, match="1 or more, or 'all'"):
            parse_num_rows(wrong)


def test_of_a_store_elsewhere_few_parts_are_fetched(store: Store, images: SourceImages, tmp_path: Path) -> None:
    publish(store.path, (tmp_path / "shared").as_uri())
    remote = open_published((tmp_path / "shared").as_uri(), tmp_path / "cache")
    rows = choose_rows(remote, 20)
    assert set(rows // 16) == {0, 3}
    page = write_gallery(remote, find_images(remote, None), rows, tmp_path / "g")
    assert len(list((page.parent / "pictures").rglob("*-mask.jpg"))) == sum(
        status_of(row).has_mask for row in rows.tolist()
    )
    fetched = {path.parts[-4] for path in (tmp_path / "cache").rglob("*") if path.parts[-3:-1] == ("mask", "c")}
    assert fetched <= {"part-00000", "part-00003"}


def test_a_half_built_store_shows_what_is_there(tmp_path: Path, data: Path) -> None:
    half = open_store(write_store(tmp_path / "half.zarr", parts=[1]), allow_partial=True)
    rows = choose_rows(half, None)
    assert rows.tolist() == list(range(16, 32))
    page = write_gallery(half, find_images(half, data / "folder"), rows, tmp_path / "g").parent
    (facts,) = arguments((page / "data" / "store.js").read_text(), "store")
    assert (facts["storeId"], facts["numBuilt"], facts["numRows"]) == (None, 16, len(KEYS))
    assert (column(facts, "step").cumsum() - 1).tolist() == rows.tolist()
    empty = open_store(write_store(tmp_path / "empty.zarr", parts=[]), allow_partial=True)
    with pytest.raises(UserError, match="no row yet"):
        write_gallery(empty, find_images(empty, data / "folder"), choose_rows(empty, None), tmp_path / "e")


# ---------------------------------------------------------------------------------------------------------- images


def test_without_images_the_rest_is_shown_and_the_reason_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BACKDROP_DATA", raising=False)
    images = find_images(store, None)
    assert "BACKDROP_DATA" in images.missing
    jpegs, why_not = RowPictures(store, images).draw(30)
    assert set(jpegs) == {"saliency", "mask", "background"}
    assert set(why_not) == {"image"}
    with pytest.raises(UserError, match="does not exist"):
        find_images(store, tmp_path / "nowhere")


def test_another_image_under_the_same_key_is_not_shown(store: Store, data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data / "folder", tmp_path / "folder"))
    (root / KEYS[2]).write_bytes(image_of(3))
    (root / KEYS[3]).unlink()
    pictures = RowPictures(store, find_images(store, root))
    assert "another image" in pictures.draw(2)[1]["image"]
    assert "not at hand" in pictures.draw(3)[1]["image"]
    assert pictures.draw(4)[1] == {}


def test_a_key_does_not_lead_out_of_the_data_set(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.jpg").write_bytes(image_of(0))
    for key in ("../secret.jpg", str(tmp_path / "secret.jpg"), "a/../../secret.jpg", "a\0b"):
        monkeypatch.setattr(Store, "key", lambda self, row, key=key: key)
        images = find_images(store, tmp_path / "folder")
        assert not images.is_there(0)
        assert "image" not in RowPictures(store, images).draw(0)[0]


# ---------------------------------------------------------------------------------------------------------- server


@pytest.fixture(scope="module")
def server(store: Store, images: SourceImages) -> Iterator[GalleryServer]:
    with GalleryServer(store, images) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: GalleryServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def test_the_server_gives_what_the_folder_holds(server: GalleryServer, page: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    for path, data in tree(page).items():
        if path not in ("gallery.json", "data/rows-00000.js"):
            assert ask(server, f"/{path}")[::2] == (200, data), path
    _, rows = arguments(ask(server, "/data/rows-00000.js")[2].decode(), "rows")
    _, written = arguments((page / "data" / "rows-00000.js").read_text(), "rows")
    assert [row["key"] for row in rows] == KEYS
    # Row 40's image is there, and turns out to be none when it is looked at.
    assert [row for row in range(len(rows)) if rows[row] != written[row]] == [40]
    status, kind, body = ask(server, "/pictures/0/40-image.jpg")
    assert (status, kind) == (200, "image/svg+xml")
    assert b"cannot be decoded" in body
    assert ask(server, "/")[2] == page_files()["index.html"]


@pytest.mark.parametrize(
    "path",
    ["/../setup.cfg", "/%2e%2e/setup.cfg", "/..%2f..%2fetc/passwd", "//etc/passwd", "/server.py", "/gallery.json",
     "/data/rows-00001.js", "/data/rows-0.js", "/pictures/0/60-image.jpg", "/pictures/1/7-image.jpg",
     "/pictures/0/7-secret.jpg", "/pictures/0/-1-image.jpg", "/pictures/0/+7-image.jpg", "/index.html/"],
)  # fmt: skip
def test_the_server_knows_its_own_paths_only(server: GalleryServer, path: str) -> None:
    assert ask(server, path)[::2] == (404, b"nothing here\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_the_server_only_answers_get(server: GalleryServer, method: str) -> None:
    assert ask(server, "/", method)[0] == 405


def test_the_server_answers_to_this_machine_only(server: GalleryServer) -> None:
    assert ask(server, "/data/store.js", Host="attacker.example")[0] == 403
    assert ask(server, "/data/store.js", Host=f"localhost:{server.server_port}")[0] == 200


def test_a_browser_that_hangs_up_is_no_error(
    server: GalleryServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    is_over = threading.Event()
    shutdown_request = server.shutdown_request
    monkeypatch.setattr(server, "shutdown_request", lambda request: (shutdown_request(request), is_over.set()))
    with server._drawing, socket.create_connection(("127.0.0.1", server.server_port)) as browser:
        host = f"127.0.0.1:{server.server_port}"
        browser.sendall(f"GET /pictures/0/3-image.jpg HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        # Closed at once, the other side is told that nobody reads.
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert is_over.wait(20)
    assert capsys.readouterr().err == ""
    try:
        raise ValueError("our own")
    except ValueError:
        server.handle_error(None, ("127.0.0.1", 1))
    assert "our own" in capsys.readouterr().err


def test_a_port_in_use_is_said(store: Store, images: SourceImages) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*--port"):
            GalleryServer(store, images, port)


# ---------------------------------------------------------------------------------------------------- command line


def test_the_command_writes_beside_the_store(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_DATA", str(data))
    path = write_store(tmp_path / "toy.zarr")
    result = CliRunner().invoke(cli.main, ["store", "view", str(path), "--rows", "8"])
    assert result.exit_code == 0, result.output
    assert f"gallery: {tmp_path / 'toy.gallery' / 'index.html'}" in result.output
    assert len(list((tmp_path / "toy.gallery").rglob("*-image.jpg"))) in (7, 8)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "80"], "--port is for --serve"),
        (["--serve", "--rows", "9"], "--out, --rows and"),
        (["--serve", "--out", "x"], "--out, --rows and"),
        (["--serve", "--overwrite"], "--out, --rows and"),
        (["--rows", "none"], "'all'"),
        (["--root", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_are_said(store: Store, words: list[str], said: str) -> None:
    result = CliRunner().invoke(cli.main, ["store", "view", str(store.path), *words])
    assert result.exit_code == 2
    assert said in result.output


def test_ctrl_c_ends_the_server_cleanly(store: Store, data: Path) -> None:
    words = [sys.executable, str(ROOT / "cli.py"), "store", "view", str(store.path), "--serve"]
    environment = {**os.environ, "BACKDROP_DATA": str(data), "PYTHONUNBUFFERED": "1"}
    # A process started in the background ignores Ctrl-C, and so would what the tests start there.
    heeding = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, heeding)
    with server as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"gallery: http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", line)
        assert match, line
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""


def test_classes_without_folders_are_numbers(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert content._classes(store, np.arange(len(KEYS)))[0] == list(CLASSES)
    monkeypatch.setattr(Store, "key", lambda self, row: f"{row:012d}.jpg")
    assert content._classes(store, np.arange(len(KEYS)))[0] == ["class 0", "class 1", "class 2"]


def test_every_status_has_a_meaning() -> None:
    assert set(content.MEANINGS) == set(Status)
