"""Images, first labels and refined maps of one training, in one HDF5 file of the run folder.

All arrays are allocated when the file is made; after that only array contents are overwritten, never the file's
structure, so that a process killed at any moment leaves a file that opens. What counts as done is said by `status`
(per image, set after its maps) and by the training state (per epoch, written after the moving average of that epoch).

| array               | dtype, shape          | content                                                         |
|---------------------|-----------------------|-----------------------------------------------------------------|
| `rows`              | int64 (N,)            | row of each image in the data set's index                       |
| `status`            | uint8 (N,)            | 0 to do, 1 there, 2 cannot be used                           |
| `images`            | uint8 (N, S, S, 3)    | RGB, made square                                                |
| `classical/<name>`  | uint8 (N, S, S)       | first labels, 255 = foreground                                  |
| `refined/<name>`    | uint8 (N, S, S)       | moving average of the last finished round                       |
| `moving_average`    | float32 (2, N, S, S)  | of the round in progress: an epoch reads one slot, writes other |

N images, S working size in pixels.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import cv2
import h5py
import numpy as np

from backdrop.child_processes import check_shared_memory, end_with_parent, without_ctrl_c
from backdrop.durable_files import written_aside
from backdrop.errors import ImageError, UserError
from backdrop.progress import stage_bar, warn
from backdrop.saliency.detector import Detector, MaskError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.networks.preprocessing import resize_to_square
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex, read_listed

TO_DO, THERE, UNREADABLE = 0, 1, 2
FILE = "pseudo_labels.h5"
IMAGES_PER_FLUSH = 32


def create(path: Path, rows: np.ndarray, methods: Sequence[str], side_px: int) -> None:
    """Make the file with every array allocated and nothing done.

    Args:
        path: of the file.
        rows: int64 (N,), of the index.
        methods: array names of the detectors that give the first labels.
        side_px: working size.
    """
    maps_shape = (len(rows), side_px, side_px)
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        file["rows"] = rows.astype(np.int64)
        file["status"] = np.full(len(rows), TO_DO, np.uint8)
        _allocate(file, "images", (*maps_shape, 3), "u1")
        for method in methods:
            _allocate(file, f"classical/{method}", maps_shape, "u1")
            _allocate(file, f"refined/{method}", maps_shape, "u1")
        _allocate(file, "moving_average", (2, *maps_shape), "<f4")


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str) -> None:
    # Early allocation fixes the file's structure; without fill values the file stays sparse until it is used.
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype))
    h5py.h5d.create(file.id, name.encode(), kind, space, layout, links)


@contextmanager
def open_labels(path: Path) -> Iterator[h5py.File]:
    """Open the file for reading and writing.

    Args:
        path: of the file.

    Raises:
        UserError: another process has it open, or it is damaged.
    """
    try:
        file = h5py.File(path, "r+")
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened ({error}): if another `saliency train` runs there, wait for it or give another "
            "--out; if the file is damaged, remove it and run again to compute it anew"
        ) from error
    with file:
        yield file


@dataclass(frozen=True, kw_only=True)
class SquareImage:
    """One image ready for training, or the reason why there is none."""

    image_HWC: np.ndarray | None = None
    # uint8 RGB, made square
    maps_HW: tuple[np.ndarray, ...] = ()
    # uint8, one per method
    problem: str = ""
    # empty when all is well


@functools.cache
def _opened(name: str) -> Detector:
    """A worker opens each detector once."""
    return open_detector(name)


def square_image(path: Path, size_bytes: int, key: str, detectors: Sequence[str], side_px: int) -> SquareImage:
    """Decode an image and find its first labels at its own size; resize image (bicubic) and maps (nearest) to a square.

    Args:
        path: of the image. size_bytes: when it was listed.
        key: of the image in its data set.
        detectors: as `open_detector` takes them.
        side_px: working size.

    Raises:
        UserError: the image is gone since it was listed.
    """
    try:
        image_HWC = decode_rgb(read_listed(path, size_bytes))
        found_HW = [_opened(detector)(image_HWC, key) for detector in detectors]
    except (OSError, ImageError, MaskError) as error:
        return SquareImage(problem=str(error))
    size = (side_px, side_px)
    small_HW = [cv2.resize(saliency_HW, size, interpolation=cv2.INTER_NEAREST_EXACT) for saliency_HW in found_HW]
    maps_HW = tuple(np.round(map_HW * 255).astype(np.uint8) for map_HW in small_HW)
    return SquareImage(image_HWC=resize_to_square(image_HWC, side_px), maps_HW=maps_HW)


def compute_first_labels(file: h5py.File, index: DatasetIndex, sources: Mapping[str, str], num_workers: int) -> None:
    """Fill in images and first labels where they are not there yet; warns of images that cannot be used.

    Args:
        file: of `open_labels`.
        index: of the data set that `rows` refers to.
        sources: array name -> detector as `open_detector` takes it.
        num_workers: processes; 1 = this one.
    """
    todo = np.flatnonzero(file["status"][:] == TO_DO)
    rows = file["rows"][:][todo]
    results = _square_images(index, rows, list(sources.values()), file["images"].shape[1], num_workers)
    pending: list[tuple[int, int]] = []
    for place, row, result in zip(todo, stage_bar(rows, stage="first labels", unit="img"), results, strict=True):
        if result.image_HWC is None:
            warn(f"warning: {index.keys[row]} is left out: {result.problem} ({index.path(row)})")
            pending.append((int(place), UNREADABLE))
        else:
            file["images"][place] = result.image_HWC
            for name, map_HW in zip(sources, result.maps_HW, strict=True):
                file[f"classical/{name}"][place] = map_HW
            pending.append((int(place), THERE))
        if len(pending) == IMAGES_PER_FLUSH:
            _mark(file, pending)
    _mark(file, pending)


def _square_images(
    index: DatasetIndex, rows: np.ndarray, detectors: Sequence[str], side_px: int, num_workers: int
) -> Iterator[SquareImage]:
    """Results in the order of `rows`; the number of processes changes nothing but the time."""
    if index.archive is not None:
        raise UserError(f"a detector is trained on images that are files; those of data set {index.dataset} are none")
    paths, keys = [index.path(row) for row in rows], [index.keys[row] for row in rows]
    sizes_bytes = [int(index.sizes_bytes[row]) for row in rows]
    arguments = (paths, sizes_bytes, keys, repeat(detectors), repeat(side_px))
    if num_workers <= 1 or len(paths) < 2 * num_workers:
        yield from map(square_image, *arguments)
        return
    check_shared_memory("finding first labels with several processes")
    # spawn, not fork: this process may run torch's threads, which a fork would copy in mid-step
    with ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_start_worker) as pool:
        try:
            with without_ctrl_c():
                results = pool.map(square_image, *arguments, chunksize=4)
            yield from results
        except BrokenProcessPool as error:
            raise UserError(
                "a worker that finds first labels was ended (out of memory?); the same command goes on, with fewer "
                f"--workers than {num_workers} where memory is short"
            ) from error


def _start_worker() -> None:
    end_with_parent()
    cv2.setNumThreads(1)


def _mark(file: h5py.File, pending: list[tuple[int, int]]) -> None:
    """Say which images are done, after their maps have left this process."""
    file.flush()
    for place, status in pending:
        file["status"][place] = status
    file.flush()
    pending.clear()


def usable(file: h5py.File) -> np.ndarray:
    """Places of the images that can be trained on, int64, ascending.

    Args:
        file: of `open_labels`.
    """
    return np.flatnonzero(file["status"][:] == THERE)


def unreadable_keys(file: h5py.File, index: DatasetIndex) -> list[str]:
    """Keys of the images that were left out.

    Args:
        file: of `open_labels`.
        index: of the data set that `rows` refers to.
    """
    return [index.keys[row] for row in file["rows"][:][file["status"][:] == UNREADABLE]]


def mean_map_value(file: h5py.File, method: str) -> float:
    """Mean saliency of a first label over all usable images, [0, 1].

    Args:
        file: of `open_labels`.
        method: array name.
    """
    maps = file[f"classical/{method}"]
    return float(np.mean([maps[place].mean() for place in usable(file)]) / 255)


def update_moving_average(
    file: h5py.File, epoch: int, places: Sequence[int], predictions_BHW: np.ndarray, decay: float
) -> None:
    """Fold one epoch's predictions in: average := decay * average + (1 - decay) * prediction, from 0 at epoch 0.

    Args:
        file: of `open_labels`.
        epoch: of the round, from 0; every usable image must be given once per epoch.
        places: of the B images.
        predictions_BHW: float32, [0, 1].
        decay: alpha of the paper, [0, 1).
    """
    average = file["moving_average"]
    for place, prediction_HW in zip(places, predictions_BHW, strict=True):
        before_HW = average[epoch % 2, place] if epoch > 0 else np.float32(0)
        average[(epoch + 1) % 2, place] = np.float32(decay) * before_HW + np.float32(1 - decay) * prediction_HW


def finish_round(file: h5py.File, method: str, num_epochs: int, decay: float) -> None:
    """Make a round's moving average the method's refined maps; doing it twice changes nothing.

    The authors start the average at 0 and take it as it is; we divide by the weight it has gathered, 1 - decay^epochs.
    After their 25 epochs that is 0.9999; after a few it keeps the maps on their scale.

    Args:
        file: of `open_labels`.
        method: array name.
        num_epochs: that the round had.
        decay: alpha of the paper, [0, 1).
    """
    average, refined = file["moving_average"], file[f"refined/{method}"]
    weight = 1 - decay**num_epochs
    for place in usable(file):
        scaled_HW = np.clip(average[num_epochs % 2, place] / weight, 0, 1)
        refined[place] = np.round(scaled_HW * 255).astype(np.uint8)
    file.flush()
