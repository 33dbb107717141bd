"""One step of the fast gradient sign method against the network itself (Goodfellow et al. 2015, arXiv 1412.6572).

Ryali et al. 2021, Tables 16 and A25: x' = clip(x + eps sign(d CE(x, y) / d x), 0, 1) on the pixels (0 .. 1) after
resize and crop, y the true class, no random start. Accuracy is that of x' over all images, those that were wrong
without the step among them, as foolbox counts it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from backdrop.errors import UserError
from backdrop.settings import check_settings, within
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD
from backdrop.trainer.evaluation.data.batches import ImageBatch
from backdrop.trainer.evaluation.data.imagenet import open_validation
from backdrop.trainer.evaluation.data.projections import top_classes
from backdrop.trainer.evaluation.data.transforms import standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import NOT_FINITE, kept

DATA = "imagenet"
LAYOUT = "ROOT/val/<wnid>/*.JPEG, or ImageNet's other layouts"
SOURCE = "https://www.image-net.org (ILSVRC2012)"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
NUM_IMAGES = 50_000
_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    epsilon: Annotated[
        float,
        within(0, 1),
        "L-infinity length of the step, of pixel values in 0 .. 1 (Ryali et al. 2021, A.6)",
    ] = 8 / 255


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: clean_top1, clean_top5, robust_top1, robust_top5.

    Raises: UserError: another layout, a negative epsilon, no classifier, or a gradient that is not finite.
    """
    check_settings(options)
    # The step is taken on the pixels; the normalisation is part of the network that is attacked.
    plain = standard(subject.image_size_px)
    transform = replace(plain, name=f"{plain.name}, not normalised", mean=(0.0,) * 3, std=(1.0,) * 3)
    result = Result(facts={"release": "ILSVRC2012 val", "transform": plain.name, "projection": "none"})
    result.facts |= {"bn_mode": subject.bn_mode, "epsilon": options.epsilon, "precision": "float32"}
    images = open_validation(data, result)
    result.expect("images", len(images), NUM_IMAGES)

    def best_of(batch: ImageBatch) -> Tensor:
        label_B = torch.from_numpy(images.label_N[batch.row_B]).to(subject.device)
        return _clean_and_attacked(subject, batch.image_BCHW, label_B, options.epsilon)

    outputs = kept(subject, images, transform, best_of, name="fgsm", asked=f"fgsm, epsilon {options.epsilon!r}")
    outputs.report(result)
    label_N1 = images.label_N[outputs.rows_N][:, None]
    for name, best_NK in (("clean", outputs.output_N[:, 0]), ("robust", outputs.output_N[:, 1])):
        result.metrics[f"{name}_top1"] = _percent(best_NK[:, 0] == label_N1[:, 0])
        result.metrics[f"{name}_top5"] = _percent((best_NK == label_N1).any(axis=1))
    return result


def fgsm_step(network: nn.Module, pixel_BCHW: Tensor, label_B: Tensor, epsilon: float) -> Tensor:
    """Return the attacked images (Goodfellow et al. 2015, section 4).

    Args: network: pixels (B, 3, H, W) in 0 .. 1 to logits (B, C). label_B: int64, true classes. epsilon: of the step.
    Returns: float32 (B, 3, H, W) in 0 .. 1, at most epsilon from the pixels in each value.
    Raises: UserError: the gradient is not finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pixel_BCHW = pixel_BCHW.clone().requires_grad_()
        # The sum, not the mean: only the sign counts, and the larger numbers are further from underflow.
        loss = nn.functional.cross_entropy(network(pixel_BCHW), label_B.clone(), reduction="sum")
        (gradient_BCHW,) = torch.autograd.grad(loss, pixel_BCHW)
    if not gradient_BCHW.isfinite().all():
        raise UserError(NOT_FINITE)
    return (pixel_BCHW.detach() + epsilon * gradient_BCHW.sign()).clamp(0, 1)


def _clean_and_attacked(subject: Subject, pixel_BCHW: Tensor, label_B: Tensor, epsilon: float) -> Tensor:
    """The best classes before and after the step: int64 (B, 2, 5)."""
    network = _Normalised(subject)
    with _float32(subject):
        clean_BC = network(pixel_BCHW)
        attacked_BC = network(fgsm_step(network, pixel_BCHW, label_B, epsilon))
    if not (clean_BC.isfinite().all() and attacked_BC.isfinite().all()):
        raise UserError(NOT_FINITE)
    best = [top_classes(logits_BC.detach().cpu().numpy(), _TOP) for logits_BC in (clean_BC, attacked_BC)]
    return torch.from_numpy(np.stack(best, axis=1))


class _Normalised(nn.Module):
    """The network with the normalisation of its pixels inside."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._subject = subject

    def forward(self, pixel_BCHW: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(each, device=pixel_BCHW.device)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return self._subject.logits((pixel_BCHW - mean) / std)


@contextlib.contextmanager
def _float32(subject: Subject) -> Iterator[None]:
    """Compute in float32 throughout: in shorter formats gradients underflow, and the sign of 0 is 0."""
    dtype, subject.backbone.autocast_dtype = subject.backbone.autocast_dtype, None
    try:
        with torch.backends.cudnn.flags(allow_tf32=False, enabled=torch.backends.cudnn.enabled):
            yield
    finally:
        subject.backbone.autocast_dtype = dtype


def _percent(is_right_N: np.ndarray) -> float:
    return 100.0 * float(is_right_N.mean())
