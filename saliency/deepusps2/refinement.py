"""The dense CRF beside training: predictions are sharpened by threads (or on the GPU) while the network goes on.

Shapes: B images, H rows, W columns.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from torch import Tensor

from backdrop.saliency.crf.dense_crf import DEFAULTS, CrfSettings, refine
from backdrop.saliency.crf.dense_crf_torch import refine_batch

# Batches that may wait for their CRF: enough to keep every thread busy, few enough to bound memory.
MAX_WAITING_BATCHES = 4
Map = TypeVar("Map", np.ndarray, Tensor)


class Refiner:
    """Takes batches of predictions and gives them back sharpened, in order.

    The kernels of the CRF hold no lock of Python's, so threads do what worker processes would, without copies.

    Args:
        settings: of the CRF; None = predictions are given back as they are.
        num_threads: that sharpen on a CPU; a GPU needs none.
        share: of the sharpened map in what is given back, the rest being the prediction; None = all of it.
    """

    def __init__(self, settings: CrfSettings | None, num_threads: int, share: float | None = None) -> None:
        self._settings, self._share = settings, share
        self._pool = ThreadPoolExecutor(num_threads)
        self._waiting: deque[tuple[np.ndarray, list[Future[np.ndarray]]]] = deque()

    def __enter__(self) -> "Refiner":
        """Nothing to open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what waits: an error is on its way, or nothing does."""
        self._pool.shutdown(cancel_futures=True)

    def put(self, places: np.ndarray, images_BHWC: Tensor, foreground_BHW: Tensor) -> None:
        """Hand over a batch.

        Args:
            places: int (B,), given back with the maps.
            images_BHWC: uint8 RGB, on the device of the predictions.
            foreground_BHW: float32, [0, 1].
        """
        if self._settings is None or foreground_BHW.is_cuda:
            if self._settings is not None:
                sharp_BHW = refine_batch(images_BHWC, foreground_BHW, self._settings)
                foreground_BHW = _mixed(sharp_BHW, foreground_BHW, self._share)
            futures = [_done(map_HW) for map_HW in foreground_BHW.cpu().numpy()]
        else:
            pairs = zip(images_BHWC.numpy(), foreground_BHW.numpy(), strict=True)
            futures = [self._pool.submit(self._sharpened, image_HWC, map_HW) for image_HWC, map_HW in pairs]
        self._waiting.append((places, futures))

    def take(self, *, everything: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (places, maps float32 (B, H, W)) of batches that are done.

        Args:
            everything: wait for all batches that were put; otherwise only while too many wait.
        """
        while self._waiting and (everything or len(self._waiting) > MAX_WAITING_BATCHES or self._is_first_done()):
            places, futures = self._waiting.popleft()
            yield places, np.stack([future.result() for future in futures])

    def _sharpened(self, image_HWC: np.ndarray, map_HW: np.ndarray) -> np.ndarray:
        return _mixed(refine(image_HWC, map_HW, self._settings or DEFAULTS), map_HW, self._share)

    def _is_first_done(self) -> bool:
        return all(future.done() for future in self._waiting[0][1])


def _mixed(sharp_HW: Map, map_HW: Map, share: float | None) -> Map:
    return sharp_HW if share is None else share * sharp_HW + (1 - share) * map_HW


def _done(map_HW: np.ndarray) -> Future[np.ndarray]:
    future: Future[np.ndarray] = Future()
    future.set_result(map_HW)
    return future
