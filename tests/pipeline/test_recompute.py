"""Chosen rows computed anew: the bytes a fresh build gives, everything else taken as it was."""

import itertools
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import backdrop.stores.format.writer
from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.build.masks_and_backgrounds import BuildSpec, settings_of
from backdrop.pipeline.build.recompute import RecomputeSpec, chosen_rows, recompute_store, rows_where, run_part
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import missing_parts
from backdrop.stores.maintenance.verify import verify
from tests.material.part_arrays import array_bytes, flip_bit
from tests.material.schema_versions import to_schema_1
from tests.material.small_images import (
    NUM_IMAGES,
    PART_ROWS,
    UNREADABLE,
    BatchFormulaDetector,
    FormulaDetector,
    build,
    index_of,
    key_of,
    make_images,
    parts_of_few_rows,
    repair,
)
from tests.material.small_store import small_store, tree


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    with parts_of_few_rows():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def parent(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parent") / "s.zarr"
    build(images, out)
    return out


@pytest.fixture
def repaired(images: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(images, tmp_path / "repaired"))
    repair(root)
    return root


class CountingDetector(FormulaDetector):
    """Counts its calls, in this process."""

    calls = 0

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        CountingDetector.calls += 1
        return super().__call__(image_HWC, key)


def recompute(parent: Path, root: Path, out: Path, rows: list[int], **options: object) -> dict:
    return recompute_store(
        parent, index_of(root), **{"detector_name": FormulaDetector(), "num_workers": 0, **options}, out=out, rows=rows
    )


def test_a_repaired_image_gives_the_store_of_a_fresh_build(parent: Path, repaired: Path, tmp_path: Path) -> None:
    before = tree(parent)
    rows = rows_where(open_store(parent), "status=decode-error")
    assert rows == [UNREADABLE]
    summary = recompute(parent, repaired, tmp_path / "new", rows)
    fresh = build(repaired, tmp_path / "fresh")
    assert summary["store_id"] == fresh["store_id"] != open_store(parent).store_id
    assert summary["rows_chosen"] == 1
    assert tree(tmp_path / "new") == tree(tmp_path / "fresh")
    assert open_store(tmp_path / "new").status[UNREADABLE] == Status.OK
    assert verify(tmp_path / "new") == []
    assert tree(parent) == before


def test_unchanged_images_give_the_store_itself_with_few_calls(parent: Path, images: Path, tmp_path: Path) -> None:
    CountingDetector.calls = 0
    recompute(parent, images, tmp_path / "new", [1, 9], detector_name=CountingDetector())
    assert tree(tmp_path / "new") == tree(parent)
    # Row by row here: only the chosen ones and, to stay with the batches of a build, none of their neighbours.
    assert CountingDetector.calls == 2


def test_a_parent_of_schema_1_gives_the_same_store(parent: Path, images: Path, tmp_path: Path) -> None:
    old = to_schema_1(Path(shutil.copytree(parent, tmp_path / "old")))
    recompute(old, images, tmp_path / "new", [1, 9])
    assert tree(tmp_path / "new") == tree(parent)


def test_other_rows_are_taken_and_not_computed(parent: Path, images: Path, tmp_path: Path) -> None:
    """A parent whose bytes a build would not give: only the chosen row changes."""
    odd = tmp_path / "odd.zarr"
    store = open_store(parent)
    backdrop.stores.format.writer.open_for_build(odd, store.identity, store.num_rows, store.part_rows)
    for part in range(store.num_parts):
        files = backdrop.stores.format.writer.checked_part_files(parent, part)
        files["background/c/0"] = bytes(255 - value for value in files["background/c/0"])
        chunk = np.frombuffer(files["background/c/0"], np.uint8)
        offsets = np.frombuffer(files["background_offsets/c/0"], "<i8")
        crc = [
            backdrop.stores.format.writer.google_crc32c.value(chunk[a:b].tobytes())
            for a, b in itertools.pairwise(offsets)
        ]
        files["background_crc32c/c/0"] = np.array(crc, "<u4").tobytes()
        counts = backdrop.stores.format.writer.read_receipt(parent, part)[1]["status_counts"]
        backdrop.stores.format.writer.write_part_files(odd, part, files, counts)
    backdrop.stores.format.writer.finish(odd)
    recompute(odd, images, tmp_path / "new", [5])
    made, new = open_store(odd), open_store(tmp_path / "new")
    for row in range(NUM_IMAGES):
        expected = store if row == 5 else made
        assert new.background_jpeg(row) == expected.background_jpeg(row)
        assert new.source_sha256(row) == store.source_sha256(row)


@pytest.mark.parametrize("rows", [[UNREADABLE], [UNREADABLE, 5], [0]])
def test_batches_are_those_of_a_build(rows: list[int], images: Path, repaired: Path, tmp_path: Path) -> None:
    """With this detector the number of images of a batch moves its maps."""
    detector = BatchFormulaDetector()
    build(images, tmp_path / "parent", detector=detector)
    root = repaired if UNREADABLE in rows else images
    recompute(tmp_path / "parent", root, tmp_path / "new", rows, detector_name=detector)
    build(root, tmp_path / "fresh", detector=detector)
    assert tree(tmp_path / "new") == tree(tmp_path / "fresh")


def test_a_worker_and_a_resume_change_no_byte(parent: Path, repaired: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    recompute(parent, repaired, out, [UNREADABLE], num_workers=1)
    whole = tree(out)
    shutil.rmtree(out / "parts/part-00000")
    (out / "MANIFEST.json").unlink()
    assert missing_parts(out) == [0]
    assert recompute(parent, repaired, out, [UNREADABLE])["rows_built"] == PART_ROWS
    assert tree(out) == whole


def test_the_spec_travels(parent: Path, images: Path, tmp_path: Path) -> None:
    store = open_store(parent)
    spec = RecomputeSpec(
        BuildSpec(index_of(images), FormulaDetector(), tmp_path / "new", settings_of(store.identity)),
        store,
        frozenset([1]),
    )
    again = pickle.loads(pickle.dumps(spec))
    backdrop.stores.format.writer.open_for_build(tmp_path / "new", store.identity, store.num_rows, store.part_rows)
    assert run_part(again, 1)["files"] == backdrop.stores.format.writer.read_receipt(parent, 1)[1]["files"]


def test_what_does_not_fit_is_refused_by_name(parent: Path, images: Path, repaired: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    with pytest.raises(UserError, match=r"detector.algorithm_version: 2 here, 1 there"):
        recompute(parent, images, out, [1], detector_name=FormulaDetector(version=2))
    with pytest.raises(UserError, match=r"row 3 \(a/003.jpg\): its image changed .* Choose that row too"):
        recompute(parent, repaired, out, [1])
    with pytest.raises(UserError, match="never changes"):
        recompute(parent, images, parent, [1])
    with pytest.raises(UserError, match="at least one"):
        recompute(parent, images, out, [])
    with pytest.raises(UserError, match="rows of 0 to 10"):
        recompute(parent, images, out, [11])
    with pytest.raises(UserError, match="was made otherwise"):
        recompute(small_store(tmp_path / "toy"), images, out, [1])
    (repaired / key_of(10)).rename(repaired / "b/999.jpg")
    with pytest.raises(UserError, match=r"row 10 .* is b/010.jpg .* now has b/999.jpg"):
        recompute(parent, repaired, out, [UNREADABLE])
    (repaired / "b/999.jpg").unlink()
    with pytest.raises(UserError, match="holds 10 images"):
        recompute(parent, repaired, out, [UNREADABLE])
    assert not out.exists()


def test_a_neighbour_changed_under_its_size_is_named(images: Path, tmp_path: Path) -> None:
    build(images, tmp_path / "parent", detector=BatchFormulaDetector())
    changed = Path(shutil.copytree(images, tmp_path / "changed"))
    data = bytearray((changed / key_of(2)).read_bytes())
    data[-3] ^= 1
    (changed / key_of(2)).write_bytes(data)
    with pytest.raises(UserError, match=r"row 2 \(a/002.jpg\): its image changed"):
        recompute(tmp_path / "parent", changed, tmp_path / "new", [1], detector_name=BatchFormulaDetector())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("part-00002/mask/c/0", "part-00002/mask/c/0 is damaged"),
        ("part-00002/", "part.json"),
        ("part-00000/mask/c/0", "mask of row 0"),
        ("part-00000/label/c/0", "label/c/0 is damaged"),
    ],
)
def test_a_damaged_parent_is_not_passed_on(file: str, message: str, parent: Path, images: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(parent, tmp_path / "copy"))
    part, _, name = file.partition("/")
    if name:
        flip_bit(copy / "parts" / part, name, len(array_bytes(copy / "parts" / part, name)) // 20)
    else:
        receipt = copy / "parts" / part / "part.json"
        receipt.write_bytes(b"[" + receipt.read_bytes()[1:])
    with pytest.raises(CorruptStore, match=message):
        recompute(copy, images, tmp_path / "new", [1])


def test_choosing_rows(parent: Path, images: Path, tmp_path: Path) -> None:
    store = open_store(parent)
    assert rows_where(store, "status=ok,decode-error,no-foreground,all-foreground") == list(range(NUM_IMAGES))
    for text in ("status", "status=bad", "label=3", "status="):
        with pytest.raises(UserError, match="--where"):
            rows_where(store, text)
    with pytest.raises(UserError, match="nothing to compute anew"):
        rows_where(store, "status=mask-error")
    (marks := tmp_path / "bad.txt").write_text(f"{store.key(7)}\n{store.key(2)}\n")
    assert (
        chosen_rows(store, where=None, numbers=f"@{marks}") == [2, 7] == chosen_rows(store, where=None, numbers="2,7")
    )
    with pytest.raises(UserError, match="either --where"):
        chosen_rows(store, where="status=ok", numbers="2")
