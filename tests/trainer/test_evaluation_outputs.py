"""Answers are computed once per network, images and transform, and again where any of these is another."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.trainer.evaluation.data.batches import image_bar
from backdrop.trainer.evaluation.data.images import Images, wnid_folders
from backdrop.trainer.evaluation.data.transforms import Transform, as_published, standard
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import NamedSet, Outputs, logits_of, top_of_sets
from tests.material.evaluation_fixtures import WNIDS, oracle, paint, save_image, write_tree


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return wnid_folders(write_tree(tmp_path / "set", {f"{WNIDS[3]}/a.png": 3, f"{WNIDS[3]}/b.png": 5}), "")


def counting(subject: Subject) -> list[int]:
    """Return a list that grows by the size of each batch the network sees."""
    seen: list[int] = []
    subject.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    return seen


def top_of(subject: Subject, images: Images, transform: Transform, *, name: str) -> Outputs:
    """The five best classes of one set."""
    with image_bar(len(images), name) as bar:
        ((_, outputs),) = top_of_sets(subject, [NamedSet(name=name, images=images)], transform, bar)
    return outputs


def test_many_sets_are_one_stream_of_which_what_is_kept_is_left_out(tmp_path: Path, images: Images) -> None:
    subject, none = oracle(tmp_path), replace(images, keys=(), label_N=images.label_N[:0])
    sets = {name: images.subset(rows, "") for name, rows in (("a", [0]), ("b", [1, 0]), ("c", [1]), ("d", [0, 1]))}
    kept = top_of(subject, sets["b"], standard(), name="b")
    seen, listed = counting(subject), []

    def listing() -> Iterator[NamedSet]:
        for name, of_set in sets.items():
            listed.append(name)
            yield NamedSet(name=name, images=of_set)

    with image_bar(6, "all") as bar:
        found = {}
        for named, outputs in top_of_sets(subject, listing(), standard(), bar):
            found[named.name] = outputs.output_N[:, 0].tolist()
            assert len(listed) <= len(found) + 3  # never all of many at once
    assert found == {"a": [3], "b": [5, 3], "c": [5], "d": [3, 5]}
    assert kept.output_N[:, 0].tolist() == found["b"]
    assert seen == [1, 1, 2]
    with image_bar(0, "none") as bar, pytest.raises(UserError, match="none is there"):
        list(top_of_sets(subject, [NamedSet(name="none", images=none)], standard(), bar))


def test_answers_are_kept(tmp_path: Path, images: Images) -> None:
    subject = oracle(tmp_path)
    seen = counting(subject)
    first, second = (logits_of(subject, images, standard(), name="set") for _ in range(2))
    assert seen == [2]
    assert np.array_equal(first.logits_NC, second.logits_NC)
    assert np.array_equal(second.rows_N, [0, 1])
    assert top_of(subject, images, standard(), name="set").output_N[:, 0].tolist() == [3, 5]
    assert seen == [2, 2]  # the same name, but something else was asked
    logits_of(subject, images, as_published(), name="set")
    logits_of(replace(subject, weights_sha256="other"), images, standard(), name="set")
    assert seen == [2, 2, 2, 2]


def test_another_file_of_the_same_name_is_seen(tmp_path: Path, images: Images) -> None:
    subject = oracle(tmp_path)
    seen = counting(subject)
    logits_of(subject, images, standard(), name="set")
    save_image(images.root / WNIDS[3] / "b.png", paint((3, 5), (64, 64)))
    images = wnid_folders(images.root, "")
    assert logits_of(subject, images, standard(), name="set").logits_NC.argmax(axis=1).tolist() == [3, 3]
    assert seen == [2, 2]


def test_images_that_cannot_be_decoded_are_remembered(tmp_path: Path, images: Images) -> None:
    (images.root / WNIDS[3] / "a.png").write_bytes(b"no image")
    for _ in range(2):
        outputs = logits_of(oracle(tmp_path), images, standard(), name="set")
        assert outputs.corrupt == (f"{WNIDS[3]}/a.png",)
        assert outputs.rows_N.tolist() == [1]
    (images.root / WNIDS[3] / "b.png").write_bytes(b"no image")
    images = wnid_folders(images.root, "")
    with pytest.raises(UserError, match="no image of"):
        logits_of(oracle(tmp_path), images, standard(), name="set")


def test_a_diverged_network_and_one_without_a_classifier(tmp_path: Path, images: Images) -> None:
    subject = oracle(tmp_path)
    assert isinstance(subject.head, nn.Linear)
    subject.head.bias.data[0] = torch.nan
    for function in (logits_of, top_of):
        with pytest.raises(UserError, match="not finite"):
            function(subject, images, standard(), name="set")
        with pytest.raises(UserError, match="no classifier"):
            function(oracle(tmp_path, has_head=False), images, standard(), name="other")
    assert not list(subject.folder.glob("*.npz"))
