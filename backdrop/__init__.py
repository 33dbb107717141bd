"""Backdrop: foreground masks, background augmentation and CAST for self-supervised vision.

The floors (`backdrop.stores`, `.saliency`, `.pipeline`, `.trainer`) and the command line (`backdrop.cli`) lie beside
this folder in a checkout and are linked into it; installed, they lie in it. The files here are what every floor uses.
"""

import warnings

# Numba warns at length, in every process that imports it, where the machine has no locks between processes: it would
# want one for parallel loops of its own, which we have none of. Who does want one says so: `child_processes`.
warnings.filterwarnings("ignore", "Could not obtain multiprocessing lock")
