"""FFCV itself, in a process of its own as it patches what it imports: NAME FILE.beton ..."""

import sys
from pathlib import Path

import numpy as np
from ffcv.fields import FloatField, IntField, RGBImageField
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter


class Photographs:
    """A few smooth pictures of several sizes, with a number and a label each."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> tuple[float, np.ndarray, int]:
        from tests.material.small_scenes import photograph

        return 0.5, photograph(70 + 9 * int(number), 120 - 7 * int(number), int(number)), 10 * int(number)


def write(path: Path, mode: str) -> None:
    """A data set of images as FFCV's users write one, with another field before and the label behind."""
    fields = {"score": FloatField(), "image": RGBImageField(write_mode=mode, jpeg_quality=95), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Photographs())


def read_ours(path: Path) -> None:
    """Print keys of our rows and the sizes of their blobs as FFCV's reader finds them, given our field's class."""
    from backdrop.pipeline.beton.ffcv_field import SceneField

    reader = Reader(str(path), {"scene": SceneField})
    records = reader.metadata["f0"]
    file_bytes = path.read_bytes()
    for record in records:
        start = int(record["key_ptr"])
        key = file_bytes[start : start + int(record["key_bytes"])].decode()
        mine = reader.alloc_table["sample_id"] == record["row"]
        print(key, int(record["label"]), int(record["image_bytes"]), int(reader.alloc_table["size"][mine].sum()))


def read_ours_with_its_loader(path: Path) -> None:
    """Print, batch by batch, the rows that FFCV's own Loader takes, with a decoder of three lines."""
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.operation import Operation
    from ffcv.pipeline.pipeline_spec import PipelineSpec

    from backdrop.pipeline.beton.ffcv_field import SceneField

    class Rows(Operation):
        def declare_state_and_memory(self, previous_state):
            from dataclasses import replace

            dtype = np.dtype("<i8")
            return replace(previous_state, jit_mode=True, shape=(1,), dtype=dtype), AllocationQuery((1,), dtype)

        def generate_code(self):
            def decode(indices, destination, metadata, storage_state):
                for at, row in enumerate(indices):
                    destination[at] = metadata[row]["row"]
                return destination[: len(indices)]

            return decode

    loader = Loader(
        str(path), 5, num_workers=1, order=OrderOption.SEQUENTIAL, custom_fields={"scene": SceneField},
        pipelines={"scene": PipelineSpec("scene", decoder=Rows())}, drop_last=False,
    )  # fmt: skip
    for (rows,) in loader:
        print(*np.asarray(rows)[:, 0].tolist())


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
