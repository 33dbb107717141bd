"""VOC's average precision against numbers worked out by hand and a slow reference."""

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backdrop.trainer.evaluation.detection.voc_ap import (
    Detections,
    Objects,
    as_written,
    eleven_point_ap,
    overlaps,
    voc_scores,
)
from tests.reference.voc_ap import reference_ap


def objects(*rows: tuple[int, tuple[float, ...], bool]) -> Objects:
    return Objects(
        np.array([box for _, box, _ in rows], dtype=np.float64).reshape(-1, 4),
        np.array([number for number, _, _ in rows], dtype=np.int64),
        np.array([is_difficult for _, _, is_difficult in rows], dtype=bool),
    )


def detections(*rows: tuple[int, tuple[float, ...], float]) -> Detections:
    return Detections(
        np.array([box for _, box, _ in rows], dtype=np.float32).reshape(-1, 4),
        np.array([number for number, _, _ in rows], dtype=np.int64),
        np.array([score for _, _, score in rows], dtype=np.float32),
    )


def test_eleven_recalls() -> None:
    # One of two objects found first, then one error, then the other: recalls 0 .. .5 see 1, .6 .. 1 see 2/3.
    precision = np.array([1, 1 / 2, 2 / 3])
    assert eleven_point_ap(np.array([0.5, 0.5, 1.0]), precision) == pytest.approx((6 + 5 * 2 / 3) / 11)
    # Half of the objects are never found: recalls above .5 count as 0.
    assert eleven_point_ap(np.array([0.5]), np.array([1.0])) == pytest.approx(6 / 11)
    assert eleven_point_ap(np.array([]), np.array([])) == 0
    # The recalls are sums of 0.1, as in the devkit's Python: the fourth is a little above 3 / 10.
    assert eleven_point_ap(np.array([3 / 10]), np.array([1.0])) == pytest.approx(3 / 11)


def test_both_ends_of_a_box_belong_to_it() -> None:
    # 10 x 10 pixels against their left half: 50 of 100. Without the extra pixel it would be 36 of 81.
    box = np.array([1.0, 1, 10, 10])
    assert overlaps(box, np.array([[1.0, 1, 5, 10], [11, 1, 20, 10]])).tolist() == [0.5, 0.0]


def test_an_overlap_of_just_the_threshold_is_an_error() -> None:
    truth = {"a": objects((0, (1, 1, 10, 10), False))}
    half = {"a": detections((0, (0, 0, 5, 10), 0.9))}
    assert voc_scores(half, truth, 1)[0]["ap50"] == 0
    # One more column: .6, above .5 and .55, and not above .6.
    more = {"a": detections((0, (0, 0, 6, 10), 0.9))}
    assert voc_scores(more, truth, 1)[0] == pytest.approx({"ap50": 100, "ap": 20, "ap75": 0})


def test_boxes_count_from_one_and_are_rounded_as_they_are_written() -> None:
    box_N4, score_N = as_written(detections((0, (9.96, 0, 20.04, 30.06), 0.98765), (0, (0, 0, 1, 1), 0.0004)))
    assert box_N4[0].tolist() == [11.0, 1.0, 20.0, 30.1]
    assert score_N.tolist() == [0.988, 0.0]


def test_a_difficult_object_is_neither_wanted_nor_wrong() -> None:
    truth = {"a": objects((0, (1, 1, 10, 10), True), (0, (21, 1, 30, 10), False))}
    both = detections((0, (0, 0, 10, 10), 0.9), (0, (0, 0, 10, 10), 0.8), (0, (20, 0, 30, 10), 0.7))
    assert voc_scores({"a": both}, truth, 1)[0]["ap50"] == pytest.approx(100)
    # The same without the mark: one of the two is a second detection of the first object.
    plain = {"a": objects((0, (1, 1, 10, 10), False), (0, (21, 1, 30, 10), False))}
    assert voc_scores({"a": both}, plain, 1)[0]["ap50"] == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)


def test_a_second_detection_of_an_object_is_an_error_even_beside_a_free_one() -> None:
    # Both overlap the first object most; the second object, which they overlap too, stays unfound.
    truth = {"a": objects((0, (1, 1, 10, 10), False), (0, (2, 1, 11, 10), False))}
    twice = detections((0, (0, 0, 10, 10), 0.9), (0, (0, 0, 10, 10), 0.8))
    assert voc_scores({"a": twice}, truth, 1)[0]["ap50"] == pytest.approx(100 * 6 / 11)


