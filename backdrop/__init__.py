"""Backdrop: foreground masks, background augmentation and CAST for self-supervised vision.

The floors (`backdrop.stores`, `.saliency`, `.pipeline`, `.trainer`) and the command line (`backdrop.cli`) lie beside
this folder in a checkout and are linked into it; installed, they lie in it. The files here are what every floor uses.
"""
