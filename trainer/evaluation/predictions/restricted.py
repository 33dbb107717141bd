"""ImageNet-A and ImageNet-R: 200 of the classes, among which alone a prediction is made."""

from collections.abc import Sequence

from backdrop.stores.indexes.imagenet_classes import WNIDS
from backdrop.trainer.evaluation.data.images import Images
from backdrop.trainer.evaluation.data.projections import top_accuracy
from backdrop.trainer.evaluation.data.transforms import Transform
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import DECODE_FAULT, logits_of


def facts_of(subject: Subject, transform: Transform, classes: Sequence[int]) -> dict[str, object]:
    """What decides the number besides the images."""
    return {
        "transform": transform.name,
        "projection": f"logits of the {len(classes)} classes, before the argmax",
        "bn_mode": subject.bn_mode,
    }


def keep_classes(images: Images, classes: Sequence[int], layout: str, result: Result) -> Images:
    """Return the images of the classes; others, missing classes and stray files are noted.

    Raises: UserError: there is none of them.
    """
    result.note_strays(images.strays)
    wanted = set(classes)
    rows = [row for row, label in enumerate(images.label_N.tolist()) if label in wanted]
    if len(rows) < len(images):
        result.problems.append(f"{len(images) - len(rows)} images are of other classes: left out")
        images = images.subset(rows, layout)
    result.expect_classes(images.label_N, classes, WNIDS)
    return images


def score(
    subject: Subject,
    images: Images,
    transform: Transform,
    classes: Sequence[int],
    *,
    name: str,
    result: Result,
    fault: str = DECODE_FAULT,
) -> dict[int, float]:
    """Return top-1 and top-5 accuracy in percent where only `classes` can be predicted.

    Args: images: labels among `classes`. name: of the set. result: images that cannot be decoded are noted.
        fault: what is said of those.
    """
    outputs = logits_of(subject, images, transform, name=name)
    outputs.report(result, fault)
    label_N = images.label_N[outputs.rows_N]
    return {num: top_accuracy(outputs.logits_NC, label_N, num, classes) for num in (1, 5)}
