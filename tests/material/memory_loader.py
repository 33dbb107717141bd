"""A loader without files: batches of made-up crops, pure functions of (seed, epoch, row, view) as the real ones are."""

from collections.abc import Iterator

import numpy as np
import torch

from backdrop.pipeline.views.batch import Batch, ViewBatch
from backdrop.pipeline.views.row_order import row_order
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, View, ViewPlan


class MemoryLoader:
    """Has what `trainer.run.training` takes from a loader."""

    def __init__(
        self, plan: ViewPlan, *, num_rows: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """Args: batch_size: rows of all processes together; this one gets every world_size-th of them."""
        self.plan, self.num_rows, self.batch_size, self.seed = plan, num_rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.num_batches = num_rows // batch_size
        self.store_id = "0" * 64

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Batch]:
        order = row_order(self.seed, epoch, self.num_rows)
        for number in range(first_batch, self.num_batches):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size][self.rank :: self.world_size]
            views = tuple(self._view(epoch, rows, index, view) for index, view in enumerate(self.plan.views))
            step = epoch * self.num_batches + number
            yield Batch(
                views=views, row_B=torch.from_numpy(rows), label_B=torch.from_numpy(rows % 3), epoch=epoch, step=step
            )

    def close(self) -> None:
        pass

    def _view(self, epoch: int, rows: np.ndarray, index: int, view: View) -> ViewBatch:
        drawn = [self._one(np.random.default_rng([self.seed, epoch, int(row), index]), view) for row in rows]
        images, masks, donors, records = (list(column) for column in zip(*drawn, strict=True))
        return ViewBatch(
            image_BHWC=torch.from_numpy(np.stack(images)),
            mask_BHP=torch.from_numpy(np.packbits(np.stack(masks), axis=2)),
            donor_BHWC=torch.from_numpy(np.stack(donors)) if view.is_global else None,
            record_B=np.stack(records),
        )

    def _one(self, rng: np.random.Generator, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        size = view.size_px
        mask = np.zeros((size, size), dtype=np.uint8)
        top, left = rng.integers(0, size // 2, 2)
        mask[top : top + size // 2, left : left + size // 2] = 1
        image = rng.integers(0, 128, (size, size, 3), dtype=np.uint8) + 100 * mask[..., None]
        record = np.zeros((), dtype=VIEW_DTYPE)
        for name in ("brightness", "contrast", "saturation"):
            record[name] = 1.0
        record["tries"] = 1
        record["donor_row"] = 0
        record["foreground_fraction"] = record["background_grey"] = record["negative_source"] = rng.random()
        has_background = view.is_global and rng.random() < self.plan.background.probability
        record["has_background"] = has_background and self.plan.background.name != "none"
        record["is_negative_matched"] = rng.random() < self.plan.background.negative_probability
        return image, mask, rng.integers(0, 255, (size, size, 3), dtype=np.uint8), record
