"""What each process does in `test_distributed.py` and `test_resume_distributed.py`, over gloo on the CPU.

torchrun --nproc-per-node N -m tests.material.distributed_program PLAN.json, a list of {"task": ..., its arguments}
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import distributed

from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.ranks import Ranks, joined
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.parts.key_queue import KeyQueue, whole_state
from backdrop.trainer.parts.sinkhorn import assign_codes
from backdrop.trainer.parts.split_batch_norm import encode_shuffled, split_batch_norms
from backdrop.trainer.parts.sync_batch_norm import AllReduceBatchNorm
from backdrop.trainer.run import run_folder
from backdrop.trainer.run.distributed import wrapped_step
from backdrop.trainer.run.training import start, take_step, train
from backdrop.trainer.settings import RunSettings, apply_overrides
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny


def settings_of(words: dict[str, Any]) -> RunSettings:
    """Settings of a tiny run. Args: words: method, background, with_cast and overrides."""
    settings = tiny(words["method"], words.get("background", "none"), with_cast=words.get("with_cast", False))
    return apply_overrides(settings, words.get("overrides", []))


def loader_of(settings: RunSettings, ranks: Ranks) -> MemoryLoader:
    """Three batches of this process."""
    return MemoryLoader(
        settings.plan,
        num_rows=3 * settings.batch_size,
        batch_size=settings.batch_size,
        rank=ranks.rank,
        world_size=ranks.size,
    )


def steps(words: dict[str, Any], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Take steps; the state of all processes together, gradients of the last step, and losses. is_double: not as in a
    run but in float64, where more than one step can be compared."""
    settings = settings_of(words)
    loader = loader_of(settings, ranks)
    training = start(settings, steps_per_epoch=loader.num_batches, device=torch.device("cpu"), ranks=ranks)
    training.step = words.get("first_step", 0)
    is_double = words.get("is_double", True)
    if is_double:
        # Wrapped anew: DistributedDataParallel's buckets are of the type that the weights had.
        training.forward = wrapped_step(training.method.double(), ranks)
    stage = DeviceStage(settings.plan, device="cpu")
    found: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(loader.epoch(0)):
        if number == words["steps"]:
            break
        losses, _ = take_step(training, _in_float64(stage(batch)) if is_double else stage(batch))
        found |= {f"loss.{number}.{name}": value.detach() for name, value in losses.items()}
    found |= {f"state.{name}": tensor for name, tensor in whole_state(training.method).items()}
    for name, weight in training.method.named_parameters():
        if weight.grad is not None:
            found[f"gradient.{name}"] = weight.grad
    return found


def _in_float64(views: Views) -> Views:
    """BatchNorm over a few rows of 1x1 maps blows rounding up by thousands; float64 has digits left after that."""
    negative = None if views.negative is None else views.negative.double()
    return replace(views, images=[image.double() for image in views.images], negative=negative)


def sinkhorn(words: dict[str, Any], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Codes of this process's rows."""
    score_BK = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))[ranks.rank :: ranks.size]
    return {"code_BK": assign_codes(score_BK, epsilon=0.05, num_iterations=3)}


