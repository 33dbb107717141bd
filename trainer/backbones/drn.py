"""Dilated residual networks of DeepUSPS2's detector (Ryali et al. 2021, A.2): a map at 1/8 of the image's size.

Weights carry the names of `Drn`, so they load into the saliency network (`saliency train --backbone-weights`).
"""

import torch

from backdrop.saliency.networks.drn import TABLES, Drn
from backdrop.trainer.backbones import Published
from backdrop.trainer.parts.backbones import Backbone

# A decoder is the segmenter's, not the backbone's.
NAMES = tuple(name for name, table in TABLES.items() if table.decoder_channels is None)
PREFIX = ""
HAS_CIFAR_STEM = False
CELL_PX = 8


def build(name: str, *, cifar_stem: bool) -> Backbone:
    """Build an untrained DRN without its classifier."""
    drn = Drn(name)
    return Backbone({"stages": drn.stages}, drn.out_channels)


def published(tensors: dict[str, torch.Tensor], what: str) -> Published | None:
    """Recognise none: weights of DRNs are read where a file says their name, as a run's does."""
    return None
