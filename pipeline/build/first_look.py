"""A few images of a data set, looked at first: a build in which nearly all rows would fail is not begun."""

import numpy as np

from backdrop.errors import ImageError, UserError
from backdrop.saliency.detector import Detector
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex

NUM_LOOKED_AT = 16
_NEARLY_ALL = 0.9


def sampled_rows(num_rows: int, num_sampled: int) -> tuple[int, ...]:
    """Rows spread evenly over all `num_rows`, first and last among them, at most `num_sampled`."""
    return tuple(np.unique(np.linspace(0, num_rows - 1, num_sampled).round().astype(np.int64)).tolist())


def refuse_hopeless(index: DatasetIndex, detector: Detector) -> None:
    """Look at a few images: whether they can be read, and whether a detector that looks maps up has theirs.

    Args: index: the data set. detector: of the build, opened.
    Raises: UserError: nearly all of them would be rows without a mask.
    """
    rows = sampled_rows(len(index), NUM_LOOKED_AT)
    faults = [fault for row in rows if (fault := _fault(index, row, detector))]
    if len(faults) >= _NEARLY_ALL * len(rows):
        of = (
            "The only image"
            if len(index) == 1
            else f"{len(faults)} of {len(rows)} images looked at, all over the data set,"
        )
        raise UserError(
            f"{of} would have no mask: {faults[0]}. Nothing was built. Give the images and masks that belong together; "
            "a data set of the good ones alone is --dataset list:FILE"
        )


def _fault(index: DatasetIndex, row: int, detector: Detector) -> str:
    key = index.keys[row]
    if reason := detector.why_no_map(key):
        return reason
    try:
        decode_rgb(index.read(row))
    except OSError as error:
        return f"{key} cannot be read: {error.strerror}"
    except ImageError as error:
        return f"{key}: {error}"
    return ""
