"""ImageNet-A: photographs that networks fail on (Hendrycks et al. 2021, arXiv 1907.07174), and their foregrounds alone.

Ryali et al. 2021, Tables 14, A22 and A23. Only the 200 classes can be predicted: their logits are taken before the
argmax. For Only-FG, what is no foreground is removed before the image is resized.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from backdrop.errors import UserError
from backdrop.settings import check_settings, within
from backdrop.trainer.evaluation.data.class_lists import IMAGENET_A
from backdrop.trainer.evaluation.data.images import Images, wnid_folders
from backdrop.trainer.evaluation.data.masks import MASK_FAULT, ForegroundImages, Masks, open_masks
from backdrop.trainer.evaluation.data.transforms import Transform, standard
from backdrop.trainer.evaluation.harness.defaults import no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions import restricted as _restricted

DATA = "imagenet-a"
LAYOUT = "ROOT/<wnid>/*.jpg, 200 classes; of their masks, for Only-FG, ROOT-masks/<wnid>/<stem>.png"
# Beside the folder of the images: where masks are looked for unless they are named.
MASKS_SUFFIX = "-masks"
SOURCE = "github.com/hendrycks/natural-adv-examples"
TAKES_DAYS = False
needed_beside = nothing_beside
WITHOUT = "none"
problems_of_data = no_problems
NUM_IMAGES = 7_500


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    masks: Annotated[
        str,
        "For Only-FG: a store built from these images, or a folder <wnid>/<stem>.png of masks, read as masks:DIR is; "
        "empty = the folder "
        "imagenet-a-masks beside imagenet-a, without Only-FG where it is not there; none = without Only-FG",
    ] = ""
    mask_threshold: Annotated[
        float,
        within(0, 1),
        "Of the values / 255 of PNG masks, as Ryali et al. cut their saliency maps (appendix A, general "
        "settings). The masks of a store were cut when it was built",
    ] = 0.9
    fill: Annotated[
        int,
        within(0, 255),
        "What stands in for the background of Only-FG, 0 .. 255. The paper does not say; ImageNet-9's Only-FG is black",
    ] = 0


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: top1, top5, and with masks only_fg_top1, only_fg_top5.

    Raises: UserError: another layout, no classifier, masks of none of the images.
    """
    check_settings(options)
    if not 0 <= options.fill <= 255:
        raise UserError(f"fill={options.fill}; allowed: 0 (black) to 255 (white)")
    transform = standard(subject.image_size_px)
    result = Result(
        facts={
            "release": "imagenet-a",
            **facts_of_data(data, options),
            **_restricted.facts_of(subject, transform, IMAGENET_A),
        }
    )
    images = _restricted.keep_classes(wnid_folders(data, LAYOUT), IMAGENET_A, LAYOUT, result)
    result.expect("images", len(images), NUM_IMAGES)
    found = _restricted.score(subject, images, transform, IMAGENET_A, name="imagenet-a", result=result)
    result.metrics.update({f"top{num}": value for num, value in found.items()})
    named = masks_of(data, options)
    if named is None:
        result.facts["only_fg"] = f"not scored: no masks, looked for in {beside(data)}"
    else:
        _score_foregrounds(subject, images, transform, open_masks(named, options.mask_threshold), options, result)
    return result


def beside(data: Path) -> Path:
    """Return the folder beside the images' where their masks are looked for."""
    data = data.resolve()
    return data.with_name(data.name + MASKS_SUFFIX)


def masks_of(data: Path, options: Options) -> Path | None:
    """Return the store or folder of masks that Only-FG takes; None = Only-FG is not scored."""
    if options.masks:
        return None if options.masks == WITHOUT else Path(options.masks)
    return beside(data) if beside(data).is_dir() else None


def facts_of_data(data: Path, options: Options) -> dict[str, Any]:
    """Return whether Only-FG is scored: a score from before the masks were there is of less."""
    return {"has_only_fg": masks_of(data, options) is not None}


def _score_foregrounds(
    subject: Subject, images: Images, transform: Transform, masks: Masks, options: Options, result: Result
) -> None:
    rows = [row for row, key in enumerate(images.keys) if masks.has(key)]
    if len(rows) < len(images):
        result.problems.append(f"{len(images) - len(rows)} images have no mask: left out of Only-FG")
    masked = images.subset(rows, f"masks of images such as {images.keys[0]}")
    foregrounds = ForegroundImages(masked.root, masked.keys, masked.label_N, masks=masks, fill=options.fill)
    result.facts["only_fg"] = {"masks": masks.name, "fill": options.fill, "images": len(foregrounds)}
    transform = replace(transform, name=f"foreground on {options.fill} by {masks.name}, {transform.name}")
    name = "imagenet-a-only-fg"
    found = _restricted.score(subject, foregrounds, transform, IMAGENET_A, name=name, result=result, fault=MASK_FAULT)
    result.metrics.update({f"only_fg_top{num}": value for num, value in found.items()})
