"""The papers' tables name metrics that the evaluations give; each one's own test has it."""

from backdrop.stores.drawn_sample import background_variants
from backdrop.trainer.evaluation import imagenet_c
from backdrop.trainer.paper_tables.tables import papers, tables

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
    "linear": {"top1", "top5"},
    "limited-labels": {
        f"{mode}_{percent}_{name}"
        for mode in ("linear", "finetune")
        for percent in (1, 10)
        for name in ("top1", "top5")
    },
    "classification": {"top1"},
    "cifar10": {"top1"},
    "cifar100": {"top1"},
    "places205": {"top1"},
    "voc-detection": {"ap50", "ap", "ap75"},
    "coco-segmentation": {f"{kind}_{name}" for kind in ("box", "mask") for name in ("ap50", "ap", "ap75")},
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


def test_the_metrics_of_ryali_are_ours() -> None:
    assert named("ryali") == OF_SETS


def test_the_metrics_of_cast_are_ours() -> None:
    assert named("cast") == OF_CAST


def test_every_number_of_a_network_has_its_evaluation() -> None:
    """What no evaluation writes is of detectors (`saliency table1`), published by others, or chance."""
    without = {
        (row.subject, cell.task)
        for paper in papers()
        for table in tables(paper)
        for row in table.rows
        for cell in row.cells
        if cell.evaluation is None
    }
    assert without == {
        ("detector", "saliency"), ("published", "saliency"), ("published", "limited-labels"),
        ("published", "detection-and-segmentation"), ("none", "imagenet-9"),
    }  # fmt: skip
