"""ResNets (He et al. 2016) as torchvision builds them, under its names without `fc`: weights load there as they are."""

import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.saliency.networks.weight_names import resnet_weights
from backdrop.trainer.backbones import Published
from backdrop.trainer.parts.backbones import Backbone

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
PREFIX = ""
HAS_CIFAR_STEM = True
CELL_PX = 32

_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
# Blocks of each stage decide the depth; resnet18 and resnet34 have no third convolution.
_DEPTHS = {
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
    (3, 4, 23, 3, True): "resnet101",
    (3, 8, 36, 3, True): "resnet152",
}


def build(name: str, *, cifar_stem: bool) -> Backbone:
    """Build an untrained ResNet: torchvision's, or with the entrance for images of 32 to 64 px."""
    import torchvision  # here: it takes as long to import as torch, and a mistake in the settings need not wait

    network = torchvision.models.get_model(name, weights=None)
    layers = {name: getattr(network, name) for name in _LAYERS}
    if cifar_stem:
        # He et al. 2016, section 4.2: small images keep their resolution at the entrance.
        layers["conv1"] = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(layers["conv1"].weight, mode="fan_out", nonlinearity="relu")
        layers["maxpool"] = nn.Identity()
    return Backbone(layers, network.fc.in_features)


def published(tensors: dict[str, torch.Tensor], what: str) -> Published | None:
    """Recognise torchvision's names, also after a release file's prefix, and lightly's numbers.

    Returns: None = none of them. Raises: UserError: stages of other sizes.
    """
    found = resnet_weights(tensors)
    if found is None:
        return None
    own = found.tensors
    if "conv1.weight" not in own or own["conv1.weight"].ndim != 4:
        raise UserError(f"{what} holds a ResNet whose conv1.weight is no convolution: give another file")
    stages = [{name.split(".")[1] for name in own if name.startswith(f"layer{stage}.")} for stage in range(1, 5)]
    blocks = [len(numbers) for numbers in stages]
    has_third = "layer1.0.conv3.weight" in own
    name = _DEPTHS.get((blocks[0], blocks[1], blocks[2], blocks[3], has_third))
    if name is None:
        raise UserError(f"{what} has stages of {blocks} blocks; known are {', '.join(NAMES)}")
    return Published(
        name=name,
        cifar_stem=own["conv1.weight"].shape[-1] == 3,
        tensors=own | found.beside,
        not_taken=found.not_taken,
    )
