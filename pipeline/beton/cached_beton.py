"""The .beton of a published store: fetched or exported once into the cache folder, and read from there by every run."""

from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import locked
from backdrop.errors import StorageUnreachable, UserError
from backdrop.pipeline.beton.published_beton import pull_beton
from backdrop.pipeline.beton.reader import read_sidecar
from backdrop.pipeline.beton.writer import export_beton
from backdrop.stores.datasets import reopen_index
from backdrop.stores.format.reader import Store
from backdrop.stores.sharing.store_cache import NEXT_STEP


def cached_beton(store: Store, url: str, root: Path | None = None) -> Path:
    """Return the .beton of a published store, CACHE/<store id>.beton, which is fetched or made if it is not there.

    Of several processes one does it, the others wait. When it is there, nothing is fetched and no image is looked at.

    Args: store: opened by `stores.sharing.store_cache.open_published`. url: where it is published; a .beton that lies
        there too is taken as it is. root: folder of its data set, see `open_index`, to make it of these images.
    Raises: UserError as `pull_beton`, `reopen_index` and `export_beton`.
    """
    beton = store.path.with_suffix(".beton")
    if _is_there(beton, store):
        return beton
    with disk_errors(beton, NEXT_STEP), locked(store.path.with_suffix(".locks") / "beton"):
        if not _is_there(beton, store) and not (root is None and _is_fetched(beton, store, url)):
            export_beton(store, reopen_index(store, root), beton)
    return beton


def _is_there(beton: Path, store: Store) -> bool:
    try:
        return read_sidecar(beton)["store_id"] == store.store_id
    except UserError:
        return False


def _is_fetched(beton: Path, store: Store, url: str) -> bool:
    """Fetch the .beton that is published, if one is."""
    assert store.store_id is not None, "a published store is finished"
    try:
        return pull_beton(url, store.store_id, beton) is not None
    except StorageUnreachable:  # the store itself has been read before, and its images may be here
        return False
