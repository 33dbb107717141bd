"""AlexNet as torchvision builds it, under its names without `classifier`, and RotNet's with BatchNorms.

`alexnet_bn` has a BatchNorm after each convolution (Gidaris et al. 2018, released code). Both end at conv5 with its
ReLU, where RotNet is evaluated; the last pooling is the head's.
"""

import torch
from torch import nn

from backdrop.trainer.backbones import Published
from backdrop.trainer.parts.backbones import Backbone

NAMES = ("alexnet", "alexnet_bn")
PREFIX = ""
HAS_CIFAR_STEM = False
CELL_PX = 16


def build(name: str, *, cifar_stem: bool) -> Backbone:
    """Build an untrained AlexNet up to conv5."""
    import torchvision  # here: it takes as long to import as torch

    features = torchvision.models.get_model("alexnet", weights=None).features[:-1]
    num_features = next(layer.out_channels for layer in reversed(features) if isinstance(layer, nn.Conv2d))
    if name == "alexnet_bn":
        layers: list[nn.Module] = []
        for layer in features:
            layers.append(layer)
            if isinstance(layer, nn.Conv2d):
                layers.append(nn.BatchNorm2d(layer.out_channels))
        features = nn.Sequential(*layers)
    return Backbone({"features": features}, num_features)


def published(tensors: dict[str, torch.Tensor], what: str) -> Published | None:
    """Recognise none: weights of AlexNets are read where a file says their name, as a run's does."""
    return None
