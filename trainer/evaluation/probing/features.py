"""Features of a set of images, computed once and kept in an HDF5 file: what does not fit into memory, and what resumes.

`<folder>/<name>-<digest>.h5`, readable with h5py; the digest is over weights, images, transform and format.

| array      | dtype, shape               | content                                              |
|------------|----------------------------|------------------------------------------------------|
| `features` | float16 or float32 (N, D)  | of each image, zeros where there is none             |
| `status`   | uint8 (N,)                 | 0 to do, 1 there, 2 the image cannot be decoded      |

Both are allocated whole when the file is made and afterwards only overwritten in place, features before their status,
so that a kill at any moment leaves a file that opens and goes on; of several processes the first writes. They are read
and written through a memory map: the
pages are the system's to give back, and 1.28 million rows of 2,048 take no more memory than a batch.

Legend: N images, D features, B batch.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import written_aside
from backdrop.errors import UserError
from backdrop.ranks import present
from backdrop.stores.images.image_codec import sha256
from backdrop.trainer.evaluation.data.batches import Forwarded, ImageBatch, forwarded, image_bar
from backdrop.trainer.evaluation.data.images import PixelSource
from backdrop.trainer.evaluation.data.transforms import Transform
from backdrop.trainer.evaluation.harness.subject import number_format

TO_DO, THERE, CORRUPT = 0, 1, 2
BATCH_SIZE = 128
_BATCHES_PER_FLUSH = 16
FORMATS = {"float16": "<f2", "float32": "<f4"}


@dataclass(frozen=True, kw_only=True)
class Features:
    """feature_ND: memory map of all rows; row_M: int64, those that are there; corrupt: keys of the others."""

    feature_ND: np.ndarray
    row_M: np.ndarray
    corrupt: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.row_M)


@dataclass(frozen=True, kw_only=True)
class FeatureFile:
    """Where a set's features are kept: in `folder`, called after `name`, as `dtype` (float16 or float32)."""

    folder: Path
    name: str
    dtype: str = "float16"


def features_of(
    forward: Callable[[Tensor], Tensor],
    images: PixelSource,
    transform: Transform,
    *,
    file: FeatureFile,
    identity: tuple[str, ...],
    device: torch.device,
) -> Features:
    """Compute the features of all images, or only those that an earlier, killed attempt left to do.

    Args:
        forward: normalised images (B, 3, H, W) to features (B, D); called without gradients.
        images: the images. transform: what is done to their pixels.
        file: where they are kept; its name is also the bar's.
        identity: what else decides the features: digest of the weights, what `forward` does.
        device: where to compute.
    Raises: UserError: an unknown format, no image can be decoded, a feature is not finite, the disk is full.
    """
    decisive = [*identity, str(number_format(device)), images.identity, transform.identity, file.dtype]
    digest = sha256(json.dumps(decisive).encode()).hex()
    path = file.folder / f"{file.name}-{digest[:16]}.h5"

    def open_kept() -> np.ndarray:
        with disk_errors(path):
            if not path.exists():
                file.folder.mkdir(parents=True, exist_ok=True)
                _create(path, len(images), _num_features(forward, transform, device), file.dtype)
            return np.flatnonzero(_maps(path)[1] == TO_DO)

    with disk_errors(path):
        ranks = present(device)
        to_do = ranks.by_first(open_kept)
        # The first process alone writes; the others look into the file once it is whole.
        kept = _Filling(path) if ranks.is_first else None
        _fill(forward, images, transform, to_do, kept, device=device, file=file)
        ranks.by_first(lambda: None)
        feature_ND, status_N = _maps(path)
    row_M = np.flatnonzero(status_N == THERE)
    corrupt = tuple(images.keys[row] for row in np.flatnonzero(status_N == CORRUPT).tolist())
    if not len(row_M):
        raise UserError(f"no image of {file.name} can be decoded, e.g. {corrupt[0] if corrupt else 'there is none'}")
    return Features(feature_ND=feature_ND, row_M=row_M, corrupt=corrupt)


