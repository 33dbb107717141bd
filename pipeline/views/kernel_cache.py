"""Kernels cached on disk are compiled again when a file they call into changes.

Numba keys its cache by the file a function stands in. A kernel that calls one of another file would go on running the
old code of that other file, silently, after an edit or an update.
"""

import sys
from pathlib import Path
from types import ModuleType

from numba.core.dispatcher import Dispatcher


def follow_sources(module_name: str, *others: ModuleType) -> None:
    """Make the cached kernels of a module valid only for the present state of other files too.

    Call it at the end of the module. module_name: `__name__`. others: every module whose kernels or constants its
    kernels use, directly or not.
    """
    module = sys.modules[module_name]
    stats = [Path(str(source.__file__)).stat() for source in (module, *others)]
    stamp = tuple((stat.st_mtime, stat.st_size) for stat in stats)
    for kernel in vars(module).values():
        # `_cache_file` is numba's own (0.60 to 0.68); without it there is no cache to go stale.
        cache_file = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
        if isinstance(kernel, Dispatcher) and kernel.__module__ == module_name and cache_file is not None:
            cache_file._source_stamp = stamp
