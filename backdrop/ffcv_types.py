"""FFCV's Loader and numba's types: a guard, so that our kernels work beside it in one process.

FFCV 1.0.2 wants arrays that are read-only in its compiled code. It asks numba for `uint8[::1]`, which is one object for
all kernels of the process, and sets `mutable = False` on that. The type's hash changes with it: signatures that hold it
are not found any more (`KeyError` when a kernel that was compiled before is called by a new one), and new kernels may
not write to such arrays. Here FFCV gets read-only types of its own instead.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

# The modules that do it, and the types whose arrays they change.
_CHANGED = {
    "ffcv.memory_managers.os_cache": ("uint8",),
    "ffcv.memory_managers.process_cache.manager": ("uint8", "uint32", "uint64"),
}


def guard() -> None:
    """Give FFCV types of its own: now where it has been imported, else when it will be."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name in _CHANGED:
        if name in sys.modules:
            _give_types(sys.modules[name])


class _Finder(MetaPathFinder):
    """Finds those modules as Python does, and looks after them once they are loaded."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the module's own specification, with the guard behind its code; None for all other modules."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _CHANGED else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_guard(module: ModuleType) -> None:
            run(module)
            _give_types(module)

        spec.loader.exec_module = run_and_guard  # type: ignore[method-assign]
        return spec


def _give_types(module: ModuleType) -> None:
    """Let a module's name `nb` stand for what it uses of numba, arrays of the changed types being others."""
    numba: Any = module.nb
    if isinstance(numba, ModuleType):  # else another copy of this guard was here
        own = {name: _ReadOnly(getattr(numba, name)) for name in _CHANGED[module.__name__]}
        module.nb = SimpleNamespace(**{**vars(numba), **own})  # type: ignore[attr-defined]


class _ReadOnly:
    """A number type whose array types are read-only and nobody else's."""

    def __init__(self, number: Any) -> None:
        self._number = number

    def __getitem__(self, layout: Any) -> Any:
        return self._number[layout].copy(readonly=True)
