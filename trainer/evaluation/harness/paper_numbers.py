"""The numbers of both papers' tables, to stand beside ours: percent, and for grounding an IoU.

Ryali et al. 2021: models pretrained with DeepUSPS2's masks; means of three runs for the medium length, one run for the
full. Selvaraju et al. 2021 (CAST): MoCo pretrained on COCO. Which of a table's columns a run belongs to follows from
its settings; a run of another kind, of another network or of fewer epochs, has no number beside it.
"""

from backdrop.trainer import cast
from backdrop.trainer.settings import RunSettings

# table, task, metric, length | MoCo: none rm swaps | BYOL: none rm random | SwAV: none rm random
_RYALI = """
2   linear         top1            medium | 67.7 69.1 69.5 | 72.7 73.3 73.9 | 72.2 73.6 73.4
2   linear         top1            full   | 71.0 71.9 72.2 | 73.8 74.6 74.8 | 74.9 76.1 76.1
2   real           real_top1       medium | 74.7 76.2 76.6 | 79.6 80.4 81.0 | 79.1 80.6 80.4
2   real           real_top1       full   | 78.0 78.9 79.2 | 80.5 81.3 81.7 | 81.4 82.5 82.6
6   limited-labels linear_1_top1   full   | 52.0 54.1 56.0 | 57.5 60.1 60.9 | 52.8 57.0 56.4
6   limited-labels linear_1_top5   full   | 77.7 78.6 79.5 | 80.8 82.7 83.3 | 78.4 81.3 81.1
6   limited-labels linear_10_top1  full   | 63.9 65.1 65.9 | 68.6 70.1 70.4 | 68.3 70.4 70.2
6   limited-labels linear_10_top5  full   | 85.8 86.2 86.4 | 88.6 89.2 89.5 | 88.7 89.8 89.7
6   limited-labels finetune_1_top1 full   | 54.1 55.2 57.3 | 57.3 59.9 60.7 | 54.0 55.2 55.9
6   limited-labels finetune_1_top5 full   | 81.3 81.3 82.4 | 80.5 82.4 82.8 | 78.5 79.4 79.4
6   limited-labels finetune_10_top1 full  | 67.6 67.8 68.7 | 70.6 71.7 72.0 | 70.1 70.8 71.1
6   limited-labels finetune_10_top5 full  | 89.4 89.2 89.5 | 90.0 90.5 90.7 | 89.9 90.2 90.4
10  imagenet-9     original        medium | 92.7 93.8 94.2 | 94.9 95.6 96.0 | 94.1 95.0 94.9
10  imagenet-9     only_bg_b       medium | 6.1 6.1 3.6    | 5.4 4.9 6.0    | 10.9 8.8 8.3
10  imagenet-9     only_bg_t       medium | 14.8 12.9 9.3  | 12.7 11.8 11.5 | 15.8 16.7 17.6
10  imagenet-9     no_fg           medium | 37.8 42.3 39.6 | 43.9 45.9 46.2 | 41.3 44.2 45.2
10  imagenet-9     only_fg         medium | 74.4 81.9 86.1 | 83.5 88.8 87.7 | 79.4 85.3 84.3
10  imagenet-9     mixed_same      medium | 81.8 84.0 87.9 | 86.2 88.6 90.1 | 82.2 86.1 86.3
10  imagenet-9     mixed_rand      medium | 70.7 76.3 84.1 | 79.6 83.2 85.5 | 71.3 77.1 77.0
10  imagenet-9     mixed_next      medium | 67.0 73.0 82.2 | 77.6 80.7 84.0 | 69.0 74.3 74.4
A15 imagenet-9     original        full   | 94.7 94.9 95.3 | 95.2 95.8 95.7 | 94.6 95.4 95.1
A15 imagenet-9     only_bg_b       full   | 7.9 6.3 5.1    | 7.1 5.8 6.0    | 11.4 10.5 10.9
A15 imagenet-9     only_bg_t       full   | 14.7 13.9 11.1 | 16.5 13.0 14.1 | 19.2 18.3 18.0
A15 imagenet-9     no_fg           full   | 42.3 43.5 42.6 | 42.7 46.5 47.5 | 46.0 47.4 43.5
A15 imagenet-9     only_fg         full   | 79.7 85.2 86.9 | 81.4 88.5 87.3 | 81.9 84.1 83.2
A15 imagenet-9     mixed_same      full   | 84.9 85.8 89.7 | 86.7 89.2 90.2 | 84.3 86.0 85.5
A15 imagenet-9     mixed_rand      full   | 74.9 79.0 85.3 | 77.6 83.9 85.8 | 72.9 76.7 76.5
A15 imagenet-9     mixed_next      full   | 72.9 76.0 82.7 | 75.7 82.0 84.1 | 70.2 74.5 73.1
11  imagenet-9     bg_gap          medium | 11.1 7.7 3.8   | 6.6 5.4 4.6    | 10.9 9.0 9.3
11  imagenet-9     bg_gap          full   | 10.0 6.8 4.4   | 9.1 5.3 4.4    | 11.4 9.3 9.0
A19 imagenet-v2    matched_frequency medium | 54.7 56.7 57.2 | 60.7 61.7 62.1 | 59.3 61.2 60.7
A19 imagenet-v2    threshold_0.7   medium | 63.6 65.7 66.3 | 70.2 71.0 71.5 | 68.5 70.3 70.0
A19 imagenet-v2    top_images      medium | 69.6 71.5 72.0 | 75.6 76.3 76.7 | 73.9 75.6 75.3
A19 imagenet-v2    matched_frequency full | 58.9 59.6 60.3 | 61.9 63.4 62.8 | 61.7 63.8 63.4
A19 imagenet-v2    threshold_0.7   full   | 67.4 68.7 68.8 | 71.2 72.4 72.4 | 70.8 72.8 72.3
A19 imagenet-v2    top_images      full   | 73.1 74.2 74.9 | 76.2 77.7 77.2 | 76.4 77.9 77.9
13  objectnet      strict_top1     medium | 14.4 16.8 18.2 | 20.4 22.1 22.3 | 16.1 19.3 18.1
13  objectnet      strict_top1     full   | 17.4 19.9 20.8 | 20.8 23.9 23.4 | 19.3 21.9 21.3
A22 imagenet-a     top1            medium | 3.1 3.3 3.6    | 4.4 5.8 6.1    | 3.7 4.2 4.1
A22 imagenet-a     top1            full   | 4.2 4.7 5.3    | 5.3 7.2 7.2    | 5.2 6.0 5.7
A22 imagenet-a     only_fg_top1    medium | 2.8 2.8 4.2    | 3.2 4.8 4.7    | 2.7 4.0 3.5
A22 imagenet-a     only_fg_top1    full   | 3.4 3.1 4.7    | 3.1 5.8 5.1    | 3.9 4.0 3.8
15  imagenet-r     top1            medium | 27.7 31.3 32.3 | 36.3 39.4 38.4 | 27.9 32.1 31.2
15  imagenet-r     top1            full   | 30.4 33.4 33.5 | 34.4 40.2 39.2 | 29.4 32.7 32.5
16  fgsm           robust_top1     medium | 4.5 6.4 8.4    | 10.6 11.9 11.4 | 6.0 6.6 6.7
16  fgsm           robust_top1     full   | 7.8 10.6 13.1  | 10.4 13.2 13.4 | 9.1 10.1 10.4
17  cifar10        top1            full   | 73.9 80.7 76.0 | 86.7 87.7 88.1 | 92.7 92.7 92.9
17  cifar100       top1            full   | 40.8 51.6 44.9 | 67.6 66.5 67.0 | 76.0 76.4 76.4
18  places205      top1            full   | 28.7 27.3 25.8 | 44.5 40.0 42.1 | 49.6 48.1 48.1
19  voc-detection  ap50            full   | 82.7 82.9 82.7 | 82.7 83.0 83.1 | 82.3 82.4 82.4
19  voc-detection  ap              full   | 57.9 58.1 57.5 | 56.7 57.0 57.6 | 55.6 55.9 55.9
19  voc-detection  ap75            full   | 64.5 65.2 63.9 | 63.0 64.0 64.7 | 61.9 62.2 62.4
19  coco-segmentation box_ap50     full   | 61.0 61.2 61.1 | 61.1 61.5 61.7 | 61.4 61.2 61.2
19  coco-segmentation box_ap       full   | 41.1 41.2 41.1 | 40.9 41.1 41.4 | 40.7 40.6 41.4
19  coco-segmentation box_ap75     full   | 44.8 44.7 44.3 | 44.5 44.4 44.7 | 43.7 44.0 44.8
19  coco-segmentation mask_ap50    full   | 57.7 58.0 57.6 | 57.6 57.9 58.4 | 57.6 57.6 58.0
19  coco-segmentation mask_ap      full   | 35.8 36.0 35.8 | 35.5 35.6 36.0 | 35.4 35.4 36.0
19  coco-segmentation mask_ap75    full   | 38.4 38.6 38.3 | 37.8 38.0 38.3 | 37.4 37.4 38.3
20  shape-bias     shape_bias      full   | 28.8 31.7 33.4 | 27.6 29.8 31.0 | 17.0 17.7 19.4
A29 imagenet-c     noise           full   | 30.3 25.9 30.6 | 34.6 28.3 30.2 | 33.0 32.6 33.3
A29 imagenet-c     blur            full   | 27.1 28.2 27.9 | 31.3 32.4 33.0 | 31.3 33.0 32.8
A29 imagenet-c     weather         full   | 40.1 41.7 42.3 | 43.6 47.7 47.3 | 43.7 46.2 45.5
A29 imagenet-c     digital         full   | 45.9 45.0 44.2 | 48.9 49.7 49.4 | 46.8 48.6 48.7
"""
# table, task, metric | MoCo, with the crop constraint, with CAST
_CAST = """
1   voc07-svm      voc07_map       | 67.5 71.1 74.0
1   linear         top1            | 46.5 46.0 48.7
1   voc-detection  ap              | 47.5 49.0 54.2
1   voc-detection  ap50            | 75.4 77.4 80.1
1   voc-detection  ap75            | 51.5 52.4 59.9
1   coco-segmentation box_ap       | 38.3 38.3 39.4
1   coco-segmentation box_ap50     | 58.7 58.7 60.0
1   coco-segmentation box_ap75     | 41.5 41.6 42.8
1   coco-segmentation mask_ap      | 34.9 34.8 35.8
1   coco-segmentation mask_ap50    | 55.7 55.7 57.1
1   coco-segmentation mask_ap75    | 37.2 37.2 38.6
3   imagenet-9     original        | 72.62 74.79 77.33
3   imagenet-9     mixed_same      | 45.75 52.64 54.42
3   imagenet-9     mixed_rand      | 30.44 39.14 39.93
3   imagenet-9     mixed_next      | 26.86 34.17 37.46
3   imagenet-9     only_fg         | 30.42 33.73 43.26
3   imagenet-9     no_fg           | 23.95 22.74 23.70
3   imagenet-9     only_bg_b       | 5.06 4.10 4.40
3   imagenet-9     only_bg_t       | 12.62 11.88 12.59
F7  grounding      mean_iou        | 0.24 0.24 0.41
"""
_METHODS = {"moco": 0, "byol": 1, "swav": 2}
_BACKGROUNDS = {"moco": ("none", "rm", "swaps"), "byol": ("none", "rm", "random"), "swav": ("none", "rm", "random")}
# From how many epochs on a run is one of the medium and of the full length (A.1). CAST's has 200.
_MEDIUM_EPOCHS = {"moco": 220, "byol": 300, "swav": 100}
_FULL_EPOCHS = {"moco": 800, "byol": 1000, "swav": 800}
_CAST_EPOCHS = 200
RECIPES = ("ryali", "cast")
# NAME=VALUE options that a paper's numbers were made with, where an evaluation's defaults are the other paper's.
_OPTIONS = {("cast", "coco-segmentation"): ("form=fpn",), ("cast", "linear"): ("protocol=cast",)}


