"""What a finished .beton holds: its sidecar, its records and their blobs, each checked before it is given out."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton import ffcv_images, shards
from backdrop.pipeline.beton.layout import FORMAT, FORMAT_VERSION, PLANES_VERSION, SHARDS_VERSION
from backdrop.pipeline.beton.scene import SCENE_DTYPE, checksum
from backdrop.pipeline.beton.table_reader import (
    MAX_SIDE_PX,
    TABLE_START,
    check_records,
    map_file,
    open_records,
    records_checksum,
    table_checksum,
)
from backdrop.settings import at_least, one_of, within
from backdrop.stores.format.provenance import identity_digest
from backdrop.stores.format.reader import Store

# A sidecar has a few hundred bytes, and 200 for each shard; whatever is larger is not read.
MAX_SIDECAR_BYTES = 16 << 20
MIN_PAGE_BYTES = 8 << 20
# How images are kept.
PIXELS = ("jpeg", "yuv420")
READABLE = ((FORMAT, FORMAT_VERSION), (FORMAT, PLANES_VERSION), (FORMAT, SHARDS_VERSION))
SIDECAR_TYPES: dict[str, type] = {
    **dict.fromkeys(("sha256", "table_checksum", "store_id"), str),
    **dict.fromkeys(("num_bytes", "num_rows"), int),
    "settings": dict,
}
SHARD_TYPES: dict[str, type] = {"name": str, "num_rows": int, "num_bytes": int, "sha256": str}


@dataclass(frozen=True, kw_only=True)
class BetonSettings:
    """What decides the bytes of a .beton beside its store."""

    max_side_px: Annotated[
        int,
        within(32, MAX_SIDE_PX),
        "Longest side of an image in pixels; longer ones are shrunk (FFCV's own ImageNet set: 512)",
    ] = 512
    jpeg_quality: Annotated[
        int,
        within(1, 95),
        "JPEG quality of images that are encoded again; above 95 files grow and pixels get no better",
    ] = 90
    pixels: Annotated[
        str,
        one_of(PIXELS),
        "Of images: jpeg, or yuv420 = planes (4:2:0) that need no decoding, 1.5 bytes a pixel, for machines whose "
        "memory holds them; the views are those of the JPEGs",
    ] = "jpeg"
    background_side_px: Annotated[
        int,
        at_least(0),
        "Longest side in pixels of the planes (4:2:0, 1.5 bytes a pixel) that backgrounds are kept as, which need no "
        "decoding; 0 = JPEGs as the store has them, or planes of that size with pixels=yuv420",
    ] = 288
    shard_rows: Annotated[
        int,
        at_least(1),
        "Rows of a shard; of no more, the .beton is one file (ImageNet: 79 shards of some 2 GB)",
    ] = 1 << 14

    @property
    def has_planes(self) -> bool:
        """Whether anything is kept as planes, which versions that knew JPEGs alone cannot read."""
        return self.pixels == "yuv420" or self.background_side_px > 0

    @property
    def of_scenes(self) -> dict[str, Any]:
        """Those that `scene_of_row` takes."""
        return {name: value for name, value in asdict(self).items() if name != "shard_rows"}


def page_bytes(settings: BetonSettings, background_side_px: int = 0) -> int:
    """Return FFCV's page size: a power of two that holds the largest possible scene.

    Image: at most 2 MiB verbatim or 3 bytes per pixel encoded again; mask: at most half a run, 4 bytes, per pixel;
    background and key: less than 1 MiB. Planes: two bytes for each pixel, of a background too.
    """
    largest = 7 * settings.max_side_px**2 + (4 << 20)
    largest += 2 * background_side_px**2 if settings.has_planes else 0
    return max(MIN_PAGE_BYTES, 1 << (largest - 1).bit_length())


def side_px_of(dataset: str) -> int:
    """Return the longest side of an image in the .beton of a data set, unless another is given.

    COCO's images have 640 px at most and are kept as they are, as CAST's release reads them.
    """
    return 640 if dataset == "coco" else BetonSettings.max_side_px


def default_settings(dataset: str, *, max_side_px: int | None = None, **others: Any) -> BetonSettings:
    """Return the settings of a data set's .beton where none are given.

    Args: dataset: its name. max_side_px: None = `side_px_of` it. others: that are given; None = the default.
    """
    side_px = side_px_of(dataset) if max_side_px is None else max_side_px
    given = {name: value for name, value in others.items() if value is not None}
    return BetonSettings(max_side_px=side_px, **given)


def sidecar_path(beton: Path) -> Path:
    """Return the path of the JSON file beside a .beton, or of shards in their folder."""
    return beton / shards.SIDECAR if beton.is_dir() else beton.with_name(beton.name + ".json")


def read_sidecar(beton: Path) -> dict[str, Any]:
    """Return what the sidecar says, after checking that the .beton beside it, or every shard, is there and complete.

    Of a file of FFCV's own, which has no sidecar: what can be said of it.

    Raises: UserError where a file or the sidecar is missing, damaged, of another format, or of another size; or where
        it is one of several shards.
    """
    path = sidecar_path(beton)
    if not beton.exists():
        raise UserError(f"there is no file {beton}; export it from a store first")
    if not path.is_file() and beton.is_file() and ffcv_images.is_ffcvs_own(beton):
        return ffcv_images.sidecar_of(beton)
    if not path.is_file():
        lack = f"is a folder without {path.name}" if beton.is_dir() else f"has no {path.name} beside it"
        raise UserError(f"{beton} {lack}: its export did not finish; export it again")
    sidecar = parsed_sidecar(beton)
    if "shard" in sidecar:
        number, count = sidecar["shard"], sidecar["num_shards"]
        raise UserError(f"{beton} is shard {number} of {count}; give {beton.parent}, the folder that has them all")
    for file, num_bytes, _ in files_of(beton, sidecar):
        if not file.exists():
            raise UserError(f"{beton} lacks {file.name}: put it back, or export it again, which writes that alone")
        if file.stat().st_size != num_bytes:
            what = f"{file} has {file.stat().st_size} bytes, its sidecar says {num_bytes}"
            raise UserError(f"{what}; export it again")
    return sidecar


def parsed_sidecar(beton: Path) -> dict[str, Any]:
    """Return what the sidecar of a file, a shard or a folder of shards says, whether or not they are there.

    Raises: UserError where it is damaged or of another format.
    """
    path = sidecar_path(beton)
    with path.open("rb") as file:
        return parse_sidecar(file.read(MAX_SIDECAR_BYTES + 1), str(path))


def parse_sidecar(data: bytes, what: str) -> dict[str, Any]:
    """Return what a sidecar says. Args: data: its bytes. what: where they are from, for messages.

    Raises: UserError where it is damaged or of another format.
    """
    try:
        sidecar = _parsed(data)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{what} is damaged ({error}); export the .beton again") from error
    kind = sidecar["format"], sidecar["format_version"]
    if kind not in READABLE:
        raise UserError(f"{what} is of format {kind}, this version reads {READABLE}; export the .beton again")
    return sidecar


def files_of(beton: Path, sidecar: dict[str, Any]) -> list[tuple[Path, int, str]]:
    """Return the files of a .beton, how many bytes each should have, and its SHA-256."""
    if "shards" not in sidecar:
        return [(beton, sidecar["num_bytes"], sidecar["sha256"])]
    records = beton / shards.RECORDS, sidecar["num_rows"] * SCENE_DTYPE.itemsize, sidecar["records_sha256"]
    return [*((beton / shard["name"], shard["num_bytes"], shard["sha256"]) for shard in sidecar["shards"]), records]


def _parsed(data: bytes) -> dict[str, Any]:
    """What a sidecar says, unchanged since it was written or of another format; ValueError and others where not."""
    if len(data) > MAX_SIDECAR_BYTES:
        raise ValueError(f"it has more than {MAX_SIDECAR_BYTES} bytes")
    sidecar = json.loads(data)
    if (sidecar["format"], sidecar["format_version"]) in READABLE:
        rest = {name: value for name, value in sidecar.items() if name != "digest"}
        if identity_digest(rest) != sidecar["digest"]:
            raise ValueError("it was changed after it was written")
        _check_types(sidecar, SIDECAR_TYPES)
        if "shards" in sidecar:
            _check_types(sidecar, {"shards": list, "records_sha256": str})
        for shard in sidecar.get("shards", []):
            _check_types(shard, SHARD_TYPES)
            if not shards.SHARD_NAME.fullmatch(shard["name"]) or "/" in shard["name"] or shard["num_bytes"] < 1:
                raise ValueError(f"its shards are {shard}")
    return sidecar


def _check_types(values: dict[str, Any], types: dict[str, type]) -> None:
    for name, kind in types.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"its {name} is {values[name]!r}")


def is_written(out: Path, store: Store, settings: BetonSettings) -> bool:
    """Whether out is complete and of this store and these settings, in shards or not.

    One of before backgrounds could be planes is kept as it is, with JPEGs: it gives the views that it gave.

    Raises: UserError: complete, but of others.
    """
    try:
        sidecar = read_sidecar(out)
    except UserError:
        return False  # half written or damaged: replaced, or gone on with
    if "background_side_px" not in sidecar["settings"]:
        settings = replace(settings, background_side_px=0)
    if is_of(sidecar, store, settings):
        return True
    raise of_others(out, sidecar)


def is_of(sidecar: dict[str, Any], store: Store, settings: BetonSettings) -> bool:
    """Whether a sidecar is of a store and of settings; however the rows are dealt to files, they are the same."""
    # Files of before these were settings hold JPEGs.
    found = {"pixels": "jpeg", "background_side_px": 0, **sidecar["settings"], "shard_rows": settings.shard_rows}
    return sidecar["store_id"] == store.store_id and found == asdict(settings)


def of_others(out: Path, sidecar: dict[str, Any]) -> UserError:
    """Return the error about a place that is taken."""
    return UserError(
        f"{out} holds another store or other settings (store {sidecar['store_id'][:12]}, {sidecar['settings']}); "
        "give another file name, or --overwrite to have it replaced"
    )


@dataclass(frozen=True, kw_only=True)
class Beton:
    """A complete .beton, mapped, one file or several shards: neither records nor blobs are private to a process.

    records: (N,) of SCENE_DTYPE, row by row. file_bytes: uint8, what their pointers are places in. table_end: in bytes,
    what lies behind is blobs. sidecar: what is said of it, `read_sidecar`.
    """

    records: np.ndarray
    file_bytes: np.ndarray
    table_end: int
    sidecar: dict[str, Any]


def open_beton(beton: Path) -> Beton:
    """Open a complete .beton.

    Raises: UserError as `read_sidecar`. CorruptStore where a record is not as it was written, or a shard is not the one
        that was.
    """
    sidecar = read_sidecar(beton)
    if "shards" in sidecar:
        return _open_shards(beton, sidecar)
    if sidecar["format"] == ffcv_images.FORMAT:
        return _open_ffcvs_own(beton, sidecar)
    records, file_bytes = open_records(beton), map_file(beton)
    if table_checksum(file_bytes, len(records)) != sidecar["table_checksum"]:
        raise CorruptStore(f"{beton}: its header or records are not those that were written; export it again")
    table_end = TABLE_START + records.nbytes
    return Beton(records=records, file_bytes=file_bytes, table_end=table_end, sidecar=sidecar)


def _open_ffcvs_own(beton: Path, sidecar: dict[str, Any]) -> Beton:
    file_bytes = map_file(beton)
    records, table_end = ffcv_images.table_of(beton, file_bytes)
    check_records(beton, records)
    return Beton(records=records, file_bytes=file_bytes, table_end=table_end, sidecar=sidecar)


def _open_shards(beton: Path, sidecar: dict[str, Any]) -> Beton:
    records = map_file(beton / shards.RECORDS).view(SCENE_DTYPE)
    if records_checksum(records) != sidecar["table_checksum"]:
        raise CorruptStore(f"{beton / shards.RECORDS} is not as it was written; export {beton} again")
    check_records(beton, records)
    files = [beton / shard["name"] for shard in sidecar["shards"]]
    sizes = [shard["num_bytes"] for shard in sidecar["shards"]]
    file_bytes = shards.map_end_to_end(files, sizes)
    row = 0
    for file, start, shard in zip(files, shards.places(sizes), sidecar["shards"], strict=False):
        _check_first_record(file, file_bytes[start:], records[row])
        row += shard["num_rows"]
    return Beton(records=records, file_bytes=file_bytes, table_end=0, sidecar=sidecar)


def _check_first_record(file: Path, shard_bytes: np.ndarray, expected: np.void) -> None:
    """Raise CorruptStore where a shard begins with another row than it should: its size alone does not tell."""
    found = shard_bytes[TABLE_START : TABLE_START + SCENE_DTYPE.itemsize].view(SCENE_DTYPE)[0]
    if any(found[name] != expected[name] for name in SCENE_DTYPE.names or () if not name.endswith("_ptr")):
        raise CorruptStore(f"{file} is of another export: put back the one that belongs here, or export all again")


def read_records(beton: Path) -> np.ndarray:
    """Return the records of a .beton, (N,) of SCENE_DTYPE; errors as `open_beton`."""
    return open_beton(beton).records


def read_blob(file_bytes: np.ndarray, record: np.void, name: str) -> bytes:
    """Return one blob ("image", "mask", "background" or "key") of a record; b"" where it has none.

    Raises: CorruptStore where its bytes are not those that were written; those of FFCV's own files are not checked.
    """
    start, num_bytes = int(record[f"{name}_ptr"]), int(record[f"{name}_bytes"])
    data = file_bytes[start : start + num_bytes].tobytes()
    expected = int(record[f"{name}_checksum"])
    if num_bytes and (len(data) < num_bytes or (expected and checksum(data) != expected)):
        raise CorruptStore(f"row {record['row']}: the bytes of its {name} are not those that were written")
    return data