def test_classes_count_equally_and_images_without_detections_still_count() -> None:
    truth = {"a": objects((0, (1, 1, 10, 10), False), (1, (1, 1, 10, 10), False))}
    truth["b"] = objects((1, (1, 1, 9, 9), False))
    found = {"a": detections((0, (0, 0, 10, 10), 0.9), (1, (0, 0, 10, 10), 0.9))}
    scores, of_class = voc_scores(found, truth, 3)
    assert of_class[:2] == pytest.approx([100, 100 * 6 / 11])
    assert np.isnan(of_class[2])
    assert scores["ap50"] == pytest.approx((100 + 100 * 6 / 11) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_as_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    score_N = rng.permutation(1000)[:60] / 1000  # no ties: their order is not defined
    for number, image in enumerate("abcdef"):
        corner = rng.integers(1, 40, (5, 2))
        box = np.concatenate([corner, corner + rng.integers(5, 30, (5, 2))], axis=1)
        truth[image] = Objects(box.astype(float), rng.integers(0, 2, 5), rng.random(5) < 0.3)
        noisy = np.repeat(box, 2, axis=0) + rng.normal(0, 2, (10, 4)) - [1, 1, 0, 0]
        some_N = score_N[10 * number : 10 * number + 10]
        found[image] = Detections(noisy.astype(np.float32), rng.integers(0, 2, 10), some_N)
    scores, of_class = voc_scores(found, truth, 2)
    expected = np.array([[reference_ap(found, truth, number, t / 100) for t in range(50, 100, 5)] for number in (0, 1)])
    assert of_class == pytest.approx((100 * expected[:, 0]).tolist())
    assert scores["ap"] == pytest.approx(100 * expected.mean())
    assert scores["ap75"] == pytest.approx(100 * expected[:, 5].mean())


@pytest.mark.parametrize("seed", range(3))
def test_as_pycocotools_where_the_two_protocols_agree(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked at VOC's eleven recalls, of objects far apart and none difficult, it must give the same ten numbers."""
    rng = np.random.default_rng(seed)
    score_N = rng.permutation(1000)[:80] / 1000
    truth, found, records, annotations = {}, {}, [], []
    for number, image in enumerate("abcd"):
        corner = np.array([[left, top] for left in (1, 101, 201) for top in (1, 101, 201)])
        box = np.concatenate([corner, corner + rng.integers(30, 60, (9, 2))], axis=1).astype(float)
        class_M = rng.integers(0, 2, 9)
        truth[image] = Objects(box, class_M, np.zeros(9, dtype=bool))
        rows = rng.integers(0, 9, 20)  # some twice, some never
        noisy = (box[rows] + rng.normal(0, 4, (20, 4))).round(1) - [1, 1, 0, 0]
        class_N, some_N = np.where(rng.random(20) < 0.8, class_M[rows], 1 - class_M[rows]), score_N[20 * number :][:20]
        found[image] = Detections(noisy.astype(np.float32), class_N, some_N)
        # VOC's boxes hold both their ends.
        annotations += [
            {"image_id": number, "category_id": int(kind), "bbox": [left, top, right - left + 1, bottom - top + 1],
             "area": 1.0, "iscrowd": 0, "id": len(annotations) + place + 1}
            for place, (kind, (left, top, right, bottom)) in enumerate(zip(class_M, box.tolist(), strict=True))
        ]  # fmt: skip
        records += [
            {"image_id": number, "category_id": int(kind), "score": float(score),
             "bbox": [left + 1, top + 1, right - left, bottom - top]}
            for kind, score, (left, top, right, bottom) in zip(class_N, some_N, noisy.tolist(), strict=True)
        ]  # fmt: skip
    coco = COCO()
    coco.dataset = {"info": {}, "images": [{"id": number} for number in range(4)], "annotations": annotations,
                    "categories": [{"id": 0}, {"id": 1}]}  # fmt: skip
    coco.createIndex()
    scored = COCOeval(coco, coco.loadRes(records), "bbox")
    scored.params.recThrs = np.arange(0.0, 1.1, 0.1)
    scored.evaluate()
    scored.accumulate()
    capsys.readouterr()
    theirs_TK = 100 * scored.eval["precision"][:, :, :, 0, -1].mean(axis=1)
    scores, of_class = voc_scores(found, truth, 2)
    assert 20 < scores["ap"] < 80
    assert of_class == pytest.approx(theirs_TK[0].tolist(), abs=1e-6)
    assert scores["ap"] == pytest.approx(theirs_TK.mean(), abs=1e-6)
    assert scores["ap75"] == pytest.approx(theirs_TK[5].mean(), abs=1e-6)
