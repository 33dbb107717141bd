"""A backbone: an image batch to a feature map and to its spatial mean. The families are files of `trainer/backbones/`.

Shapes: B batch, C channels, H W rows and columns of the image, h w of the feature map, D features.
"""

import torch
from torch import nn

from backdrop.errors import UserError


class Backbone(nn.Module):
    """A network up to its last feature map: layers applied one after the other.

    name, cifar_stem: as `build_backbone` took them, "" where none did. num_features: D. autocast_dtype: number format
    of the convolutions, None = float32; features leave as float32 either way, so that heads, similarities and losses
    are never computed in a short format.
    """

    name: str = ""
    cifar_stem: bool = False
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

    @torch.no_grad()
    def reset(self) -> None:
        """Draw every parameter and buffer anew, as of an untrained network, from torch's current generator.

        Convolutions without biases as He et al. 2015 (fan-out), every other layer as torch draws it. A family with
        parameters outside such layers (a class token) gives its own.
        Raises: UserError: a layer with values of its own does not say how they are drawn.
        """
        for module in self.modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif callable(redraw := getattr(module, "reset_parameters", None)):
                redraw()
            elif own:
                raise UserError(
                    f"{type(module).__name__} of this backbone does not say how its values are drawn, so no untrained "
                    "copy can be made: give the backbone a reset() of its own"
                )
