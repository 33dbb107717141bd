"""Commands that start processes, to be ended in the middle of their work: NAME FOLDER."""

import os
import sys
from pathlib import Path

import numpy as np

from backdrop import progress
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.saliency.deepusps2 import pseudo_labels
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import open_store
from tests.material import small_scenes

NUM_IMAGES = 400


def _many_images(folder: Path) -> Path:
    """Enough work for a while: one image under many names."""
    first = folder / "first.jpg"
    small_scenes.write_image(first, small_scenes.photograph(240, 320, 0), 0)
    images = folder / "images"
    (images / "one").mkdir(parents=True)
    for number in range(NUM_IMAGES):
        os.link(first, images / "one" / f"{number:04d}.jpg")
    return images


def first_labels(folder: Path) -> None:
    """What `saliency train` begins with."""
    index = open_index("folder", root=_many_images(folder))
    pseudo_labels.create(folder / "labels.h5", np.arange(len(index)), ["rbd"], 32)
    with pseudo_labels.open_labels(folder / "labels.h5") as file:
        pseudo_labels.compute_first_labels(file, index, {"rbd": "rbd"}, 2)


def build(folder: Path) -> None:
    """What `build-store` does."""
    index = open_index("folder", root=_many_images(folder))
    build_store(index, "rbd", folder / "store", BuildSettings(), num_workers=2)


def export(folder: Path) -> None:
    """What `build-store` ends with."""
    index = open_index("folder", root=_many_images(folder))
    (folder / "masks" / "one").mkdir(parents=True)
    small_scenes.Image.fromarray(small_scenes.mask_of(240, 320, 0)).save(folder / "mask.png")
    for key in index.keys:
        os.link(folder / "mask.png", (folder / "masks" / key).with_suffix(".png"))
    build_store(index, f"masks:{folder / 'masks'}", folder / "store", BuildSettings(), num_workers=1)
    print("exporting", file=sys.stderr, flush=True)
    export_beton(open_store(folder / "store"), index, folder / "out.beton")


if __name__ == "__main__":
    progress.SECONDS_BETWEEN_LINES = 0.1
    {"first_labels": first_labels, "build": build, "export": export}[sys.argv[1]](Path(sys.argv[2]))
