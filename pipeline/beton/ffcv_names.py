"""Everything we take from FFCV, imported without its side effects.

Importing FFCV sets the number of threads of torch and numba to 1 for the whole process; both are put back. It also
fills a numba dictionary, which numba compiles anew in every process for five seconds; FFCV only ever reads it from
Python, so it gets a plain one.
"""

import numba
import numba.typed
import torch

_num_torch_threads, _num_numba_threads = torch.get_num_threads(), numba.get_num_threads()
_typed_dict, numba.typed.Dict = numba.typed.Dict, dict

from ffcv.fields.base import ARG_TYPE, Field  # noqa: E402
from ffcv.libffcv import lib  # noqa: E402
from ffcv.loader.epoch_iterator import EpochIterator  # noqa: E402
from ffcv.loader.loader import Loader  # noqa: E402
from ffcv.memory_allocator import MemoryAllocator  # noqa: E402
from ffcv.memory_managers.base import MemoryContext, MemoryManager  # noqa: E402
from ffcv.pipeline.allocation_query import AllocationQuery  # noqa: E402
from ffcv.pipeline.compiler import Compiler  # noqa: E402
from ffcv.pipeline.graph import Graph  # noqa: E402
from ffcv.pipeline.operation import Operation  # noqa: E402
from ffcv.pipeline.pipeline_spec import PipelineSpec  # noqa: E402
from ffcv.pipeline.state import State  # noqa: E402
from ffcv.reader import Reader  # noqa: E402
from ffcv.traversal_order.base import TraversalOrder  # noqa: E402
from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType  # noqa: E402
from ffcv.writer import DatasetWriter  # noqa: E402

numba.typed.Dict = _typed_dict
torch.set_num_threads(_num_torch_threads)
numba.set_num_threads(_num_numba_threads)

__all__ = [
    "ALLOC_TABLE_TYPE",
    "ARG_TYPE",
    "AllocationQuery",
    "Compiler",
    "DatasetWriter",
    "EpochIterator",
    "Field",
    "FieldDescType",
    "Graph",
    "HeaderType",
    "Loader",
    "MemoryAllocator",
    "MemoryContext",
    "MemoryManager",
    "Operation",
    "PipelineSpec",
    "Reader",
    "State",
    "TraversalOrder",
    "lib",
]
