"""Named settings; a file's name is the recipe's name on the command line.

A file provides `settings(method, background, with_cast) -> RunSettings`; its docstring says which table it reproduces.
"""

from pkgutil import iter_modules

NAMES = tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))
