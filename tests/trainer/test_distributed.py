"""Two processes on one training, over gloo: together they do what one process does with the whole batch."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backdrop.errors import UserError
from backdrop.ranks import Ranks
from backdrop.trainer.recipes import byol_300_node, supervised_90
from backdrop.trainer.run.distributed import _group_size, share_of
from backdrop.trainer.settings import apply_overrides
from tests.material.distributed_launch import launch
from tests.material.distributed_program import TASKS
from tests.material.tiny_runs import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = Ranks(device="cpu")
# Past the start of the warm-up, so that weights move.
STEPS: list[dict[str, Any]] = [
    {"task": "steps", "method": "byol", "steps": 3, "first_step": 3, "background": "rm"},
    {
        "task": "steps",
        "method": "swav",
        "steps": 3,
        "first_step": 3,
        "background": "random",
        "overrides": [
            "algorithm.queue_size=16",
            "algorithm.queue_start_epoch=0",
            "algorithm.freeze_prototypes_steps=1",
        ],
    },
    {"task": "steps", "method": "moco", "steps": 2, "first_step": 3, "background": "swaps"},
    {"task": "steps", "method": "cast", "steps": 2, "first_step": 3},
]
# As runs compute: one step, of which rounding is not yet blown up by the BatchNorms after it.
SINGLE = [words | {"steps": 1, "is_double": False} for words in STEPS[:2]]
PARTS = [{"task": name} for name in ("sinkhorn", "queues", "shuffled", "shuffled_in_bf16", "batch_norm")]
SHUFFLES = [{"task": name} for name in ("shuffled", "shuffled_in_bf16")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, torch.Tensor]]]:
    """What each of two processes found, by task; one launch for all."""
    folder = tmp_path_factory.mktemp("two")
    plan = [
        STEPS[-1],
        *PARTS,
        *STEPS[:-1],
        *SINGLE,
    ]  # CAST first: it differentiates twice, in a process that has warmed up nothing
    done = launch(folder, plan)
    assert done.returncode == 0, done.stderr[-4000:]
    names = [name_of(words) for words in plan]
    return {
        name: [load_file(folder / f"{number}-{rank}.safetensors") for rank in (0, 1)]
        for number, name in enumerate(names)
    }


@pytest.fixture(scope="module")
def found_of_four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, torch.Tensor]]]:
    """What each of four processes found, by task; one launch for all."""
    folder = tmp_path_factory.mktemp("four")
    done = launch(folder, SHUFFLES, num_processes=4)
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        words["task"]: [load_file(folder / f"{number}-{rank}.safetensors") for rank in range(4)]
        for number, words in enumerate(SHUFFLES)
    }


def name_of(words: dict[str, Any]) -> str:
    if words["task"] != "steps":
        return words["task"]
    return words["method"] + ("" if words.get("is_double", True) else " in float32")


def dealt_together(found: list[dict[str, torch.Tensor]], name: str) -> torch.Tensor:
    return torch.stack([one[name] for one in found], dim=1).flatten(0, 1)


@pytest.mark.slow
def test_codes_are_those_of_one_process(found: dict) -> None:
    expected = TASKS["sinkhorn"]({}, ALONE)["code_BK"]
    torch.testing.assert_close(dealt_together(found["sinkhorn"], "code_BK"), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_queues_hold_the_same_in_every_process_and_in_one(found: dict) -> None:
    expected = TASKS["queues"]({}, ALONE)
    for one in found["queues"]:
        assert [name for name in expected if not torch.equal(one[name], expected[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("launched", ["found", "found_of_four"])
def test_keys_are_shuffled_over_all_processes_in_the_groups_of_one(
    launched: str, request: pytest.FixtureRequest
) -> None:
    parts = request.getfixturevalue(launched)["shuffled"]
    expected = TASKS["shuffled"]({}, ALONE)["number_and_sum_BD"]
    assert torch.equal(expected[:, 0], torch.arange(1.0, 13.0))
    assert len(set(expected[:, 1].tolist())) > 1
    assert torch.equal(dealt_together(parts, "number_and_sum_BD"), expected)
    # A process gets the images that it encodes and no other: of 12, 1/W, and some of them are its own.
    bytes_of_all = 12 * 3 * 8 * 8 * 4
    assert all(0 < int(one["image_bytes"]) <= bytes_of_all / len(parts) for one in parts)
    assert sum(int(one["image_bytes"]) for one in parts) < bytes_of_all


@pytest.mark.slow
@pytest.mark.parametrize("launched", ["found", "found_of_four"])
def test_images_sent_in_bfloat16_are_encoded_to_the_same_bits(launched: str, request: pytest.FixtureRequest) -> None:
    parts = request.getfixturevalue(launched)["shuffled_in_bf16"]
    for one in parts:
        assert torch.equal(one["None"], one["torch.bfloat16"])
    expected = TASKS["shuffled_in_bf16"]({}, ALONE)["None"]
    torch.testing.assert_close(dealt_together(parts, "None"), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_batch_norm_is_that_of_the_whole_batch(found: dict) -> None:
    expected, parts = TASKS["batch_norm"]({}, ALONE), found["batch_norm"]
    for name in ("y_BCHW", "x_gradient_BCHW", "y_in_evaluation_BCHW"):
        torch.testing.assert_close(dealt_together(parts, name), expected[name], rtol=1e-5, atol=1e-5)
    whole_gradient_C = parts[0]["weight_gradient_C"] + parts[1]["weight_gradient_C"]
    torch.testing.assert_close(whole_gradient_C, expected["weight_gradient_C"], rtol=1e-5, atol=1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(parts[0][name], parts[1][name])
        torch.testing.assert_close(parts[0][name], expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("words", STEPS[:2], ids=lambda words: words["method"])
def test_two_processes_do_the_steps_of_one(found: dict, words: dict[str, Any]) -> None:
    first, second = found[words["method"]]
    expected = TASKS["steps"](words, ALONE)
    state = [name for name in expected if name.startswith(("state.", "gradient."))]
    assert {name for name in first if not name.startswith("loss.")} == set(state)
    assert [name for name in state if not torch.equal(first[name], second[name])] == []
    for name in state:
        torch.testing.assert_close(first[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)
    for number in range(words["steps"]):
        name = f"loss.{number}.loss"
        torch.testing.assert_close((first[name] + second[name]) / 2, expected[name], rtol=1e-9, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("words", SINGLE, ids=lambda words: words["method"])
def test_a_step_in_float32_is_that_of_one_process_within_1e_5(found: dict, words: dict[str, Any]) -> None:
    first, second = found[name_of(words)]
    expected = TASKS["steps"](words, ALONE)
    state = [name for name in expected if name.startswith("state.")]
    assert [name for name in state if not torch.equal(first[name], second[name])] == []
    assert all(tensor.dtype != torch.float64 for tensor in expected.values())
    for name in state:
        torch.testing.assert_close(first[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)
    name = "loss.0.loss"
    torch.testing.assert_close((first[name] + second[name]) / 2, expected[name], rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moco", "cast"])
def test_mocos_queue_and_encoders_are_the_same_in_both_processes(found: dict, method: str) -> None:
    first, second = found[method]
    assert [name for name in first if name.startswith("gradient.") and not torch.equal(first[name], second[name])] == []
    differ = {name for name in first if name.startswith("state.") and not torch.equal(first[name], second[name])}
    # A process's groups of rows are its own, and so are the running statistics of BatchNorms.
    assert {name.rsplit(".", 1)[1] for name in differ} == {"running_mean", "running_var"}
    assert int(first["state.queue.num_enqueued"]) == 16
    torch.testing.assert_close(first["state.queue.keys_KD"].norm(dim=1).float(), torch.ones(32), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "num_processes", "message"),
    [
        ([], 3, "batch_size=8 cannot be shared equally by 3 processes"),
        (["algorithm.shuffle_bn_group=3"], 2, "algorithm.shuffle_bn_group=3"),
        (["accumulation_steps=3"], 1, "accumulation_steps=3 does not divide the 8 images"),
    ],
)
def test_shares_that_do_not_come_out_are_refused(overrides: list[str], num_processes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        share_of(apply_overrides(tiny("moco"), overrides), num_processes)


@pytest.mark.parametrize("method", ["moco", "cast"])
@pytest.mark.parametrize(
    ("group", "batch_size", "num_parts", "num_processes", "is_possible"),
    [
        (4, 16, 2, 1, True),  # parts of 8: keys are shuffled over two groups
        (4, 8, 2, 1, False),  # of 4: query and key are normalised with the same images
        (4, 16, 2, 2, True),  # of 4, twice
        (4, 24, 2, 1, True),
        (8, 24, 2, 1, False),  # of 12: groups of 8 and 4
        (8, 32, 8, 2, False),  # of 2: less than a group
        (0, 8, 2, 1, True),
    ],
)
def test_parts_too_small_to_shuffle_keys_in_are_refused(
    method: str, group: int, batch_size: int, num_parts: int, num_processes: int, is_possible: bool
) -> None:
    overrides = [
        f"algorithm.shuffle_bn_group={group}", f"batch_size={batch_size}", f"accumulation_steps={num_parts}",
        "algorithm.head=mlp", f"algorithm.queue_size={4 * batch_size}",
    ]  # fmt: skip
    settings, share = apply_overrides(tiny(method), overrides), batch_size // num_processes
    if is_possible:
        assert share_of(settings, num_processes) == share
    else:
        with pytest.raises(UserError, match=f"parts of {share // num_parts} images .*shuffle_bn_group={group}"):
            share_of(settings, num_processes)


@pytest.mark.parametrize(("num_processes", "expected"), [(1, 1), (4, 4), (8, 8), (16, 16)])
def test_a_pass_of_one_machine_is_normalised_as_a_group_of_the_paper(num_processes: int, expected: int) -> None:
    """512 images at a time, over however many processes: not over a process's 512 of a step, taken in parts."""
    settings = byol_300_node.settings("byol", "none", False)
    assert share_of(settings, num_processes) == 4096 // num_processes
    assert _group_size(settings, num_processes) == expected


