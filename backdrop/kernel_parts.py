"""Kernels as parts of others: what one kernel calls of another is optimised once, with the kernel that Python calls.

Numba makes a whole of every function on the way: wrappers for Python and C, all that it calls linked in and optimised
again, machine code. Of kernels that call kernels that call kernels only the outermost needs any of that. Here a callee
is type-checked and lowered once a process and no more; LLVM sees it when a caller that Python calls is finished.
"""

from typing import Any

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


def link_as_part(dispatcher: Any, options: dict[str, Any]) -> None:
    """Let kernels that call a kernel get a part instead of a whole.

    Args: dispatcher: what `njit` made of the function. options: that it was made with.
    """
    options = options | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": _Part}
    part: Any = njit(**options)(dispatcher.py_func)
    # What numba asks a function for that is called by another one: its types, and what stands for it in lowering.
    dispatcher.get_call_template, dispatcher.get_overload = part.get_call_template, part.get_overload


class _PartLibrary(JITCodeLibrary):
    """Code of a function with all that it calls, not optimised, and no machine code."""

    def finalize(self) -> None:
        """Link, and leave the rest to whoever links this."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    """Numba's lowering into such a library."""

    _name = "backdrop_part_lowering"

    def run_pass(self, state: Any) -> bool:
        """Lower a function; what would be the function for Python becomes a mere key by which numba finds the code."""
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        key: Any = [].append  # any function in C, as numba wants, that is equal to no other
        lowered = state["cr"]._replace(cfunc=key)
        state.targetctx.insert_user_function(key, lowered.fndesc, [state.library])
        state["cr"] = lowered
        return True


class _Part(CompilerBase):
    """Numba's passes with that lowering."""

    def define_pipelines(self) -> list[Any]:
        """Return the one pipeline."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_PartLowering if each is NativeLowering else each, why) for each, why in passes.passes]
        passes.finalize()
        return [passes]
