"""Backbones: an image batch to a feature map and to its spatial mean.

Shapes: B batch, C channels, H W rows and columns of the image, h w of the feature map, D features.
A ResNet's weights carry torchvision's names (without `fc`), so a trained backbone loads into `torchvision.models` as it
is, and so do AlexNet's (without `classifier`); a DRN's carry those of `Drn`, so it loads into the saliency
network (`saliency train --backbone-weights`).
"""

import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.saliency.networks.drn import Drn

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# The networks of DeepUSPS2's detector (Ryali et al. 2021, A.2): a feature map at 1/8 of the image's size.
DRNS = ("drn_d_22", "drn_d_38", "drn_d_54", "drn_d_105")
# torchvision's, and RotNet's with a BatchNorm after each convolution (Gidaris et al. 2018, released code). Both end at
# conv5 with its ReLU, where RotNet is evaluated; the last pooling is the head's.
ALEXNETS = ("alexnet", "alexnet_bn")
NAMES = (*RESNETS, *ALEXNETS, *DRNS)


class Backbone(nn.Module):
    """A network up to its last feature map: layers applied one after the other.

    num_features: D. autocast_dtype: number format of the convolutions, None = float32; features leave as float32
    either way, so that heads, similarities and losses are never computed in a short format.
    """

    autocast_dtype: torch.dtype | None = None

    def __init__(self, layers: dict[str, nn.Module], num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward_map(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the last feature map.

        Args: image_BCHW: float (B, 3, H, W), normalised. Returns: float32 (B, D, h, w).
        """
        features = self._apply_layers(image_BCHW)
        # Widened from a short format; float64, which tests train in, stays.
        return features.to(torch.promote_types(features.dtype, torch.float32))

    def compile_layers(self) -> None:
        """Put all layers through torch.compile as one graph, once per shape of a batch."""
        self._apply_layers = torch.compile(self._apply_layers, dynamic=False)  # type: ignore[method-assign]

    def _apply_layers(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        dtype, features = self.autocast_dtype, image_BCHW
        with torch.autocast(image_BCHW.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            for layer in self.children():
                features = layer(features)
        return features

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
    if cifar_stem and name not in RESNETS:
        raise UserError(f"cifar_stem is for {', '.join(RESNETS)}; leave it out with backbone={name}")
    if name in DRNS:
        drn = Drn(name)
        return Backbone({"stages": drn.stages}, drn.out_channels)
    return _alexnet(has_batch_norm=name == "alexnet_bn") if name in ALEXNETS else _resnet(name, cifar_stem)


def _alexnet(*, has_batch_norm: bool) -> Backbone:
    import torchvision

    features = torchvision.models.get_model("alexnet", weights=None).features[:-1]
    num_features = next(layer.out_channels for layer in reversed(features) if isinstance(layer, nn.Conv2d))
    if has_batch_norm:
        layers: list[nn.Module] = []
        for layer in features:
            layers.append(layer)
            if isinstance(layer, nn.Conv2d):
                layers.append(nn.BatchNorm2d(layer.out_channels))
        features = nn.Sequential(*layers)
    return Backbone({"features": features}, num_features)


def _resnet(name: str, cifar_stem: bool) -> Backbone:
    import torchvision  # here: it takes as long to import as torch, and a mistake in the settings need not wait

    network = torchvision.models.get_model(name, weights=None)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    layers = {name: getattr(network, name) for name in names}
    if cifar_stem:
        # He et al. 2016, section 4.2: small images keep their resolution at the entrance.
        layers["conv1"] = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(layers["conv1"].weight, mode="fan_out", nonlinearity="relu")
        layers["maxpool"] = nn.Identity()
    return Backbone(layers, network.fc.in_features)
