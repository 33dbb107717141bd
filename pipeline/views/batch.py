"""What a loader hands over: one batch of cropped uint8 views with their masks, donors and drawn parameters."""

from dataclasses import dataclass

import numpy as np
import torch

# Where views are cut, and what a row that cannot be read does; `loader.Loader` says more.
GEOMETRIES = ("host", "device")
BAD_ROWS = ("error", "skip")
# How an epoch goes through its rows: each row by its own random key, or by windows of neighbours in the file.
ORDERS = ("random", "quasi-random")
# Who decides what is read before it is wanted: auto = rows for a file that is large for this machine, or read in
# windows; system = the system, around whatever was read; rows = the loader, the very rows that come next.
READ_AHEAD = ("auto", "system", "rows")


@dataclass(frozen=True, kw_only=True)
class ViewBatch:
    """One view of every row of a batch, still on the CPU.

    image_BHWC: uint8 RGB, cropped, resized with antialias and flipped.
    mask_BHP: uint8 (B, H, ceil(W / 8)), 1 = foreground, bits packed along a row, highest bit first; same crop and flip.
    donor_BHWC: uint8, crop of another row's tiled background for the rows whose record says so (other rows undefined);
        None when the plan needs no donors or the view is local.
    record_B: numpy array of `view_plan.VIEW_DTYPE`, everything that was drawn.
    """

    image_BHWC: torch.Tensor
    mask_BHP: torch.Tensor
    donor_BHWC: torch.Tensor | None
    record_B: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of rows; `views` in the plan's order.

    row_B: int64 rows of the store. label_B: int64 class, -1 = none. epoch, step: position in the run.
    skipped: which rows could not be read and gave their places to others, and why (`LoaderOptions(bad_rows="skip")`).
    The tensors may be views of a ring buffer: they stay valid until `batches_ahead` further batches were taken.
    """

    views: tuple[ViewBatch, ...]
    row_B: torch.Tensor
    label_B: torch.Tensor
    epoch: int
    step: int
    skipped: tuple[str, ...] = ()

    @property
    def records(self) -> tuple[np.ndarray, ...]:
        """What was drawn, (B,) of VIEW_DTYPE per view."""
        return tuple(view.record_B for view in self.views)


@dataclass(frozen=True, kw_only=True)
class PlaneBatch:
    """Whole images as planes, as JPEGs store them: luma, and colour differences of half its resolution (4:2:0).

    luma_BHW: uint8, each image at the top left of a place as large as the largest needs; the rest undefined.
    colour_B2HW: uint8 Cb and Cr, one pixel for 2 x 2 of luma, rounded up; likewise.
    size_B2: int64, height and width of each image.
    """

    luma_BHW: torch.Tensor
    colour_B2HW: torch.Tensor
    size_B2: np.ndarray


@dataclass(frozen=True, kw_only=True)
class WholeBatch:
    """A batch of whole images, to be cropped on the device (`pipeline.views.device_crops.cut`).

    image: their planes. Of an image with more colour than 4:2:0 that is the mean.
    mask_BHP: uint8 (B, H, P), 1 = foreground, bits packed along a row, highest bit first; placed as luma is.
    donors: per view, the backgrounds of the donors of the rows whose record says so (other rows undefined); None when
        the plan needs no donors or the view is local. The rest as in `Batch`.
    """

    image: PlaneBatch
    mask_BHP: torch.Tensor
    donors: tuple[PlaneBatch | None, ...]
    records: tuple[np.ndarray, ...]
    row_B: torch.Tensor
    label_B: torch.Tensor
    epoch: int
    step: int
    skipped: tuple[str, ...] = ()
