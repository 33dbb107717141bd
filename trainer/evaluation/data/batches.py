"""Images in batches, decoded in threads while the network computes.

Legend: B batch, C channels, H W rows and columns.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backdrop.errors import ImageError
from backdrop.progress import stage_bar
from backdrop.trainer.evaluation.data.images import PixelSource
from backdrop.trainer.evaluation.data.transforms import Transform


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images of one batch: image_BCHW float32, normalised; row_B int64; corrupt_rows: those without pixels."""

    image_BCHW: Tensor
    row_B: np.ndarray
    corrupt_rows: tuple[int, ...]


def batches_of(num_rows: int, batch_size: int) -> list[np.ndarray]:
    """All rows in order: int64 (B,) each, the last one as long as is left."""
    rows = np.arange(num_rows)
    return [rows[start : start + batch_size] for start in range(0, num_rows, batch_size)]


def image_batches(
    images: PixelSource, transform: Transform, batches: Sequence[np.ndarray], *, device: torch.device, title: str
) -> Iterator[ImageBatch]:
    """Yield the batches asked for, with a progress bar; the next is prepared while one is computed on.

    Args:
        images: the images. transform: what is done to each one's pixels; called in threads.
        batches: rows of each batch, int64 (B,).
        device: where the batches are wanted. title: words before the bar.
    Yields: batches; an image that cannot be decoded is left out of the pixels and named among the corrupt rows.
    """

    def prepare(row: int) -> np.ndarray | None:
        try:
            return transform.apply(images.pixels(row), row)
        except (ImageError, FileNotFoundError):
            return None

    size_px = transform.size_px
    mean_C11 = torch.tensor(transform.mean, device=device)[:, None, None]
    std_C11 = torch.tensor(transform.std, device=device)[:, None, None]
    with (
        ThreadPoolExecutor() as pool,
        stage_bar(total=sum(map(len, batches)), stage=title, unit="img", is_inner=True) as bar,
    ):
        ahead = [pool.submit(prepare, int(row)) for row in batches[0]] if len(batches) else []
        for number, rows in enumerate(batches):
            now = ahead
            ahead = [pool.submit(prepare, int(row)) for row in batches[number + 1]] if number + 1 < len(batches) else []
            prepared = [future.result() for future in now]
            kept = [image for image in prepared if image is not None]
            stacked = np.stack(kept) if kept else np.empty((0, size_px, size_px, 3), np.uint8)
            image_BCHW = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float() / 255.0
            is_there_B = np.array([image is not None for image in prepared], dtype=bool)
            yield ImageBatch(
                image_BCHW=(image_BCHW - mean_C11) / std_C11,
                row_B=np.asarray(rows, dtype=np.int64)[is_there_B],
                corrupt_rows=tuple(int(row) for row in np.asarray(rows)[~is_there_B]),
            )
            bar.update(len(rows))
