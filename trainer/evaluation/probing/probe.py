"""A linear classifier fitted by SGD on a frozen backbone: schedule, steps, resuming, and what it scores.

Legend: B batch, D features, C classes.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from backdrop.disk_errors import disk_errors
from backdrop.errors import UserError
from backdrop.pipeline.views.row_order import row_order
from backdrop.ranks import present
from backdrop.tensor_files import named_below, read_tensors, write_tensors
from backdrop.trainer.downstream_settings import Schedule
from backdrop.trainer.evaluation.data.batches import image_bar
from backdrop.trainer.parts.collectives import summed
from backdrop.trainer.parts.learning_rates import half_cosine, linear_warmup, num_passed
from backdrop.trainer.parts.momenta import momenta, restore_momenta
from backdrop.trainer.parts.pieces import united
from backdrop.trainer.run.distributed import check_same

# What a pass over images gives: features (B, D) and classes (B,), on the device.
Batches = Iterable[tuple[Tensor, Tensor]]
_START_ANEW = "delete it to start that fit anew"


def lr_fraction(schedule: Schedule, epoch: float) -> float:
    """Return the rate as a fraction of its peak.

    Args: epoch: epochs done, with the fraction of the present one.
    """
    if epoch < schedule.warmup_epochs:
        return linear_warmup(epoch, schedule.warmup_epochs)
    if schedule.step_epochs:
        return ([1.0, *schedule.step_fractions])[num_passed(epoch, schedule.step_epochs)]
    return half_cosine((epoch - schedule.warmup_epochs) / (schedule.epochs - schedule.warmup_epochs))


def split(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut rows into pieces of `size`, none dropped; a single one left over joins the piece before it.

    BatchNorm in training mode has no variance to take of one image.
    """
    pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(pieces) > 1 and len(pieces[-1]) == 1 and size > 1:
        pieces[-2:] = [np.concatenate(pieces[-2:])]
    return pieces


def epoch_batches(rows: np.ndarray, schedule: Schedule, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the rows of each step of an epoch: all rows once, in an order that is a function of (seed, epoch)."""
    return split(rows[row_order(seed, epoch, len(rows))], schedule.batch_size)


def new_head(num_features: int, num_classes: int, *, init_std: float, seed: int) -> nn.Linear:
    """Build a classifier: weights normal with `init_std`, biases 0 (MoCo's and SwAV's released code: 0.01)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(num_features, num_classes)
        nn.init.normal_(head.weight, std=init_std)
        nn.init.zeros_(head.bias)
    return head


@dataclass(kw_only=True)
class Fit:
    """A fit in progress.

    name: of the evaluation, before the bar. model: what is trained; called with the features of `batches`.
    groups: SGD's groups, each with params and lr_factor, the share of the schedule's rate that it has.
    is_shared: whether a process's batches are its share of each step and of the scored images; otherwise every process
        has all of them and does every step itself.
    kept: more tensors that a resumed fit needs, by name; they are overwritten in place (BN statistics).
    history: of each scored epoch: epoch, loss, top1, top5. corrupt: keys of images that could not be decoded.
    """

    model: nn.Module
    groups: list[dict[str, Any]]
    name: str = "fit"
    is_shared: bool = False
    kept: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)
    epochs_done: int = 0

    @property
    def last(self) -> dict[str, float]:
        """The scores after the last epoch: those that are reported."""
        return self.history[-1]

    @property
    def best(self) -> dict[str, float]:
        """The scores of the epoch with the best top1: chosen on the validation images, so never reported alone."""
        return max(self.history, key=lambda scores: scores["top1"])


def fit(
    state: Fit,
    schedule: Schedule,
    batches_of: Callable[[int], Batches],
    validation: Callable[[], Batches],
    *,
    num_rows: int,
    path: Path,
    score_epochs: int = 1,
) -> None:
    """Train to the end, from where an earlier, killed attempt came to.

    Args:
        state: changed in place.
        schedule: of the fit.
        batches_of: the steps of an epoch.
        validation: a pass over the validation images.
        num_rows: training images of an epoch, of all processes.
        path: where the state is kept after each epoch; what it depends on is in its name.
        score_epochs: the validation images are scored after every so many epochs, and after the last.
    Raises: UserError: no image can be decoded, the loss is not finite, the disk is full, the
        state is damaged.
    """
    optimiser = torch.optim.SGD(
        [{"params": group["params"]} for group in state.groups],
        lr=0.0,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        nesterov=schedule.nesterov,
    )
    ranks = present("cpu")
    if ranks.by_first(path.exists):
        _load(path, state, optimiser)
    check_same(ranks, state.epochs_done, "the epochs that are done")
    with image_bar(schedule.epochs * num_rows, state.name) as bar:
        bar.update(state.epochs_done * num_rows)
        for epoch in range(state.epochs_done, schedule.epochs):
            bar.set_description(f"{state.name}: epoch {epoch + 1} of {schedule.epochs}")
            loss = _one_epoch(state, schedule, optimiser, batches_of(epoch), epoch, num_rows, bar)
            state.epochs_done = epoch + 1
            if state.epochs_done % score_epochs == 0 or state.epochs_done == schedule.epochs:
                scores = score(state.model, validation(), is_shared=state.is_shared)
                state.history.append({"epoch": float(state.epochs_done), "loss": loss, **scores})
            state.corrupt = united(state.corrupt)
            ranks.by_first(lambda: _save(path, state, optimiser))


