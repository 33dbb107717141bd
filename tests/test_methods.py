"""One contract for every method with every background, and what is particular to each."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pipeline.views.backgrounds
import trainer.methods
from pipeline.views.device_stage import DeviceStage, Views
from stores.errors import UserError
from tests.memory_loader import MemoryLoader
from tests.tiny_runs import tiny
from trainer.parts.key_queue import KeyQueue, check_queue
from trainer.parts.momentum_encoder import cosine_momentum
from trainer.parts.split_batch_norm import SplitBatchNorm2d, check_groups
from trainer.run import checkpoint
from trainer.run.checks import check
from trainer.run.optimisers import set_lr
from trainer.run.settings import RunSettings, method_module
from trainer.run.training import Training, start, take_step

STEPS_PER_EPOCH = 4
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small lose more to waiting threads than they gain, above all on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def possible_runs() -> Iterator[tuple[str, str]]:
    for method in trainer.methods.NAMES:
        for background in pipeline.views.backgrounds.NAMES:
            if background != "swaps" or method_module(method).HAS_NEGATIVES:
                yield method, background


def begin(settings: RunSettings) -> tuple[Training, list[Views]]:
    check(settings)
    loader = MemoryLoader(settings.plan, num_rows=32, batch_size=8)
    stage = DeviceStage(settings.plan, device=CPU)
    return start(settings, steps_per_epoch=STEPS_PER_EPOCH, device=CPU), [stage(batch) for batch in loader.epoch(0)]


def state_of(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.method.state_dict().items()}


@pytest.mark.parametrize(("method", "background"), list(possible_runs()))
def test_contract(method: str, background: str, tmp_path: Path) -> None:
    training, views = begin(tiny(method, background))
    before = state_of(training)
    training.step = 2  # past the start of the warm-up, where the rate is zero
    losses, lr = take_step(training, views[0])

    assert lr > 0
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values())
    claimed = {name for name, _ in training.method.optimised_parameters()}
    without_gradient = {name for name, weight in training.method.named_parameters() if weight.grad is None}
    assert training.method.backbone.conv1.weight.grad.abs().max() > 0
    after = state_of(training)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "backbone.conv1.weight" in moved
    # What moves is optimised, or follows one of the optimised, or is a buffer.
    weights = {name for name, _ in training.method.named_parameters()}
    following = {name for name in moved & weights - claimed if name.startswith(("key_", "target_"))}
    assert moved & weights <= claimed | following
    assert without_gradient <= (weights - claimed) | {"prototypes.weight"}

    # Resume: a fresh process's objects, filled from the checkpoint, do the next steps bit for bit.
    path = checkpoint.save(tmp_path, training.method, training.optimiser, step=training.step, keep=1)
    fresh, _ = begin(tiny(method, background))
    fresh.step = checkpoint.load(path, fresh.method, fresh.optimiser)
    for step_views in views[1:3]:
        expected, _ = take_step(training, step_views)
        found, _ = take_step(fresh, step_views)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    expected_state, found_state = state_of(training), state_of(fresh)
    assert [name for name in expected_state if not torch.equal(expected_state[name], found_state[name])] == []


def test_the_same_seed_builds_the_same_run_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, _ = begin(tiny("moco"))
    second, _ = begin(tiny("moco"))
    other, _ = begin(tiny("moco", seed=1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.method.backbone.conv1.weight, second.method.backbone.conv1.weight)
    assert torch.equal(first.method.queue.keys_KD, second.method.queue.keys_KD)
    assert not torch.equal(first.method.backbone.conv1.weight, other.method.backbone.conv1.weight)


# -------------------------------------------------------------------------------------------------------------- MoCo


def test_a_positive_is_never_its_own_negative_and_swaps_never_enter_the_queue() -> None:
    training, views = begin(tiny("moco", "swaps"))
    method = training.method
    queue_before = method.queue.keys_KD.clone()
    method.training_step(views[0])
    key, negative, masked = copy.deepcopy(method)._keys(views[0])
    assert masked is None
    assert not torch.equal(key, negative)
    # While the losses are computed the queue is still the old one.
    assert torch.equal(method.queue.keys_KD, queue_before)
    method.after_step(0, 8)
    assert torch.equal(method.queue.keys_KD[8:], queue_before[8:])
    similarity = method.queue.keys_KD[:8] @ key.T
    assert (similarity.argmax(dim=1) == torch.arange(8)).all()
    assert negative.shape == (1, 8, 16)
    assert (method.queue.keys_KD @ negative[0].T).amax() < 1 - 1e-6


def test_keys_take_no_gradient_and_the_key_encoder_moves_once_a_step() -> None:
    training, views = begin(tiny("cast"))
    method = training.method
    training.step = 2
    query_before = method.backbone.conv1.weight.clone()
    key_before = method.key_backbone.conv1.weight.clone()
    take_step(training, views[0])
    assert all(weight.grad is None for weight in method.key_backbone.parameters())
    query_after, momentum = method.backbone.conv1.weight, method.settings.momentum
    assert not torch.equal(query_before, query_after)
    torch.testing.assert_close(
        method.key_backbone.conv1.weight, momentum * key_before + (1 - momentum) * query_after, rtol=0, atol=1e-7
    )


def test_cast_adds_lambda_times_the_attention_loss_to_one_query_forward() -> None:
    training, views = begin(tiny("cast"))
    calls = []
    training.method.backbone.register_forward_hook(lambda *_: calls.append("pooled"))
    training.method.backbone.layer4.register_forward_hook(lambda *_: calls.append("map"))
    losses = training.method.training_step(views[0])
    assert calls == ["map"]
    expected = losses["info_nce_loss"] + 3.0 * losses["attention_loss"]
    torch.testing.assert_close(losses["loss"], expected)
    assert 0 < losses["attention_loss"] < 1


def test_keys_come_back_in_their_own_order() -> None:
    training, views = begin(tiny("moco"))
    method = training.method.eval()
    key, _, _ = method._keys(views[0])
    with torch.no_grad():
        torch.testing.assert_close(key, method._encode_key(views[0].images[1]), rtol=1e-4, atol=1e-5)


def test_shuffled_groups_differ_from_the_queries_groups() -> None:
    training, views = begin(tiny("moco"))
    method = training.method
    shuffled, _, _ = copy.deepcopy(method)._keys(views[0])
    with torch.no_grad():
        in_order = copy.deepcopy(method)._encode_key(views[0].images[1])
    assert not torch.allclose(shuffled, in_order, atol=1e-3)


def test_queue_is_a_ring_of_whole_batches() -> None:
    queue = KeyQueue(6, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(queue.keys_KD.norm(dim=1), torch.ones(6))
    batches = [torch.full((2, 2), float(number)) for number in range(4)]
    for number, batch in enumerate(batches):
        assert queue.is_full() == (number >= 3)
        queue.enqueue(batch)
    assert queue.keys_KD[:, 0].tolist() == [3, 3, 1, 1, 2, 2]
    with pytest.raises(UserError, match=r"queue_size=100 .* batch_size=32.* queue_size=96"):
        check_queue(100, 32, "queue_size")


def test_split_batch_norm_normalises_each_group_alone() -> None:
    split = SplitBatchNorm2d(3).train()
    split.group_size = 2
    plain = torch.nn.BatchNorm2d(3).train()
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    found = split(images)
    torch.testing.assert_close(found[:2], plain(images[:2]))
    torch.testing.assert_close(split.running_mean, plain.running_mean)
    torch.testing.assert_close(found[2:], torch.nn.BatchNorm2d(3).train()(images[2:]))
    with pytest.raises(UserError, match="batch_size=48"):
        check_groups(32, 48, "shuffle_bn_group")


# -------------------------------------------------------------------------------------------------------------- BYOL


def test_momentum_rises_along_a_cosine() -> None:
    assert cosine_momentum(0.99, 0, 100) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 50, 100) == pytest.approx(0.995)
    assert cosine_momentum(0.99, 100, 100) == 1.0


def test_byol_is_symmetric_in_its_views() -> None:
    training, views = begin(tiny("byol"))
    method = training.method
    swapped = copy.deepcopy(views[0])
    swapped.images.reverse()
    swapped.masks.reverse()
    expected = copy.deepcopy(method).training_step(views[0])["loss"]
    torch.testing.assert_close(method.training_step(swapped)["loss"], expected)


def test_byol_with_cast_has_an_attention_loss_whose_gradient_reaches_the_backbone() -> None:
    training, views = begin(tiny("byol", with_cast=True))
    losses = training.method.training_step(views[0])
    losses["attention_loss"].backward()
    assert 0 < losses["attention_loss"] < 1
    assert training.method.backbone.conv1.weight.grad.abs().max() > 0
    assert all(weight.grad is None for weight in training.method.target_backbone.parameters())


# -------------------------------------------------------------------------------------------------------------- SwAV


def test_swav_prototypes_are_frozen_at_first_and_always_of_unit_length() -> None:
    training, views = begin(tiny("swav"))
    method = training.method
    set_lr(training.optimiser, 0.1)
    training.step = 2
    before = torch.nn.functional.normalize(method.prototypes.weight, dim=1).clone()
    take_step(training, views[0])
    torch.testing.assert_close(method.prototypes.weight, before)
    assert method.prototypes.weight.grad is None
    take_step(training, views[1])
    assert method.prototypes.weight.grad.abs().max() > 0
    method.training_step(views[2])
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(12))


def test_swav_queue_is_used_once_full() -> None:
    settings = tiny("swav")
    changes = {"queue_size": 16, "queue_start_epoch": 0}
    settings = replace(settings, algorithm=replace(settings.algorithm, **changes))
    training, views = begin(settings)
    seen = []
    assign = training.method._assign
    training.method._assign = lambda score: seen.append(len(score)) or assign(score)
    for step_views in views[:3]:
        take_step(training, step_views)
    assert seen == [8, 8, 8, 8, 24, 24]
