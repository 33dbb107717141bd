"""From a store to views on the device that trains, as one iterator: the loader and the device stage of one plan."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.pipeline.views.view_plan import ViewPlan


class ViewLoader:
    """The views of a store, epoch by epoch; their tensors are the caller's own and stay as they are.

    Going through it goes through one epoch, and the next time through the next: `for views in loader`. `set_epoch` says
    which, as torch's DistributedSampler has it; views are a function of (seed, epoch, row).
    """

    def __init__(
        self,
        store: Path | str,
        plan: ViewPlan,
        options: LoaderOptions,
        *,
        device: torch.device | str | None = None,
        form: str = "rows",
        channels_last: bool = False,
    ) -> None:
        """Open the .beton of a store.

        Args: store: X.zarr with X.beton beside it, the .beton itself, or the URL of a published store. plan: the views.
            options: which rows, how and by how many threads. device: None = the GPU where there is one.
            form, channels_last: as `DeviceStage` takes them.
        Raises: UserError: as `beton_of`, `Loader` and `DeviceStage`.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._stage = DeviceStage(plan, device=device, form=form, channels_last=channels_last)
        self._loader = Loader(beton_of(StoreSource(store=store)), plan, options)
        self._epoch = 0

    @property
    def plan(self) -> ViewPlan:
        """The views of a row."""
        return self._loader.plan

    @property
    def rows(self) -> np.ndarray:
        """The store's rows that are gone through, int64 (N,), ascending; those without a mask are not among them."""
        return self._loader.rows

    @property
    def labels(self) -> np.ndarray:
        """Class of each of them as the store has it, int32 (N,); -1 = none."""
        return self._loader.labels

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._loader.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next. Args: epoch: from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Views]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        return self.epoch(epoch)

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Views]:
        """Yield the views of one epoch, from a batch on. Raises: as `Loader.epoch`."""
        for batch in self._loader.epoch(epoch, first_batch=first_batch):
            yield self._stage(batch)

    def close(self) -> None:
        """End the threads."""
        self._loader.close()

    def __enter__(self) -> "ViewLoader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