def queues(words: dict[str, Any], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Both kinds of queue after more batches than they hold, whole."""
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.ModuleDict(
        {
            "shared": KeyQueue(12, 3, generator),
            "dealt": KeyQueue(12, 3, generator, is_dealt=True),
        }
    )
    for _ in range(4):
        keys_ND = torch.randn(4, 3, generator=generator)
        for queue in network.values():
            queue.enqueue(keys_ND[ranks.rank :: ranks.size])
    return whole_state(network)


def shuffled(words: dict[str, Any], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Embeddings that tell who was encoded together: an image's own number and the sum of its group's; and the bytes
    of images that this process got of others."""
    number_BCHW = torch.arange(1.0, 13.0)[ranks.rank :: ranks.size, None, None, None].expand(-1, 3, 8, 8)

    def encode(image_BCHW: torch.Tensor) -> torch.Tensor:
        number_B1 = image_BCHW[:, 0, 0, :1]
        sum_B1 = torch.cat([group.sum().expand(len(group), 1) for group in number_B1.split(3)])
        return torch.cat([number_B1, sum_B1], dim=1)

    with _counted(ranks) as received:
        number_and_sum_BD = encode_shuffled(encode, number_BCHW, stream=7)
    image_bytes, *_ = received or [0]
    return {"number_and_sum_BD": number_and_sum_BD, "image_bytes": torch.tensor(image_bytes)}


@contextmanager
def _counted(ranks: Ranks) -> Iterator[list[int]]:
    """Note of each collective of rows how many bytes came from other processes."""
    received: list[int] = []
    all_to_all_single, all_gather = distributed.all_to_all_single, distributed.all_gather

    def to_all(result: torch.Tensor, rows: torch.Tensor, of_each: list[int], to_each: list[int]) -> None:
        received.append((len(result) - of_each[ranks.rank]) * result[0].nbytes)
        all_to_all_single(result, rows, of_each, to_each)

    def gather(pieces: list[torch.Tensor], rows: torch.Tensor) -> None:
        received.append((len(pieces) - 1) * rows.nbytes)
        all_gather(pieces, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "all_to_all_single", to_all)
        patch.setattr(distributed, "all_gather", gather)
        yield received


def shuffled_in_bf16(words: dict[str, Any], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Embeddings of a network that computes in bfloat16, of images sent in float32 and in bfloat16."""
    torch.manual_seed(0)
    backbone = split_batch_norms(build_backbone("resnet18", cifar_stem=True), 3)
    backbone.autocast_dtype = torch.bfloat16
    image_BCHW = torch.randn(12, 3, 8, 8)[ranks.rank :: ranks.size]
    with torch.no_grad():
        found = {
            str(sent_as): encode_shuffled(backbone, image_BCHW, stream=7, sent_as=sent_as)
            for sent_as in (None, torch.bfloat16)
        }
    return found


def batch_norm(words: dict[str, Any], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Outputs, gradients and running statistics of a normalisation over all processes."""
    generator = torch.Generator().manual_seed(0)
    x_NCHW = 3.0 + torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64).float()
    weight_NCHW = torch.randn(6, 4, 3, 3, generator=generator)
    norm = torch.nn.BatchNorm2d(4) if ranks.size == 1 else AllReduceBatchNorm(4)
    x_BCHW = x_NCHW[ranks.rank :: ranks.size].clone().requires_grad_()
    y_BCHW = norm(x_BCHW)
    (y_BCHW * weight_NCHW[ranks.rank :: ranks.size]).sum().backward()
    assert x_BCHW.grad is not None
    assert norm.weight.grad is not None
    found = {"y_BCHW": y_BCHW.detach(), "x_gradient_BCHW": x_BCHW.grad, "weight_gradient_C": norm.weight.grad}
    norm.eval()
    return found | dict(norm.named_buffers()) | {"y_in_evaluation_BCHW": norm(x_BCHW).detach()}


def run(words: dict[str, Any], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Train into a folder; words["dies_at"]: [rank, step] at which that process is gone at once, as by kill -9."""
    settings = settings_of(words)
    loader: Any = loader_of(settings, ranks)
    if ranks.rank == words.get("dies_at", [-1])[0]:
        loader = _DyingLoader(loader, words["dies_at"][1])
    summary = train(
        settings,
        loader,
        Path(words["out"]),
        origin=run_folder.Origin(recipe="smoke"),
        resume=words.get("resume", False),
        ranks=ranks,
    )
    assert (summary is None) != ranks.is_first
    return {}


def refused(words: dict[str, Any], ranks: Ranks) -> dict[str, torch.Tensor]:
    """A run that must not start: every process raises the same error."""
    with pytest.raises(UserError, match=words["message"]):
        run(words, ranks)
    return {}


class _DyingLoader:
    def __init__(self, loader: MemoryLoader, step: int) -> None:
        self._loader, self._step = loader, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Any:
        import os
        import signal

        for batch in self._loader.epoch(epoch, first_batch=first_batch):
            if batch.step == self._step:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


TASKS: dict[str, Callable[[dict[str, Any], Ranks], dict[str, torch.Tensor]]] = {
    task.__name__: task for task in (steps, sinkhorn, queues, shuffled, shuffled_in_bf16, batch_norm, run, refused)
}


def main() -> None:
    """Do the plan's tasks in order; write what each process found beside the plan."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    plan = Path(sys.argv[1])
    torch.set_num_threads(1)
    with joined("cpu", timeout=timedelta(seconds=60)) as ranks:
        for number, words in enumerate(json.loads(plan.read_text())):
            found = TASKS[words["task"]](words, ranks)
            if found:
                contiguous = {name: tensor.contiguous() for name, tensor in found.items()}
                save_file(contiguous, plan.with_name(f"{number}-{ranks.rank}.safetensors"))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"UserError: {error}", file=sys.stderr)
        sys.exit(2)
