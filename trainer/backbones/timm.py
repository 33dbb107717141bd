"""`timm:NAME`: any network of timm with a feature map, untrained; nothing is ever downloaded.

Weights carry timm's own names. What only its classifier uses (parameters that the map does not depend on) is left out.
Tokens of a transformer are put back on their grid, without class and register tokens.
"""

from types import ModuleType
from typing import Any

import torch
from torch import nn

from backdrop.errors import UserError, did_you_mean
from backdrop.trainer.backbones import Published, build_backbone
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.short_names import leave_out_of_names

NAMES: tuple[str, ...] = ()
PREFIX = "timm:"
HAS_CIFAR_STEM = False
CELL_PX = 0


class NormThenActivation(nn.Module):
    """timm's BatchNorm with an activation inside, taken apart: MoCo's groups and synchronisation replace plain ones.

    In whatever is written weights carry timm's own names.
    """

    def __init__(self, joint: Any) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(
            joint.num_features, joint.eps, joint.momentum, joint.affine, joint.track_running_stats
        )
        self.norm.load_state_dict(joint.state_dict())
        self.drop, self.act = joint.drop, joint.act
        leave_out_of_names(self, "norm.")

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalise and activate. Args: x_BCHW: float (B, C, H, W). Returns: the same shape."""
        return self.act(self.drop(self.norm(x_BCHW)))


def _taken_apart(network: nn.Module) -> nn.Module:
    from timm.layers import BatchNormAct2d

    for name, child in network.named_children():
        setattr(network, name, NormThenActivation(child) if type(child) is BatchNormAct2d else _taken_apart(child))
    return network


class TimmBackbone(Backbone):
    """A network of timm up to what its `forward_features` returns, as a map (B, D, h, w)."""

    def __init__(self, name: str, network: Any) -> None:
        super().__init__({"network": network}, int(network.num_features))
        self._name = name
        leave_out_of_names(self, "network.")

    def _apply_layers(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        _check_size(self._name, self.network, image_BCHW)
        dtype = self.autocast_dtype
        with torch.autocast(image_BCHW.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return _as_map(self._name, self.network, image_BCHW)

    @torch.no_grad()
    def reset(self) -> None:
        """Draw every parameter and buffer anew as its family builds it, from torch's current generator."""
        drawn = build_backbone(self._name)
        for kind in ("named_parameters", "named_buffers"):
            new = dict(getattr(drawn, kind)())
            for name, value in getattr(self, kind)():
                value.copy_(new[name])


def build(name: str, *, cifar_stem: bool) -> Backbone:
    """Build an untrained network of timm.

    Raises: UserError: timm is not installed or has no such network, or the network has no feature map.
    """
    timm, short = _timm(), name.removeprefix(PREFIX)
    if not timm.is_model(short):
        meant = did_you_mean(short, timm.list_models(), prefix=PREFIX)
        raise UserError(f"timm has no network {short!r}.{meant} Allowed are those of timm.list_models()")
    options = {"pretrained": False, "num_classes": 0}
    try:
        network = timm.create_model(short, **options, dynamic_img_size=True)
    except TypeError:
        # Networks without position embeddings to interpolate have no such option.
        network = timm.create_model(short, **options)
    _leave_out_classifier(name, network)
    return TimmBackbone(name, _taken_apart(network))


def published(tensors: dict[str, torch.Tensor], what: str) -> Published | None:
    """Recognise none: names in a file do not say which network of timm's they are of; a run's file does."""
    return None


def _timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError("backbone timm:NAME needs timm, which is not installed: pip install timm") from error
    return timm


def _leave_out_classifier(name: str, network: Any) -> None:
    """Replace children that the map does not need: DistributedDataParallel would wait for their gradients."""
    used: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: used.add(module)) for module in network.modules()]
    side_px = network.pretrained_cfg["input_size"][-1]
    with torch.no_grad():
        features = _as_map(name, network.eval(), torch.zeros(1, 3, side_px, side_px))
    network.train()
    for hook in hooks:
        hook.remove()
    network.num_features = features.shape[1]
    for child_name, child in list(network.named_children()):
        if not used.intersection(child.modules()):
            setattr(network, child_name, nn.Identity())


def _as_map(name: str, network: Any, image_BCHW: torch.Tensor) -> torch.Tensor:
    features = network.forward_features(image_BCHW)
    if isinstance(features, torch.Tensor) and features.ndim == 4:
        is_channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
        return features.permute(0, 3, 1, 2) if is_channels_last else features
    if isinstance(features, torch.Tensor) and features.ndim == 3 and hasattr(network, "patch_embed"):
        tokens_BND = features[:, getattr(network, "num_prefix_tokens", 0) :]
        rows, columns = network.patch_embed.dynamic_feat_size(image_BCHW.shape[-2:])
        if rows * columns == tokens_BND.shape[1]:
            return tokens_BND.transpose(1, 2).unflatten(2, (rows, columns))
    raise UserError(f"{name} has no feature map that could be found; give a convolutional network or a plain ViT")


def _check_size(name: str, network: Any, image_BCHW: torch.Tensor) -> None:
    size = tuple(network.pretrained_cfg["input_size"][-2:])
    is_fixed = network.pretrained_cfg.get("fixed_input_size", False)
    is_dynamic = getattr(getattr(network, "patch_embed", None), "dynamic_img_size", False) or getattr(
        network, "dynamic_img_size", False
    )
    if is_fixed and not is_dynamic and tuple(image_BCHW.shape[-2:]) != size:
        given = " x ".join(map(str, image_BCHW.shape[-2:]))
        raise UserError(
            f"{name} takes images of {size[0]} x {size[1]} px alone, not {given}; set views.size_px={size[0]}"
        )
