"""From the logits of 1,000 classes to the prediction a data set asks for, and whether it is right.

Legend: N images, C = 1,000 classes, G groups, L labels of an image.
"""

from collections.abc import Sequence

import numpy as np


def top_classes(logits_NC: np.ndarray, num: int, subset: Sequence[int] | None = None) -> np.ndarray:
    """Return the classes with the largest logits, best first; of equal ones the first class.

    Args:
        logits_NC: float (N, C).
        num: how many.
        subset: compare only these classes; the others cannot be predicted.
    Returns: int64 (N, num), classes among the C.
    """
    classes = np.arange(logits_NC.shape[1]) if subset is None else np.sort(np.asarray(subset, dtype=np.int64))
    order_NC = np.argsort(-logits_NC[:, classes], axis=1, kind="stable")
    return classes[order_NC[:, :num]]


def top_accuracy(
    logits_NC: np.ndarray, label_N: np.ndarray, num: int = 1, subset: Sequence[int] | None = None
) -> float:
    """Return the percentage of images whose label is among the `num` best classes."""
    return _percent((top_classes(logits_NC, num, subset) == label_N[:, None]).any(axis=1))


def multi_label_accuracy(logits_NC: np.ndarray, labels_N: Sequence[Sequence[int]], num: int = 1) -> float:
    """Return the percentage of images with any of their labels among the `num` best classes.

    Args: labels_N: of each image the right classes; images with none are left out (ReaL, Beyer et al. 2020).
    """
    top_NK = top_classes(logits_NC, num)
    counted = [number for number, labels in enumerate(labels_N) if len(labels)]
    return _percent(np.array([np.isin(top_NK[number], labels_N[number]).any() for number in counted], dtype=bool))


def grouped_prediction(logits_NC: np.ndarray, group_C: np.ndarray) -> np.ndarray:
    """Return the group of the best of all classes; NONE where that class belongs to no group (ImageNet-9).

    Args: group_C: int64 (C,), group of each class or NONE. Returns: int64 (N,).
    """
    return group_C[top_classes(logits_NC, 1)[:, 0]]


def largest_of_groups(logits_NC: np.ndarray, members_G: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the largest logit of each group's classes (ObjectNet's restricted protocol).

    Args: members_G: classes of each group. Returns: (N, G), of the logits' dtype.
    """
    return np.stack([logits_NC[:, list(members)].max(axis=1) for members in members_G], axis=1)


def mean_probabilities(logits_NC: np.ndarray, members_G: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the mean probability of each group's classes (shape bias, Geirhos et al. 2019).

    The mean, not the sum, so that a group of a hundred breeds does not outweigh a group of one class.

    Args: members_G: classes of each group. Returns: float64 (N, G).
    """
    logits_NC = logits_NC.astype(np.float64)
    probability_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    probability_NC /= probability_NC.sum(axis=1, keepdims=True)
    return np.stack([probability_NC[:, list(members)].mean(axis=1) for members in members_G], axis=1)


def _percent(is_right_N: np.ndarray) -> float:
    return 100.0 * float(is_right_N.mean()) if is_right_N.size else float("nan")
