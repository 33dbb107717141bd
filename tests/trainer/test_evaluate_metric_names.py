"""The papers' tables name metrics that the evaluations give; each one's own test has it."""

import pytest

from backdrop.stores.drawn_sample import background_variants
from backdrop.trainer.evaluation import imagenet_c
from backdrop.trainer.paper_tables.tables import tables

OF_SETS = {
    "imagenet-9": {*background_variants.NAMES, "bg_gap"},
    "imagenet-c": set(imagenet_c.CATEGORIES),
    "imagenet-v2": {"matched_frequency", "threshold_0.7", "top_images"},
    "real": {"real_top1", "real_top5"},
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


def named(paper: str) -> dict[str, set[str]]:
    """The scores that the cells of a paper's trained rows ask for, by evaluation."""
    found: dict[str, set[str]] = {}
    for table in tables(paper):
        for cell in (cell for row in table.rows if row.training for cell in row.cells if cell.evaluation):
            found.setdefault(cell.evaluation.task, set()).add(cell.score)
    return found


@pytest.mark.parametrize("task", OF_SETS)
def test_the_papers_metrics_are_ours(task: str) -> None:
    assert named("ryali")[task] == OF_SETS[task]


def test_the_metrics_of_cast_are_ours() -> None:
    assert named("cast") == OF_CAST
