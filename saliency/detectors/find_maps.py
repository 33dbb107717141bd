"""Maps of many images: decoded ahead in threads, found in batches where the detector can.

Shapes: H rows, W columns, C colours.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from backdrop.errors import ImageError
from backdrop.saliency.detectors.detector import Detector, MaskError
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex

# Images found at once: enough to fill a GPU at the papers' 432 x 432, few enough for 2 GiB of decoded photographs.
BATCH_SIZE = 16


@runtime_checkable
class BatchDetector(Protocol):
    """A detector that is faster on several images than on one after the other."""

    def maps(self, images_HWC: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Soft maps float32 (H, W) in [0, 1], one per uint8 RGB image, each at the image's own size."""
        ...


def batch_size(detector: Detector) -> int:
    """How many images to hand to a detector at once; one where it gains nothing by more.

    Args:
        detector: of `open_detector`.
    """
    return BATCH_SIZE if isinstance(detector, BatchDetector) else 1


def find_maps(
    detector: Detector, images_HWC: Sequence[np.ndarray], keys: Sequence[str]
) -> list[np.ndarray | MaskError]:
    """Soft maps of several images, at once where the detector can.

    Args:
        detector: of `open_detector`.
        images_HWC: uint8 RGB, any sizes.
        keys: of the images in their data set.

    Returns:
        Per image its map, float32 (H, W) in [0, 1], or why a folder of masks has none.
    """
    if isinstance(detector, BatchDetector):
        return [*detector.maps(images_HWC)] if images_HWC else []
    return [_map_or_reason(detector, image_HWC, key) for image_HWC, key in zip(images_HWC, keys, strict=True)]


def _map_or_reason(detector: Detector, image_HWC: np.ndarray, key: str) -> np.ndarray | MaskError:
    try:
        return detector(image_HWC, key)
    except MaskError as error:
        return error
    except Exception as error:
        error.add_note(f"while finding the foreground of {key}")
        raise


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
    size = batch_size(detector)
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # one batch is decoded ahead while the detector works
        ahead = [pool.submit(_decoded, index, row) for row in batches[0]] if batches else []
        for number, batch in enumerate(batches):
            images = [future.result() for future in ahead]
            following = batches[number + 1] if number + 1 < len(batches) else []
            ahead = [pool.submit(_decoded, index, row) for row in following]
            good = [(row, image) for row, image in zip(batch, images, strict=True) if not isinstance(image, str)]
            maps = iter(find_maps(detector, [image for _, image in good], [index.keys[row] for row, _ in good]))
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
