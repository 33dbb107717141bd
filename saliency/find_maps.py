"""Maps of many images: decoded ahead in threads, found in batches where the detector can.

Shapes: H rows, W columns, C colours.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from backdrop.devices import num_cores
from backdrop.errors import ImageError
from backdrop.saliency.detector import Detector
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of one image of a folder."""

    row: int
    # of the index
    problem: str = ""
    # why there is no map; empty when there is one
    map_HW: np.ndarray | None = None
    # float32, [0, 1]


def found_maps(index: DatasetIndex, rows: Sequence[int], detector: Detector) -> Iterator[Found]:
    """Decode images in threads, find their maps batch by batch, and give what became of each, in order.

    Args:
        index: of the folder.
        rows: of the index.
        detector: of `open_detector`.
    """
    size = detector.batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(num_cores()) as pool:
        # one batch is decoded ahead while the detector works
        ahead = [pool.submit(_decoded, index, row) for row in batches[0]] if batches else []
        for number, batch in enumerate(batches):
            images = [future.result() for future in ahead]
            following = batches[number + 1] if number + 1 < len(batches) else []
            ahead = [pool.submit(_decoded, index, row) for row in following]
            good = [(row, image) for row, image in zip(batch, images, strict=True) if not isinstance(image, str)]
            maps = iter(detector.maps([image for _, image in good], [index.keys[row] for row, _ in good]))
            for row, image in zip(batch, images, strict=True):
                found = image if isinstance(image, str) else next(maps)
                if isinstance(found, np.ndarray):
                    yield Found(row=row, map_HW=found)
                else:
                    yield Found(row=row, problem=str(found))


def _decoded(index: DatasetIndex, row: int) -> np.ndarray | str:
    """An image, or why it cannot be read."""
    try:
        return decode_rgb(index.read(row))
    except (OSError, ImageError) as error:
        return str(error)
