"""The .beton of a published store: exported once into the cache folder, and read from there by every run."""

from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.pipeline.beton.reader import BetonSettings, is_written
from backdrop.stores.datasets import reopen_index
from backdrop.stores.format.reader import Store
from backdrop.stores.sharing.store_cache import NEXT_STEP, locked


def cached_beton(store: Store, root: Path | None = None) -> Path:
    """Return the .beton of a published store, CACHE/<store id>.beton, which is made if it is not there.

    Of several processes one makes it, the others wait. When it is there, nothing is fetched and no image is looked at.

    Args: store: opened by `stores.sharing.store_cache.open_published`. root: folder of its data set, see `open_index`.
    Raises: UserError as `reopen_index` and `export_beton`.
    """
    beton = store.path.with_suffix(".beton")
    settings = BetonSettings()
    if is_written(beton, store, settings):
        return beton
    with disk_errors(beton, NEXT_STEP), locked(store.path.with_suffix(".locks") / "beton"):
        if not is_written(beton, store, settings):
            from backdrop.pipeline.beton.writer import export_beton  # here: FFCV, which it takes, is an extra

            export_beton(store, reopen_index(store, root), beton)
    return beton
