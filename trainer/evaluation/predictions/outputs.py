"""A network's outputs for each image of a set, kept once, so that every way of reading them is a cheap pass.

Kept as `<subject's folder>/<name>-<digest>.npz`: outputs, rows, and which images could not be decoded; the digest is
over the weights, the images' keys and sizes, the transform, and what was asked.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.ranks import present
from backdrop.stores.images.image_codec import sha256
from backdrop.trainer.evaluation.data.batches import ImageBatch, batches_of, forwarded, image_bar
from backdrop.trainer.evaluation.data.images import Images
from backdrop.trainer.evaluation.data.projections import top_classes
from backdrop.trainer.evaluation.data.transforms import Transform
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject

BATCH_SIZE = 128
_TOP = 5
DECODE_FAULT = "cannot be decoded"
NOT_FINITE = "the network gives values that are not finite: its training diverged. Train anew."


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Outputs for the images that could be decoded.

    output_N: (N, ...). rows_N: int64 (N,), their rows among the images asked for. corrupt: keys of the others.
    """

    output_N: np.ndarray
    rows_N: np.ndarray
    corrupt: tuple[str, ...]

    @property
    def logits_NC(self) -> np.ndarray:
        """The outputs of `logits_of`: float32 (N, 1000)."""
        return self.output_N

    def report(self, result: Result, fault: str = DECODE_FAULT) -> None:
        """Name what could not be decoded among a result's problems; fault: what is said of it."""
        result.problems += [f"{key}: {fault}" for key in self.corrupt]


def logits_of(subject: Subject, images: Images, transform: Transform, *, name: str) -> Outputs:
    """Return a network's logits for images, computed now or kept from before.

    Args: subject: with a classifier. images: the set. transform: of the pixels. name: of the set, for the file and bar.
    Raises: UserError: there is no classifier, no image can be decoded, or an output is not finite.
    """
    return kept(subject, images, transform, lambda batch: subject.logits(batch.image_BCHW), name=name, asked="logits")


def top_of(subject: Subject, images: Images, transform: Transform, *, name: str) -> Outputs:
    """Return the five best classes of each image, int64 (N, 5); for sets whose logits would fill a disk."""

    def output_of(batch: ImageBatch) -> torch.Tensor:
        logits_BC = subject.logits(batch.image_BCHW)
        if not logits_BC.isfinite().all():
            raise UserError(NOT_FINITE)
        return torch.from_numpy(top_classes(logits_BC.float().cpu().numpy(), _TOP))

    return kept(subject, images, transform, output_of, name=name, asked=f"top {_TOP}")


def kept(
    subject: Subject,
    images: Images,
    transform: Transform,
    output_of: Callable[[ImageBatch], torch.Tensor],
    *,
    name: str,
    asked: str,
) -> Outputs:
    """Return a network's outputs for images, computed now or kept from before.

    Args: output_of: a batch to (B, ...); called without gradients. name: of the set.
        asked: what the outputs are; another text wherever `output_of` would give others.
    Raises: UserError: no image can be decoded, or an output is not finite.
    """
    digest = _digest(subject, images, transform, asked)
    path = subject.folder / f"{name}-{digest[:16]}.npz"
    ranks = present(subject.device)
    if ranks.by_first(path.exists):
        with np.load(path, allow_pickle=False) as file:
            return Outputs(output_N=file["answers"], rows_N=file["rows"], corrupt=tuple(file["corrupt"].tolist()))
    output_N, rows_N, corrupt = _computed(subject, images, transform, output_of, title=name)

    def keep() -> None:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, answers=output_N, rows=rows_N, corrupt=np.array(corrupt, dtype=np.str_))

    ranks.by_first(keep)
    return Outputs(output_N=output_N, rows_N=rows_N, corrupt=corrupt)


def _computed(
    subject: Subject,
    images: Images,
    transform: Transform,
    output_of: Callable[[ImageBatch], torch.Tensor],
    *,
    title: str,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    outputs: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    corrupt: list[str] = []
    asked = ((images, rows) for rows in batches_of(len(images), BATCH_SIZE))
    with torch.inference_mode(), image_bar(len(images), title) as bar:
        for batch in forwarded(
            asked, transform, lambda batch: (output_of(batch).cpu(),), device=subject.device, bar=bar
        ):
            corrupt += [images.keys[row] for row in batch.corrupt_rows]
            outputs += [output_B.numpy() for output_B in batch.outputs]
            rows += [batch.row_B] if batch.outputs else []
    if not outputs:
        raise UserError(f"no image of {images.root} can be decoded, e.g. {corrupt[0] if corrupt else 'none is there'}")
    output_N = np.concatenate(outputs)
    if not np.isfinite(output_N).all():
        raise UserError(NOT_FINITE)
    return output_N, np.concatenate(rows), tuple(corrupt)


def _digest(subject: Subject, images: Images, transform: Transform, asked: str) -> str:
    stamps = [images.stamp(row) for row in range(len(images))]
    decisive = [asked, subject.weights_sha256, subject.precision, transform.name, list(images.keys), stamps]
    return sha256(json.dumps(decisive).encode()).hex()


def _write(path: Path, **arrays: np.ndarray) -> None:
    memory = io.BytesIO()
    np.savez(memory, allow_pickle=False, **arrays)
    write_aside(path, memory.getvalue())