def test_a_head_whose_batch_norm_sees_a_part_is_refused() -> None:
    with pytest.raises(UserError, match=r"algorithm\.head=bn_mlp .* set algorithm\.head=mlp"):
        share_of(apply_overrides(tiny("moco"), ["accumulation_steps=2", "algorithm.shuffle_bn_group=0"]), 1)


@pytest.mark.parametrize(
    ("sync_bn_group", "num_processes", "expected"), [(0, 4, 4), (2, 4, 1), (1, 4, 1), (4, 4, 2), (8, 4, 4), (64, 4, 4)]
)
def test_images_normalised_together_decide_the_groups(sync_bn_group: int, num_processes: int, expected: int) -> None:
    settings = apply_overrides(tiny("byol"), [f"sync_bn_group={sync_bn_group}"])
    assert _group_size(settings, num_processes) == expected


@pytest.mark.parametrize(("num_processes", "expected"), [(8, 1), (128, 1), (256, 2)])
def test_supervised_processes_normalise_alone_but_for_shares_below_32(num_processes: int, expected: int) -> None:
    assert _group_size(supervised_90.settings("supervised", "none", False), num_processes) == expected


def test_groups_that_do_not_come_out_are_refused() -> None:
    with pytest.raises(UserError, match="sync_bn_group=3"):
        _group_size(apply_overrides(tiny("byol"), ["sync_bn_group=3"]), 4)
