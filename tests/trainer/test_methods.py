"""One contract for every method with every background, and what is particular to each."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode

import backdrop.pipeline.views.backgrounds
import backdrop.trainer.methods
from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.settings import check_settings
from backdrop.trainer import cast
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.downstream_settings import check_schedule
from backdrop.trainer.losses import saliency_attention
from backdrop.trainer.methods import METHODS, supervised
from backdrop.trainer.optimisation.optimisers import set_lr
from backdrop.trainer.parts.key_queue import KeyQueue, check_queue
from backdrop.trainer.parts.momentum_encoder import cosine_momentum
from backdrop.trainer.parts.pretraining_method import PretrainingMethod, QueryKeyMethod
from backdrop.trainer.parts.split_batch_norm import SplitBatchNorm2d, check_groups
from backdrop.trainer.recipes import RECIPES
from backdrop.trainer.run import checkpoint
from backdrop.trainer.run.checks import check
from backdrop.trainer.run.distributed import _Step
from backdrop.trainer.run.training import Training, start, take_step
from backdrop.trainer.settings import RunSettings
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny
from tests.reference import losses as reference

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS_PER_EPOCH = 4
CPU = torch.device("cpu")


def possible_runs() -> Iterator[Any]:
    """Every method with every background; by default each method with one, and MoCo with all."""
    for method in backdrop.trainer.methods.NAMES:
        for background in backdrop.pipeline.views.backgrounds.NAMES:
            if background != "swaps" or METHODS.load(method).HAS_NEGATIVES:
                is_default = method == "moco" or background == "random"
                yield pytest.param(method, background, marks=[] if is_default else [pytest.mark.slow])


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


@pytest.mark.parametrize("name", backdrop.trainer.methods.NAMES)
def test_a_method_states_what_is_asked_of_it(name: str) -> None:
    file = METHODS.load(name)
    training, _ = begin(tiny(name))
    method = training.method
    assert isinstance(method, PretrainingMethod)
    # CAST explains the match of a query with a key.
    assert isinstance(method, QueryKeyMethod) == file.HAS_CAST
    assert file.HAS_CAST or not file.ALWAYS_CAST
    assert isinstance(method.has_unused_parameters, bool)
    grouped = [parameter for group in method.parameter_groups() for _, parameter in group.named]
    assert len(grouped) == len(set(map(id, grouped))) > 0
    assert dict(method.named_parameters()).items() >= dict(method.optimised_parameters()).items()
    assert file.DEFAULT_RECIPE in RECIPES.names()
    file.Settings(**file.SMOKE)
    if file.DOWNSTREAM.linear is not None:
        check_schedule(file.DOWNSTREAM.linear.schedule)
    for rates in file.DOWNSTREAM.finetuning.values():
        check_schedule(rates.schedule)
    assert file.SMOKE_LR > 0


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


def test_several_negatives_of_a_query_are_columns_of_its_own() -> None:
    training, views = begin(tiny("moco", "swaps"))
    negative = views[0].negative
    assert negative is not None
    three = replace(views[0], negative=torch.cat([negative, negative.flip(0), negative.flip(3)]))
    _, encoded, _ = copy.deepcopy(training.method)._keys(three)
    assert encoded.shape == (3, 8, 16)
    seen = []
    training.method.head.register_forward_hook(lambda *_: seen.append("query"))
    assert torch.isfinite(training.method.training_step(three)["loss"])
    assert seen == ["query"]


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
    settings = tiny("cast")
    training, views = begin(replace(settings, cast=replace(settings.cast, weight=3.0)))
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
        torch.testing.assert_close(key, method.embed_key(views[0].images[1]), rtol=1e-4, atol=1e-5)


def test_shuffled_groups_differ_from_the_queries_groups() -> None:
    training, views = begin(tiny("moco"))
    method = training.method
    shuffled, _, _ = copy.deepcopy(method)._keys(views[0])
    with torch.no_grad():
        in_order = copy.deepcopy(method).embed_key(views[0].images[1])
    assert not torch.allclose(shuffled, in_order, atol=1e-3)


def test_keys_and_swaps_negatives_are_normalised_in_groups_as_large_as_the_queries() -> None:
    """A.1: 32 images a GPU, of queries, and of keys with their negatives."""
    training, views = begin(tiny("moco", "swaps"))
    method, seen = training.method, []
    for network in (method.backbone, method.key_backbone):
        network.bn1.register_forward_pre_hook(lambda norm, inputs: seen.append((norm.group_size, len(inputs[0]))))
    method.training_step(views[0])
    assert seen == [(4, 8), (4, 16)]
    assert METHODS.load("moco").Settings().shuffle_bn_group == 32


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


DEVICES = (
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
)


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_split_batch_norm_writes_keys_over_what_it_is_given(
    device: str, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    split, plain = (of_groups(2).to(device) for _ in range(2))
    images = torch.randn(6, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    images = images.to(device, dtype, memory_format=memory_format)
    expected = plain(images.clone(memory_format=torch.preserve_format))
    with torch.no_grad():
        assert split(images) is images
    # A GPU has several kernels for it; on a CPU it is the same one, to the last bit.
    exact = {"rtol": 0.0, "atol": 0.0} if device == "cpu" else {}
    torch.testing.assert_close(images, expected, **exact)
    torch.testing.assert_close(split.state_dict(), plain.state_dict(), **exact)
    assert split.num_batches_tracked == 1


def of_groups(group_size: int) -> SplitBatchNorm2d:
    """A layer of three channels that scale and shift, while training."""
    split = SplitBatchNorm2d(3).train()
    split.group_size = group_size
    with torch.no_grad():
        split.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        split.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    return split


@pytest.mark.parametrize("device", DEVICES)
def test_split_batch_norm_as_one_formula_gives_the_same_values_gradients_and_running_statistics(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    # Off centre: a variance from unshifted sums would show here.
    image_BCHW = 10.0 + torch.randn(6, 3, 4, 5, generator=generator)
    weight_BCHW = torch.randn(6, 3, 4, 5, generator=generator)
    found = []
    for normalise in (SplitBatchNorm2d.forward, SplitBatchNorm2d._all_at_once):
        split = of_groups(2).to(device)
        leaf = image_BCHW.to(device, copy=True).requires_grad_()
        out = normalise(split, leaf)
        (out * weight_BCHW.to(device)).sum().backward()
        found.append([out, leaf.grad, split.weight.grad, split.bias.grad, split.running_mean, split.running_var])
        assert split.num_batches_tracked == 1
    for group_by_group, at_once in zip(*found, strict=True):
        torch.testing.assert_close(at_once, group_by_group, rtol=1e-5, atol=1e-5)


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


def test_byols_target_takes_no_gradient_and_follows_once_a_step() -> None:
    training, views = begin(tiny("byol", with_cast=True))
    method = training.method
    training.step = 2
    before = method.target_backbone.conv1.weight.clone()
    head_before = method.target_projector[0].weight.clone()
    take_step(training, views[0])
    targets = [*method.target_backbone.parameters(), *method.target_projector.parameters()]
    assert all(weight.grad is None and not weight.requires_grad for weight in targets)
    momentum = cosine_momentum(method.settings.momentum, 2, training.num_steps)
    for target, old, online in (
        (method.target_backbone.conv1.weight, before, method.backbone.conv1.weight),
        (method.target_projector[0].weight, head_before, method.projector[0].weight),
    ):
        assert not torch.equal(target, online)
        torch.testing.assert_close(target, momentum * old + (1 - momentum) * online, rtol=0, atol=1e-7)


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


def test_swavs_queue_holds_earlier_batches_only_while_codes_are_assigned() -> None:
    settings = tiny("swav")
    changes = {"queue_size": 8, "queue_start_epoch": 0}
    training, views = begin(replace(settings, algorithm=replace(settings.algorithm, **changes)))
    method = training.method
    queue = method.queues[0]
    method.training_step(views[0])
    first = queue.keys_KD.clone()
    pools = []
    assign = method._assign
    method._assign = lambda score: pools.append(score.clone()) or assign(score)
    method.training_step(views[1])
    assert len(pools) == 2
    # The older half of the pool are the embeddings of the batch before; this batch joins the queue afterwards.
    torch.testing.assert_close(pools[0][:8], first @ method.prototypes.weight.T)
    torch.testing.assert_close(pools[0][8:], queue.keys_KD @ method.prototypes.weight.T)
    assert not queue.keys_KD.requires_grad


def test_swav_takes_crops_of_one_size_together_and_codes_from_the_global_ones() -> None:
    training, views = begin(tiny("swav"))
    method = training.method
    passes, heads, codes = [], [], []
    method.backbone.conv1.register_forward_hook(lambda _, images, __: passes.append(tuple(images[0].shape)))
    method.projector.register_forward_hook(lambda _, pooled, __: heads.append(len(pooled[0])))
    assign = method._assign
    method._assign = lambda score: codes.append(score.requires_grad) or assign(score)
    method.training_step(views[0])
    assert passes == [(16, 3, 32, 32), (48, 3, 16, 16)]
    assert heads == [64]
    assert codes == [False, False]


def test_swavs_masked_keys_leave_no_trace() -> None:
    """They take no gradient, and what BatchNorm remembers is that of a step without CAST."""
    training, views = begin(tiny("swav", with_cast=True))
    plain, _ = begin(replace(tiny("swav", with_cast=True), cast=None))
    losses, plain_losses = training.method.training_step(views[0]), plain.method.training_step(views[0])
    assert torch.equal(losses["swapped_loss"], plain_losses["swapped_loss"])
    assert 0 < losses["attention_loss"] < 1
    for name, value in plain.method.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, training.method.get_buffer(name)), name
    calls = []
    training.method._masked_codes = lambda _: calls.append("masked") or torch.full((2, 8, 12), 1 / 12)
    training.method.training_step(views[1])["attention_loss"].backward()
    assert calls == ["masked"]
    assert training.method.backbone.conv1.weight.grad.abs().max() > 0


# -------------------------------------------------------------------------------------------------------------- CAST


@pytest.mark.parametrize("method", ["moco", "byol", "swav"])
def test_casts_gradient_stays_in_float32_under_autocast(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training, views = begin(tiny(method, with_cast=True))
    training.method.backbone.autocast_dtype = torch.bfloat16
    seen = []

    def importance(similarity_B: torch.Tensor, pooled_BD: torch.Tensor) -> torch.Tensor:
        found = saliency_attention.importance(similarity_B, pooled_BD)
        seen.append((similarity_B.dtype, pooled_BD.dtype, found.dtype, bool(found.abs().max() > 0)))
        return found

    monkeypatch.setattr(cast, "importance", importance)
    training.method.training_step(views[0])["loss"].backward()
    assert seen == [(torch.float32,) * 3 + (True,)] * (1 if method == "moco" else 2)
    assert torch.isfinite(training.method.backbone.conv1.weight.grad).all()


@pytest.mark.parametrize("method", ["moco", "cast", "byol", "swav"])
def test_cast_at_weight_0_is_the_method_without_it_bit_for_bit(method: str) -> None:
    """The control of CAST: its crops, and neither an attention loss nor masked keys in the key network."""
    settings = tiny(method, with_cast=True)
    weightless, views = begin(replace(settings, cast=replace(settings.cast, weight=0.0)))
    plain, _ = begin(replace(settings, method="moco" if method == "cast" else method, cast=None))
    weightless.step = plain.step = 2  # past the start of the warm-up, where the rate is zero
    for step_views in views[:3]:
        found, expected = take_step(weightless, step_views)[0], take_step(plain, step_views)[0]
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    found_state, expected_state = state_of(weightless), state_of(plain)
    assert [name for name in expected_state if not torch.equal(found_state[name], expected_state[name])] == []


@pytest.mark.parametrize("method", ["moco", "byol"])
def test_masked_keys_have_a_pass_of_their_own_that_leaves_the_ordinary_keys_as_they_are(method: str) -> None:
    settings = tiny(method, with_cast=True)
    own, views = begin(settings)
    plain, _ = begin(replace(settings, cast=None))
    shared, _ = begin(replace(settings, cast=replace(settings.cast, key_pass="shared")))
    name = {"moco": "info_nce_loss", "byol": "regression_loss"}[method]
    alone = {each: training.method.training_step(views[0]) for each, training in
             (("own", own), ("plain", plain), ("shared", shared))}  # fmt: skip
    assert torch.equal(alone["own"][name], alone["plain"][name])
    assert not torch.equal(alone["shared"][name], alone["plain"][name])
    assert 0 < alone["own"]["attention_loss"] < 1
    assert 0 < alone["shared"]["attention_loss"] < 1
    # What BatchNorm remembers is that of a step without CAST.
    for buffer, value in plain.method.named_buffers():
        if not buffer.endswith("num_batches_tracked"):
            assert torch.equal(value, own.method.get_buffer(buffer)), buffer


def test_a_shared_key_pass_is_refused_where_there_is_none() -> None:
    settings = tiny("cast")
    shared = replace(settings, cast=replace(settings.cast, key_pass="shared"))
    with pytest.raises(UserError, match=r"cast\.variant=released"):
        check(replace(shared, cast=replace(shared.cast, variant="released")))
    swav = tiny("swav", with_cast=True)
    with pytest.raises(UserError, match=r"cast\.key_pass=shared"):
        begin(replace(swav, cast=replace(swav.cast, key_pass="shared")))


def test_cast_of_the_intersection_sees_less() -> None:
    training, views = begin(tiny("cast"))
    boxes = [torch.tensor([[0, 0, 40, 40]] * 8), torch.tensor([[0, 20, 40, 40]] * 8)]
    full = [torch.ones_like(mask) for mask in views[0].masks]
    shifted = replace(views[0], boxes=boxes, masks=full, is_flipped=[torch.zeros(8, dtype=torch.bool)] * 2)
    settings = replace(training.method.cast, region="intersection")
    mask = cast.query_mask(settings, shifted, query=0, key=1)
    # The key's crop starts at the middle of the query's.
    assert not mask[..., :24].any()
    assert (mask[..., 24:] == 1).all()
    assert torch.equal(cast.query_mask(training.method.cast, shifted, 0, 1), full[0])
    apart = replace(shifted, boxes=[boxes[0], boxes[1] + torch.tensor([100, 0, 0, 0])])
    training.method.cast = settings
    losses = training.method.training_step(apart)
    assert losses["rows_without_foreground"] == 1
    assert losses["loss"] == losses["info_nce_loss"]


def test_cast_as_released_scales_the_loss_and_moves_the_key_encoder_twice() -> None:
    settings = tiny("cast")
    training, views = begin(replace(settings, cast=replace(settings.cast, variant="released", weight=3.0)))
    method = training.method
    training.step = 2
    before = method.key_backbone.conv1.weight.clone()
    encoded = []
    encode = method.embed_key
    method.embed_key = lambda images: encoded.append(len(images)) or encode(images)
    losses, _ = take_step(training, views[0])
    # Masked keys have a batch of their own.
    assert encoded == [8, 8]
    torch.testing.assert_close(losses["loss"], (losses["info_nce_loss"] + 3 * losses["attention_loss"]) / 4)
    momentum = method.settings.momentum**2
    expected = momentum * before + (1 - momentum) * method.backbone.conv1.weight
    torch.testing.assert_close(method.key_backbone.conv1.weight, expected, rtol=0, atol=1e-7)


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


# torch 2.15 wants another name for broadcast_buffers, which torch 2.11 does not have.
@pytest.mark.filterwarnings("ignore:.*broadcast_buffers.*:FutureWarning")
@pytest.mark.parametrize("method", ["moco", "byol", "swav"])
def test_cast_under_distributed_data_parallel(method: str, one_process_group: None) -> None:
    """One process: the hooks of DDP meet the second-order graph; what two do together is test_distributed's."""
    training, views = begin(tiny(method, with_cast=True))
    alone = copy.deepcopy(training.method)
    alone.training_step(views[0])["loss"].backward()
    wrapped = torch.nn.parallel.DistributedDataParallel(
        _Step(training.method),
        broadcast_buffers=False,
        find_unused_parameters=training.method.has_unused_parameters,
    )
    wrapped(views[0])["loss"].backward()
    _assert_same_gradients(training.method, alone)


