"""A finished store described in Croissant 1.1 (JSON-LD), the vocabulary that data set catalogues read.

The card is a function of the store's content only. It lies beside the store, `<store>.croissant.json`, because nothing
is added to a finished store; it can be written again at any time. Licence, address, maker and date, which Croissant
asks for too, are whoever publishes it to give: a store knows none of them.

Source: MLCommons, Croissant format specification 1.1, with W3C PROV-O for where it comes from as recommended there.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import write_aside
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format import schema
from backdrop.stores.format.packed_arrays import ARRAYS
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import manifest_bytes
from backdrop.stores.format.zarr_files import chunk_path
from backdrop.stores.images.image_codec import sha256

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
# Array -> (data type, what it is).
FIELDS = {
    "key": ("sc:Text", "UTF-8 path of the image, relative to the folder of its data set"),
    "label": ("sc:Integer", "class, -1 = none"),
    "status": ("sc:Integer", ", ".join(f"{int(status)} {status.label}" for status in Status)),
    "message": ("sc:Text", "why the row has no mask; empty where it has one"),
    "height": ("sc:Integer", "px, of the decoded image with its EXIF orientation applied; 0 = undecodable"),
    "width": ("sc:Integer", "px, of the decoded image with its EXIF orientation applied; 0 = undecodable"),
    "foreground_fraction": ("sc:Float", "foreground pixels / pixels"),
    "box": ("sc:Integer", "top, left, height, width of the foreground in px; zeros where there is none"),
    "source_sha256": ("sc:Text", "32 bytes: SHA-256 of the image file"),
    "source_bytes": ("sc:Integer", "size of the image file"),
    "mask": ("sc:ImageObject", "zstd frame of numpy.packbits(mask, axis=1), 1 = foreground; empty where there is none"),
    "background": ("sc:ImageObject", "JPEG of the image with its foreground filled in; empty where there is none"),
    "saliency": ("sc:ImageObject", "zstd frame of height x width bytes, 255 = foreground; empty unless kept"),
}


OCTETS = "application/octet-stream"
# What Croissant asks for and a store cannot know.
ABOUT = ("license", "url", "creator", "datePublished", "citeAs", "keywords", "publisher")


def card(path: Path | str, about: Mapping[str, object] | None = None) -> dict:
    """Describe a finished store: name, version, every metadata file with its SHA-256, and the fields of a row.

    The receipts among those files state the SHA-256 of all other files of their part.

    Args:
        path: the store's folder.
        about: what whoever publishes it adds, any of `ABOUT`.

    Returns:
        Plain JSON values; the same for equal stores, wherever they lie.

    Raises:
        UserError: there is no finished store, or `about` has other names.
        CorruptStore: its manifest does not match it.
    """
    path, about = Path(path), about or {}
    if not about.keys() <= set(ABOUT):
        raise UserError(f"a card takes {', '.join(ABOUT)}; given: {', '.join(about)}. The rest comes from the store.")
    store = open_store(path)
    data = (path / schema.MANIFEST).read_bytes()
    if data != manifest_bytes(path):
        raise CorruptStore(f"{path / schema.MANIFEST} does not match its store; 'store verify' tells where")
    manifest, identity = json.loads(data), store.identity
    name = "-".join(str(identity.get(part, "")) for part in ("dataset", "split")).strip("-")
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"{name}-foregrounds",
        "description": _description(name, manifest),
        # Never another content under one version: semantic versioning's build metadata are the store's id.
        "version": f"{manifest['schema_version']}.0+{sha256(data).hex()[:16]}",
        "isLiveDataset": False,
        **about,
        "prov:wasDerivedFrom": {
            "@type": "prov:Entity",
            "name": name,
            "identifier": f"sha256:{identity['index_sha256']}" if "index_sha256" in identity else name,
        },
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "identifier": f"sha256:{manifest['identity_sha256']}",
            "description": json.dumps(identity, sort_keys=True),
        },
        "distribution": [*_file_objects(path, manifest), *_file_sets(manifest)],
        "recordSet": [_record_set(manifest)],
    }


def card_path(store: Path) -> Path:
    """Where a store's card lies: beside it."""
    return store.parent / f"{store.name}.croissant.json"


def write_card(path: Path | str, out: Path | None = None, about: Mapping[str, object] | None = None) -> Path:
    """Write the card of a finished store.

    Args:
        path: the store's folder.
        out: the file; None = `card_path(path)`.
        about: as `card` takes it.

    Returns:
        The file written.

    Raises:
        UserError: as `card`, or the file cannot be written.
    """
    content = card(path, about)
    out = out or card_path(Path(path))
    with disk_errors(out):
        write_aside(out, json.dumps(content, indent=2) + "\n")
    return out


def _description(name: str, manifest: dict) -> str:
    counts = ", ".join(f"{manifest['totals']['status'][status.label]} {status.label}" for status in Status)
    return (
        f"Foreground masks and backgrounds of the {manifest['num_rows']} images of {name} ({counts}). "
        f"Schema {manifest['schema']} {manifest['schema_version']}, in {len(manifest['parts'])} zarr v3 groups "
        f"of {manifest['part_rows']} rows; every array of a part is one raw little-endian chunk. Mask polarity: "
        f"{manifest['mask_polarity']}."
    )


def _file_objects(path: Path, manifest: dict) -> list[dict]:
    """The manifest, whose digest is the store's id, and all files whose digests it states."""
    digests = {schema.MANIFEST: sha256((path / schema.MANIFEST).read_bytes()).hex(), **manifest["files"]}
    for part in manifest["parts"]:
        digests[f"{schema.PARTS}/{part['name']}/{schema.RECEIPT}"] = part["receipt_sha256"]
    return [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{(path / name).stat().st_size} B",
            "encodingFormat": "application/json",
            "sha256": digest,
        }
        for name, digest in digests.items()
    ]


def _file_sets(manifest: dict) -> list[dict]:
    """All parts' files of arrays, and in them the chunks of each array; those of schema 1 are files by themselves."""
    parts = f"{schema.PARTS}/part-*"
    if manifest["schema_version"].startswith("1."):
        return [_file_set(f"{name}-chunks", f"{parts}/{_chunk(name)}", OCTETS) for name in FIELDS]
    within = {"containedIn": {"@id": "arrays"}}
    return [
        _file_set("arrays", f"{parts}/{ARRAYS}", "application/zip"),
        *(_file_set(f"{name}-chunks", _chunk(name), OCTETS) | within for name in FIELDS),
    ]


def _chunk(name: str) -> str:
    return chunk_path(name, 1 + next((len(column.row_shape) for column in schema.COLUMNS if column.name == name), 0))


def _file_set(name: str, includes: str, encoding: str) -> dict:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": encoding, "includes": includes}


def _record_set(manifest: dict) -> dict:
    rows = manifest["part_rows"]
    return {
        "@type": "cr:RecordSet",
        "@id": "rows",
        "name": "rows",
        "description": f"One row per image. Row i is entry i % {rows} of part i // {rows}; fields of varying size are "
        "found by the arrays <name>_offsets, and checked by <name>_crc32c.",
        "key": {"@id": "rows/key"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"rows/{name}",
                "name": name,
                "description": what,
                "dataType": data_type,
                "source": {"fileSet": {"@id": f"{name}-chunks"}, "extract": {"fileProperty": "content"}},
            }
            for name, (data_type, what) in FIELDS.items()
        ],
    }
