"""The oracle reads the paint, through every format and the standard transform."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backdrop.trainer.evaluation.data.images import wnid_folders
from backdrop.trainer.evaluation.data.projections import top_accuracy, top_classes
from backdrop.trainer.evaluation.data.transforms import standard
from backdrop.trainer.evaluation.predictions.outputs import logits_of
from tests.material.evaluation_fixtures import (
    BLACK,
    NUM_CLASSES,
    WNIDS,
    imagenet_split,
    oracle,
    paint,
    save_image,
    write_tree,
)


def test_the_oracle_names_the_colours(tmp_path: Path) -> None:
    classes = list(range(0, NUM_CLASSES, 9))
    images = np.stack([paint(number, (14, 14)) for number in classes])
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    image_BCHW = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.inference_mode():
        logits_NC = oracle(tmp_path).logits(image_BCHW).numpy()
    assert top_classes(logits_NC, 1)[:, 0].tolist() == classes
    assert logits_NC.max(axis=1).min() > 9.99


def test_order_formats_and_other_answers(tmp_path: Path) -> None:
    painted = {f"{WNIDS[label]}/{label}.JPEG": label for label in (3, 481)}
    write_tree(tmp_path, {**painted, f"{WNIDS[7]}/7.png": (12, 7, 900), f"{WNIDS[8]}/8.jpg": (BLACK, 8)})
    save_image(tmp_path / WNIDS[222] / "grey.JPG", paint(222), mode="L")
    save_image(tmp_path / WNIDS[640] / "cmyk.JPEG", paint(640), mode="CMYK")
    images = wnid_folders(tmp_path, "")
    assert images.label_N.tolist() == [3, 7, 8, 222, 481, 640]
    logits_NC = logits_of(oracle(tmp_path, {3: {5: 2.0, 3: 1.0}}), images, standard(), name="painted").logits_NC
    assert top_classes(logits_NC, 1)[:, 0].tolist() == [5, 12, 8, 222, 481, 640]
    assert top_classes(logits_NC, 3)[1].tolist() == [12, 7, 900]
    assert top_accuracy(logits_NC, images.label_N) == pytest.approx(100 * 4 / 6)
    assert top_accuracy(logits_NC, images.label_N, 2) == 100.0


def test_a_split_has_the_official_names(tmp_path: Path) -> None:
    folder = imagenet_split(tmp_path, "val", {3: [3], 1: [1, 5]})
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.JPEG")) == [
        f"{WNIDS[1]}/ILSVRC2012_val_00000002.JPEG",
        f"{WNIDS[1]}/ILSVRC2012_val_00000003.JPEG",
        f"{WNIDS[3]}/ILSVRC2012_val_00000001.JPEG",
    ]
