"""CIFAR-10's files of painted images."""

import pickle
from pathlib import Path

import numpy as np

from tests.material.evaluation_fixtures import paint


def cifar_rows(labels: list[int], classes: tuple[int, ...]) -> np.ndarray:
    """Rows of 3,072 bytes: planes of red, green, blue, each row by row."""
    images = [paint(classes[label], (32, 32)) for label in labels]
    return np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images])


def write_cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    colours = tuple(range(0, 1000, 100))
    for number in range(5):
        content = {
            b"batch_label": b"training",
            b"labels": list(range(10)),
            b"data": cifar_rows(list(range(10)), colours),
        }
        (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(content, protocol=2))
    # The last two images have each other's labels.
    content = {
        b"labels": [*range(8), 9, 8],
        b"data": cifar_rows(list(range(10)), colours),
        b"filenames": [b"a.png"] * 10,
    }
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    return root
