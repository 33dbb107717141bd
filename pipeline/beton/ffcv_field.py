"""A scene as a field of FFCV's: what its writer is given, and its reader, for those who read a .beton with FFCV."""

from typing import Any

import numpy as np

from backdrop.pipeline.beton.ffcv_names import ARG_TYPE, Field
from backdrop.pipeline.beton.scene import (
    ALIGNMENT_BYTES,
    SCENE_DTYPE,
    Scene,
    checksum,
    num_foreground_pixels,
    scene_blobs,
)


class SceneField(Field):
    """FFCV's field of one scene: four blobs per sample, their sizes and checksums in the record."""

    @property
    def metadata_type(self) -> np.dtype:
        """One record per sample."""
        return SCENE_DTYPE

    @staticmethod
    def from_binary(binary: np.ndarray) -> "SceneField":
        """The field has no arguments."""
        return SceneField()

    def to_binary(self) -> np.ndarray:
        """The field has no arguments."""
        return np.zeros(1, dtype=ARG_TYPE)[0]

    def get_decoder_class(self) -> None:
        """There is no decoder without a view plan; the loader passes one."""
        return None

    def encode(self, destination: np.ndarray, scene: Scene, malloc: Any) -> None:
        """Write one scene: blobs into the page, the rest into the record `destination`, (1,) of SCENE_DTYPE."""
        destination[0] = 0
        for name in ("row", "label", "status", "height", "width", "background_height", "background_width"):
            destination[name] = getattr(scene, name)
        destination["foreground_pixels"] = num_foreground_pixels(scene.mask_packed, scene.width)
        for name, data in scene_blobs(scene).items():
            if not data:
                continue
            padded = -len(data) % ALIGNMENT_BYTES + len(data)
            destination[f"{name}_ptr"], storage = malloc(padded)
            storage[: len(data)] = np.frombuffer(data, dtype=np.uint8)
            storage[len(data) :] = 0
            destination[f"{name}_bytes"] = len(data)
            destination[f"{name}_checksum"] = checksum(data)
