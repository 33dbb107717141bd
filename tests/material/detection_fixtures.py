"""Tiny detection data sets in the official layouts, and a network small enough to learn them on a CPU."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from backdrop.trainer.evaluation.harness.subject import Subject, weights_digest
from backdrop.trainer.parts.backbones import Backbone

COLOURS = {"car": (220, 30, 30), "dog": (30, 60, 220)}
VocObject = tuple[str, tuple[int, int, int, int], bool]  # class, (xmin, ymin, xmax, ymax) as VOC counts, difficult


def tiny_subject(folder: Path, *, method: str = "") -> Subject:
    """A network with a ResNet's layers and strides and a hundredth of its channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Backbone(
            {
                "conv1": nn.Conv2d(3, 16, 7, 2, 3, bias=False),
                "bn1": nn.BatchNorm2d(16),
                "relu": nn.ReLU(),
                "maxpool": nn.MaxPool2d(3, 2, 1),
                "layer1": _stage(16, 16, 1),
                "layer2": _stage(16, 32, 2),
                "layer3": _stage(32, 64, 2),
                "layer4": _stage(64, 64, 2),
            },
            64,
        )
    return Subject(
        backbone=backbone.eval(),
        head=None,
        weights_sha256=weights_digest(backbone, None),
        bn_mode="eval",
        image_size_px=224,
        method=method,
        folder=folder,
        run=None,
        device=torch.device("cpu"),
    )


def _stage(num_in: int, num_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU())


def painted(height: int, width: int, objects: Sequence[VocObject]) -> np.ndarray:
    """Grey noise with a block of its class's colour for each object: uint8 (H, W, 3)."""
    rng = np.random.default_rng(height * width + len(objects))
    image_HWC = rng.integers(110, 140, (height, width, 3)).astype(np.uint8)
    for name, (left, top, right, bottom), _ in objects:
        image_HWC[top - 1 : bottom, left - 1 : right] = COLOURS[name]
    return image_HWC


def write_voc(root: Path, images: dict[str, dict[str, tuple[int, int, list[VocObject]]]]) -> Path:
    """Write `VOC<year>` folders. images: by "2007/trainval", then by id: (height, width, objects)."""
    for name, some in images.items():
        year, split = name.split("/")
        folder = root / f"VOC{year}"
        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{number}\n" for number in some))
        for number, (height, width, objects) in some.items():
            image = Image.fromarray(painted(height, width, objects))
            image.save(folder / "JPEGImages" / f"{number}.jpg", quality=95)
            (folder / "Annotations" / f"{number}.xml").write_text(_voc_xml(number, height, width, objects))
    return root


def _voc_xml(number: str, height: int, width: int, objects: Sequence[VocObject]) -> str:
    parts = [
        f"<object><name>{name}</name><pose>Left</pose><truncated>{int(left == 1)}</truncated>"
        f"<difficult>{int(is_difficult)}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom), is_difficult in objects
    ]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{number}.jpg</filename>{size}{''.join(parts)}</annotation>"


# The trainval and test lists below share two images, so that a detector that has learned them has a known score.
TWO_IMAGES: dict[str, tuple[int, int, list[VocObject]]] = {
    "000001": (96, 128, [("car", (11, 21, 58, 68), False), ("dog", (81, 33, 120, 80), True)]),
    "000002": (96, 128, [("dog", (1, 9, 48, 56), False), ("car", (65, 41, 112, 88), False)]),
}
THREE_OF_2007 = TWO_IMAGES | {"000003": (128, 96, [("car", (9, 9, 72, 72), False)])}
TWO_OF_2012: dict[str, tuple[int, int, list[VocObject]]] = {
    "2008_000001": (96, 128, [("dog", (21, 21, 84, 84), False)]),
    "2008_000002": (96, 128, [("car", (33, 17, 96, 80), False)]),
}


def write_coco(root: Path) -> Path:
    """Write three images as train2017 and val2017: a polygon and a crowd (uncompressed RLE), two polygons, nothing."""
    blocks: dict[int, list[VocObject]] = {
        7: [("car", (17, 17, 64, 64), False)],
        9: [("dog", (9, 25, 56, 72), False), ("car", (73, 33, 120, 80), False)],
        12: [],
    }
    annotations: dict[str, Any] = {
        # Numbers with gaps, as COCO's.
        "categories": [{"id": 90, "name": "car"}, {"id": 3, "name": "dog"}],
        "images": [{"id": number, "file_name": f"{number:012d}.jpg", "height": 96, "width": 128} for number in blocks],
        "annotations": [
            _coco_object(number, 100 * number + row, *block)
            for number, objects in blocks.items()
            for row, block in enumerate(objects)
        ],
    }
    annotations["annotations"].append(_crowd())
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(annotations))
        for number, objects in blocks.items():
            image = Image.fromarray(painted(96, 128, objects))
            image.save(root / split / f"{number:012d}.jpg", quality=95)
    return root


def _coco_object(image: int, number: int, name: str, box: tuple[int, int, int, int], _: bool) -> dict[str, Any]:
    left, top, right, bottom = box[0] - 1, box[1] - 1, box[2], box[3]
    return {
        "id": number,
        "image_id": image,
        "category_id": {"car": 90, "dog": 3}[name],
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }


def _crowd() -> dict[str, Any]:
    """The right quarter of image 7, columns 96 .. 127: uncompressed counts run down the columns."""
    counts = [96 * 96, 32 * 96]
    return {
        "id": 999,
        "image_id": 7,
        "category_id": 90,
        "bbox": [96, 0, 32, 96],
        "area": 32 * 96,
        "iscrowd": 1,
        "segmentation": {"size": [96, 128], "counts": counts},
    }
