"""Backbones: an image batch to a feature map and to its spatial mean.

Shapes: B batch, C channels, H W rows and columns of the image, h w of the feature map, D features.
Weights carry torchvision's names (without `fc`), so a trained backbone loads into `torchvision.models` as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from stores.errors import UserError

if TYPE_CHECKING:
    from torchvision.models import ResNet

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class Backbone(nn.Module):
    """A residual network up to its last feature map.

    num_features: D. autocast_dtype: number format of the convolutions, None = float32; features leave as float32
    either way, so that heads, similarities and losses are never computed in a short format.
    """

    autocast_dtype: torch.dtype | None = None

    def __init__(self, network: ResNet, *, cifar_stem: bool) -> None:
        super().__init__()
        self.num_features: int = network.fc.in_features
        self.conv1: nn.Module = network.conv1
        self.bn1 = network.bn1
        self.relu = network.relu
        self.maxpool: nn.Module = network.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        )
        if cifar_stem:
            # He et al. 2016, section 4.2: small images keep their resolution at the entrance.
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()

    def forward_map(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the last feature map.

        Args: image_BCHW: float (B, 3, H, W), normalised. Returns: float32 (B, D, h, w).
        """
        dtype = self.autocast_dtype
        with torch.autocast(image_BCHW.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            stem = self.maxpool(self.relu(self.bn1(self.conv1(image_BCHW))))
            map_BDhw = self.layer4(self.layer3(self.layer2(self.layer1(stem))))
        return map_BDhw.float()

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the spatial mean of the last feature map.

        Args: image_BCHW: float (B, 3, H, W), normalised. Returns: float32 (B, D).
        """
        return self.forward_map(image_BCHW).mean(dim=(2, 3))


def build_backbone(name: str, *, cifar_stem: bool = False) -> Backbone:
    """Build an untrained backbone; weights are drawn from torch's current generator.

    Args: name: one of NAMES. cifar_stem: 3x3 convolution of stride 1 and no max-pool, for images of 32 to 64 px.
    Raises: UserError: unknown name.
    """
    if name not in NAMES:
        raise UserError(f"unknown backbone {name!r}; allowed: {', '.join(NAMES)}")
    import torchvision  # here: it takes as long to import as torch, and a mistake in the settings need not wait

    return Backbone(torchvision.models.get_model(name, weights=None), cifar_stem=cifar_stem)
