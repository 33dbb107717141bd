"""ImageNet-R: art, cartoons and other renditions of 200 classes (Hendrycks et al. 2021, arXiv 2006.16241).

Ryali et al. 2021, Tables 15 and A24. Only the 200 classes can be predicted: their logits are taken before the argmax.
"""

from dataclasses import dataclass
from pathlib import Path

from backdrop.trainer.evaluation.data.class_lists import IMAGENET_R
from backdrop.trainer.evaluation.data.images import wnid_folders
from backdrop.trainer.evaluation.data.transforms import standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions import restricted as _restricted

DATA = "imagenet-r"
LAYOUT = "ROOT/<wnid>/*.jpg, 200 classes"
SOURCE = "github.com/hendrycks/imagenet-r"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
NUM_IMAGES = 30_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen: nothing."""


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: top1, top5. Raises: UserError: another layout, or no classifier."""
    transform = standard(subject.image_size_px)
    result = Result(facts={"release": "imagenet-r", **_restricted.facts_of(subject, transform, IMAGENET_R)})
    images = _restricted.keep_classes(wnid_folders(data, LAYOUT), IMAGENET_R, LAYOUT, result)
    result.expect("images", len(images), NUM_IMAGES)
    found = _restricted.score(subject, images, transform, IMAGENET_R, name="imagenet-r", result=result)
    result.metrics.update({f"top{num}": value for num, value in found.items()})
    return result
