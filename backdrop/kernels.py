"""Compiled kernels: every function of ours that numba compiles is decorated here, so that what surrounds numba is too.

- Compiled code is kept on disk where one may write: `NUMBA_CACHE_DIR`, beside the source, or the user's cache folder.
  Where none is there, kernels are compiled anew in every process, and one warning says so.
- Processes that start together wait for the first of them, which compiles, and load what it keeps.
- Numba keys its cache by the file a function stands in. A kernel that calls one of another file would go on running
  the old code of that other file, silently, after an edit or an update: `follow_sources`.
- A kernel that another one calls is a part of that one, not a whole of its own: `kernel_parts`, a third of the time.
- FFCV changes types that numba shares between all kernels of a process: `ffcv_types`.
"""

import fcntl
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import njit
from numba.core.dispatcher import Dispatcher

from backdrop import ffcv_types
from backdrop.kernel_parts import link_as_part
from backdrop.progress import note, warn

# Set once the user has been told, in the environment: worker processes need not tell it again.
_TOLD_VARIABLE = "BACKDROP_TOLD_OF_KERNEL_CACHE"

ffcv_types.guard()


def kernel(function: Callable[..., Any] | None = None, *, says: str = "", **options: Any) -> Any:
    """Compile a function on its first call, without the GIL, and keep the compiled code on disk.

    Args: function: as a decorator without brackets. says: to the user before it is compiled, where that takes seconds.
        options: of `numba.njit`.
    Returns: the compiled function, or the decorator that makes it.
    """

    def decorate(function: Callable[..., Any]) -> Dispatcher:
        dispatcher = njit(nogil=True, **options)(function)
        link_as_part(dispatcher, options)
        _enable_cache(dispatcher, says)
        return dispatcher

    return decorate if function is None else decorate(function)


def compiled_in(compiled: Any) -> str:
    """Return the folder in which a kernel's code is kept, "" where it is not. Args: compiled: what `kernel` made."""
    return getattr(compiled._cache, "cache_path", None) or ""


def follow_sources(module_name: str, *others: ModuleType) -> None:
    """Make the cached kernels of a module valid only for the present state of other files too.

    Call it at the end of the module. module_name: `__name__`. others: every module whose kernels or constants its
    kernels use, directly or not.
    """
    module = sys.modules[module_name]
    stats = [Path(str(source.__file__)).stat() for source in (module, *others)]
    stamp = tuple((stat.st_mtime, stat.st_size) for stat in stats)
    for member in vars(module).values():
        # `_cache_file` is numba's own (0.60 to 0.68); without it there is no cache to go stale.
        cache_file = getattr(getattr(member, "_cache", None), "_cache_file", None)
        if isinstance(member, Dispatcher) and member.__module__ == module_name and cache_file is not None:
            cache_file._source_stamp = stamp


def _enable_cache(dispatcher: Any, says: str) -> None:
    """Keep a kernel's code on disk, or leave it without where that cannot be done: a cache must not stop a run."""
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        _tell(f"no folder for it can be written (beside {dispatcher.py_func.__code__.co_filename}, in your home)")
        return
    cache = dispatcher._cache
    load, save, compile_any = cache.load_overload, cache.save_overload, dispatcher.compile

    def compile_alone(signature: Any) -> Any:
        with _locked(Path(cache.cache_path) / f"{dispatcher.__module__}.{dispatcher.__name__}.lock"):
            return compile_any(signature)

    def load_overload(signature: Any, context: Any) -> Any:
        try:
            loaded = load(signature, context)
        except (AttributeError, ImportError):  # its index names types of another version of ours
            cache.flush()
            return None
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:  # a file of another user, or cut off
            _tell(f"{cache.cache_path} cannot be read ({error})")
            return None
        if loaded is None and says:
            note(says)
        return loaded

    def save_overload(signature: Any, compiled: Any) -> None:
        try:
            save(signature, compiled)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:  # a full disk, or an index cut off
            _tell(f"{cache.cache_path} cannot be written ({error})")

    cache.load_overload, cache.save_overload, dispatcher.compile = load_overload, save_overload, compile_alone


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes out; not where a folder cannot be written or knows no locks: there all compile at once.

    A lock of the process, which its threads share (numba has one of its own for them), and which goes with it.
    """
    with ExitStack() as opened:
        with suppress(OSError):
            fcntl.lockf(opened.enter_context(path.open("a")), fcntl.LOCK_EX)
        yield


def _tell(why: str) -> None:
    if os.environ.get(_TOLD_VARIABLE):
        return
    os.environ[_TOLD_VARIABLE] = "1"
    warn(
        f"compiled code is not kept: {why}. Every process compiles for a minute first; set NUMBA_CACHE_DIR to a folder "
        "of your own that can be written"
    )
