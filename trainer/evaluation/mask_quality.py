"""How much a score made with masks moves when the masks are perturbed as in appendix B.1 of Ryali et al. 2021.

Tables A1 to A5 pretrain anew with perturbed masks (`--set background.mask...`) and report ImageNet accuracy; that is a
run each. This is what can be asked of one run: a variant of ImageNet-9 made from masks (only the foreground, say) is
made again with masks rotated, sheared, shifted, flipped or boxed, in the strengths of those tables, and scored. A score
that falls fast depends on exact masks. Image, crop and the backgrounds of other images stay as they are; only the mask
moves. For `only_bg_t` a mask whose box would come to cover the whole crop stays as it was: no background is left to
fill the box from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from backdrop.pipeline.views.mask_perturbation import parameters, perturb
from backdrop.pipeline.views.view_plan import VIEW_DTYPE
from backdrop.settings import SEEDS, check_settings, one_of, within
from backdrop.stores.drawn_sample.background_variants import NAMES, can_be_tiled
from backdrop.trainer.evaluation.data.class_lists import in9_of_class
from backdrop.trainer.evaluation.data.in9_from_masks import LAYOUT as LAYOUT_OF_IMAGES
from backdrop.trainer.evaluation.data.in9_from_masks import Variant, made_with, open_variants
from backdrop.trainer.evaluation.data.masks import folder_of, open_masks
from backdrop.trainer.evaluation.data.transforms import as_published
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.imagenet_9 import PROJECTION, accuracy

DATA = "scenes-with-masks"
LAYOUT = f"{LAYOUT_OF_IMAGES}, and their masks: DIR/masks/*.png, or a store named by --set masks=STORE"
SOURCE = "any labelled images with masks: a store of your own, or true masks"
TAKES_DAYS = False
facts_of_data = no_facts
problems_of_data = no_problems
# Strengths of Tables A1 (degrees), A2 (degrees) and A3 (percent of the foreground's sides).
STRENGTHS = (5, 10, 15, 20, 25)
KINDS = {"rotation": STRENGTHS, "shear": STRENGTHS, "shift": STRENGTHS, "flip": (50,), "box": (100,)}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    masks: Annotated[str, "A store or a folder of masks of the images, read as masks:DIR is; empty = DIR/masks"] = ""
    mask_threshold: Annotated[
        float,
        within(0, 1),
        "Of the values / 255 of PNG masks; those of a store were cut when it was built",
    ] = 0.5
    variant: Annotated[str, one_of(NAMES), "Which variant of ImageNet-9 is made with the perturbed masks"] = "only_fg"
    seed: Annotated[int, SEEDS, "Decides what is drawn for each image, and the donors of mixed variants"] = 0


@dataclass(frozen=True)
class PerturbedVariant(Variant):
    """A variant made with perturbed masks. kind: of KINDS. strength: of that kind."""

    kind: str = "rotation"
    strength: int = 0

    def cut(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The centre of an image and of its perturbed mask; of the one given where no variant could be made."""
        image_HWC, mask_HW = super().cut(row)
        perturbed_HW = perturbed(mask_HW, self.kind, self.strength, (self.seed, row))
        is_possible = self.variant != "only_bg_t" or can_be_tiled(perturbed_HW)
        return image_HWC, perturbed_HW if is_possible else mask_HW

    def stamp(self, row: int) -> tuple[int, ...]:
        """Also of what was done to the mask."""
        return (*super().stamp(row), list(KINDS).index(self.kind), self.strength)


def needed_beside(data: Path, options: Options) -> list[Path]:
    """Return what must be there besides the images."""
    return [folder_of(_masks(data, options))]


def _masks(data: Path, options: Options) -> str:
    return options.masks or str(data / "masks")


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: the variant with good masks under its name, then <variant>_<kind>_<strength> for each.

    Raises: UserError: unknown variant, another layout, masks of no image, or no classifier.
    """
    check_settings(options)
    masks = open_masks(_masks(data, options), options.mask_threshold)
    transform = made_with(as_published(subject.image_size_px), masks, options.seed)
    result = Result(facts={"bn_mode": subject.bn_mode, "transform": transform.name, "variant": options.variant})
    result.facts |= {"release": f"made from {masks.name}", "seed": options.seed, "projection": PROJECTION}
    group_C = in9_of_class()
    variants = {images.variant: images for images in open_variants(data, masks, group_C, options.seed, result)}
    for name, images in _perturbed(variants[options.variant]):
        result.metrics[name] = accuracy(subject, images, transform, group_C, name, result)
    return result


def perturbed(mask_HW: np.ndarray, kind: str, strength: int, key: tuple[int, int]) -> np.ndarray:
    """Return a perturbed mask; what is drawn depends on the key, (seed, row), alone and grows with the strength.

    Args: mask_HW: uint8 {0, 1}. kind, strength: of KINDS; a flip's is the percentage of masks that are flipped.
    Returns: uint8 (H, W).
    """
    # The same draws for every strength, so that a curve over strengths is smooth.
    first, second, third = np.random.default_rng(key).uniform(-1.0, 1.0, 3)
    record = np.zeros(1, VIEW_DTYPE)
    if kind == "rotation":
        record["mask_rotation_degrees"] = first * strength
    elif kind == "shear":
        record["mask_row_shear_degrees"], record["mask_column_shear_degrees"] = first * strength, second * strength
    elif kind == "shift":
        record["mask_shift_rows"], record["mask_shift_columns"] = first * strength / 100, second * strength / 100
    elif kind == "flip":
        record["mask_is_flipped"] = abs(third) < strength / 100
    mask_B1HW = torch.from_numpy(mask_HW.astype(bool))[None, None]
    made = perturb(mask_B1HW, torch.from_numpy(parameters(record)), is_box=kind == "box")
    # A mask that was moved out of the image altogether stays as it was: without any there is no variant to make.
    return made[0, 0].numpy().astype(np.uint8) if made.any() else mask_HW


def _perturbed(good: Variant) -> Iterator[tuple[str, Variant]]:
    yield good.variant, good
    for kind, strengths in KINDS.items():
        for strength in strengths:
            images = PerturbedVariant(
                good.root, good.keys, good.label_N, masks=good.masks, variant=good.variant, seed=good.seed,
                kind=kind, strength=strength,
            )  # fmt: skip
            yield f"{good.variant}_{kind}" + (f"_{strength}" if len(strengths) > 1 else ""), images