@pytest.mark.slow
# The compiler itself looks at gradients of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_cast_with_compiled_layers() -> None:
    """Layers become one compiled graph; the second-order graph of CAST lives in the head, which is not compiled."""
    (compiled, views), (plain, _) = begin(tiny("cast", is_compiled=True)), begin(tiny("cast"))
    exact = replace(views[0], images=[image.double() for image in views[0].images])
    for training in (compiled, plain):
        # In float64: a ReLU that tips over by a rounding moves a float32 gradient of this small network by a percent.
        training.method.double().training_step(exact)["loss"].backward()
    _assert_same_gradients(compiled.method, plain.method)


def _assert_same_gradients(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    gradients = {name: weight.grad for name, weight in expected.named_parameters() if weight.grad is not None}
    assert gradients
    for name, gradient in gradients.items():
        other = found.get_parameter(name).grad
        assert other is not None, name
        torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item() + 1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"weight": -1.0}, "cast.weight"), ({"region": "key"}, "query, intersection"), ({"variant": "v2"}, "released")],
)
def test_impossible_cast_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_settings(replace(cast.Settings(), **changes), "cast")


# -------------------------------------------------------------------------------------------- RotNet and supervised


def test_rotnet_counts_every_image_in_every_rotation() -> None:
    training, views = begin(tiny("rotnet"))
    method = training.method
    logits = []
    method.head.register_forward_hook(lambda _, __, output: logits.append(output.detach().double().numpy()))
    losses = method.training_step(views[0])
    assert logits[0].shape == (32, 4)
    assert losses["loss"].item() == pytest.approx(reference.rotation_prediction(logits[0], 8), rel=1e-5)
    right = (logits[0].argmax(axis=1) == np.repeat(np.arange(4), 8)).mean()
    assert losses["rotation_accuracy"].item() == pytest.approx(right)


