"""A ResNet-50 at 1/8 of the image's size, under torchvision's names: whatever was published for a ResNet-50 fits.

He et al. 2016; the last two stages dilate instead of striding, as torchvision's segmentation networks do.
"""

from torch import Tensor, nn

RESNET50_S8 = "resnet50_s8"


class DilatedResNet50(nn.Module):
    """Backbone: image -> features of 2048 channels at 1/8 of its size; weights are torchvision's random ones."""

    out_channels = 2048
    stride_px = 8

    def __init__(self) -> None:
        import torchvision  # here: it takes as long to import as torch, and few need it

        super().__init__()
        network = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        for name, layer in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, layer)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, 2048, ceil(H / 8), ceil(W / 8)) of normalised images (B, 3, H, W)."""
        features_BCHW = images_BCHW
        for layer in self.children():
            features_BCHW = layer(features_BCHW)
        return features_BCHW
