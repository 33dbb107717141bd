"""Average precision of VOC 2007 at eleven recalls, averaged over ten overlaps, as detectron2 computes it.

Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", section 4.2; MoCo (He et al. 2020) reports
AP as the mean over the overlaps .50, .55 .. .95, with AP50 and AP75 beside it.

Details that move the number: a detection's box is written with one decimal and its score with three before anything
is compared; both ends of a box belong to it, so widths are right - left + 1; a detection is right where its overlap is
*above* the threshold; it is compared with the object it overlaps most, even if that one is taken; a difficult object
is no object to be found, and finding it is neither right nor wrong.

Legend: N detections of one class, M objects of one class. Boxes here are VOC's own: (left, top, right, bottom), first
pixel = 1, ends included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = tuple(percent / 100 for percent in range(50, 100, 5))
_RECALLS = np.arange(0.0, 1.1, 0.1)


@dataclass(frozen=True)
class Objects:
    """Objects of one image: box_M4 float64, VOC's pixels; class_M int64; is_difficult_M bool."""

    box_M4: np.ndarray
    class_M: np.ndarray
    is_difficult_M: np.ndarray


@dataclass(frozen=True)
class Detections:
    """Detections of one image: box_N4 float, (left, top, right, bottom) from the image's corner; class_N; score_N."""

    box_N4: np.ndarray
    class_N: np.ndarray
    score_N: np.ndarray


def voc_scores(
    found: Mapping[str, Detections], objects: Mapping[str, Objects], num_classes: int
) -> tuple[dict[str, float], list[float]]:
    """Score detections.

    Args: found: by image; an image without detections may be missing. objects: by image, all that are scored.
        num_classes: K. A class without objects counts for nothing where detectron2 has a NaN: the official test set
        has objects of all.
    Returns: ap50, ap, ap75 in percent, in the papers' order; and AP50 in percent of each class, NaN without objects.
    """
    ap_KT = np.array([_class_ap(found, objects, number) for number in range(num_classes)]) * 100
    mean_T = np.nanmean(ap_KT, axis=0)
    scores = {"ap50": mean_T[0], "ap": mean_T.mean(), "ap75": mean_T[OVERLAPS.index(0.75)]}
    return {name: float(value) for name, value in scores.items()}, ap_KT[:, 0].tolist()


def eleven_point_ap(recall_N: np.ndarray, precision_N: np.ndarray) -> float:
    """Mean over the recalls 0, .1 .. 1 of the best precision at that recall or a higher one, 0 where none is."""
    best = [precision_N[recall_N >= recall].max(initial=0.0) for recall in _RECALLS]
    return float(sum(value / 11.0 for value in best))


def overlaps(box_4: np.ndarray, box_M4: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with others, ends included: float64 (M,)."""
    top_left = np.maximum(box_M4[:, :2], box_4[:2])
    bottom_right = np.minimum(box_M4[:, 2:], box_4[2:])
    common_M = np.prod(np.maximum(bottom_right - top_left + 1.0, 0.0), axis=1)
    areas_M = np.prod(box_M4[:, 2:] - box_M4[:, :2] + 1.0, axis=1)
    return common_M / (np.prod(box_4[2:] - box_4[:2] + 1.0) + areas_M - common_M)


def as_written(found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores as detectron2 writes them to its files: first pixel = 1, one decimal; three decimals."""
    shifted_N4 = found.box_N4.astype(np.float32) + np.array([1, 1, 0, 0], dtype=np.float32)
    boxes = [[float(f"{side:.1f}") for side in box] for box in shifted_N4]
    scores = [float(f"{score:.3f}") for score in found.score_N]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64)


def _class_ap(found: Mapping[str, Detections], objects: Mapping[str, Objects], number: int) -> list[float]:
    """AP of one class at each overlap, NaN where it has no objects."""
    wanted = {image: _of_class(each, number) for image, each in objects.items()}
    num_objects = sum(int((~is_difficult_M).sum()) for _, is_difficult_M in wanted.values())
    if not num_objects:
        return [float("nan")] * len(OVERLAPS)
    images, box_N4, score_N = _detections_of_class(found, number)
    order = np.argsort(-score_N, kind="stable")
    ranked = [(images[row], *_best(box_N4[row], wanted[images[row]][0])) for row in order]
    return [_ap_at(overlap, ranked, wanted, num_objects) for overlap in OVERLAPS]


def _of_class(objects: Objects, number: int) -> tuple[np.ndarray, np.ndarray]:
    is_wanted_M = objects.class_M == number
    return objects.box_M4[is_wanted_M], objects.is_difficult_M[is_wanted_M]


def _detections_of_class(found: Mapping[str, Detections], number: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    images: list[str] = []
    boxes, scores = [np.empty((0, 4))], [np.empty(0)]
    for image, each in found.items():
        is_wanted_N = each.class_N == number
        some = Detections(each.box_N4[is_wanted_N], each.class_N[is_wanted_N], each.score_N[is_wanted_N])
        box_N4, score_N = as_written(some)
        images += [image] * len(score_N)
        boxes.append(box_N4)
        scores.append(score_N)
    return images, np.concatenate(boxes), np.concatenate(scores)


def _best(box_4: np.ndarray, box_M4: np.ndarray) -> tuple[float, int]:
    """The largest overlap with an object, and which; -1 where there is none."""
    if not len(box_M4):
        return -1.0, -1
    overlap_M = overlaps(box_4, box_M4)
    return float(overlap_M.max()), int(overlap_M.argmax())


def _ap_at(
    threshold: float,
    ranked: Sequence[tuple[str, float, int]],
    wanted: Mapping[str, tuple[np.ndarray, np.ndarray]],
    num_objects: int,
) -> float:
    taken: set[tuple[str, int]] = set()
    is_right_N, is_wrong_N = np.zeros(len(ranked)), np.zeros(len(ranked))
    for row, (image, overlap, which) in enumerate(ranked):
        if overlap <= threshold:
            is_wrong_N[row] = 1
        elif not wanted[image][1][which]:
            is_taken = (image, which) in taken
            is_wrong_N[row], is_right_N[row] = is_taken, not is_taken
            taken.add((image, which))
    right_N, wrong_N = is_right_N.cumsum(), is_wrong_N.cumsum()
    precision_N = right_N / np.maximum(right_N + wrong_N, np.finfo(np.float64).eps)
    return eleven_point_ap(right_N / num_objects, precision_N)
