"""Evaluations; a file's name, with hyphens, is its name on the command line."""

from pkgutil import iter_modules

_FILES = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
NAMES = tuple(name.replace("_", "-") for name in _FILES)
