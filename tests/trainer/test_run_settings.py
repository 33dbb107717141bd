"""Recipes, overrides, schedules and optimisers: what a run is made of before it starts."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

import backdrop.pipeline.views.backgrounds
import backdrop.trainer.methods
import backdrop.trainer.recipes
from backdrop.errors import UserError
from backdrop.trainer.methods import METHODS, byol, moco, swav
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.optimisation.optimisers import build_optimiser, peak_lr, set_lr
from backdrop.trainer.optimisation.schedules import lr_fraction
from backdrop.trainer.parts.pretraining_method import ParameterGroup
from backdrop.trainer.recipes import smoke
from backdrop.trainer.run.checks import check
from backdrop.trainer.run.loop import resolve_settings
from backdrop.trainer.settings import apply_overrides, differences, from_json, to_json
from tests.reference.optimisers import lars_step


@pytest.mark.parametrize("method", backdrop.trainer.methods.NAMES)
@pytest.mark.parametrize("background", backdrop.pipeline.views.backgrounds.NAMES)
@pytest.mark.parametrize("recipe", backdrop.trainer.recipes.NAMES)
def test_every_recipe_gives_possible_settings_or_says_why_not(recipe: str, background: str, method: str) -> None:
    is_own = f"pretrain --method {method} " in (import_module(f"backdrop.trainer.recipes.{recipe}").__doc__ or "")
    has_negatives = background != "swaps" or METHODS.load(method).HAS_NEGATIVES
    wants_a_run = recipe in ("supervised_finetune", "supervised_retrain")
    wants_no_mask = recipe in ("moco_coco", "supervised_coco") and background != "none"
    if has_negatives and (is_own or recipe == "smoke") and not wants_a_run and not wants_no_mask:
        settings = resolve_settings(recipe, method, background, False, [])
        assert from_json(json.loads(json.dumps(to_json(settings)))) == settings
        assert settings.plan.background.name == background
    else:
        with pytest.raises(UserError):
            resolve_settings(recipe, method, background, False, [])


@pytest.mark.parametrize("method", backdrop.trainer.methods.NAMES)
def test_every_method_has_a_recipe_of_its_own_with_command_and_score(method: str) -> None:
    text = import_module(f"backdrop.trainer.recipes.{METHODS.load(method).DEFAULT_RECIPE}").__doc__
    assert f"pretrain --method {method} " in text
    assert "Expected" in text


@pytest.mark.parametrize(
    ("plan", "background", "probability", "min_foreground"),
    [
        (moco.view_plan, "rm", 0.2, 0.0),
        (moco.view_plan, "swaps", 0.2, 0.1),
        (byol.view_plan, "rm", 0.15, 0.05),
        (byol.view_plan, "random", 0.05, 0.05),
        (swav.view_plan, "rm", 0.25, 0.15),
        (swav.view_plan, "random", 0.2, 0.15),
    ],
)
def test_backgrounds_as_in_ryali_a1(plan, background: str, probability: float, min_foreground: float) -> None:
    made = plan(background)
    assert made.background.probability == probability
    assert {view.min_foreground for view in made.views if view.is_global} == {min_foreground}
    assert all(view.min_foreground == 0 for view in made.views if not view.is_global)


def test_overrides_are_read_by_their_type() -> None:
    settings = apply_overrides(
        smoke.settings("moco", "random", True),
        ["epochs=3", "cifar_stem=true", "optimiser.lr=1e-3", "backbone=resnet34", "views.scale=0.4,1",
         "views.1.size_px=64", "background.probability=.25", "cast.weight=2", "algorithm.queue_size=1024"],
    )  # fmt: skip
    assert (settings.epochs, settings.cifar_stem, settings.optimiser.lr) == (3, True, 1e-3)
    assert [view.scale for view in settings.views] == [(0.4, 1.0), (0.4, 1.0)]
    assert [view.size_px for view in settings.views] == [48, 64]
    assert (settings.background.probability, settings.cast.weight) == (0.25, 2.0)
    assert (settings.backbone, settings.algorithm.queue_size) == ("resnet34", 1024)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "name=value"),
        ("epochs=many", "epochs='many' is no int"),
        ("epochs=1.5", "is no int"),
        ("cifar_stem=maybe", "true or false"),
        ("optimiser.lr=nan", "is no float"),
        ("optimizer.lr=1", "Did you mean optimiser.lr"),
        ("algorithm.queuesize=8", "Did you mean algorithm.queue_size"),
        ("queue_size=8", "Did you mean algorithm.queue_size"),
        ("probability=1", "background.probability"),
        ("epochs.x=1", "unknown setting"),
        ("views.scale=1", "is no tuple"),
        ("views.9.size_px=64", "there are 2 views"),
        ("views.0=3", "unknown setting"),
        ("optimiser=sgd", "is a section"),
        ("cast.weight=1", "add --cast"),
        ("method=byol", "--method"),
        ("background.name=rm", "--bg"),
    ],
)
def test_wrong_overrides_say_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_overrides(smoke.settings("moco", "none", False), [override])


def test_differences_name_each_changed_setting() -> None:
    settings = smoke.settings("moco", "none", False)
    changed = apply_overrides(settings, ["seed=2", "views.0.size_px=64"])
    assert differences(settings, changed) == ["seed: 0 -> 2", "views.0.size_px: 32 -> 64"]
    assert differences(settings, settings) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.name=adam", "sgd, lars"),
        ("optimiser.lr=-1", r"must be in \[0, 1e\+30\]"),
        ("schedule.warmup_epochs=99", "epochs"),
        ("schedule.tenth_at_epochs=3,2", "rising"),
        ("schedule.tenth_at_epochs=3,99", "rising"),
        ("views.scale=0.5,0.2", "rising"),
        ("views.flip_probability=2", r"\[0, 1\]"),
        ("crop_fallback=corner", "center"),
        ("algorithm.head=cnn", "mlp, linear, bn_mlp"),
        ("algorithm.temperature=0", "above 0"),
        ("epochs=0", "1 or more"),
        ("seed=-1", r"must be in \[0, "),
    ],
)
def test_impossible_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(apply_overrides(smoke.settings("moco", "none", False), [override]))


# ---------------------------------------------------------------------------------------------------------- schedules


def test_learning_rate_warms_up_then_follows_a_cosine() -> None:
    settings = schedules.Settings(warmup_epochs=2, warmup_start_fraction=0.1, final_fraction=0.01)
    fraction = [lr_fraction(settings, step, 10, 12) for step in range(120)]
    assert fraction[0] == pytest.approx(0.1)
    assert fraction[10] == pytest.approx(0.55)
    assert fraction[20] == pytest.approx(1.0)
    assert fraction[70] == pytest.approx(0.505)
    assert lr_fraction(settings, 120, 10, 12) == pytest.approx(0.01)


def test_learning_rate_falls_to_tenths_at_epochs() -> None:
    settings = schedules.Settings(warmup_epochs=1, tenth_at_epochs=(2, 4))
    fraction = [lr_fraction(settings, step, 10, 5) for step in range(50)]
    assert fraction[5] == pytest.approx(0.5)
    assert fraction[10:20] == [1.0] * 10
    assert fraction[20:40] == [pytest.approx(0.1)] * 20
    assert fraction[40:] == [pytest.approx(0.01)] * 10


def test_learning_rate_per_epoch_is_constant_within_one() -> None:
    settings = schedules.Settings(is_per_epoch=True)
    fraction = [lr_fraction(settings, step, 10, 4) for step in range(40)]
    assert len(set(fraction[10:20])) == 1
    assert fraction[20] == pytest.approx(0.5)


def test_released_cast_steps_follow_from_the_papers_loss() -> None:
    settings = resolve_settings("cast_coco", "cast", "none", False, [])
    ours, weight, gradient = settings.optimiser, 0.7, 30.0
    # Released: a quarter of the loss at rate 0.5, weight decay 1e-4, gradient clipped at 2.
    released = 0.5 * (min(gradient / 4, 2.0) + 1e-4 * weight)
    found = peak_lr(ours, settings.batch_size) * (min(gradient, ours.clip_norm) + ours.weight_decay * weight)
    assert found == pytest.approx(released)


def test_rates_of_the_papers() -> None:
    for recipe, method, rate in (("moco_v2_220", "moco", 0.12), ("byol_300", "byol", 4.8), ("swav_100", "swav", 4.8)):
        settings = resolve_settings(recipe, method, "none", False, [])
        assert peak_lr(settings.optimiser, settings.batch_size) == pytest.approx(rate)


# --------------------------------------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("includes_bias_and_norm", [True, False])
def test_lars_against_loops(includes_bias_and_norm: bool) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(4, 3)), rng.normal(size=4), np.zeros((2, 2))]
    velocities = [np.zeros_like(weight) for weight in weights]
    parameters = [nn.Parameter(torch.tensor(weight)) for weight in weights]
    settings = optimisers.Settings(name="lars", weight_decay=0.1, includes_bias_and_norm=includes_bias_and_norm)
    optimiser = build_optimiser(
        [ParameterGroup(named=[(str(index), each) for index, each in enumerate(parameters)])], settings
    )
    for lr in (0.5, 0.2):
        set_lr(optimiser, lr)
        for index, parameter in enumerate(parameters):
            gradient = rng.normal(size=weights[index].shape)
            parameter.grad = torch.tensor(gradient)
            is_adapted = includes_bias_and_norm or weights[index].ndim > 1
            weights[index], velocities[index] = lars_step(
                weights[index], gradient, velocities[index], lr=lr, momentum=0.9,
                weight_decay=0.1 if is_adapted else 0.0, trust=1e-3, is_adapted=is_adapted,
            )  # fmt: skip
        optimiser.step()
        for parameter, weight in zip(parameters, weights, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-10, atol=1e-12)


def test_sgd_leaves_bias_and_norm_without_decay_where_asked() -> None:
    linear = nn.Linear(2, 2)
    nn.init.ones_(linear.weight)
    nn.init.ones_(linear.bias)
    settings = optimisers.Settings(weight_decay=0.5, includes_bias_and_norm=False)
    optimiser = build_optimiser([ParameterGroup(named=list(linear.named_parameters()))], settings)
    set_lr(optimiser, 1.0)
    for parameter in linear.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert (linear.weight == 0.5).all()
    assert (linear.bias == 1.0).all()


def test_rates_scale_with_the_batch_where_asked() -> None:
    settings = optimisers.Settings(lr=0.03)
    assert peak_lr(settings, 1024) == pytest.approx(0.12)
    assert peak_lr(replace(settings, lr_per_images=0), 1024) == 0.03
