"""Find what a run was trained on, also when it was moved: a store and its .beton are known by the store's id."""

from pathlib import Path
from typing import Any

from backdrop.errors import UserError
from backdrop.pipeline.beton.reader import read_sidecar
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.sharing.store_cache import open_published


def find_beton(run: Path, provenance: dict[str, Any]) -> Path:
    """Return the .beton a run read: where run.json says (`beton`), else beside the run.

    Args: run: the run's folder. provenance: its run.json.
    Raises: UserError: none of them is of the run's store, with what was looked at.
    """
    wanted = str(provenance.get("store_id"))
    recorded = [Path(provenance["beton"])] if provenance.get("beton") else []
    reasons = []
    for path in recorded + sorted(run.absolute().parent.glob("*.beton")):
        try:
            store_id = read_sidecar(path)["store_id"]
        except UserError as error:
            reasons.append(str(error))
            continue
        if store_id == wanted:
            return path
        reasons.append(f"{path} is of store {str(store_id)[:12]}")
    seen = "; ".join(reasons) or f"there is no .beton beside {run}"
    raise UserError(
        f"What this run was trained on (store {wanted[:12]}) is not at hand, so no picture of it can be shown. Put its "
        f".beton and .beton.json beside the run's folder and write the report again. Looked at: {seen}."
    )


def find_store(beton: Path, provenance: dict[str, Any]) -> Store:
    """Open the store that a .beton was exported from: the .zarr beside it, or in a cache that of a published one.

    Raises: UserError: it is not there, cannot be opened, or is another store.
    """
    url, beside = provenance.get("store_url"), beton.with_suffix(".zarr")
    store = open_published(url, beton.parent) if url and beside.is_dir() else open_store(beside)
    if store.store_id != provenance.get("store_id"):
        raise UserError(f"{store.path} is another store ({str(store.store_id)[:12]}) than the run was trained on.")
    return store
