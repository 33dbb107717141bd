"""Every number that the papers and their released code give, against the recipe that carries it.

The tables below are copied by hand from the sources that each row names: "A.1" and the like are Ryali et al. 2021,
"MoCo", "BYOL", "SwAV", "CAST" the released code of He/Chen, Grill, Caron and Selvaraju et al.
"""

import re
from dataclasses import replace
from functools import reduce
from importlib import import_module
from typing import Any

import pytest

import backdrop.trainer.methods
import backdrop.trainer.recipes
from backdrop.errors import UserError
from backdrop.settings.overrides import setting_paths
from backdrop.trainer.optimisation.optimisers import peak_lr
from backdrop.trainer.optimisation.schedules import lr_fraction
from backdrop.trainer.run.checks import check
from backdrop.trainer.run.loop import resolve_settings
from backdrop.trainer.settings import RunSettings, apply_overrides, from_json, to_json

PAPERS = sorted(set(backdrop.trainer.recipes.NAMES) - {"smoke"})
WANTS_A_RUN = ("supervised_finetune", "supervised_retrain")


def method_of(recipe: str) -> str:
    """Return the method named by the command in a recipe's docstring."""
    found = re.search(r"pretrain --method (\w+) ", document(recipe))
    assert found, f"trainer/recipes/{recipe}.py gives no command"
    return found[1]


def document(recipe: str) -> str:
    return import_module(f"backdrop.trainer.recipes.{recipe}").__doc__ or ""


def built(recipe: str, background: str = "none") -> RunSettings:
    """Return a recipe's settings, not checked: two of them want a run's folder first."""
    return import_module(f"backdrop.trainer.recipes.{recipe}").settings(method_of(recipe), background, False)


def value(settings: RunSettings, path: str) -> Any:
    return reduce(lambda record, name: record[int(name)] if name.isdecimal() else getattr(record, name),
                  path.split("."), settings)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the numbers

