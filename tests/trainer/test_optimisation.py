"""LARS against the formulas of timm and apex; precision, clipping and batches in parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.trainer.optimisation import optimisers
from backdrop.trainer.optimisation.optimisers import build_optimiser, set_lr
from backdrop.trainer.parts.pretraining_method import ParameterGroup
from backdrop.trainer.run.checks import check
from backdrop.trainer.run.micro_batches import parts_of
from backdrop.trainer.run.training import Training, start, take_step
from backdrop.trainer.settings import RunSettings, apply_overrides
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny
from tests.reference.optimisers import apex_larc_step, timm_lars_step

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
# MoCo without BatchNorm in its head: rows meet in the backbone's groups of 4 only.
MLP = "algorithm.head=mlp"


def lars_steps(settings: optimisers.Settings, weights: list[np.ndarray], gradients: list) -> list[np.ndarray]:
    parameters = [nn.Parameter(torch.tensor(weight)) for weight in weights]
    optimiser = build_optimiser(
        [ParameterGroup(named=[(str(index), each) for index, each in enumerate(parameters)])], settings
    )
    for lr, step_gradients in zip((0.5, 0.2, 0.1), gradients, strict=True):
        set_lr(optimiser, lr)
        for parameter, gradient in zip(parameters, step_gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        optimiser.step()
    return [parameter.detach().numpy() for parameter in parameters]


@pytest.mark.parametrize("style", ["timm", "timm, biases and norms left out", "apex"])
def test_separate_norms_are_those_of_timm_and_apex(style: str) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=(2, 2, 3, 3))]
    gradients = [[rng.normal(size=weight.shape) for weight in weights] for _ in range(3)]
    leaves_out = "left out" in style
    settings = optimisers.Settings(
        name="lars", weight_decay=0.3, lars_norms="separate", includes_bias_and_norm=not leaves_out
    )
    found = lars_steps(settings, weights, gradients)
    for index, weight in enumerate(weights):
        velocity = np.zeros_like(weight)
        for lr, step_gradients in zip((0.5, 0.2, 0.1), gradients, strict=True):
            words = {"lr": lr, "momentum": 0.9, "weight_decay": 0.3, "trust": 1e-3}
            if style == "apex":
                weight, velocity = apex_larc_step(weight, step_gradients[index], velocity, **words)
                continue
            if leaves_out and weight.ndim == 1:
                words["weight_decay"] = 0.0
            weight, velocity = timm_lars_step(weight, step_gradients[index], velocity, always_adapts=False, **words)
        np.testing.assert_allclose(found[index], weight, rtol=1e-7)


def begin(settings: RunSettings, *, is_possible: bool = True) -> tuple[Training, MemoryLoader]:
    if is_possible:
        check(settings)
    loader = MemoryLoader(settings.plan, num_rows=16, batch_size=settings.batch_size)
    training = start(settings, steps_per_epoch=loader.num_batches, device=CPU)
    training.step = 1  # past the start of the warm-up, where the rate is zero
    return training, loader


def one_step(settings: RunSettings, *, is_possible: bool = True) -> tuple[Training, dict[str, torch.Tensor]]:
    training, loader = begin(settings, is_possible=is_possible)
    if training.scaler.is_enabled():
        # The scale starts at 65536 and halves with each step that overflows: these gradients are large.
        training.scaler.load_state_dict(training.scaler.state_dict() | {"scale": 64.0})
    losses, _ = take_step(training, DeviceStage(settings.plan, device=CPU)(next(loader.epoch(0))))
    return training, losses


@pytest.mark.parametrize("name", optimisers.NAMES)
def test_groups_have_rates_of_their_own(name: str) -> None:
    weights = [nn.Parameter(torch.full((2, 2), 3.0)) for _ in range(3)]
    groups = [
        ParameterGroup(named=[("plain", weights[0])]),
        ParameterGroup(named=[("slow", weights[1])], lr_factor=0.5),
        ParameterGroup(named=[("constant", weights[2])], follows_schedule=False),
    ]
    settings = optimisers.Settings(name=name, weight_decay=0.0, includes_bias_and_norm=False)
    optimiser = build_optimiser(groups, settings)
    set_lr(optimiser, 8.0, 0.25)
    for weight in weights:
        weight.grad = torch.ones(2, 2)
    optimiser.step()
    moved = [3.0 - float(weight.detach()[0, 0]) for weight in weights]
    assert [each / moved[0] for each in moved] == pytest.approx([1.0, 0.5, 4.0], rel=1e-3)
    assert moved[0] == pytest.approx(2.0 if name == "sgd" else 2.0 * settings.lars_trust * 3.0, rel=1e-3)


def test_the_gradient_is_clipped_as_a_whole() -> None:
    settings = tiny("byol")
    settings = replace(settings, optimiser=replace(settings.optimiser, clip_norm=0.01))
    training, _ = one_step(settings)
    squares = [float((weight.grad**2).sum()) for weight in training.method.parameters() if weight.grad is not None]
    assert sum(squares) ** 0.5 == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_short_format_changes_little_and_its_scale_is_taken_out(precision: str) -> None:
    exact, exact_losses = one_step(apply_overrides(tiny("moco"), [MLP, "precision=fp32"]))
    short, losses = one_step(apply_overrides(tiny("moco"), [MLP, f"precision={precision}", "optimiser.clip_norm=1e9"]))
    assert short.scaler.is_enabled() == (precision == "fp16")
    # BatchNorm over 4 rows of 1x1 maps blows rounding up; a scale left in would be 64.
    assert 0 < abs(float(losses["loss"] - exact_losses["loss"])) < 0.5
    gradient, exact_gradient = short.method.head[2].weight.grad, exact.method.head[2].weight.grad
    assert torch.cosine_similarity(gradient.flatten(), exact_gradient.flatten(), dim=0) > 0.5
    assert 0.5 < gradient.norm() / exact_gradient.norm() < 2


def test_a_step_in_parts_is_the_step_of_the_batch_where_rows_do_not_meet() -> None:
    # Negatives too: rows m * B + b. MoCo's queries meet in groups of 4, parts of 4 keep them.
    settings = apply_overrides(tiny("moco", "swaps"), [MLP])
    training, loader = begin(settings)
    views = DeviceStage(settings.plan, device=CPU)(next(loader.epoch(0)))
    parts = parts_of(replace(views, negative=torch.cat([views.negative, 2 * views.negative])), 2)
    assert torch.equal(torch.cat([part.images[1] for part in parts]), views.images[1])
    assert torch.equal(parts[1].negative, torch.cat([views.negative[4:], 2 * views.negative[4:]]))
    assert [len(part.row_B) for part in parts] == [4, 4]
    # The query side of the gradient: the same keys for both, so that only the queries' groups could differ.
    keys = {int(row): key for row, key in zip(views.row_B, training.method._keys(views)[0], strict=True)}
    training.method._keys = lambda part: (torch.stack([keys[int(row)] for row in part.row_B]), None, None)
    whole = training.method.training_step(views)["loss"]
    in_parts = sum(training.method.training_step(part)["loss"] for part in parts) / 2
    torch.testing.assert_close(in_parts, whole, rtol=1e-6, atol=1e-6)


def test_parts_of_a_batch_give_one_step_and_all_keys() -> None:
    # Parts of a single group: refused for a run, where the keys of a part would stay with their queries.
    in_parts = apply_overrides(tiny("moco"), [MLP, "accumulation_steps=2"])
    training, losses = one_step(in_parts, is_possible=False)
    whole, whole_losses = one_step(apply_overrides(tiny("moco"), [MLP]))
    assert training.step == whole.step == 2
    assert int(training.method.queue.num_enqueued) == 8
    assert float(losses["loss"]) == pytest.approx(float(whole_losses["loss"]), abs=0.2)
    # The keys' groups of 4 are of other rows: the same size of gradient, not the same gradient.
    gradient, whole_gradient = training.method.head[2].weight.grad, whole.method.head[2].weight.grad
    assert torch.cosine_similarity(gradient.flatten(), whole_gradient.flatten(), dim=0) > 0.5
    assert 0.7 < gradient.norm() / whole_gradient.norm() < 1.4


def test_parts_of_byol_are_passes_whose_gradients_are_averaged() -> None:
    """Grill et al., section 5: N passes, each normalised by itself, before the networks move."""
    settings = apply_overrides(tiny("byol"), ["accumulation_steps=2"])
    check(settings)
    training, loader = begin(settings)
    views = DeviceStage(settings.plan, device=CPU)(next(loader.epoch(0)))
    alone, _ = begin(settings)
    gradients = []
    for part in parts_of(views, 2):
        alone.method.zero_grad()
        alone.method.training_step(part)["loss"].backward()
        gradients.append(alone.method.predictor[0].weight.grad.clone())
    take_step(training, views)
    torch.testing.assert_close(training.method.predictor[0].weight.grad, (gradients[0] + gradients[1]) / 2)
    with pytest.raises(UserError, match="makes parts of 1 image"):
        check(apply_overrides(tiny("byol"), ["accumulation_steps=8"]))


@pytest.mark.parametrize("method", ["swav", "supervised"])
def test_parts_are_refused_where_the_batch_belongs_together(method: str) -> None:
    with pytest.raises(UserError, match="accumulation_steps is above 1: a step of this method"):
        check(apply_overrides(tiny(method), ["accumulation_steps=2"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [("precision=fp8", "auto, fp32, bf16, fp16"), ("optimiser.lars_norms=both", "joint, separate")],
)
def test_unknown_names_are_refused_with_those_there_are(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(apply_overrides(tiny("moco"), [override]))


@pytest.mark.slow
def test_compiled_layers_compute_the_same() -> None:
    plain, plain_losses = one_step(tiny("moco"))  # in groups, as MoCo normalises
    compiled, losses = one_step(tiny("moco", is_compiled=True))
    assert float(losses["loss"]) == pytest.approx(float(plain_losses["loss"]), abs=1e-4)
    assert compiled.method.state_dict().keys() == plain.method.state_dict().keys()
    gradient, expected = compiled.method.backbone.conv1.weight.grad, plain.method.backbone.conv1.weight.grad
    assert (gradient - expected).norm() < 1e-3 * expected.norm()