def test_rotnet_on_alexnet_with_the_released_head() -> None:
    with torch.random.fork_rng():
        backbone = build_backbone("alexnet_bn")
        method = METHODS.load("rotnet").Method(backbone, METHODS.load("rotnet").Settings(hidden_dim=16), seed=0).train()
    _, views = begin(tiny("rotnet"))
    losses = method.training_step(views[0])
    losses["loss"].backward()
    assert method.backbone.features[0].weight.grad.abs().max() > 0
    assert [type(layer).__name__ for layer in method.backbone.features[:3]] == ["Conv2d", "BatchNorm2d", "ReLU"]


def test_swav_learns_of_its_global_views_alone() -> None:
    """Without multi-crop: a swap of two."""
    settings = tiny("swav")
    training, (views, *_) = begin(replace(settings, views=settings.views[:2]))
    losses = training.method.training_step(views)
    assert torch.isfinite(losses["loss"])
    losses["loss"].backward()
    with pytest.raises(UserError, match="5 views were given; swav takes 8, or its 2 global ones alone"):
        check(replace(settings, views=settings.views[:5]))


def test_supervised_loss() -> None:
    training, views = begin(tiny("supervised"))
    logits = []
    training.method.classifier.register_forward_hook(lambda *call: logits.append(call[2].detach().double().numpy()))
    losses = training.method.training_step(views[0])
    assert losses["loss"].item() == pytest.approx(reference.cross_entropy(logits[0], views[0].label_B), rel=1e-5)
    assert not training.method.backbone.layer1[0].bn2.weight.any()


