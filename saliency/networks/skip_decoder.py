"""A decoder that draws a map at half of the image's size: the backbone's last features, joined to its earlier ones.

Ours; after Ronneberger et al., "U-Net", MICCAI 2015, Figure 1 (features of the same size joined on the way up). What
the whole image holds is given to every place, as in Liu et al., "ParseNet", 2015. Shapes: B images, C channels,
H rows, W columns.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SkipDecoder(nn.Module):
    """Features at 1/8, 1/4 and 1/2 of the image's size -> features at 1/2.

    Args:
        inputs: channels of the features at 1/8, at 1/4 and at 1/2.
        channels: of what it makes at each of these sizes.
    """

    def __init__(self, inputs: tuple[int, int, int], channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.top = _conv_norm(2 * inputs[0], channels[0], 1)
        self.at_quarter = _conv_norm(channels[0] + inputs[1], channels[1], 3)
        self.at_half = _conv_norm(channels[1] + inputs[2], channels[2], 3)
        self.out_channels = channels[2]

    def forward(self, eighth_BCHW: Tensor, quarter_BCHW: Tensor, half_BCHW: Tensor) -> Tensor:
        """Join the three: float (B, out_channels, H, W) at the size of `half_BCHW`."""
        whole_BCHW = eighth_BCHW.mean(dim=(2, 3), keepdim=True).expand_as(eighth_BCHW)
        features_BCHW = self.top(torch.cat([eighth_BCHW, whole_BCHW], 1))
        features_BCHW = self.at_quarter(_joined(features_BCHW, quarter_BCHW))
        return self.at_half(_joined(features_BCHW, half_BCHW))


def _conv_norm(in_channels: int, out_channels: int, kernel_px: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_px, padding=kernel_px // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _joined(coarse_BCHW: Tensor, fine_BCHW: Tensor) -> Tensor:
    larger_BCHW = functional.interpolate(coarse_BCHW, fine_BCHW.shape[2:], mode="bilinear")
    return torch.cat([larger_BCHW, fine_BCHW], 1)
