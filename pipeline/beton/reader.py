"""What a finished .beton holds: its sidecar, its records and their blobs, each checked before it is given out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton.layout import FORMAT, FORMAT_VERSION, PLANES_VERSION
from backdrop.pipeline.beton.scene import checksum
from backdrop.pipeline.beton.table_reader import (
    MAX_SIDE_PX,
    map_file,
    open_records,
    table_checksum,
)
from backdrop.settings import one_of, within
from backdrop.stores.format.provenance import identity_digest
from backdrop.stores.format.reader import Store

# A sidecar has a few hundred bytes; whatever is larger is not read.
MAX_SIDECAR_BYTES = 1 << 20
MIN_PAGE_BYTES = 8 << 20
# How images are kept.
PIXELS = ("jpeg", "yuv420")
READABLE = ((FORMAT, FORMAT_VERSION), (FORMAT, PLANES_VERSION))
SIDECAR_TYPES = {"num_bytes": int, "num_rows": int, "table_checksum": str, "store_id": str, "settings": dict}


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
        "jpeg, or yuv420 = planes (4:2:0) that need no decoding, 1.5 bytes a pixel, of images and backgrounds alike: "
        "for machines whose memory holds them; the views are those of the JPEGs",
    ] = "jpeg"


def page_bytes(settings: BetonSettings, background_side_px: int = 0) -> int:
    """Return FFCV's page size: a power of two that holds the largest possible scene.

    Image: at most 2 MiB verbatim or 3 bytes per pixel encoded again; mask: at most half a run, 4 bytes, per pixel;
    background and key: less than 1 MiB. Planes: two bytes for each pixel, of a background too.
    """
    largest = 7 * settings.max_side_px**2 + (4 << 20)
    largest += 2 * background_side_px**2 if settings.pixels == "yuv420" else 0
    return max(MIN_PAGE_BYTES, 1 << (largest - 1).bit_length())


def side_px_of(dataset: str) -> int:
    """Return the longest side of an image in the .beton of a data set, unless another is given.

    COCO's images have 640 px at most and are kept as they are, as CAST's release reads them.
    """
    return 640 if dataset == "coco" else BetonSettings.max_side_px


def sidecar_path(beton: Path) -> Path:
    """Return the path of the JSON file beside a .beton."""
    return beton.with_name(beton.name + ".json")


def read_sidecar(beton: Path) -> dict[str, Any]:
    """Return what the sidecar says, after checking that the .beton beside it is complete.

    Raises: UserError where the file or its sidecar is missing, damaged, of another format, or of another size.
    """
    path = sidecar_path(beton)
    if not beton.is_file():
        raise UserError(f"there is no file {beton}; export it from a store first")
    if not path.is_file():
        raise UserError(f"{beton} has no {path.name} beside it: its export did not finish; export it again")
    try:
        sidecar = _parsed_sidecar(path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); export {beton} again") from error
    kind = sidecar["format"], sidecar["format_version"]
    if kind not in READABLE:
        raise UserError(f"{beton} has format {kind}, this version reads {READABLE}; export it again")
    if beton.stat().st_size != sidecar["num_bytes"]:
        raise UserError(
            f"{beton} has {beton.stat().st_size} bytes, its sidecar says {sidecar['num_bytes']}; export it again"
        )
    return sidecar


def _parsed_sidecar(path: Path) -> dict[str, Any]:
    """What the sidecar says, unchanged since it was written or of another format; ValueError and others where not."""
    if path.stat().st_size > MAX_SIDECAR_BYTES:
        raise ValueError(f"it has more than {MAX_SIDECAR_BYTES} bytes")
    sidecar = json.loads(path.read_text())
    if (sidecar["format"], sidecar["format_version"]) in READABLE:
        rest = {name: value for name, value in sidecar.items() if name != "digest"}
        if identity_digest(rest) != sidecar["digest"]:
            raise ValueError("it was changed after it was written")
        for name, kind in SIDECAR_TYPES.items():
            if not isinstance(sidecar[name], kind):
                raise TypeError(f"its {name} is {sidecar[name]!r}")
    return sidecar


def is_written(out: Path, store: Store, settings: BetonSettings) -> bool:
    """Whether out is complete and of this store and these settings. Raises: UserError: complete, but of others."""
    if not out.exists() or not sidecar_path(out).exists():
        return False
    try:
        sidecar = read_sidecar(out)
    except UserError:
        return False  # half written or damaged: replaced
    # Files of before `pixels` was a setting hold JPEGs.
    if sidecar["store_id"] == store.store_id and {"pixels": "jpeg", **sidecar["settings"]} == asdict(settings):
        return True
    raise UserError(
        f"{out} holds another store or other settings (store {sidecar['store_id'][:12]}, {sidecar['settings']}); "
        "give another file name, or remove it and its .json"
    )


def read_records(beton: Path) -> np.ndarray:
    """Return the records of a .beton, (N,) of SCENE_DTYPE; UserError and CorruptStore as `open_beton`."""
    return open_beton(beton).records


@dataclass(frozen=True, kw_only=True)
class Beton:
    """A complete .beton, mapped: neither records nor blobs are private to a process.

    records: (N,) of SCENE_DTYPE, checked. file_bytes: uint8, the whole file. sidecar: what it says.
    """

    records: np.ndarray
    file_bytes: np.ndarray
    sidecar: dict[str, Any]


def open_beton(beton: Path) -> Beton:
    """Map a complete .beton.

    Raises: UserError as `read_sidecar`. CorruptStore where a record is not as it was written.
    """
    sidecar = read_sidecar(beton)
    records, file_bytes = open_records(beton), map_file(beton)
    if table_checksum(file_bytes, len(records)) != sidecar["table_checksum"]:
        raise CorruptStore(f"{beton}: its header or records are not those that were written; export it again")
    return Beton(records=records, file_bytes=file_bytes, sidecar=sidecar)


def read_blob(file_bytes: np.ndarray, record: np.void, name: str) -> bytes:
    """Return one blob ("image", "mask", "background" or "key") of a record; b"" where it has none.

    Raises: CorruptStore where its bytes are not those that were written.
    """
    start, num_bytes = int(record[f"{name}_ptr"]), int(record[f"{name}_bytes"])
    data = file_bytes[start : start + num_bytes].tobytes()
    if num_bytes and (len(data) < num_bytes or checksum(data) != record[f"{name}_checksum"]):
        raise CorruptStore(f"row {record['row']}: the bytes of its {name} are not those that were written")
    return data