def _one_epoch(
    state: Fit,
    schedule: Schedule,
    optimiser: torch.optim.SGD,
    batches: Batches,
    epoch: int,
    num_rows: int,
    bar: tqdm,
) -> float:
    """Return the mean loss."""
    num_steps = len(split(np.arange(num_rows), schedule.batch_size))
    total: Tensor | float = 0.0
    num_images = 0
    for step, (feature_BD, label_B) in enumerate(batches):
        rate = schedule.peak_lr * lr_fraction(schedule, epoch + step / num_steps)
        for group, settings in zip(optimiser.param_groups, state.groups, strict=True):
            group["lr"] = rate * settings["lr_factor"]
        state.model.train()
        num_in_step = int(_of_all(state, len(label_B)))
        loss = _loss(state, state.model(feature_BD), label_B, num_in_step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if state.is_shared:
            _sum_gradients(optimiser)
        optimiser.step()
        total, num_images = total + loss.detach() * num_in_step, num_images + num_in_step
        bar.update(num_in_step)
    if not num_images:
        raise UserError(f"no image to train on can be decoded, e.g. {min(state.corrupt, default='there is none')}")
    mean = _of_all(state, float(total)) / num_images
    if not math.isfinite(mean):
        raise UserError(f"the loss of the classifier is {mean} in epoch {epoch}: give a smaller rate with --set lr=...")
    return mean


def _of_all(state: Fit, number: float) -> float:
    """The sum of a number over the processes that share the steps."""
    return float(summed(torch.tensor(number, dtype=torch.float64))) if state.is_shared else number


def _loss(state: Fit, logits_BC: Tensor, label_B: Tensor, num_in_step: int) -> Tensor:
    """The mean loss over a step's images: of a share of them, what these add to it."""
    if not state.is_shared:
        return nn.functional.cross_entropy(logits_BC, label_B)
    return nn.functional.cross_entropy(logits_BC, label_B, reduction="sum") / num_in_step


def _sum_gradients(optimiser: torch.optim.SGD) -> None:
    """Add the gradients of all processes, in one message."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"] if weight.grad is not None]
    sums = summed(torch.cat([weight.grad.flatten() for weight in weights]))
    for weight, of_all in zip(weights, sums.split([weight.numel() for weight in weights]), strict=True):
        weight.grad.copy_(of_all.view_as(weight))


def score(model: nn.Module, batches: Batches, *, is_shared: bool = False) -> dict[str, float]:
    """Return top1 and top5 in percent; among classes with equal logits the first counts as the larger.

    Args: is_shared: whether the batches are this process's share. Raises: UserError: there is no image.
    """
    num_hits, num_images = {1: 0, 5: 0}, 0
    model.eval()
    with torch.no_grad():
        for feature_BD, label_B in batches:
            logits_BC = model(feature_BD)
            own_B1 = logits_BC.gather(1, label_B[:, None])
            is_earlier_BC = torch.arange(logits_BC.shape[1], device=logits_BC.device) < label_B[:, None]
            rank_B = ((logits_BC > own_B1) | ((logits_BC == own_B1) & is_earlier_BC)).sum(dim=1)
            num_images += len(label_B)
            for num in num_hits:
                num_hits[num] += int((rank_B < num).sum())
    if is_shared:
        num_images, *hits_of_all = summed(torch.tensor([num_images, *num_hits.values()])).tolist()
        num_hits = dict(zip(num_hits, hits_of_all, strict=True))
    if not num_images:
        raise UserError("no image to score can be decoded; look at the validation images")
    return {f"top{num}": 100.0 * hits / num_images for num, hits in num_hits.items()}


def _save(path: Path, state: Fit, optimiser: torch.optim.SGD) -> None:
    with disk_errors(path):
        _write(path, state, optimiser)


def _write(path: Path, state: Fit, optimiser: torch.optim.SGD) -> None:
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"kept.{name}": value for name, value in state.kept.items()}
    tensors |= {f"momentum.{name}": value for name, value in momenta(state.model, optimiser).items()}
    progress = {"epochs_done": state.epochs_done, "history": state.history, "corrupt": sorted(state.corrupt)}
    write_tensors(path, tensors, {"state": json.dumps(progress)})


def _load(path: Path, state: Fit, optimiser: torch.optim.SGD) -> None:
    tensors, texts = read_tensors(path, _START_ANEW)
    try:
        progress = json.loads(texts["state"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is no state of a fit ({error!r}); {_START_ANEW}") from error
    state.model.load_state_dict(named_below(tensors, "model."))
    for name, value in named_below(tensors, "kept.").items():
        state.kept[name].copy_(value)
    restore_momenta(state.model, optimiser, named_below(tensors, "momentum."))
    state.epochs_done, state.history, state.corrupt = (
        progress["epochs_done"],
        progress["history"],
        set(progress["corrupt"]),
    )


def on_device(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Turn pairs of arrays, features of any format and classes, into float32 and int64 tensors."""
    for feature_BD, label_B in batches:
        yield torch.from_numpy(feature_BD).to(device).float(), torch.from_numpy(label_B).to(device)
