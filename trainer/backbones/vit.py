"""Vision transformers under DINO's names, which timm's are too: DINO's, DINOv2's, MoCo-v3's and MAE's weights fit.

The map is the patches' tokens after the last norm, so the feature that is trained and scored is their mean. The papers
score the CLS token, which nothing here is made of.
"""

import torch

from backdrop.errors import UserError
from backdrop.saliency.networks.published_weights import vit_of
from backdrop.saliency.networks.vit import VITS, VisionTransformer, name_of
from backdrop.saliency.networks.weight_names import vit_weights
from backdrop.trainer.backbones import Published
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.short_names import leave_out_of_names

NAMES = tuple(VITS)
PREFIX = ""
HAS_CIFAR_STEM = False
CELL_PX = 0


class VitBackbone(Backbone):
    """A ViT up to its patches' tokens. Args: name: of VITS. network: with its weights."""

    def __init__(self, name: str, network: VisionTransformer) -> None:
        super().__init__({"network": network}, network.shape.width)
        self._name = name
        leave_out_of_names(self, "network.")

    def _apply_layers(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        network = self.network
        assert isinstance(network, VisionTransformer)
        patch_px = network.shape.patch_px
        height, width = image_BCHW.shape[-2:]
        if height % patch_px or width % patch_px:
            raise UserError(
                f"{self._name} takes images of whole patches of {patch_px} px, not {height} x {width}; set "
                f"views.size_px={max(1, round(height / patch_px)) * patch_px}"
            )
        dtype = self.autocast_dtype
        with torch.autocast(image_BCHW.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return network.forward_map(image_BCHW)

    def reset(self) -> None:
        """Draw every parameter anew, from torch's current generator."""
        assert isinstance(self.network, VisionTransformer)
        self.network.draw_weights()


def build(name: str, *, cifar_stem: bool) -> Backbone:
    """Build an untrained ViT."""
    network = VisionTransformer(VITS[name])
    network.draw_weights()
    return VitBackbone(name, network)


def published(tensors: dict[str, torch.Tensor], what: str) -> Published | None:
    """Recognise DINO's and timm's names, also after a release file's prefix.

    Returns: None = they are of no ViT. Raises: UserError: of one that does not fit, or of none of NAMES.
    """
    found = vit_weights(tensors)
    if found is None:
        return None
    read = vit_of(found, what)
    name = name_of(read.network.shape)
    if name is None:
        raise UserError(f"{what} holds {read.recognised}, which is none of {', '.join(NAMES)}")
    return Published(
        name=name,
        cifar_stem=False,
        tensors=read.network.state_dict(),
        recognised=f"{name} ({read.recognised})",
        not_taken=read.left_out,
    )