def tasks_of(recipe: str) -> tuple[str, ...]:
    """Return the evaluations of a paper's tables, in their order. Args: recipe: ryali or cast."""
    return tuple(dict.fromkeys(words[1] for words, _ in _rows(recipe)))


def options_of(recipe: str, task: str) -> tuple[str, ...]:
    """Return the NAME=VALUE changes of an evaluation's defaults that a paper's numbers of it were made with."""
    return _OPTIONS.get((recipe, task), ())


def paper_numbers(recipe: str, settings: RunSettings | None) -> dict[tuple[str, str], tuple[str, float]]:
    """Return the paper's number for a run of these settings.

    Args: recipe: ryali or cast. settings: of the run; None = not known.
    Returns: {(task, metric): (table, value)}, empty where the run is none of the paper's.
    """
    # Both papers' tables are of ResNet-50.
    if settings is None or settings.backbone != "resnet50" or settings.cifar_stem:
        return {}
    return _of_ryali(settings) if recipe == "ryali" else _of_cast(settings)


def _of_ryali(settings: RunSettings) -> dict[tuple[str, str], tuple[str, float]]:
    method, background = settings.method, settings.background.name
    if method not in _METHODS or background not in _BACKGROUNDS[method] or settings.cast is not None:
        return {}
    if settings.epochs < _MEDIUM_EPOCHS[method]:
        return {}
    length = "full" if settings.epochs >= _FULL_EPOCHS[method] else "medium"
    column = _BACKGROUNDS[method].index(background)
    return {
        (words[1], words[2]): (words[0], float(groups[_METHODS[method]].split()[column]))
        for words, groups in _rows("ryali")
        if words[3] == length
    }


def _of_cast(settings: RunSettings) -> dict[tuple[str, str], tuple[str, float]]:
    if settings.method not in ("moco", "cast") or settings.background.name != "none" or settings.epochs < _CAST_EPOCHS:
        return {}
    is_constrained = any(view.min_foreground > 0 for view in settings.views)
    # Rows 4 and 5 of Table 1 are CAST's command at lambda 0 (trainer/recipes/cast_coco.py).
    is_supervised = cast.in_use(settings.cast) is not None
    if is_supervised and not is_constrained:
        return {}
    column = 2 if is_supervised else int(is_constrained)
    return {(words[1], words[2]): (words[0], float(groups[0].split()[column])) for words, groups in _rows("cast")}


def _rows(recipe: str) -> list[tuple[list[str], list[str]]]:
    """Words before the first bar, and the columns after it."""
    lines = (_RYALI if recipe == "ryali" else _CAST).strip().splitlines()
    parts = [line.split("|") for line in lines]
    return [(part[0].split(), part[1:]) for part in parts]
