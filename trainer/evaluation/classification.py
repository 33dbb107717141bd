"""A network's own classifier, as it was trained, on ImageNet's validation images; nothing is fitted.

Ryali et al. 2021, Tables 2, 7 and 8: of a supervised run, of its classifier retrained on the frozen network, and of the
network fine-tuned; `classifier` in the facts tells which. Also of a file of weights with a classifier.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from backdrop.errors import UserError
from backdrop.trainer.evaluation.data.imagenet import LAYOUT, SOURCE, open_scored
from backdrop.trainer.evaluation.data.projections import top_accuracy
from backdrop.trainer.evaluation.data.transforms import standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import (
    FITTED,
    TRAINED,
    Subject,
    classifier_of,
    pretrained_backbone,
    weights_digest,
)
from backdrop.trainer.evaluation.harness.weights import IMAGENET
from backdrop.trainer.evaluation.predictions.outputs import kept, logits_of
from backdrop.trainer.run import run_folder

__all__ = [
    "DATA", "LAYOUT", "SOURCE", "TAKES_DAYS", "Options", "check_classes", "facts_of_data", "needed_beside",
    "problems_of_data", "run",
]  # fmt: skip

DATA = "imagenet"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen: nothing."""


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network's own classifier: top1, and top5 where there are more than five classes.

    Raises: UserError: it has none, or one of other classes than the images'.
    """
    result = Result(facts={"projection": "none", "bn_mode": "eval"})
    images, num_classes, is_imagenet = open_scored(data, result)
    head = _own_head(subject, num_classes, is_imagenet=is_imagenet)
    transform = standard(subject.image_size_px)
    if head is subject.head:
        # The same logits as `evaluate real` and others read.
        outputs = logits_of(subject, images, transform, name="imagenet-val")
    else:
        backbone = pretrained_backbone(subject)
        outputs = kept(
            subject,
            images,
            transform,
            lambda batch: head(backbone(batch.image_BCHW)),
            name="classification",
            asked=f"logits of {weights_digest(backbone, head)}",
        )
    outputs.report(result)
    label_N = images.label_N[outputs.rows_N]
    for num in (1, 5) if num_classes > 5 else (1,):
        result.metrics[f"top{num}"] = top_accuracy(outputs.output_N, label_N, num)
    result.facts |= {"transform": transform.name, "num_classes": num_classes, "classifier": _how(subject)}
    return result


def _own_head(subject: Subject, num_classes: int, *, is_imagenet: bool) -> nn.Linear:
    """The classifier, of the images' classes."""
    head = subject.head if subject.own_head is None and subject.classifier != FITTED else subject.own_head
    if head is None:
        raise UserError(
            "this network was not trained with a classifier: classification scores runs of pretrain --method "
            "supervised, and files of weights with a classifier. evaluate linear fits one to any network"
        )
    check_classes(head, subject.own_classes, num_classes, is_imagenet=is_imagenet)
    return head


def check_classes(head: nn.Linear, own_classes: str, num_classes: int, *, is_imagenet: bool) -> None:
    """Raise UserError unless a classifier is of the images' classes.

    Args: own_classes: the data set whose classes it has, "" = ImageNet. num_classes, is_imagenet: of the images.
    """
    classes = own_classes or IMAGENET
    if is_imagenet != (classes == IMAGENET) or head.out_features < num_classes:
        images = "ImageNet's" if is_imagenet else "those of the user's folders"
        raise UserError(
            f"the classifier has {head.out_features} classes, of the data set {classes}, and these images are of "
            f"{num_classes} others, {images}; give --data the images of the classes that the run was trained on"
        )


def _how(subject: Subject) -> str:
    """How the classifier was trained."""
    if subject.own_head is None or subject.run is None:
        return subject.classifier or TRAINED
    return classifier_of(run_folder.read_settings(subject.run))
