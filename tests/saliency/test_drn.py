"""The DRN family by its published sizes, and the segmentation model on top."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from backdrop.saliency.networks.drn import Drn, DrnSegmenter, bilinear_kernel, pad_to_stride, pretrained_as


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "total", "backbone"),
    [
        ("drn_d_22", 16_393_752, 15_880_752),
        ("drn_d_38", 26_501_912, 25_988_912),
        ("drn_d_54", 35_809_176, 35_296_176),
        ("drn_d_105", 54_801_304, 54_288_304),
    ],
)
def test_parameters_are_as_published(architecture: str, total: int, backbone: int) -> None:
    with torch.device("meta"):
        model = Drn(architecture)
        classifier = nn.Conv2d(model.out_channels, 1000, 1)
    assert num_parameters(model) == backbone
    assert num_parameters(model) + num_parameters(classifier) == total


def test_layer_table_of_drn_d_105() -> None:
    with torch.device("meta"):
        model = Drn("drn_d_105")
    sizes = [num_parameters(stage) for stage in model.stages]
    assert sizes == [2_384, 2_336, 4_672, 205_568, 1_219_584, 26_090_496, 14_964_736, 9_438_208, 2_360_320]
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) - 4 == 104  # four projections are not on the main path
    dilations = [
        {
            module.dilation[0]
            for module in stage.modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
        }
        for stage in model.stages
    ]
    assert dilations == [{1}, {1}, {1}, {1}, {1}, {2}, {4}, {2}, {1}]
    assert [type(module) for module in convolutions if module.bias is not None] == []


@pytest.mark.parametrize("architecture", ["drn_d_22", "drn_d_38", "drn_d_54", "drn_d_105", "drn_d_small", "drn_d_tiny"])
def test_features_are_an_eighth(architecture: str) -> None:
    with torch.device("meta"):
        features = Drn(architecture)(torch.empty(2, 3, 432, 432))
        assert features.shape[2:] == (54, 54)


@pytest.mark.parametrize("architecture", ["drn_d_tiny", "drn_d_small_skips"])
@pytest.mark.parametrize("size", [(1, 1), (3, 13), (8, 8), (33, 40)], ids=str)
def test_maps_have_the_size_of_the_image(size: tuple[int, int], architecture: str) -> None:
    torch.manual_seed(0)
    model = DrnSegmenter(architecture).eval()
    with torch.inference_mode():
        foreground = model.foreground(torch.randn(2, 3, *size))
    assert foreground.shape == (2, *size)
    assert ((foreground >= 0) & (foreground <= 1)).all()


def test_channel_0_is_the_foreground() -> None:
    torch.manual_seed(0)
    model = DrnSegmenter("drn_d_tiny").eval()
    nn.init.zeros_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([20.0, -20.0]))
        assert model.foreground(torch.randn(1, 3, 32, 32))[0, 8:24, 8:24].min() > 0.99


def test_a_decoder_joins_the_features_of_three_sizes() -> None:
    torch.manual_seed(0)
    model = DrnSegmenter("drn_d_small_skips").double().eval()
    images = torch.randn(2, 3, 24, 32, dtype=torch.float64)
    features = images
    by_stage = [features := stage(features) for stage in model.backbone.stages]
    eighth, quarter, half = by_stage[-1], by_stage[3], by_stage[2]
    assert torch.equal(eighth, model.backbone(images))

    def enlarged(coarse: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)

    decoder = model.decoder
    joined = decoder.top(torch.cat([eighth, eighth.mean((2, 3))[:, :, None, None].expand_as(eighth)], 1))
    joined = decoder.at_quarter(torch.cat([enlarged(joined), quarter], 1))
    joined = decoder.at_half(torch.cat([enlarged(joined), half], 1))
    torch.testing.assert_close(model(images), enlarged(model.head(joined)), rtol=1e-12, atol=1e-12)


def test_a_decoder_leaves_the_backbone_as_it_is_pretrained() -> None:
    with torch.device("meta"):
        plain, with_decoder = Drn("drn_d_small").state_dict(), DrnSegmenter("drn_d_small_skips").backbone.state_dict()
    assert {name: t.shape for name, t in plain.items()} == {name: t.shape for name, t in with_decoder.items()}
    assert DrnSegmenter("drn_d_small").decoder is None
    names = ("drn_d_small_skips", "drn_d_small", "drn_d_105", "resnet50_s8")
    assert [pretrained_as(name) for name in names] == ["drn_d_small", "drn_d_small", "drn_d_105", "resnet50_s8"]


def test_head_has_1026_parameters_and_the_upsampling_none() -> None:
    with torch.device("meta"):
        model = DrnSegmenter("drn_d_105")
    assert num_parameters(model.head) == 1026
    assert num_parameters(model) == 54_288_304 + 1026
    assert model.upsampling_CHW.numel() == 512
    assert "upsampling_CHW" not in model.state_dict()


def test_upsampling_is_bilinear() -> None:
    small = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    up = functional.conv_transpose2d(small, bilinear_kernel(8)[None, None], stride=8, padding=4)
    expected = functional.interpolate(small, scale_factor=8, mode="bilinear", align_corners=False)
    # the border differs: a transposed convolution fades out where interpolation repeats the edge
    torch.testing.assert_close(up[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])


def test_padding_reflects() -> None:
    image = torch.arange(10.0).reshape(1, 1, 1, 10).expand(1, 1, 8, 10)
    assert pad_to_stride(image)[0, 0, 0].tolist() == [*range(10), 8, 7, 6, 5, 4, 3]
    assert pad_to_stride(torch.ones(1, 1, 2, 3)).shape == (1, 1, 8, 8)
