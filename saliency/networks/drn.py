"""Dilated residual networks, family D, and the segmentation model of DeepUSPS on top of them.

Yu, Koltun, Funkhouser, "Dilated Residual Networks", CVPR 2017, section 3: a residual network whose last two stages
dilate instead of striding, so that the output keeps 1/8 of the image's size, followed by two convolutions without
residual that remove the gridding of the dilation. Shapes: B images, C channels, H rows, W columns.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.saliency.networks.resnet import RESNET50_S8, DilatedResNet50
from backdrop.saliency.networks.skip_decoder import SkipDecoder
from backdrop.saliency.networks.vit import VITS, VitFeatureMap

STRIDE_PX = 8


@dataclass(frozen=True, kw_only=True)
class DrnTable:
    """The layer table of one network: everything that tells the family's members apart."""

    blocks: tuple[int, int, int, int]
    # residual blocks in stages 3, 4, 5 and 6
    channels: tuple[int, int, int, int, int, int, int, int] = (16, 32, 64, 128, 256, 512, 512, 512)
    # channels of stages 1 to 8; a bottleneck's output has four times its entry
    is_bottleneck: bool
    # 1x1-3x3-1x1 blocks of expansion 4, or blocks of two 3x3
    decoder_channels: tuple[int, int, int] | None = None
    # of the segmenter's `SkipDecoder`; None = the authors' head alone


_SMALL = DrnTable(blocks=(1, 1, 1, 1), channels=(8, 16, 32, 64, 96, 128, 128, 128), is_bottleneck=False)
TABLES = {
    "drn_d_22": DrnTable(blocks=(2, 2, 2, 2), is_bottleneck=False),
    "drn_d_38": DrnTable(blocks=(3, 4, 6, 3), is_bottleneck=False),
    "drn_d_54": DrnTable(blocks=(3, 4, 6, 3), is_bottleneck=True),
    "drn_d_105": DrnTable(blocks=(3, 4, 23, 3), is_bottleneck=True),
    # Ours: the same code, narrow and shallow enough to train on a CPU within an hour, within a minute.
    "drn_d_small": _SMALL,
    "drn_d_small_skips": replace(_SMALL, decoder_channels=(48, 32, 16)),
    "drn_d_tiny": DrnTable(blocks=(1, 1, 1, 1), channels=(8, 8, 16, 32, 48, 64, 64, 64), is_bottleneck=False),
}
# What a segmenter's backbone may be: ours, and those that were published, which end at 1/8 or at one patch.
PUBLISHED = (RESNET50_S8, *VITS)
ARCHITECTURES = (*TABLES, *PUBLISHED)


