"""Images in batches, decoded in threads while the network computes, and what a network gives of them.

The batches of a set are dealt to the processes that torchrun started (`parts/pieces.py`): each is what it would be in
one process, so what the network gives of it has the same bits.

Legend: B batch, C channels, H W rows and columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from backdrop.devices import share_of_cores
from backdrop.errors import ImageError
from backdrop.progress import stage_bar
from backdrop.trainer.evaluation.data.images import PixelSource
from backdrop.trainer.evaluation.data.transforms import Transform
from backdrop.trainer.parts.pieces import Done, done_by_all, own_pieces


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images of one batch: image_BCHW float32, normalised; row_B int64; corrupt_rows: those without pixels."""

    image_BCHW: Tensor
    row_B: np.ndarray
    corrupt_rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Forwarded:
    """What a network gave of a batch.

    outputs: each (B, ...) or of the batch as a whole; () where no image has pixels. row_B, corrupt_rows: of the batch.
    """

    outputs: tuple[Tensor, ...]
    row_B: np.ndarray
    corrupt_rows: tuple[int, ...]


# The images of a batch, and its rows, int64 (B,).
Asked = tuple[PixelSource, np.ndarray]


def batches_of(num_rows: int, batch_size: int) -> list[np.ndarray]:
    """All rows in order: int64 (B,) each, the last one as long as is left."""
    rows = np.arange(num_rows)
    return [rows[start : start + batch_size] for start in range(0, num_rows, batch_size)]


def image_bar(num_images: int, title: str) -> tqdm:
    """Return a bar over images. Args: num_images: of all processes. title: words before it."""
    return stage_bar(total=num_images, stage=title, unit="img", is_inner=True)


def forwarded(
    asked: Iterable[Asked],
    transform: Transform,
    output_of: Callable[[ImageBatch], tuple[Tensor, ...]],
    *,
    device: torch.device,
    bar: tqdm | None = None,
) -> Iterator[Forwarded]:
    """Yield what a network gives of every batch, in their order and in every process; each computes its share of them.

    Args:
        asked: the batches, the same in every process. transform, device: see `prepared`.
        output_of: a batch with images to what is wanted of it; called in the caller's mode of gradients.
        bar: counts the images of all processes.
    Raises: UserError, in every process, what `output_of` raised in one.
    """

    def done(batch: ImageBatch) -> Done:
        outputs = output_of(batch) if len(batch.row_B) else ()
        return Done(tensors=outputs, words=(batch.row_B.tolist(), batch.corrupt_rows))

    own = prepared(own_pieces(asked), transform, device=device)
    for each in done_by_all(done(batch) for batch in own):
        rows, corrupt_rows = each.words
        row_B = np.array(rows, dtype=np.int64)
        yield Forwarded(outputs=each.tensors, row_B=row_B, corrupt_rows=tuple(corrupt_rows))
        if bar is not None:
            bar.update(len(rows) + len(corrupt_rows))


def prepared(asked: Iterable[Asked], transform: Transform, *, device: torch.device) -> Iterator[ImageBatch]:
    """Yield batches; the next one, of whichever images, is prepared while one is computed on.

    Args: asked: the batches. transform: what is done to each image's pixels; called in threads. device: where the
        batches are wanted.
    Yields: an image that cannot be decoded is left out of the pixels and named among the corrupt rows.
    """

    def prepare(images: PixelSource, row: int) -> np.ndarray | None:
        try:
            return transform.apply(images.pixels(row), row)
        except (ImageError, FileNotFoundError):
            return None

    with ThreadPoolExecutor(_threads()) as pool:

        def begun(each: Asked) -> tuple[np.ndarray, list[Future[np.ndarray | None]]]:
            images, rows = each
            return rows, [pool.submit(prepare, images, int(row)) for row in rows]

        ahead = None
        for each in asked:
            now, ahead = ahead, begun(each)
            if now is not None:
                yield _finished(*now, transform, device)
        if ahead is not None:
            yield _finished(*ahead, transform, device)


def _threads() -> int:
    """As `ThreadPoolExecutor` has it, of this process's share of the cores."""
    return min(32, share_of_cores() + 4)


def _finished(
    rows: np.ndarray, futures: Sequence[Future[np.ndarray | None]], transform: Transform, device: torch.device
) -> ImageBatch:
    """A batch on the device, normalised."""
    images = [future.result() for future in futures]
    kept = [image for image in images if image is not None]
    stacked = np.stack(kept) if kept else np.empty((0, transform.size_px, transform.size_px, 3), np.uint8)
    mean_C11, std_C11 = (torch.tensor(each, device=device)[:, None, None] for each in (transform.mean, transform.std))
    image_BCHW = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float() / 255.0
    is_there_B = np.array([image is not None for image in images], dtype=bool)
    return ImageBatch(
        image_BCHW=(image_BCHW - mean_C11) / std_C11,
        row_B=np.asarray(rows, dtype=np.int64)[is_there_B],
        corrupt_rows=tuple(int(row) for row in np.asarray(rows)[~is_there_B]),
    )
