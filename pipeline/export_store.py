"""A store in the format of whoever reads it next: the loader's .beton, or masks alone for other tools."""

from dataclasses import dataclass
from pathlib import Path

from backdrop.errors import UserError
from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
from backdrop.pipeline.beton.reader import default_settings
from backdrop.pipeline.beton.writer import ExportWork, export_beton
from backdrop.stores.datasets import reopen_index
from backdrop.stores.exports import MASK_FORMATS, WITH_IMAGES, export_masks
from backdrop.stores.sharing.place import place_of
from backdrop.stores.sharing.store_cache import open_for_reading

BETON = "beton"


@dataclass(frozen=True, kw_only=True)
class BetonExport:
    """What is said of a .beton alone.

    max_side_px, pixels, background_side_px, shard_rows: see `BetonSettings`; None = the default.
    engine, num_workers: what writes its shards, see `ExportWork`.
    """

    max_side_px: int | None = None
    pixels: str | None = None
    background_side_px: int | None = None
    shard_rows: int | None = None
    engine: str = ExportWork.engine
    num_workers: int | None = None


def export_store(
    store: Path | str,
    format_name: str = BETON,
    *,
    out: Path | None = None,
    root: Path | None = None,
    options: BetonExport | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a store in another format; what is there already of the same store is kept.

    Args: store: the folder of a finished store, or the URL of a published one. format_name: beton, or one of
        MASK_FORMATS. out: None = beside the store; of a URL, for beton alone, the one in the cache that training
        reads. root: for beton and foregrounds, where the images lie, see `open_index`. options: for beton. cache: for a
        URL, the folder that keeps what is fetched; None = the default one. overwrite: replace an export of another
        store or other settings.
    Returns: what was written.
    Raises: UserError: an argument that the format does not take; as `export_beton` and `export_masks`.
    """
    store, options = place_of(store), options or BetonExport()
    is_for_cache = isinstance(store, str) and out is None
    if is_for_cache and (format_name != BETON or options != BetonExport()):
        raise UserError("name a file with --out: of a URL only the .beton that pretrain reads has a place of its own.")
    if is_for_cache:
        return beton_of(StoreSource(store=store, cache=cache, root=root))
    if format_name in MASK_FORMATS and options != BetonExport():
        raise UserError(
            "--max-side-px, --pixels, --background-side-px, --shard-rows, --workers and --engine are for --format "
            f"beton, not {format_name}."
        )
    if format_name in MASK_FORMATS and format_name not in WITH_IMAGES and root is not None:
        raise UserError(f"--root is for --format beton and {', '.join(WITH_IMAGES)}; {format_name} holds masks alone.")
    opened = open_for_reading(store, cache)
    if format_name in MASK_FORMATS:
        index = reopen_index(opened, root) if format_name in WITH_IMAGES else None
        return export_masks(opened, format_name, out, index=index, overwrite=overwrite)
    settings = default_settings(
        opened.dataset,
        max_side_px=options.max_side_px,
        pixels=options.pixels,
        background_side_px=options.background_side_px,
        shard_rows=options.shard_rows,
    )
    work = ExportWork(engine=options.engine, num_workers=options.num_workers, overwrite=overwrite)
    return export_beton(opened, reopen_index(opened, root), out, settings=settings, work=work)
