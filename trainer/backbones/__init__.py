"""Backbones: a file is a family, and states the names it serves; `find` goes through the files.

`BackboneFile` is what each of them provides. Members are imported without torchvision or timm, which `build` imports.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from backdrop.errors import UserError
from backdrop.open_sets import OpenSet, unknown
from backdrop.trainer.parts.backbones import Backbone


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that a family recognised as its own.

    name, cifar_stem: what `build_backbone` takes. tensors: by the backbone's names, with others that came beside them
    under the same prefix (`fc`). recognised: for people, "" = the name says it. not_taken: the file's other names.
    """

    name: str
    cifar_stem: bool
    tensors: dict[str, torch.Tensor]
    recognised: str = ""
    not_taken: tuple[str, ...] = ()


class BackboneFile(Protocol):
    """What a file of `trainer/backbones/`, or a plug-in of the set `backbones`, provides.

    Shapes: B batch, H W rows and columns of the image, h w of the feature map, D features.
    """

    @property
    def NAMES(self) -> tuple[str, ...]:
        """Every name that it serves; () where PREFIX says it."""

    @property
    def PREFIX(self) -> str:
        """What its names begin with (`timm:`); "" = it serves NAMES alone."""

    @property
    def HAS_CIFAR_STEM(self) -> bool:
        """Whether it has a second entrance, for images of 32 to 64 px."""

    @property
    def CELL_PX(self) -> int:
        """Pixels of the image a side of one cell of the map, without cifar_stem; 0 = it depends on the name."""

    def build(self, name: str, *, cifar_stem: bool) -> Backbone:
        """Build an untrained backbone; weights are drawn from torch's current generator.

        `forward_map` takes float (B, 3, H, W), normalised, and returns float32 (B, D, h, w) with D = `num_features`;
        `reset` draws every parameter and buffer anew, as here; the names of `state_dict` are those published elsewhere.
        Args: name: one of NAMES, or one with PREFIX. cifar_stem: False where HAS_CIFAR_STEM is.
        Raises: UserError: no such network, or what builds it is not installed.
        """

    def published(self, tensors: dict[str, torch.Tensor], what: str) -> Published | None:
        """Recognise weights that say no backbone's name, such as a release file's.

        Args: tensors: by the file's names. what: whose, for messages.
        Returns: None = their names are not this family's. Raises: UserError: they are, but of no network of it.
        """


BACKBONES: OpenSet[BackboneFile] = OpenSet("backbones", __name__, __path__, contract=BackboneFile)
NAMES = BACKBONES.built_in()


def backbone_names() -> tuple[str, ...]:
    """Return all names that backbones are given by, a family's prefix as `prefix:NAME`."""
    files = [BACKBONES.load(member) for member in BACKBONES.names()]
    return tuple(name for file in files for name in (*file.NAMES, *([f"{file.PREFIX}NAME"] if file.PREFIX else [])))


def find(name: str) -> BackboneFile:
    """Return the file of the family that serves a backbone's name.

    Raises: UserError: none does, or two do.
    """
    return BACKBONES.load(family_of(name))


def family_of(name: str) -> str:
    """Return the member of BACKBONES that serves a backbone's name.

    Raises: UserError: none does, or two do.
    """
    serving = [
        member
        for member in BACKBONES.names()
        if name in (file := BACKBONES.load(member)).NAMES
        or (file.PREFIX and name.startswith(file.PREFIX) and name != file.PREFIX)
    ]
    if len(serving) > 1:
        raise UserError(f"backbone {name!r} is served by {' and '.join(serving)}: rename it in the plug-in")
    if serving:
        return serving[0]
    raise unknown("backbone", name, backbone_names())


def check_cifar_stem(name: str) -> None:
    """Raise UserError unless a backbone has an entrance for small images."""
    if find(name).HAS_CIFAR_STEM:
        return
    fit = [file for member in BACKBONES.names() if (file := BACKBONES.load(member)).HAS_CIFAR_STEM]
    names = ", ".join(other for file in fit for other in file.NAMES)
    raise UserError(f"cifar_stem is for {names}; leave it out with backbone={name}")


def build_backbone(name: str, *, cifar_stem: bool = False) -> Backbone:
    """Build an untrained backbone; weights are drawn from torch's current generator.

    Args: name: one of `backbone_names`. cifar_stem: 3x3 convolution of stride 1 and no max-pool, for 32 to 64 px.
    Raises: UserError: unknown name, or a stem that it does not have.
    """
    if cifar_stem:
        check_cifar_stem(name)
    backbone = find(name).build(name, cifar_stem=cifar_stem)
    backbone.name, backbone.cifar_stem = name, cifar_stem
    return backbone
