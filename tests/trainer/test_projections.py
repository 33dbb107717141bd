"""Answers from logits, against loops over plain lists."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.trainer.evaluation.data.projections import (
    grouped_prediction,
    largest_of_groups,
    mean_probabilities,
    multi_label_accuracy,
    top_accuracy,
    top_classes,
)

NUM_CLASSES = 12
# Few values, so that many logits are equal.
LOGITS = st.lists(st.lists(st.sampled_from([-3.0, 0.0, 1.0, 2.5]), min_size=12, max_size=12), min_size=1, max_size=6)
SUBSET = st.one_of(st.none(), st.lists(st.integers(0, 11), min_size=5, max_size=12, unique=True))


def best_by_loop(logits: list[float], num: int, classes: list[int]) -> list[int]:
    """The classes with the largest logits; of equal ones, the smaller number first."""
    left, best = sorted(classes), []
    for _ in range(num):
        winner = left[0]
        for label in left:
            if logits[label] > logits[winner]:
                winner = label
        best.append(winner)
        left.remove(winner)
    return best


@settings(deadline=None, max_examples=50)
@given(logits=LOGITS, num=st.integers(1, 5), subset=SUBSET)
def test_best_classes(logits: list[list[float]], num: int, subset: list[int] | None) -> None:
    classes = list(range(NUM_CLASSES)) if subset is None else subset
    expected = [best_by_loop(row, num, classes) for row in logits]
    assert top_classes(np.array(logits, dtype=np.float32), num, subset).tolist() == expected
    label_N = np.arange(len(logits))
    num_right = sum(row in best for row, best in enumerate(expected))
    found = top_accuracy(np.array(logits, dtype=np.float32), label_N, num, subset)
    assert found == pytest.approx(100 * num_right / len(logits))


@settings(deadline=None, max_examples=30)
@given(logits=LOGITS, groups=st.lists(st.integers(-1, 3), min_size=12, max_size=12))
def test_groups(logits: list[list[float]], groups: list[int]) -> None:
    logits_NC = np.array(logits, dtype=np.float32)
    expected = [groups[best_by_loop(row, 1, list(range(NUM_CLASSES)))[0]] for row in logits]
    assert grouped_prediction(logits_NC, np.array(groups)).tolist() == expected
    members = [[label for label in range(NUM_CLASSES) if groups[label] == group] for group in set(groups)]
    largest = [[max(row[label] for label in each) for each in members] for row in logits]
    assert largest_of_groups(logits_NC, members).tolist() == largest
    probabilities = [[math.exp(value) / math.fsum(map(math.exp, row)) for value in row] for row in logits]
    means = [[math.fsum(row[label] for label in each) / len(each) for each in members] for row in probabilities]
    np.testing.assert_allclose(mean_probabilities(logits_NC, members), means, rtol=1e-12)


def test_large_logits_keep_their_probabilities() -> None:
    logits_NC = np.array([[1000.0, 1000.0, 900.0]], dtype=np.float32)
    assert mean_probabilities(logits_NC, [[0], [1, 2]]).tolist() == [[0.5, 0.25]]


def test_images_without_labels_do_not_count() -> None:
    logits_NC = np.eye(4)
    assert multi_label_accuracy(logits_NC, [[0], [], [1, 2], [0, 1, 2]]) == pytest.approx(100 * 2 / 3)
    # Of equal logits the first classes: behind its own, image 3 has 0.
    assert multi_label_accuracy(logits_NC, [[0], [], [1, 2], [0]], 2) == 100.0
    assert multi_label_accuracy(logits_NC, [[0], [], [1], [1]], 2) == pytest.approx(100 / 3)
