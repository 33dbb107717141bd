"""What we take from FFCV, for those who read a .beton with it, imported without its side effects.

Importing FFCV sets the number of threads of torch and numba to 1 for the whole process; both are put back. It also
fills a numba dictionary, which numba compiles anew in every process for five seconds; FFCV only ever reads it from
Python, so it gets a plain one.
"""

import importlib.util

import numba
import numba.typed
import torch

from backdrop.errors import UserError

if importlib.util.find_spec("ffcv") is None:
    raise UserError(
        "FFCV is not installed, and only reading a .beton with FFCV itself takes it: pip install "
        "'backdrop-ssl[ffcv]' (it is compiled: `doctor` says what that takes)"
    )

_num_torch_threads, _num_numba_threads = torch.get_num_threads(), numba.get_num_threads()
_typed_dict, numba.typed.Dict = numba.typed.Dict, dict

from ffcv.fields.base import ARG_TYPE, Field  # noqa: E402

numba.typed.Dict = _typed_dict
torch.set_num_threads(_num_torch_threads)
numba.set_num_threads(_num_numba_threads)

__all__ = ["ARG_TYPE", "Field"]
