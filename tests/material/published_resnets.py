"""Files of ResNets as their authors published them: what stands before, beside and in place of torchvision's names."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
CLASSES = 1000


def after(prefix: str, tensors: Tensors) -> Tensors:
    """The same tensors with something before their names."""
    return {prefix + name: value for name, value in tensors.items()}


def linear(prefix: str, *, inputs: int = 8, outputs: int = 4) -> Tensors:
    """A layer that is no part of the encoder."""
    return {f"{prefix}weight": torch.ones(outputs, inputs), f"{prefix}bias": torch.ones(outputs)}


def classifier(own: Tensors) -> Tensors:
    """One onto ImageNet's classes, as torchvision's `fc`, of values that tell its outputs apart."""
    inputs = next(value.numel() for name, value in reversed(own.items()) if name.endswith("bias"))
    weight = torch.arange(CLASSES * inputs, dtype=torch.float32).reshape(CLASSES, inputs) / 1e6
    return {"fc.weight": weight, "fc.bias": torch.arange(CLASSES, dtype=torch.float32)}


def numbered(own: Tensors) -> Tensors:
    """Layers by their places in a Sequential, as lightly's examples have them."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {f"{places[name.partition('.')[0]]}.{name.partition('.')[2]}": value for name, value in own.items()}


def without_counts(own: Tensors) -> Tensors:
    """Some releases leave out how many batches a BatchNorm has seen."""
    return {name: value for name, value in own.items() if not name.endswith("num_batches_tracked")}


def _moco_v2(own: Tensors, other: Tensors) -> dict[str, Any]:
    """MoCo-v2 and CAST: `main_moco.py` of both; the projection is called fc."""
    state = after("module.encoder_q.", own | linear("fc.0.") | linear("fc.2."))
    state |= after("module.encoder_k.", other | linear("fc.0."))
    state |= {"module.queue": torch.zeros(128, 16), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 200, "arch": "resnet", "state_dict": state, "optimizer": {"state": {}}}


def _moco_v3(own: Tensors, other: Tensors) -> dict[str, Any]:
    state = after("module.base_encoder.", own | linear("fc.0.")) | after("module.momentum_encoder.", other)
    return {"epoch": 1000, "state_dict": state | linear("module.predictor.0.")}


def _byol(own: Tensors, other: Tensors) -> dict[str, Any]:
    """yaox12's PyTorch."""
    state = after("module.online_network.encoder.", own) | after("module.target_network.encoder.", other)
    return {"epoch": 300, "model": state | linear("module.predictor.net.0.")}


# What a file holds, given its encoder's tensors and those of another encoder that is not to be taken.
RESNET_FILES: dict[str, Callable[[Tensors, Tensors], dict[str, Any]]] = {
    "moco-v2 and cast": _moco_v2,
    "moco-v3": _moco_v3,
    "swav": lambda own, other: after("module.", own) | linear("module.projection_head.0.") | {
        "module.prototypes.weight": torch.zeros(30, 64)
    },
    "dino": lambda own, other: own,
    "dino's checkpoint": lambda own, other: {
        "student": after("module.backbone.", other), "teacher": after("backbone.", own) | linear("head.mlp.0."),
        "epoch": 100,
    },
    "barlow twins, vicreg": lambda own, other: own,
    "barlow twins' and vicreg's checkpoint": lambda own, other: {
        "model": after("module.backbone.", own) | linear("module.projector.0."), "epoch": 1000,
    },
    "simsiam": lambda own, other: {
        "state_dict": after("module.encoder.", own | linear("fc.0.")) | linear("module.predictor.0.")
    },
    "byol": _byol,
    "solo-learn": lambda own, other: {"state_dict": after("backbone.", own) | linear("classifier.")},
    "lightly": lambda own, other: {
        "state_dict": after("backbone.", numbered(own)) | linear("projection_head.layers.0.")
    },
    "torchvision, timm": lambda own, other: own | classifier(own),
    "without a classifier": lambda own, other: own,
    "moco's linear classifier": lambda own, other: {"state_dict": after("module.", own | classifier(own))},
    "a backbone within a model": lambda own, other: {"model_state_dict": after("module.backbone.", own)},
    "an encoder by itself": lambda own, other: after("encoder.", own),
    "without counts of batches": lambda own, other: without_counts(own),
}  # fmt: skip
WITH_CLASSIFIER = ("torchvision, timm", "moco's linear classifier")