# One row: the recipes, what is set, to what, where it is written.
MOCO = ("moco_v2_200", "moco_v2_220", "moco_v2_800")
BYOL = ("byol_300", "byol_1000", "drn_d_105_byol_500")
SWAV = ("swav_100", "swav_800", "swav_100_wide", "swav_100_wide_crops")
CAST = ("cast_coco", "cast_coco_mlp")
MOCO_COCO = ("moco_coco",)
SUPERVISED = ("supervised_90", "supervised_300")
NUMBERS: list[tuple[tuple[str, ...], str, Any, str]] = [
    # MoCo-v2
    (MOCO, "backbone", "resnet50", "A, General Settings"),
    (("moco_v2_220",), "epochs", 220, "A.1"),
    (("moco_v2_800",), "epochs", 800, "A.1"),
    (("moco_v2_200",), "epochs", 200, "MoCo"),
    (("moco_v2_220", "moco_v2_800"), "batch_size", 1024, "A.1"),
    (("moco_v2_200",), "batch_size", 256, "MoCo"),
    (("moco_v2_220", "moco_v2_800"), "schedule.warmup_epochs", 20, "A.1"),
    (("moco_v2_200",), "schedule.warmup_epochs", 0, "MoCo"),
    (MOCO, "schedule.is_per_epoch", True, "MoCo"),
    (MOCO, "schedule.final_fraction", 0.0, "MoCo --cos"),
    (MOCO, "optimiser.name", "sgd", "MoCo"),
    (MOCO, "optimiser.lr", 0.03, "MoCo"),
    (MOCO, "optimiser.lr_per_images", 256, "A, General Settings"),
    (MOCO, "optimiser.momentum", 0.9, "MoCo"),
    (MOCO, "optimiser.weight_decay", 1e-4, "MoCo"),
    (MOCO, "optimiser.includes_bias_and_norm", True, "MoCo"),
    (MOCO, "optimiser.clip_norm", 0.0, "MoCo"),
    (MOCO, "algorithm.queue_size", 65536, "MoCo --moco-k"),
    (MOCO, "algorithm.embedding_dim", 128, "MoCo --moco-dim"),
    (MOCO, "algorithm.momentum", 0.999, "MoCo --moco-m"),
    (MOCO, "algorithm.temperature", 0.2, "MoCo-v2 --moco-t"),
    (MOCO, "algorithm.head", "mlp", "MoCo-v2 --mlp"),
    (MOCO, "algorithm.shuffle_bn_group", 32, "A.1: 1024 on 32 GPUs; MoCo: 256 on 8"),
    (MOCO, "views.0.scale", (0.2, 1.0), "MoCo-v2 --aug-plus"),
    (MOCO, "views.0.jitter", (0.4, 0.4, 0.4, 0.1), "MoCo-v2 --aug-plus"),
    (MOCO, "views.0.jitter_probability", 0.8, "MoCo-v2 --aug-plus"),
    (MOCO, "views.0.greyscale_probability", 0.2, "MoCo-v2 --aug-plus"),
    (MOCO, "views.0.blur_probability", 0.5, "MoCo-v2 --aug-plus"),
    (MOCO, "views.0.blur_sigma_px", (0.1, 2.0), "MoCo-v2 --aug-plus"),
    (MOCO, "views.0.solarise_probability", 0.0, "MoCo-v2 --aug-plus"),
    # BYOL
    (BYOL, "batch_size", 4096, "A.1"),
    (BYOL, "sync_bn_group", 512, "A.1: groups of 8 of 64 GPUs"),
    (("byol_300",), "epochs", 300, "2.1"),
    (("byol_1000",), "epochs", 1000, "2.1"),
    (("drn_d_105_byol_500",), "epochs", 500, "A.2"),
    (("drn_d_105_byol_500",), "backbone", "drn_d_105", "A.2"),
    (("byol_300", "byol_1000"), "backbone", "resnet50", "A, General Settings"),
    (BYOL, "optimiser.name", "lars", "2.1"),
    (("byol_300",), "optimiser.lr", 0.3, "BYOL, preset 300"),
    (("drn_d_105_byol_500",), "optimiser.lr", 0.3, "A.2"),
    (("byol_1000",), "optimiser.lr", 0.2, "BYOL, preset 1000"),
    (BYOL, "optimiser.lr_per_images", 256, "BYOL"),
    (("byol_300",), "optimiser.weight_decay", 1e-6, "BYOL, preset 300"),
    (("drn_d_105_byol_500",), "optimiser.weight_decay", 1e-6, "A.2"),
    (("byol_1000",), "optimiser.weight_decay", 1.5e-6, "BYOL, preset 1000"),
    (("byol_300",), "algorithm.momentum", 0.99, "BYOL, preset 300"),
    (("drn_d_105_byol_500",), "algorithm.momentum", 0.99, "A.2"),
    (("byol_1000",), "algorithm.momentum", 0.996, "BYOL, preset 1000"),
    (BYOL, "algorithm.hidden_dim", 4096, "BYOL"),
    (BYOL, "algorithm.embedding_dim", 256, "BYOL"),
    (BYOL, "optimiser.momentum", 0.9, "BYOL"),
    (BYOL, "optimiser.lars_trust", 1e-3, "BYOL"),
    (BYOL, "optimiser.includes_bias_and_norm", False, "BYOL"),
    (BYOL, "schedule.warmup_epochs", 10, "BYOL"),
    (BYOL, "schedule.warmup_start_fraction", 0.0, "BYOL"),
    (BYOL, "schedule.is_per_epoch", False, "BYOL"),
    (BYOL, "views.0.scale", (0.2, 1.0), "A.1"),
    (BYOL, "views.1.scale", (0.2, 1.0), "A.1"),
    (BYOL, "views.0.jitter", (0.4, 0.4, 0.2, 0.1), "BYOL"),
    (BYOL, "views.0.jitter_probability", 0.8, "BYOL"),
    (BYOL, "views.0.greyscale_probability", 0.2, "BYOL"),
    (BYOL, "views.0.blur_probability", 1.0, "BYOL"),
    (BYOL, "views.1.blur_probability", 0.1, "BYOL"),
    (BYOL, "views.0.solarise_probability", 0.0, "BYOL"),
    (BYOL, "views.1.solarise_probability", 0.2, "BYOL"),
    (BYOL, "views.0.blur_sigma_px", (0.1, 2.0), "BYOL"),
    (("byol_300_node",), "batch_size", 4096, "A.1"),
    (("byol_300_node",), "accumulation_steps", 8, "A.1: BatchNorm over 512 images, which are a pass"),
    (("byol_300_node",), "sync_bn_group", 512, "A.1: groups of 8 of 64 GPUs"),
    (("byol_300_node",), "optimiser.lr", 0.3, "BYOL, preset 300; section 5 leaves it with fewer images a pass"),
    # SwAV
    (("swav_200_node",), "batch_size", 256, "SwAV, swav_200ep_bs256"),
    (("swav_200_node",), "epochs", 200, "SwAV, swav_200ep_bs256"),
    (("swav_200_node",), "optimiser.lr", 0.6, "SwAV, swav_200ep_bs256"),
    (("swav_200_node",), "optimiser.weight_decay", 1e-6, "SwAV, swav_200ep_bs256"),
    (("swav_200_node",), "schedule.final_fraction", 0.0006 / 0.6, "SwAV, swav_200ep_bs256"),
    (("swav_200_node",), "schedule.warmup_epochs", 0, "SwAV, swav_200ep_bs256"),
    (("swav_200_node",), "algorithm.queue_size", 3840, "SwAV, swav_200ep_bs256"),
    (("swav_200_node",), "algorithm.queue_start_epoch", 15, "SwAV, swav_200ep_bs256"),
    (("swav_200_node",), "algorithm.freeze_prototypes_steps", 5005, "SwAV, swav_200ep_bs256"),
    (("swav_400_two_crops",), "epochs", 400, "Table 20"),
    (("swav_400_two_crops",), "batch_size", 4096, "SwAV"),
    (SWAV, "backbone", "resnet50", "A, General Settings"),
    (SWAV, "batch_size", 4096, "2.1"),
    (("swav_100", "swav_100_wide", "swav_100_wide_crops"), "epochs", 100, "2.1"),
    (("swav_800",), "epochs", 800, "2.1"),
    (SWAV, "sync_bn_group", 512, "2.1: groups of 8 of 64 GPUs"),
    (SWAV, "optimiser.name", "lars", "SwAV"),
    (SWAV, "optimiser.lr", 4.8, "SwAV --base_lr"),
    (SWAV, "optimiser.lr_per_images", 0, "SwAV: absolute"),
    (SWAV, "optimiser.momentum", 0.9, "SwAV"),
    (SWAV, "optimiser.lars_trust", 1e-3, "SwAV"),
    (SWAV, "optimiser.weight_decay", 1e-6, "SwAV --wd"),
    (SWAV, "optimiser.includes_bias_and_norm", True, "SwAV"),
    (SWAV, "schedule.warmup_epochs", 10, "SwAV --warmup_epochs"),
    (SWAV, "schedule.is_per_epoch", False, "SwAV"),
    (SWAV, "algorithm.num_prototypes", 3000, "SwAV --nmb_prototypes"),
    (SWAV, "algorithm.temperature", 0.1, "SwAV --temperature"),
    (SWAV, "algorithm.sinkhorn_epsilon", 0.05, "SwAV --epsilon"),
    (SWAV, "algorithm.sinkhorn_iterations", 3, "SwAV --sinkhorn_iterations"),
    (SWAV, "algorithm.freeze_prototypes_steps", 313, "SwAV --freeze_prototypes_niters"),
    (SWAV, "algorithm.queue_size", 0, "SwAV --queue_length"),
    (("swav_100", "swav_800"), "algorithm.hidden_dim", 2048, "SwAV; 4.6"),
    (("swav_100", "swav_800"), "algorithm.embedding_dim", 128, "SwAV; 4.6"),
    (("swav_100_wide", "swav_100_wide_crops"), "algorithm.hidden_dim", 4096, "4.6"),
    (("swav_100_wide", "swav_100_wide_crops"), "algorithm.embedding_dim", 256, "4.6"),
    (("swav_100_wide_crops",), "background.warmup_epochs", 5, "C.7"),
    (SWAV, "views.0.size_px", 224, "SwAV --size_crops"),
    (SWAV, "views.1.size_px", 224, "SwAV --size_crops"),
    *[(SWAV, f"views.{index}.size_px", 96, "SwAV --size_crops") for index in range(2, 8)],
    (("swav_100", "swav_800", "swav_100_wide"), "views.0.scale", (0.14, 1.0), "SwAV --min_scale_crops"),
    (("swav_100", "swav_800", "swav_100_wide"), "views.7.scale", (0.05, 0.14), "SwAV --max_scale_crops"),
    (SWAV, "views.0.jitter", (0.8, 0.8, 0.8, 0.2), "SwAV"),
    (SWAV, "views.7.jitter", (0.8, 0.8, 0.8, 0.2), "SwAV"),
    (SWAV, "views.0.jitter_probability", 0.8, "SwAV"),
    (SWAV, "views.0.greyscale_probability", 0.2, "SwAV"),
    (SWAV, "views.0.blur_probability", 0.5, "SwAV"),
    (SWAV, "views.7.blur_probability", 0.5, "SwAV"),
    (SWAV, "views.0.blur_sigma_px", (0.1, 2.0), "SwAV"),
    # CAST: the released command on a loss four times as large (see the recipe)
    (CAST, "backbone", "resnet50", "CAST"),
    (CAST, "epochs", 200, "CAST --epochs"),
    (CAST, "batch_size", 256, "CAST --batch-size"),
    (CAST, "optimiser.name", "sgd", "CAST"),
    (CAST, "optimiser.lr", 0.5 / 4, "CAST --lr"),
    (CAST, "optimiser.lr_per_images", 0, "CAST: absolute"),
    (CAST, "optimiser.weight_decay", 1e-4 * 4, "CAST --wd"),
    (CAST, "optimiser.clip_norm", 2.0 * 4, "CAST --clip"),
    (CAST, "optimiser.momentum", 0.9, "CAST"),
    (CAST, "optimiser.includes_bias_and_norm", True, "CAST"),
    (CAST, "schedule.is_per_epoch", True, "CAST --cos"),
    (CAST, "schedule.warmup_epochs", 0, "CAST"),
    (CAST, "algorithm.queue_size", 65536, "CAST"),
    (CAST, "algorithm.embedding_dim", 128, "CAST"),
    (CAST, "algorithm.temperature", 0.07, "CAST"),
    (CAST, "algorithm.momentum", 0.999, "CAST"),
    (("cast_coco",), "algorithm.head", "linear", "CAST"),
    (("cast_coco_mlp",), "algorithm.head", "mlp", "CAST, Table 2c"),
    (CAST, "algorithm.shuffle_bn_group", 32, "CAST: 256 on 8 GPUs"),
    (CAST, "cast.weight", 3.0, "CAST, Table 2b"),
    (CAST, "cast.region", "query", "CAST, Table 2d"),
    (CAST, "views.0.min_foreground", 0.2, "CAST, Table 2a"),
    (CAST, "views.1.min_foreground", 0.2, "CAST, Table 2a"),
    (CAST, "crop_proposal", "centroid", "CAST"),
    (CAST, "crop_fallback", "bbox", "CAST"),
    (CAST, "pair_constraint", False, "CAST --second-constraint ref"),
    (CAST, "views.0.scale", (0.2, 1.0), "CAST"),
    (CAST, "views.0.jitter", (0.4, 0.4, 0.4, 0.4), "CAST"),
    (CAST, "views.0.jitter_probability", 0.5, "CAST"),
    (CAST, "views.0.greyscale_probability", 0.2, "CAST"),
    (CAST, "views.0.blur_probability", 0.0, "CAST"),
    ((*CAST, *MOCO_COCO), "views.0.greyscale_order", "before", "CAST: ToGray, then ColorJitter"),
    ((*CAST, *MOCO_COCO), "views.1.greyscale_order", "before", "CAST: ToGray, then ColorJitter"),
    (MOCO, "views.0.greyscale_order", "after", "MoCo-v2 --aug-plus"),
    (CAST, "cast.key_pass", "separate", "3.2: the masked key through the key encoder; CAST: a pass of its own"),
    (CAST, "cast.scales_optimiser", True, "CAST: loss over 1 + lambda"),
    # MoCo on COCO: the same command without mask and loss
    (MOCO_COCO, "cast", None, "4.2, row 4"),
    (MOCO_COCO, "optimiser.lr", 0.5, "CAST --lr"),
    (MOCO_COCO, "optimiser.weight_decay", 1e-4, "CAST --wd"),
    (MOCO_COCO, "optimiser.clip_norm", 2.0, "CAST --clip"),
    (MOCO_COCO, "views.0.min_foreground", 0.0, "3.1: phi 0"),
    (MOCO_COCO, "crop_proposal", "uniform", "3.1: the unconstrained random crop"),
    (MOCO_COCO, "crop_fallback", "center", "torchvision"),
    (MOCO_COCO, "algorithm.head", "linear", "CAST"),
    (MOCO_COCO, "views.0.jitter", (0.4, 0.4, 0.4, 0.4), "CAST"),
    # RotNet
    (("rotnet_30",), "epochs", 30, "A.1"),
    (("rotnet_30",), "batch_size", 192, "A.1"),
    (("rotnet_30",), "backbone", "alexnet_bn", "4.10: AlexNet; Gidaris et al.: with BatchNorm"),
    (("rotnet_30",), "optimiser.name", "sgd", "A.1"),
    (("rotnet_30",), "optimiser.lr", 0.01, "A.1"),
    (("rotnet_30",), "optimiser.lr_per_images", 0, "A.1: 0.01 at batch 192, as Gidaris et al."),
    (("rotnet_30",), "optimiser.momentum", 0.9, "A.1"),
    (("rotnet_30",), "optimiser.weight_decay", 5e-4, "A.1"),
    (("rotnet_30",), "schedule.tenth_at_epochs", (10, 20), "A.1"),
    (("rotnet_30",), "background.order", "before", "A.1"),
    # supervised
    (SUPERVISED, "batch_size", 4096, "2.3"),
    (SUPERVISED, "schedule.warmup_epochs", 5, "2.3"),
    (("supervised_90",), "epochs", 90, "2.3"),
    (("supervised_300",), "epochs", 300, "A.4.3"),
    (("supervised_90",), "schedule.tenth_at_epochs", (30, 60, 80), "2.3"),
    (("supervised_300",), "schedule.tenth_at_epochs", (75, 150, 225), "A.4.3"),
    (SUPERVISED, "optimiser.lr", 0.1, "2.3"),
    (SUPERVISED, "optimiser.lr_per_images", 256, "2.3"),
    (SUPERVISED, "optimiser.momentum", 0.9, "2.3"),
    (SUPERVISED, "optimiser.weight_decay", 1e-4, "2.3"),
    (SUPERVISED, "optimiser.includes_bias_and_norm", False, "2.3"),
    (SUPERVISED, "algorithm.is_last_gamma_zero", True, "2.3"),
    (SUPERVISED, "sync_bn_group", 32, "2.3: as Goyal et al., whose workers normalise over their own 32 images"),
    (WANTS_A_RUN, "batch_size", 4096, "A.4.1, A.4.2"),
    (WANTS_A_RUN, "optimiser.weight_decay", 1e-4, "A.4.1, A.4.2"),
    (("supervised_retrain",), "epochs", 40, "A.4.1"),
    (("supervised_retrain",), "optimiser.lr", 0.01, "A.4.1"),
    (("supervised_retrain",), "algorithm.trained", "classifier", "A.4.1"),
    (("supervised_finetune",), "epochs", 20, "A.4.2"),
    (("supervised_finetune",), "optimiser.lr", 0.0005, "A.4.2"),
    (("supervised_finetune",), "algorithm.trained", "all", "A.4.2"),
    (("supervised_coco",), "algorithm.labels", "categories", "CAST, Table 1, row 3"),
    (("supervised_coco",), "algorithm.num_classes", 80, "COCO 2017"),
    (("supervised_coco",), "epochs", 200, "as cast_coco"),
    (("supervised_coco",), "batch_size", 256, "as cast_coco"),
    (WANTS_A_RUN, "schedule.tenth_at_epochs", (), "A.4.1, A.4.2: cosine"),
]  # fmt: skip


