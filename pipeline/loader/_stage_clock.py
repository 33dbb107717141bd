"""Where a row's time goes: a clock that kernels read between the stages of a row, and one sum per stage and thread.

The clock is the system's monotonic one (`time.perf_counter_ns` on Linux reads the same), which needs no calibration and
no system call: some 30 ns a reading, of which a row takes a few more than it has views.
"""

import ctypes
import time
from typing import Any

import llvmlite.binding
import numpy as np
from numba import types

from backdrop.kernels import kernel

# Of one row, in the order of the work. "checks" are places in the file and checksums, "masks" both unfolding and
# cropping, "donors" all that a drawn background costs.
STAGES = ("checks", "decode", "boxes", "resize", "masks", "donors")
CHECKS, DECODE, BOXES, RESIZE, MASKS, DONORS = range(len(STAGES))

# As in pipeline/beton/scene_kernels.py: compiled code that is cached on disk refers to a name, not to an address.
_GET_TIME = "backdrop_clock_gettime"
llvmlite.binding.add_symbol(_GET_TIME, ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value)
_get_time: Any = types.ExternalFunction(_GET_TIME, types.int32(types.int32, types.uintp))
_CLOCK = time.CLOCK_MONOTONIC
# A thread's clock: seconds and nanoseconds as the system writes them, the last reading, then the sum of each stage.
_LAST, _SUMS = 2, 3


def make_clock() -> np.ndarray:
    """Return the clock of one thread, all sums 0; int64."""
    return np.zeros(_SUMS + len(STAGES), np.int64)


def stage_sums(clock: np.ndarray) -> np.ndarray:
    """Return nanoseconds per stage, int64 (len(STAGES),); one that another thread is filling may lag by a stage."""
    return clock[_SUMS:].copy()


@kernel
def _now_ns(clock: np.ndarray) -> int:
    _get_time(np.int32(_CLOCK), clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@kernel
def start_clock(clock: np.ndarray) -> None:
    """What follows belongs to the stage that is ended next."""
    clock[_LAST] = _now_ns(clock)


@kernel
def end_stage(clock: np.ndarray, stage: int) -> None:
    """Count the time since the last reading as the stage's."""
    before = clock[_LAST]
    start_clock(clock)
    clock[_SUMS + stage] += clock[_LAST] - before