def test_classifier_on_a_frozen_backbone_and_fine_tuning(tmp_path: Path) -> None:
    first, views = begin(tiny("supervised"))
    first.step = 2
    take_step(first, views[0])
    checkpoint.save(tmp_path, first.method, first.optimiser, step=3, keep=1)
    settings = tiny("supervised")
    runs = {}
    for trained in ("classifier", "all"):
        algorithm = replace(settings.algorithm, start_from=str(tmp_path), trained=trained)
        training, _ = begin(replace(settings, algorithm=algorithm))
        training.step = 2
        at_start = state_of(training)
        take_step(training, views[1])
        runs[trained] = {name for name, value in state_of(training).items() if not torch.equal(value, at_start[name])}
        for name, value in first.method.state_dict().items():
            is_new = trained == "classifier" and name.startswith("classifier.")
            assert torch.equal(at_start[name], value) != is_new, name
    assert runs["classifier"] == {"classifier.weight", "classifier.bias"}
    assert {"backbone.conv1.weight", "backbone.bn1.running_mean", "classifier.weight"} <= runs["all"]


def test_every_category_in_an_image_is_its_label(tmp_path: Path) -> None:
    """Equal shares, images without any none; rows of other images than the annotations' are refused."""
    begun, (views, *_) = begin(tiny("supervised"))
    ranks = views.label_B.tolist()
    content = {
        "categories": [{"id": 10 + rank, "name": f"c{rank}"} for rank in range(3)],
        "images": [{"id": 100 + row, "file_name": f"{row:012d}.jpg"} for row in range(int(views.row_B.max()) + 1)],
        "annotations": [
            {"id": 2 * at + of, "image_id": 100 + row, "category_id": 10 + (ranks[at] + of) % 3, "iscrowd": of}
            for at, row in enumerate(views.row_B.tolist())
            for of in (0, 1)
        ],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    algorithm = replace(begun.settings.algorithm, labels="categories", annotations=str(file))
    training, (views, *_) = begin(replace(begun.settings, algorithm=algorithm))
    METHODS.load("supervised").check_labels(algorithm, views.label_B.numpy() * 0 - 1)
    with torch.no_grad():
        logit_BL = training.method.classifier(training.method.backbone(views.images[0]))
    log_BL = logit_BL.double().log_softmax(dim=1).numpy()
    expected = -np.mean([(row[rank] + row[(rank + 1) % 3]) / 2 for row, rank in zip(log_BL, ranks, strict=True)])
    assert training.method.training_step(views)["loss"].item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"3 categories.*num_classes=80"):
        METHODS.load("supervised").check_labels(replace(algorithm, num_classes=80), views.label_B.numpy())
    shifted = tmp_path / "shifted.json"
    shifted.write_text(json.dumps(content | {"annotations": content["annotations"][:2]}))
    training, _ = begin(replace(begun.settings, algorithm=replace(algorithm, annotations=str(shifted))))
    with pytest.raises(UserError, match="very images of its annotations"):
        training.method.training_step(views)
    with pytest.raises(UserError, match="not a COCO instances file"):
        METHODS.load("supervised").check_labels(replace(algorithm, annotations=str(tmp_path / "no.json")), np.arange(3))