@pytest.mark.parametrize("recipe", PAPERS)
def test_recipes_carry_the_papers_numbers(recipe: str) -> None:
    rows = [row for row in NUMBERS if recipe in row[0]]
    assert rows, f"{recipe} has no row in NUMBERS"
    settings = built(recipe)
    wrong = [
        f"{path}: {value(settings, path)!r}, not {expected!r} ({source})"
        for _, path, expected, source in rows
        if value(settings, path) != expected
    ]
    assert not wrong


# Ryali A.1 (moco random: the best of Table A6; rotnet: Table 9; supervised: Table 8): p_pos, p_neg, FG_min.
BACKGROUNDS: list[tuple[tuple[str, ...], str, float, float | None, float]] = [
    (MOCO, "rm", 0.2, None, 0.0),
    (MOCO, "random", 0.2, None, 0.0),
    (MOCO, "swaps", 0.2, 0.2, 0.1),
    (BYOL, "rm", 0.15, None, 0.05),
    (BYOL, "random", 0.05, None, 0.05),
    (("swav_100", "swav_800"), "rm", 0.25, None, 0.15),
    (("swav_100", "swav_800"), "random", 0.2, None, 0.15),
    (("swav_100_wide", "swav_100_wide_crops"), "rm", 0.25, None, 0.15),  # Figure 4, left
    (("swav_100_wide", "swav_100_wide_crops"), "random", 0.25, None, 0.15),
    (("rotnet_30",), "rm", 0.1, None, 0.0),
    (("rotnet_30",), "random", 0.1, None, 0.0),
    (SUPERVISED, "rm", 0.2, None, 0.0),
    (SUPERVISED, "random", 0.2, None, 0.0),
]


