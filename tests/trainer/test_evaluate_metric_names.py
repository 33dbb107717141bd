"""The papers' tables name metrics that the evaluations give; each one's own test has it."""

import pytest

from backdrop.stores.drawn_sample import background_variants
from backdrop.trainer.evaluation import imagenet_c
from backdrop.trainer.evaluation.harness.paper_numbers import paper_numbers
from backdrop.trainer.run.loop import resolve_settings

OF_SETS = {
    "imagenet-9": {*background_variants.NAMES, "bg_gap"},
    "imagenet-c": set(imagenet_c.CATEGORIES),
    "imagenet-v2": {"matched_frequency", "threshold_0.7", "top_images"},
    "real": {"real_top1"},
    "objectnet": {"strict_top1"},
    "imagenet-a": {"top1", "only_fg_top1"},
    "imagenet-r": {"top1"},
    "fgsm": {"robust_top1"},
    "shape-bias": {"shape_bias"},
}
OF_CAST = {
    "voc07-svm": {"voc07_map"},
    "linear": {"top1"},
    "voc-detection": {"ap50", "ap", "ap75"},
    "coco-segmentation": {f"{kind}_{name}" for kind in ("box", "mask") for name in ("ap50", "ap", "ap75")},
    "imagenet-9": set(background_variants.NAMES),
    "grounding": {"mean_iou"},
}


@pytest.mark.parametrize("task", OF_SETS)
def test_the_papers_metrics_are_ours(task: str) -> None:
    settings = resolve_settings("moco_v2_800", "moco", "rm", False, [])
    medium = resolve_settings("moco_v2_220", "moco", "rm", False, [])
    named = {metric for each in (settings, medium) for of, metric in paper_numbers("ryali", each) if of == task}
    assert named == OF_SETS[task]


@pytest.mark.parametrize("task", OF_CAST)
def test_the_metrics_of_cast_are_ours(task: str) -> None:
    numbers = paper_numbers("cast", resolve_settings("cast_coco", "cast", "none", True, []))
    assert {metric for of, metric in numbers if of == task} == OF_CAST[task]
    assert {of for of, _ in numbers} == set(OF_CAST)
