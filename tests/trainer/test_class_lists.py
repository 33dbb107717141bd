"""The lists of classes against what is known of the released ones: digests, sizes, single members."""

import hashlib

import numpy as np
import pytest

from backdrop.trainer.evaluation.data.class_lists import (
    IMAGENET_A,
    IMAGENET_R,
    IN9_NAMES,
    SHAPE_CATEGORIES,
    in9_of_class,
)
from backdrop.trainer.evaluation.data.imagenet import note_other_classes
from tests.material.evaluation_fixtures import WNIDS


def digest_of(classes: tuple[int, ...]) -> str:
    return hashlib.sha256(",".join(map(str, classes)).encode()).hexdigest()[:16]


def test_imagenet_a_and_r_are_the_released_lists() -> None:
    assert digest_of(IMAGENET_A) == "973e8c3e530bf5db"
    assert digest_of(IMAGENET_R) == "a1d9a9ace3098120"
    assert len(set(IMAGENET_A) & set(IMAGENET_R)) == 86


def test_imagenet_9_has_the_released_counts() -> None:
    group_C = in9_of_class()
    assert [int((group_C == group).sum()) for group in range(-1, 9)] == [630, 116, 52, 42, 36, 35, 27, 26, 20, 16]
    assert [IN9_NAMES[group_C[label]] for label in (207, 0, 407)] == ["dog", "fish", "wheeled vehicle"]
    assert group_C[[171, 172, 999]].tolist() == [-1, -1, -1]


def test_the_16_categories_have_207_classes_in_alphabetical_order() -> None:
    members = [label for classes in SHAPE_CATEGORIES.values() for label in classes]
    assert len(members) == len(set(members)) == 207
    assert list(SHAPE_CATEGORIES) == sorted(SHAPE_CATEGORIES)
    assert [len(SHAPE_CATEGORIES[name]) for name in ("bird", "dog", "truck")] == [49, 109, 8]
    assert np.isin(in9_of_class()[list(SHAPE_CATEGORIES["dog"])], (0, -1)).all()
    assert WNIDS[SHAPE_CATEGORIES["knife"][0]] == "n03041632"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("apple", "pear"), "classes: those of the 2 folders, which are not ImageNet's (apple, pear); the score is of"),
        ((WNIDS[0], "n1440765"), "warning: 1 of 2 class folders are not named as ImageNet's are (n1440765)"),
        ((WNIDS[0], *"abcd"), "warning: 4 of 5 class folders are not named as ImageNet's are (a, b, c, ...)"),
    ],
)
def test_classes_that_are_not_imagenets_are_said(
    names: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note_other_classes(names)
    assert said in capsys.readouterr().err