@pytest.mark.parametrize(
    ("recipe", "background", "probability", "negative", "min_foreground"),
    [(recipe, *row[1:]) for row in BACKGROUNDS for recipe in row[0]],
)
def test_backgrounds_are_those_of_appendix_a1(
    recipe: str, background: str, probability: float, negative: float | None, min_foreground: float
) -> None:
    settings = resolve_settings(recipe, method_of(recipe), background, False, [])
    assert settings.background.probability == probability
    assert {view.min_foreground for view in settings.views if view.is_global} == {min_foreground}
    assert all(view.min_foreground == 0.0 for view in settings.views if not view.is_global)
    if negative is not None:
        assert settings.background.negative_probability == negative
    assert (settings.crop_proposal, settings.crop_fallback) == ("uniform", "center")  # A.1, rejection sampling
    assert settings.background.applies_to == "global"  # A.1, SwAV
    assert settings.background.order == ("before" if recipe == "rotnet_30" else "after")  # 2.2; A.1, RotNet


@pytest.mark.parametrize("recipe", PAPERS)
def test_nothing_happens_to_backgrounds_without_bg(recipe: str) -> None:
    settings = built(recipe)
    assert settings.background.probability == 0.0
    assert settings.cast is not None or {view.min_foreground for view in settings.views} == {0.0}


