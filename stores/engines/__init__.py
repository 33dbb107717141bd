"""Ways to run the parts of a build; a file's name is the engine's name on the command line."""

from pkgutil import iter_modules

NAMES = tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))
