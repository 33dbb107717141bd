"""All bytes that a loader gives for each row, so that two loaders can be compared."""

from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.reference_loader import ReferenceLoader
from backdrop.pipeline.views.batch import Batch

# What one row gives: label, then of each view image, mask, donor where one was drawn, and record, as bytes.
Row = tuple
EPOCH = 3


def rows_of(batch: Batch) -> list[tuple[int, Row]]:
    """(row, all its bytes) in the batch's order."""
    found = []
    for at, row in enumerate(batch.row_B.tolist()):
        parts: list = [int(batch.label_B[at])]
        for view in batch.views:
            record = view.record_B[at]
            donor = view.donor_BHWC[at].numpy() if view.donor_BHWC is not None and record["has_background"] else None
            parts.append((view.image_BHWC[at].numpy().tobytes(), view.mask_BHP[at].numpy().tobytes(),
                          None if donor is None else donor.tobytes(), record.tobytes()))  # fmt: skip
        found.append((row, tuple(parts)))
    return found


def all_rows(loader: Loader | ReferenceLoader, *, epoch: int = EPOCH, first_batch: int = 0) -> list[tuple[int, Row]]:
    """Return an epoch's rows, or those from a batch on, as `rows_of` gives them."""
    return [row for batch in loader.epoch(epoch, first_batch=first_batch) for row in rows_of(batch)]