@pytest.mark.parametrize("method", backdrop.trainer.methods.NAMES)
def test_smoke_constrains_crops_only_where_masks_are_part_of_what_is_tried(method: str) -> None:
    """The baseline sees no mask: with FG_min it would be compared with as something else."""
    baseline = resolve_settings("smoke", method, "none", False, [])
    least = {view.min_foreground for view in baseline.views}
    assert least == ({0.3} if method == "cast" else {0.0})
    for background in ("rm", "random"):
        settings = resolve_settings("smoke", method, background, False, [])
        assert {view.min_foreground for view in settings.views if view.is_global} == {0.3}


@pytest.mark.parametrize(("background", "boundary"), [("rm", 0.26), ("random", 0.2)])
def test_wider_crops_share_a_boundary(background: str, boundary: float) -> None:
    settings = built("swav_100_wide_crops", background)  # C.7
    assert [view.scale for view in settings.views] == [(boundary, 1.0)] * 2 + [(0.05, boundary)] * 6


@pytest.mark.parametrize(
    ("recipe", "rate", "source"),
    [
        ("moco_v2_200", 0.03, "MoCo"),
        ("moco_v2_220", 0.12, "A.1"),
        ("byol_300", 4.8, "BYOL"),
        ("byol_1000", 3.2, "BYOL"),
        ("swav_100", 4.8, "SwAV"),
        ("supervised_90", 1.6, "2.3"),
        ("supervised_retrain", 0.16, "A.4.1"),
        ("supervised_finetune", 0.008, "A.4.2"),
        ("rotnet_30", 0.01, "A.1"),
    ],
)
def test_peak_rates(recipe: str, rate: float, source: str) -> None:
    settings = built(recipe)
    assert peak_lr(settings.optimiser, settings.batch_size) == pytest.approx(rate), source


