"""A store in the format of whoever reads it next: the loader's .beton, or masks alone for other tools."""

from pathlib import Path

from backdrop.errors import UserError
from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
from backdrop.pipeline.beton.reader import BetonSettings, side_px_of
from backdrop.stores.datasets import reopen_index
from backdrop.stores.exports import MASK_FORMATS, export_masks
from backdrop.stores.sharing.place import place_of
from backdrop.stores.sharing.store_cache import open_for_reading

BETON = "beton"


def export_store(
    store: Path | str,
    format_name: str = BETON,
    *,
    out: Path | None = None,
    root: Path | None = None,
    max_side_px: int | None = None,
    pixels: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Write a store in another format; what is there already of the same store is kept.

    Args: store: the folder of a finished store, or the URL of a published one. format_name: beton, or one of
        MASK_FORMATS. out: None = beside the store; of a URL, for beton alone, the one in the cache that training
        reads. root: for beton, where the images lie, see `open_index`. max_side_px, pixels: for beton, see
        `BetonSettings`. cache: for a URL, the folder that keeps what is fetched; None = the default one.
    Returns: what was written.
    Raises: UserError: an argument that the format does not take; as `export_beton` and `export_masks`.
    """
    store = place_of(store)
    is_for_cache = isinstance(store, str) and out is None
    if is_for_cache and (format_name != BETON or (max_side_px, pixels) != (None, None)):
        raise UserError("name a file with --out: of a URL only the .beton that pretrain reads has a place of its own.")
    if is_for_cache:
        return beton_of(StoreSource(store=store, cache=cache, root=root))
    if format_name in MASK_FORMATS and (root, max_side_px, pixels) != (None, None, None):
        raise UserError(f"--root, --max-side-px and --pixels are for --format beton; {format_name} holds masks alone.")
    opened = open_for_reading(store, cache)
    if format_name in MASK_FORMATS:
        return export_masks(opened, format_name, out)
    from backdrop.pipeline.beton.writer import export_beton  # here: FFCV, which it takes, is an extra

    side_px = side_px_of(opened.dataset) if max_side_px is None else max_side_px
    settings = BetonSettings(max_side_px=side_px, pixels=pixels or BetonSettings.pixels)
    return export_beton(opened, reopen_index(opened, root), out, settings=settings)