def _num_features(forward: Callable[[Tensor], Tensor], transform: Transform, device: torch.device) -> int:
    with torch.inference_mode():
        return forward(torch.zeros(1, 3, transform.size_px, transform.size_px, device=device)).shape[1]


def _create(path: Path, num_images: int, num_features: int, dtype: str) -> None:
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        for name, shape, kind in (
            ("status", (num_images,), "u1"),
            ("features", (num_images, num_features), FORMATS[dtype]),
        ):
            # Early allocation gives every byte its place now; without fill values the file stays sparse.
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space, h5_type = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(kind))
            h5py.h5d.create(file.id, name.encode(), h5_type, space, layout)
        file["status"][:] = TO_DO


def _maps(path: Path) -> tuple[np.memmap, np.memmap]:
    """The arrays of a file, in place: contiguous, so that each is a run of bytes. Raises: UserError: it is damaged."""
    try:
        with h5py.File(path, "r") as file:
            places = [
                (file[name].id.get_offset(), file[name].dtype, file[name].shape) for name in ("features", "status")
            ]
    except (OSError, KeyError) as error:
        raise UserError(f"{path} is no readable file of features ({error}); delete it, it is computed anew") from error
    feature_ND, status_N = (np.memmap(path, dtype, "r+", offset=offset, shape=shape) for offset, dtype, shape in places)
    return feature_ND, status_N


def _fill(
    forward: Callable[[Tensor], Tensor],
    images: PixelSource,
    transform: Transform,
    to_do: np.ndarray,
    kept: "_Filling | None",
    *,
    device: torch.device,
    file: FeatureFile,
) -> None:
    """Compute the rows `to_do`, each process its share of the batches. Args: kept: where they go; None = nowhere."""

    def feature_of(batch: ImageBatch) -> tuple[Tensor]:
        return (torch.from_numpy(_finite(forward(batch.image_BCHW), np.dtype(FORMATS[file.dtype]))),)

    asked = ((images, to_do[start : start + BATCH_SIZE]) for start in range(0, len(to_do), BATCH_SIZE))
    with torch.inference_mode(), image_bar(len(to_do), file.name) as bar:
        for batch in forwarded(asked, transform, feature_of, device=device, bar=bar):
            if kept is not None:
                kept.add(batch)
    if kept is not None:
        kept.flush()


class _Filling:
    """The arrays of a file while they are filled: features are on the disk before their status is."""

    def __init__(self, path: Path) -> None:
        self._feature_ND, self._status_N = _maps(path)
        self._added: list[Forwarded] = []

    def add(self, batch: Forwarded) -> None:
        """Write the features of a batch."""
        for feature_BD in batch.outputs:
            self._feature_ND[batch.row_B] = feature_BD.numpy()
        self._added.append(batch)
        if len(self._added) == _BATCHES_PER_FLUSH:
            self.flush()

    def flush(self) -> None:
        """Have what was added be there after a kill."""
        self._feature_ND.flush()
        for batch in self._added:
            self._status_N[batch.row_B] = THERE
            self._status_N[list(batch.corrupt_rows)] = CORRUPT
        self._status_N.flush()
        self._added.clear()


def _finite(feature_BD: Tensor, dtype: np.dtype) -> np.ndarray:
    """Return features in the file's format. Raises: UserError: they are not finite, or too large for it."""
    array_BD = feature_BD.float().cpu().numpy()
    if not np.isfinite(array_BD).all():
        raise UserError("the network gives features that are not finite: its training diverged. Train anew.")
    if dtype == np.float16 and np.abs(array_BD).max() > np.finfo(np.float16).max:
        raise UserError("the network gives features beyond 65,504, too large for float16: --set dtype=float32")
    return array_BD.astype(dtype)