@pytest.mark.parametrize(
    ("recipe", "first", "last"),
    [("swav_100", 0.3, 0.0048), ("swav_800", 0.3, 0.0048), ("byol_300", 0.0, 0.0), ("moco_v2_220", 0.0, 0.0)],
)
def test_rates_at_both_ends(recipe: str, first: float, last: float) -> None:
    settings = built(recipe)
    ends = [lr_fraction(settings.schedule, step, 10, settings.epochs) for step in (0, 10 * settings.epochs)]
    peak = peak_lr(settings.optimiser, settings.batch_size)
    assert [end * peak for end in ends] == [pytest.approx(first), pytest.approx(last, abs=1e-12)]


# --------------------------------------------------------------------------------------------------- what recipes say


@pytest.mark.parametrize("recipe", PAPERS)
def test_docstrings_give_table_command_score_and_cost(recipe: str) -> None:
    text = document(recipe)
    default = import_module(f"backdrop.trainer.methods.{method_of(recipe)}").DEFAULT_RECIPE
    assert recipe == default or f"--recipe {recipe}\n" in text
    for word in ("\nCommand: python cli.py pretrain ", "\nExpected", "\nCost: "):
        assert word in text, f"{recipe}: no {word!r}"
    assert re.search(r"Table|section \d|A\.\d", text), f"{recipe} names no place in a paper"


