"""The .beton that is read for a store: the one beside a store on this machine, or that of a published one."""

from dataclasses import dataclass
from pathlib import Path

from backdrop.errors import UserError, program
from backdrop.pipeline.beton import shards
from backdrop.pipeline.beton.cached_beton import cached_beton
from backdrop.pipeline.beton.reader import read_sidecar
from backdrop.stores.format.reader import open_store
from backdrop.stores.sharing.place import place_of
from backdrop.stores.sharing.store_cache import cache_folder, open_published


@dataclass(frozen=True, kw_only=True)
class StoreSource:
    """Which store is read, and from where.

    store: STORE.zarr with its .beton beside it, or the .beton, or the URL of a published store; as `place_of` gives it.
    cache: for a URL, the folder that keeps what is fetched and the .beton made of it; None = the default one.
    root: for a URL, where the images lie, see `open_index`.
    dataset: what the store has to be of, as `open_index` takes it; None = any.
    """

    store: Path | str
    cache: Path | None = None
    root: Path | None = None
    dataset: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", place_of(self.store))


def beton_of(source: StoreSource) -> Path:
    """Return the .beton of a store, which is what training reads.

    Raises: UserError: it is not there, or of another data set; a root for what has its images already.
    """
    store = source.store
    if source.root is not None and not isinstance(store, str):
        raise UserError("--root says where the images of a published store lie; a .beton holds them already.")
    beton = _published_beton(store, source) if isinstance(store, str) else find_beton(Path(store))
    _check_dataset(source.dataset, read_sidecar(beton)["dataset"], store)
    return beton


def find_beton(store: Path) -> Path:
    """Return the beton of a store, which is what training reads.

    Args: store: X.zarr, or X.beton itself, whether a file or a folder of shards; or a pattern of the shards' names.
    Raises: UserError: it is not there, with the command that makes it.
    """
    if (whole := shards.whole_of(store)) is not None:
        return whole
    if store.suffix not in (".zarr", ".beton"):
        raise UserError(f"--store {store} is neither a .zarr store nor a .beton; give one of those")
    if not store.exists() and store.suffix == ".zarr":
        raise UserError(f"there is no store at {store}; make it: {program()} build-store --dataset NAME --out {store}")
    if store.suffix == ".zarr":
        open_store(store)  # one that is half built says so
    beton = store.with_suffix(".beton")
    if not beton.exists():
        zarr = store.with_suffix(".zarr")
        raise UserError(f"there is no file {beton}; make it: {program()} store export {zarr} --format beton")
    return beton


def _published_beton(url: str, source: StoreSource) -> Path:
    """The beton of a published store, out of the cache."""
    store = open_published(url, cache_folder(source.cache))
    _check_dataset(source.dataset, store.dataset, url)  # before all of it is fetched
    return cached_beton(store, url, source.root)


def _check_dataset(wanted: str | None, found: str, store: Path | str) -> None:
    """Raise UserError when a store is of another data set than the user says; it records the name alone."""
    if wanted is not None and wanted.partition(":")[0] != found:
        raise UserError(
            f"--dataset is {wanted}, but {store} is a store of {found}; name a store of {wanted}, or leave out "
            "--dataset: it says nothing that --store does not"
        )
