"""What finds the foreground of an image, once it is opened: what every detector states and does."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from backdrop.errors import UserError


class MaskError(UserError):
    """There is no map of one image: missing, unreadable or of another size in the folder that should hold it."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Where the maps of a detector are cut into masks unless a user says otherwise."""

    value: float
    """Foreground is where the map is greater, [0, 1)."""
    source: str
    """How it was found, for people: a paper, or the set that `saliency calibrate` was run on."""


class Detector(Protocol):
    """An opened detector: an image to a soft map.

    One that inherits this states its identity and threshold and finds one map; the rest is then that of a detector
    which gains nothing from a GPU or from several images at once. One that is given to `build_store` itself, not by
    name, must be picklable.

    Shapes: H rows, W columns, C = 3 colours.
    """

    uses_gpu: bool = False
    """Whether it runs on a GPU where there is one, which need not be where it was asked."""
    batch_size: int = 1
    """Images to hand to `maps` at once; 1 = it gains nothing from more."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON-able: `name` and everything that decides the map of an image, and no path or time; stores record it."""

    @property
    @abstractmethod
    def threshold(self) -> Threshold:
        """Where its maps are best cut; no part of the identity, for it does not change a map."""

    @abstractmethod
    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """Find the soft foreground map of one image.

        Args: image_HWC: uint8 RGB (H, W, 3), any size from 1 x 1. key: of the image in its data set, for those that
            look maps up; the others need none.
        Returns: float32 (H, W) in [0, 1], 1 = foreground.
        Raises: MaskError: there is none of this image.
        """

    def hold(self) -> None:
        """From now on refuse to find a map by anything that has changed since the identity was computed.

        For those that read files while they work; a build calls it where it computes rows.
        """
        return

    def why_no_map(self, key: str) -> str:
        """Say why there can be no map of an image, without looking at it; "" where there can.

        For those that look maps up.

        Args: key: of the image in its data set.
        """
        return ""

    def maps(self, images_HWC: Sequence[np.ndarray], keys: Sequence[str]) -> list[np.ndarray | MaskError]:
        """Find the soft maps of several images.

        Args: images_HWC: uint8 RGB, of any sizes, at most `batch_size`, perhaps none. keys: one per image.
        Returns: per image its map, float32 (H, W) in [0, 1], or why there is none.
        """
        return [self._map_or_reason(image_HWC, key) for image_HWC, key in zip(images_HWC, keys, strict=True)]

    def _map_or_reason(self, image_HWC: np.ndarray, key: str) -> np.ndarray | MaskError:
        try:
            return self(image_HWC, key)
        except MaskError as error:
            return error
        except Exception as error:
            error.add_note(f"while finding the foreground of {key}")
            raise