@pytest.mark.parametrize("recipe", PAPERS)
def test_the_options_that_docstrings_name_exist(recipe: str) -> None:
    options = [option for option in re.findall(r"--set ([\w.]+=[^\s),|]+)", document(recipe)) if "RUN" not in option]
    apply_overrides(built(recipe), options)


@pytest.mark.parametrize("recipe", WANTS_A_RUN)
def test_recipes_that_start_from_a_run_ask_for_one(recipe: str) -> None:
    with pytest.raises(UserError, match=r"algorithm\.start_from=RUN is no folder"):
        resolve_settings(recipe, "supervised", "none", False, [])


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0, 5.0])
def test_rate_decay_and_clipping_of_cast_follow_lambda_unless_set(weight: float) -> None:
    """The release divides its loss by 1 + lambda and leaves rate 0.5, decay 1e-4 and clip 2 as they are."""
    changes = [f"cast.weight={weight}"]
    found = resolve_settings("cast_coco", "cast", "none", True, changes).optimiser
    scale = 1 + weight
    assert (found.lr, found.weight_decay, found.clip_norm) == pytest.approx((0.5 / scale, 1e-4 * scale, 2 * scale))
    set_by_hand = resolve_settings("cast_coco", "cast", "none", True, [*changes, "optimiser.lr=0.3"]).optimiser
    assert set_by_hand == replace(found, lr=0.3)
    as_released = resolve_settings("cast_coco", "cast", "none", True, [*changes, "cast.variant=released"]).optimiser
    assert (as_released.lr, as_released.weight_decay, as_released.clip_norm) == (0.5, 1e-4, 2.0)


