"""Backdrop: foreground masks, background augmentation and CAST for self-supervised vision.

    import backdrop
    store = backdrop.open_store("photos.zarr")
    mask_HW = store.mask(store.row_of("dogs/1.jpg"))

The names of `__init__.pyi` (`dir(backdrop)`) are for programs; `backdrop/LIBRARY.md` shows them at work. Each is
imported when it is first asked for.

The floors (`backdrop.stores`, `.saliency`, `.pipeline`, `.trainer`) and the command line (`backdrop.cli`) lie beside
this folder in a checkout and are linked into it; installed, they lie in it. The files here are what every floor uses.
"""

import warnings
from functools import cache

# Numba warns at length, in every process that imports it, where the machine has no locks between processes: it would
# want one for parallel loops of its own, which we have none of. Who does want one says so: `child_processes`.
warnings.filterwarnings("ignore", "Could not obtain multiprocessing lock")


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Name here -> its module and its name there, as the stub states them."""
    import ast
    from pathlib import Path

    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def __getattr__(name: str) -> object:
    """Import a name of the stub. Raises: AttributeError: it has none such."""
    if name == "__all__":
        return sorted(_places())
    if name.startswith("__") or name not in _places():
        raise AttributeError(f"module 'backdrop' has no attribute {name!r}")
    from importlib import import_module

    module, theirs = _places()[name]
    found = globals()[name] = getattr(import_module(module), theirs)
    return found


def __dir__() -> list[str]:
    """The names of the stub beside the module's own."""
    return sorted({*globals(), *_places()})