def _conv_norm(
    in_channels: int, out_channels: int, kernel_px: int, *, stride_px: int = 1, dilation: int = 1
) -> list[nn.Module]:
    padding_px = dilation * (kernel_px // 2)
    return [
        nn.Conv2d(in_channels, out_channels, kernel_px, stride_px, padding_px, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


class ResidualBlock(nn.Module):
    """relu(branch(x) + shortcut(x)); the branch is two 3x3 convolutions or a bottleneck.

    Args:
        in_channels: of the input.
        width: channels of the branch's 3x3 convolutions.
        stride_px: of the branch's first 3x3 convolution.
        dilation: of the 3x3 convolutions.
        is_bottleneck: whether the branch is 1x1-3x3-1x1 with four times `width` channels at its end.
    """

    def __init__(self, in_channels: int, width: int, stride_px: int, dilation: int, is_bottleneck: bool) -> None:
        super().__init__()
        out_channels = 4 * width if is_bottleneck else width
        if is_bottleneck:
            layers = [
                *_conv_norm(in_channels, width, 1),
                nn.ReLU(inplace=True),
                *_conv_norm(width, width, 3, stride_px=stride_px, dilation=dilation),
                nn.ReLU(inplace=True),
                *_conv_norm(width, out_channels, 1),
            ]
        else:
            layers = [
                *_conv_norm(in_channels, width, 3, stride_px=stride_px, dilation=dilation),
                nn.ReLU(inplace=True),
                *_conv_norm(width, width, 3, dilation=dilation),
            ]
        self.branch = nn.Sequential(*layers)
        is_same_shape = stride_px == 1 and in_channels == out_channels
        self.shortcut: nn.Module = (
            nn.Identity()
            if is_same_shape
            else nn.Sequential(*_conv_norm(in_channels, out_channels, 1, stride_px=stride_px))
        )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """One block: (B, C, H, W) -> (B, C', H / stride, W / stride)."""
        return functional.relu(self.branch(features_BCHW) + self.shortcut(features_BCHW))


def _residual_stage(
    in_channels: int, width: int, num_blocks: int, stride_px: int, dilation: int, is_bottleneck: bool
) -> nn.Sequential:
    out_channels = 4 * width if is_bottleneck else width
    blocks = [ResidualBlock(in_channels, width, stride_px, dilation, is_bottleneck)]
    blocks += [ResidualBlock(out_channels, width, 1, dilation, is_bottleneck) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


class Drn(nn.Module):
    """Backbone: image -> features at 1/8 of its size.

    Args:
        architecture: a name of `TABLES`.
    """

    stride_px = STRIDE_PX

    def __init__(self, architecture: str) -> None:
        super().__init__()
        table = TABLES[architecture]
        c, expansion = table.channels, 4 if table.is_bottleneck else 1
        inputs = (c[1], c[2] * expansion, c[3] * expansion, c[4] * expansion)
        # stages 3 and 4 stride; 5 and 6 dilate instead, all of their 3x3 convolutions alike
        strides_px, dilations = (2, 2, 1, 1), (1, 1, 2, 4)
        residual = [
            _residual_stage(inputs[i], c[i + 2], table.blocks[i], strides_px[i], dilations[i], table.is_bottleneck)
            for i in range(4)
        ]
        self.out_channels = c[7]
        self.stages = nn.Sequential(
            nn.Sequential(*_conv_norm(3, c[0], 7), nn.ReLU(inplace=True)),
            nn.Sequential(*_conv_norm(c[0], c[0], 3), nn.ReLU(inplace=True)),
            nn.Sequential(*_conv_norm(c[0], c[1], 3, stride_px=2), nn.ReLU(inplace=True)),
            *residual,
            nn.Sequential(*_conv_norm(c[5] * expansion, c[6], 3, dilation=2), nn.ReLU(inplace=True)),
            nn.Sequential(*_conv_norm(c[6], c[7], 3), nn.ReLU(inplace=True)),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kernel_area = module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, 0, math.sqrt(2 / (kernel_area * module.out_channels)))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, out_channels, ceil(H / 8), ceil(W / 8)) of normalised images (B, 3, H, W)."""
        return self.stages(images_BCHW)

    def at_sizes(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features at 1/8 of the image's size, and those of the last stages at 1/4 and 1/2."""
        half_BCHW = self.stages[:3](images_BCHW)
        quarter_BCHW = self.stages[3](half_BCHW)
        return self.stages[4:](quarter_BCHW), quarter_BCHW, half_BCHW


def backbone_of(architecture: str) -> Drn | DilatedResNet50 | VitFeatureMap:
    """Return a segmenter's backbone with random weights. Args: architecture: a name of `ARCHITECTURES`."""
    if architecture == RESNET50_S8:
        return DilatedResNet50()
    return VitFeatureMap(architecture) if architecture in VITS else Drn(architecture)


def pretrained_as(architecture: str) -> str:
    """The name under which `pretrain` knows a segmenter's backbone. Args: architecture: a name of `ARCHITECTURES`."""
    if architecture not in TABLES:
        return architecture
    plain = replace(TABLES[architecture], decoder_channels=None)
    return next(name for name, table in TABLES.items() if table == plain)


def _decoder_of(architecture: str) -> SkipDecoder | None:
    table = TABLES.get(architecture)
    if table is None or table.decoder_channels is None:
        return None
    c, expansion = table.channels, 4 if table.is_bottleneck else 1
    return SkipDecoder((c[7], c[2] * expansion, c[1]), table.decoder_channels)


def normalise_images(images_BHWC: Tensor, mean_RGB: tuple[float, ...], std_RGB: tuple[float, ...]) -> Tensor:
    """Scale to [0, 1], subtract the mean, divide by the deviation, channels first: float32 (B, 3, H, W).

    Args:
        images_BHWC: uint8 RGB.
        mean_RGB: of the channels, [0, 1].
        std_RGB: of the channels.
    """
    mean, std = (torch.tensor(v, device=images_BHWC.device) for v in (mean_RGB, std_RGB))
    return ((images_BHWC.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def bilinear_kernel(factor: int) -> Tensor:
    """The kernel of a transposed convolution that upsamples bilinearly: float32 (2 * factor, 2 * factor).

    Args:
        factor: upsampling factor, even.
    """
    position = torch.arange(2 * factor, dtype=torch.float32)
    weight = 1 - (position - (factor - 0.5)).abs() / factor
    return weight[:, None] * weight[None, :]


class DrnSegmenter(nn.Module):
    """The saliency network of DeepUSPS: backbone, 1x1 convolution to two channels, fixed bilinear upsampling.

    Architectures with a decoder (ours) have it between backbone and convolution.

    Args:
        architecture: a name of `ARCHITECTURES`.
        head_init_std: standard deviation of the 1x1 convolution's initial weights; its bias starts at 0.
    """

    upsampling_CHW: Tensor

    def __init__(self, architecture: str, head_init_std: float = 1.0) -> None:
        super().__init__()
        self.backbone = backbone_of(architecture)
        self.decoder = _decoder_of(architecture)
        self.head = nn.Conv2d((self.decoder or self.backbone).out_channels, 2, 1)
        nn.init.normal_(self.head.weight, 0, head_init_std)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        kernel = bilinear_kernel(self.backbone.stride_px)
        self.register_buffer("upsampling_CHW", kernel.expand(2, 1, *kernel.shape).contiguous(), persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, 2, H, W) of normalised images (B, 3, H, W); channel 0 is the foreground."""
        height, width = images_BCHW.shape[2:]
        stride_px = self.backbone.stride_px
        padded_BCHW = pad_to_stride(images_BCHW, stride_px)
        if self.decoder is not None:
            assert isinstance(self.backbone, Drn)
            logits_BCHW = self.head(self.decoder(*self.backbone.at_sizes(padded_BCHW)))
            return functional.interpolate(logits_BCHW, padded_BCHW.shape[2:], mode="bilinear")[:, :, :height, :width]
        features_BCHW = self.backbone(padded_BCHW)
        logits_BCHW = functional.conv_transpose2d(
            self.head(features_BCHW), self.upsampling_CHW, stride=stride_px, padding=stride_px // 2, groups=2
        )
        return logits_BCHW[:, :, :height, :width]

    def foreground(self, images_BCHW: Tensor) -> Tensor:
        """Probability of foreground (B, H, W) in [0, 1] of normalised images (B, 3, H, W)."""
        return self(images_BCHW).softmax(dim=1)[:, 0]


def pad_to_stride(images_BCHW: Tensor, stride_px: int = STRIDE_PX) -> Tensor:
    """Pad below and to the right to multiples of a stride by reflection (by replication where an image is too small).

    Args:
        images_BCHW: float (B, C, H, W).
        stride_px: of the backbone.
    """
    height, width = images_BCHW.shape[2:]
    below_px, right_px = -height % stride_px, -width % stride_px
    if below_px == right_px == 0:
        return images_BCHW
    mode = "reflect" if below_px < height and right_px < width else "replicate"
    return functional.pad(images_BCHW, (0, right_px, 0, below_px), mode=mode)
