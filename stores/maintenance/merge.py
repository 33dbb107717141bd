"""Joining stores of one identity, half built or finished, into one: parts built in several places come together."""

from collections.abc import Sequence
from pathlib import Path

from backdrop.bounded_files import read_bounded
from backdrop.disk_errors import disk_errors
from backdrop.errors import CorruptStore, UserError
from backdrop.progress import stage_bar
from backdrop.stores.format import schema
from backdrop.stores.format.packed_arrays import arrays_of
from backdrop.stores.format.provenance import canonical_json, differing_fields, log_event
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import (
    checked_part_files,
    finish,
    manifest_bytes,
    missing_parts,
    num_parts,
    open_for_build,
    read_attributes,
    read_receipt,
    rows_of_part,
    write_part_files,
)
from backdrop.stores.format.zarr_files import chunk_path
from backdrop.stores.images.image_codec import sha256


def merge(sources: Sequence[Path], out: Path) -> str:
    """Copy the parts of several stores of one identity into one store, and finish it.

    Everything is looked at before anything is written. A part becomes visible by one rename, so that whatever ends a
    merge, the same command goes on; memory holds one part. Parts are copied, never linked: a link would let a change
    of one store reach the other.

    Args:
        sources: folders of stores, half built or finished. A part may lie in several of them if it is the same.
        out: folder of the new store; or one begun before, of the same identity, whose parts count as there.

    Returns:
        The id of the finished store: that of the same store built in one place.

    Raises:
        UserError: identities differ (the fields are named), a part differs between stores, parts are missing from all
            (they are listed), or `out` cannot be written.
        CorruptStore: a file of a part does not match its receipt, or a receipt its manifest.
    """
    out, stores = Path(out), [Path(source) for source in sources]
    if not stores:
        raise UserError("nothing to merge; give the folders of one or more stores")
    attributes = _common_attributes(stores)
    found = [out] if (out / schema.ROOT_METADATA).exists() and out not in stores else []
    source_of = _sources_of_parts([*found, *stores], attributes)
    open_for_build(out, attributes["identity"], attributes["num_rows"], attributes["part_rows"])
    to_copy = {part: source for part, source in sorted(source_of.items()) if source != out}
    with disk_errors(out):
        log_event(out, "merge started", sources=[str(store) for store in stores], parts=len(to_copy))
    for part, source in stage_bar(to_copy.items(), stage=f"merge {out.name}", unit="part"):
        _copy_part(source, out, part)
    store_id = finish(out)
    with disk_errors(out):
        log_event(out, "merged", store_id=store_id)
    return store_id


def ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers as ranges: [0, 1, 2, 5] -> "0-2, 5"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _common_attributes(stores: Sequence[Path]) -> dict:
    """What all stores say of themselves; a store that says otherwise is refused."""
    first = read_attributes(stores[0])
    for store in stores:
        there = read_attributes(store)
        lines = differing_fields(first["identity"], there["identity"])
        for name in ("schema_version", "num_rows", "part_rows", "identity_sha256"):
            if first[name] != there[name]:
                lines.append(f"{name}: {first[name]} here, {there[name]} there")
        if lines:
            raise UserError(
                f"{stores[0]} (here) and {store} (there) are not parts of one store:\n  "
                + "\n  ".join(lines)
                + "\nMerge stores that were built with the same images, detector and settings."
            )
    if first["schema_version"] not in (f"{major}.{minor}" for major, minor in schema.READABLE_VERSIONS.items()):
        raise UserError(
            f"{stores[0]} has schema version {first['schema_version']}, this version writes {schema.SCHEMA_VERSION}. "
            "Merge with the version of Backdrop that wrote it."
        )
    return first


def _sources_of_parts(stores: Sequence[Path], attributes: dict) -> dict[int, Path]:
    """Where each part lies: the first of the stores that has it; parts missing, or not the same, are refused."""
    source_of: dict[int, Path] = {}
    digest_of: dict[int, str] = {}
    for store in stores:
        for part, digest in _part_digests(store, attributes).items():
            if digest_of.setdefault(part, digest) != digest:
                raise UserError(
                    f"{schema.part_name(part)} is not the same in {source_of[part]} and {store}, though both say that "
                    f"they were built alike. 'store verify' tells whether one is damaged, 'store diff' what differs "
                    "(a detector on another kind of device may); leave one of the two out."
                )
            source_of.setdefault(part, store)
    missing = [part for part in range(num_parts(attributes)) if part not in source_of]
    if missing:
        raise UserError(
            f"{len(missing)} of {num_parts(attributes)} parts are in none of the stores: {ranges(missing)}. "
            "Build them, or name the store that has them too."
        )
    return source_of


def _part_digests(store: Path, attributes: dict) -> dict[int, str]:
    """SHA-256 of what every part that a store has holds, however it is kept."""
    manifest = store / schema.MANIFEST
    if manifest.exists() and read_bounded(manifest, schema.MAX_MANIFEST_BYTES) != manifest_bytes(store):
        raise CorruptStore(f"{manifest} does not match the receipts of its store; 'store verify' names the parts")
    digests, absent = {}, set(missing_parts(store))
    for part in range(num_parts(attributes)):
        if part not in absent:
            receipt = read_receipt(store, part)[1]
            rows = rows_of_part(attributes, part)
            stated = receipt.get("identity_sha256"), receipt.get("first_row"), receipt["num_rows"]
            if stated != (attributes["identity_sha256"], rows.start, len(rows)):
                raise CorruptStore(f"{store}: the receipt of {schema.part_name(part)} is damaged, or of another store")
            arrays = {name: stated["sha256"] for name, stated in arrays_of(receipt).items()}
            digests[part] = sha256(canonical_json([arrays, receipt["status_counts"]])).hex()
    return digests


def _copy_part(source: Path, out: Path, part: int) -> None:
    """Copy one part, every file checked against the receipt on the way."""
    files, stated = checked_part_files(source, part), read_receipt(source, part)[1]["status_counts"]
    codes = files[chunk_path("status")]
    counts = {status.label: codes.count(status) for status in Status}
    if counts != stated:
        raise CorruptStore(f"{source}: the receipt of {schema.part_name(part)} miscounts its rows; it was changed")
    write_part_files(out, part, files, counts)
