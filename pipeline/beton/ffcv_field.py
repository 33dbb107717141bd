"""A scene as a field of FFCV's, for those who read a .beton with FFCV: nothing else here takes it."""

import numpy as np

from backdrop.pipeline.beton.ffcv_names import ARG_TYPE, Field
from backdrop.pipeline.beton.scene import SCENE_DTYPE, Malloc, Scene, encode_scene, scene_blobs


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

    def encode(self, destination: np.ndarray, scene: Scene, malloc: Malloc) -> None:
        """Write one scene as FFCV's writer would: `encode_scene`."""
        encode_scene(destination, scene, scene_blobs(scene), malloc)
