"""Learning-free detectors; a file's name is the detector's name on the command line (a leading underscore hides it)."""

from pkgutil import iter_modules

NAMES = tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))