def test_only_a_recipe_that_scales_with_lambda_follows_it() -> None:
    plain = resolve_settings("smoke", "cast", "none", True, [])
    assert resolve_settings("smoke", "cast", "none", True, ["cast.weight=5"]).optimiser == plain.optimiser
    on = resolve_settings("smoke", "cast", "none", True, ["cast.weight=3", "cast.scales_optimiser=true"])
    assert on.optimiser.lr == pytest.approx(plain.optimiser.lr / 2)  # from lambda 1


def test_crops_at_phi_0_are_ordinary_ones_unless_a_proposal_is_set() -> None:
    """Table 2a and row 4 of Table 1: phi 0 recovers the unconstrained random crop that MoCo uses (3.1)."""
    free = resolve_settings("cast_coco", "cast", "none", True, ["views.min_foreground=0"])
    assert (free.crop_proposal, free.crop_fallback) == ("uniform", "center")
    kept = ["views.min_foreground=0", "crop_proposal=centroid", "crop_fallback=bbox"]
    around = resolve_settings("cast_coco", "cast", "none", True, kept)
    assert (around.crop_proposal, around.crop_fallback) == ("centroid", "bbox")
    half = resolve_settings("cast_coco", "cast", "none", True, ["views.0.min_foreground=0"])
    assert half.crop_proposal == "centroid"


def test_row_4_of_cast_is_moco_coco() -> None:
    row_4 = resolve_settings("cast_coco", "cast", "none", True, ["cast.weight=0", "views.min_foreground=0"])
    assert replace(row_4, method="moco", cast=None) == resolve_settings("moco_coco", "moco", "none", False, [])
    with pytest.raises(UserError, match="knows no mask"):
        resolve_settings("moco_coco", "moco", "swaps", False, [])
    with pytest.raises(UserError, match="--recipe cast_coco"):
        resolve_settings("moco_coco", "moco", "none", True, [])


def test_ablations_of_cast_change_what_they_say() -> None:
    plain = built("cast_coco")
    for option in ("cast.weight=0", "views.min_foreground=0", "cast.region=intersection", "pair_constraint=true"):
        changed = apply_overrides(plain, [option])
        check(changed)
        assert changed != plain
    assert built("cast_coco_mlp") == replace(plain, algorithm=replace(plain.algorithm, head="mlp"))


@pytest.mark.parametrize("recipe", backdrop.trainer.recipes.NAMES)
def test_every_setting_of_every_recipe_can_be_set_to_what_it_is(recipe: str) -> None:
    settings = built(recipe)
    fixed = ("method", "background.name", "cast", "algorithm")
    flat = {path: value(settings, path) for path in setting_paths(replace(settings, views=settings.views[:1]))
            if path not in fixed and not path.startswith("views.")}  # fmt: skip
    flat |= {f"views.{index}.{path}": getattr(view, path)
             for index, view in enumerate(settings.views) for path in setting_paths(view)}  # fmt: skip
    same = apply_overrides(settings, [f"{path}={text_of(current)}" for path, current in flat.items()])
    assert same == settings
    assert from_json(to_json(same)) == settings


def text_of(current: Any) -> str:
    if isinstance(current, tuple):
        return ",".join(str(item) for item in current) or "()"
    return str(current)