def test_no_category_in_an_image_adds_no_loss() -> None:
    logit_BL = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    losses = supervised.categories_loss(logit_BL, torch.tensor([[True, False], [False, False]]))
    assert losses["loss"].item() == pytest.approx(math.log(2) / 2)
    assert losses["accuracy"].item() == 0.5


def test_supervised_refuses_what_it_cannot_learn_from(tmp_path: Path) -> None:
    module = METHODS.load("supervised")
    settings = module.Settings(num_classes=10)
    module.check_labels(settings, np.arange(10))
    with pytest.raises(UserError, match=r"2 of the store's 4 rows have no label"):
        module.check_labels(settings, np.array([0, -1, 3, -1]))
    with pytest.raises(UserError, match="num_classes=11 or more"):
        module.check_labels(settings, np.arange(11))
    with pytest.raises(UserError, match=r"start_from=RUN"):
        module.check(replace(settings, trained="classifier"), 8)
    with pytest.raises(UserError, match="no folder of a run"):
        module.check(replace(settings, start_from=str(tmp_path)), 8)


# --------------------------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize(
    ("name", "side_px", "cifar_stem", "shape"),
    [
        ("resnet18", 224, False, (512, 7, 7)),
        ("resnet34", 224, False, (512, 7, 7)),
        ("resnet50", 224, False, (2048, 7, 7)),
        ("resnet101", 224, False, (2048, 7, 7)),
        ("resnet152", 224, False, (2048, 7, 7)),
        ("resnet18", 32, True, (512, 4, 4)),
        ("alexnet", 224, False, (256, 13, 13)),
        ("alexnet_bn", 224, False, (256, 13, 13)),
        ("drn_d_22", 224, False, (512, 28, 28)),
        ("drn_d_105", 224, False, (512, 28, 28)),
    ],
)
def test_backbones_give_maps_of_their_papers_sizes(name: str, side_px: int, cifar_stem: bool, shape: tuple) -> None:
    with FakeTensorMode():  # shapes alone
        backbone = build_backbone(name, cifar_stem=cifar_stem)
        images = torch.empty(2, 3, side_px, side_px)
        assert backbone.num_features == shape[0]
        assert backbone.forward_map(images).shape == (2, *shape)
        assert backbone(images).shape == (2, shape[0])


def test_alexnet_carries_torchvisions_names() -> None:
    with torch.device("meta"):
        network, backbone = torchvision.models.alexnet(), build_backbone("alexnet")
    assert set(backbone.state_dict()) == {name for name in network.state_dict() if name.startswith("features.")}
    with pytest.raises(UserError, match="cifar_stem is for resnet18"):
        build_backbone("alexnet", cifar_stem=True)
