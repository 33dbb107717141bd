"""A network's outputs for each image of a set, kept once, so that every way of reading them is a cheap pass.

Kept as `<subject's folder>/<name>-<digest>.npz`: outputs, rows, and which images could not be decoded; the digest is
over the weights, the images' keys and sizes, the transform, and what was asked.
"""

import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.ranks import Ranks, present
from backdrop.stores.images.image_codec import sha256
from backdrop.trainer.evaluation.data.batches import Forwarded, ImageBatch, batches_of, forwarded, image_bar
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
class NamedSet:
    """Images, and what their set is called in files and bars."""

    name: str
    images: Images


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


def top_of_sets(
    subject: Subject, sets: Iterable[NamedSet], transform: Transform, bar: tqdm
) -> Iterator[tuple[NamedSet, Outputs]]:
    """Yield the five best classes of each image, int64 (N, 5), of many sets whose logits would fill a disk.

    Args: sets: listed one ahead of what is computed. bar: over the images of all. Raises: UserError: as `kept`.
    """

    def output_of(batch: ImageBatch) -> torch.Tensor:
        logits_BC = subject.logits(batch.image_BCHW)
        if not logits_BC.isfinite().all():
            raise UserError(NOT_FINITE)
        return torch.from_numpy(top_classes(logits_BC.float().cpu().numpy(), _TOP))

    return _kept_of_sets(Asked(subject, transform, output_of, f"top {_TOP}"), sets, bar)


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
    with image_bar(len(images), name) as bar:
        one = NamedSet(name=name, images=images)
        ((_, outputs),) = _kept_of_sets(Asked(subject, transform, output_of, asked), [one], bar)
    return outputs


class Asked(NamedTuple):
    """What is asked of the images of sets, see `kept`."""

    subject: Subject
    transform: Transform
    output_of: Callable[[ImageBatch], torch.Tensor]
    what: str


class _Set:
    """A set whose outputs are there, or come batch by batch."""

    def __init__(self, named: NamedSet, path: Path, *, is_kept: bool) -> None:
        self.named, self.path, self.is_kept = named, path, is_kept
        self.batches = [] if is_kept else batches_of(len(named.images), BATCH_SIZE)
        self._come: list[Forwarded] = []

    def takes(self, batch: Forwarded) -> bool:
        """Take a batch. Returns: whether it was the last one."""
        self._come.append(batch)
        return len(self._come) == len(self.batches)

    def outputs(self, ranks: Ranks) -> Outputs:
        """Read what is kept, or keep what came. Raises: UserError: see `kept`."""
        if self.is_kept:
            with np.load(self.path, allow_pickle=False) as file:
                return Outputs(output_N=file["answers"], rows_N=file["rows"], corrupt=tuple(file["corrupt"].tolist()))
        found = self._joined()
        ranks.by_first(partial(_keep, self.path, found))
        return found

    def _joined(self) -> Outputs:
        images = self.named.images
        corrupt = tuple(images.keys[row] for batch in self._come for row in batch.corrupt_rows)
        outputs = [output_B.numpy() for batch in self._come for output_B in batch.outputs]
        if not outputs:
            example = corrupt[0] if corrupt else "none is there"
            raise UserError(f"no image of {images.root} can be decoded, e.g. {example}")
        output_N = np.concatenate(outputs)
        if not np.isfinite(output_N).all():
            raise UserError(NOT_FINITE)
        rows_N = np.concatenate([batch.row_B for batch in self._come if batch.outputs])
        return Outputs(output_N=output_N, rows_N=rows_N, corrupt=corrupt)


def _kept_of_sets(asked: Asked, sets: Iterable[NamedSet], bar: tqdm) -> Iterator[tuple[NamedSet, Outputs]]:
    """Yield each set's outputs; their batches are one stream, so that a set's end keeps no device waiting."""
    subject, ranks = asked.subject, present(asked.subject.device)
    # Asked once: the processes look ahead at different times.
    kept_before = ranks.by_first(lambda: {path.name for path in subject.folder.glob("*.npz")})
    begun: deque[_Set] = deque()

    def batches() -> Iterator[tuple[Images, np.ndarray]]:
        for named in _one_ahead(sets):
            digest = _digest(subject, named.images, asked.transform, asked.what)
            path = subject.folder / f"{named.name}-{digest[:16]}.npz"
            begun.append(_Set(named, path, is_kept=path.name in kept_before))
            yield from ((named.images, rows) for rows in begun[-1].batches)

    def of_the_host(batch: ImageBatch) -> tuple[torch.Tensor]:
        with torch.inference_mode():
            return (asked.output_of(batch).cpu(),)

    def finished() -> Iterator[tuple[NamedSet, Outputs]]:
        one = begun.popleft()
        yield one.named, one.outputs(ranks)
        bar.update(len(one.named.images) if one.is_kept else 0)

    for batch in forwarded(batches(), asked.transform, of_the_host, device=subject.device, bar=bar):
        while not begun[0].batches:
            yield from finished()
        bar.set_description(begun[0].named.name)
        if begun[0].takes(batch):
            yield from finished()
    while begun:
        yield from finished()


def _one_ahead(sets: Iterable[NamedSet]) -> Iterator[NamedSet]:
    """The sets, of which the next one is listed in a thread while one is gone through."""
    each = iter(sets)
    # In this context: what is silent stays so.
    context = copy_context()

    def listed() -> NamedSet | None:
        return context.run(lambda: next(each, None))

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(listed)
        while (named := ahead.result()) is not None:
            ahead = pool.submit(listed)
            yield named


def _keep(path: Path, outputs: Outputs) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        corrupt = np.array(outputs.corrupt, dtype=np.str_)
        _write(path, answers=outputs.output_N, rows=outputs.rows_N, corrupt=corrupt)


def _digest(subject: Subject, images: Images, transform: Transform, asked: str) -> str:
    stamps = [images.stamp(row) for row in range(len(images))]
    decisive = [asked, subject.weights_sha256, subject.precision, transform.name, list(images.keys), stamps]
    return sha256(json.dumps(decisive).encode()).hex()


def _write(path: Path, **arrays: np.ndarray) -> None:
    memory = io.BytesIO()
    np.savez(memory, allow_pickle=False, **arrays)
    write_aside(path, memory.getvalue())
