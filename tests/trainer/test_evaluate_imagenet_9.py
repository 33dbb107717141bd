"""ImageNet-9 on painted images: groups of classes, none of them, the gap, and variants drawn from masks."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from backdrop.errors import UserError
from backdrop.stores.drawn_sample import background_variants
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.trainer.evaluation import imagenet_9, mask_quality
from backdrop.trainer.evaluation.data.class_lists import in9_of_class
from backdrop.trainer.evaluation.data.in9_from_masks import Variant, open_variants
from backdrop.trainer.evaluation.data.masks import open_masks
from backdrop.trainer.evaluation.data.transforms import as_published
from backdrop.trainer.evaluation.harness import weights as _weights
from backdrop.trainer.evaluation.harness.result import Result
from tests.material.evaluation_fixtures import BLACK, WNIDS, colour, oracle, paint, save_image, write_tree
from tests.material.imagenet_9_scenes import CLASS_OF_FOLDER, SCENES, SQUARE, save_mask, write_scenes

# How many of the nine images of each variant are painted with their own group's class; the first is the dog's.
NUM_RIGHT = dict(zip(background_variants.NAMES, (9, 8, 7, 6, 3, 2, 1, 0), strict=True))


def score(root: Path, data: Path | None = None, **options: object) -> Result:
    return imagenet_9.run(oracle(root), data or root, imagenet_9.Options(**options))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("in9")
    for variant, num_right in NUM_RIGHT.items():
        for number, (folder, label) in enumerate(CLASS_OF_FOLDER.items()):
            # 171 looks like a dog's number and is of no group: a wrong answer, also on dogs.
            painted = label if number >= 9 - num_right else 171
            path = root / "bg_challenge" / variant / "val" / folder / "n_1.JPEG"
            save_image(path, paint(painted, (224, 224)))
    return root


def test_eight_variants_and_the_gap(published: Path, tmp_path: Path) -> None:
    result = score(tmp_path, published)
    expected = {name: 100 * num / 9 for name, num in NUM_RIGHT.items()}
    assert result.metrics == pytest.approx(expected | {"bg_gap": 100 * (6 - 3) / 9})
    assert list(result.metrics) == [*expected, "bg_gap"]
    assert result.facts["original images"] == {"seen": 9, "expected": 4050}
    assert score(tmp_path, published / "bg_challenge").metrics == result.metrics


def test_the_users_table_and_a_wrong_one(published: Path, tmp_path: Path) -> None:
    group_C = in9_of_class()
    group_C[171] = 0
    table = tmp_path / "in_to_in9.json"
    table.write_text(json.dumps({str(label): int(group) for label, group in enumerate(group_C)}))
    # Where 171 is a dog, the dog of each variant is right: it is the first to be painted so.
    assert score(tmp_path, published, table=str(table)).metrics["mixed_rand"] == pytest.approx(100 * 4 / 9)
    for text in ('{"0": 1}', "[]", json.dumps(dict.fromkeys(map(str, range(1000)), 9))):
        table.write_text(text)
        with pytest.raises(UserError, match=r"in_to_in9\.json"):
            score(tmp_path, published, table=str(table))


def test_published_images_are_neither_resized_nor_cut() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert np.array_equal(as_published().apply(image_HWC, 0), image_HWC)


def test_missing_variants_classes_and_an_uncleaned_val(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet_9, "NUM_PER_CLASS", 3)
    files = {f"original/val/00_dog/{number}.JPEG": 207 for number in range(4)}
    write_tree(tmp_path, {**files, "original/val/fg.txt": "text"})
    result = score(tmp_path)
    assert result.metrics == {"original": 100.0}
    told = " | ".join(result.problems)
    for words in (
        "not there: only_fg, no_fg",
        "8 of 9 classes have no image (bird",
        "dog has 4 images, more than 3",
        "original/fg.txt",
    ):
        assert words in told
    with pytest.raises(UserError, match="none of the variants"):
        score(tmp_path, tmp_path / "original" / "val")


def test_a_network_of_nine_outputs_must_be_asked_for(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wants a network of 9 outputs.* has 1000"):
        score(tmp_path, published, nine_outputs=True)


def test_a_network_of_nine_outputs_answers_the_group(published: Path, tmp_path: Path) -> None:
    subject = oracle(tmp_path)
    # Its ninth answer is the first group's: what is painted 171 it calls a dog.
    nine = nn.Linear(1000, 9)
    nine.weight.data, nine.bias.data = torch.zeros(9, 1000), torch.zeros(9)
    nine.weight.data[list(range(9)), list(CLASS_OF_FOLDER.values())] = 10.0
    nine.weight.data[0, 171] = 10.0
    backbone = copy.deepcopy(subject.backbone)
    _renormalise(backbone.nearest)
    network = replace(subject, backbone=backbone, head=nine, weights_sha256="nine")
    result = imagenet_9.run(network, published, imagenet_9.Options(nine_outputs=True))
    assert "ImageNet-9's normalisation" in result.facts["transform"]
    # The dog of each variant is right, painted 207 or 171.
    expected = {name: 100 * max(num, 1 + num - (num == 9)) / 9 for name, num in NUM_RIGHT.items()}
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(UserError, match=r"wants a network of 1000 outputs.* has 9"):
        imagenet_9.run(network, published, imagenet_9.Options())


@pytest.mark.parametrize(("num_outputs", "is_classifier"), [(9, True), (1000, True), (128, False)])
def test_classifiers_are_known_by_their_outputs(num_outputs: int, is_classifier: bool) -> None:
    head = _weights._head({"fc.weight": torch.ones(num_outputs, 8)}, 8)
    assert (head is not None) == is_classifier
    assert _weights._head({"fc.weight": torch.ones(num_outputs, 8)}, 16) is None


def _renormalise(nearest: nn.Conv2d) -> None:
    """Have the oracle take pixels in ImageNet-9's normalisation, where it took them in ImageNet's."""
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    own_mean, own_std = torch.tensor((0.4717, 0.4499, 0.3837)), torch.tensor((0.26, 0.2516, 0.2575))
    weight_KC = nearest.weight.data[:, :, 0, 0]
    nearest.bias.data += weight_KC @ ((own_mean - mean) / std)
    nearest.weight.data *= (own_std / std)[:, None, None]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path)


def variants_of(root: Path, seed: int = 0) -> dict[str, Variant]:
    opened = open_variants(root / "scenes", open_masks(root / "masks", 0.5), in9_of_class(), seed, Result())
    return {variant.variant: variant for variant in opened}


def test_variants_are_drawn_from_masks(scenes: Path) -> None:
    result = score(scenes, scenes / "scenes", masks=str(scenes / "masks"))
    # The background is three quarters of each crop. Where it is left, it decides, and it is of another group; on black
    # the foreground is all there is to see.
    right = result.metrics
    assert right["original"] == right["no_fg"] == right["only_bg_b"] == right["only_bg_t"] == 0.0
    assert right["only_fg"] == 100.0
    assert result.facts["images"] == {
        "found": 5,
        "of a group": 4,
        "with a mask": 4,
        "with foreground and a strip of background in the crop": 4,
    }
    assert result.facts["seed"] == 0


def test_mixed_variants_take_the_background_of_their_donor(scenes: Path) -> None:
    variants = variants_of(scenes)
    groups = variants["original"].label_N.tolist()  # sorted by WordNet id
    assert sorted(groups) == [0, 0, 1, 3]
    for row, group in enumerate(groups):
        assert groups[variants["mixed_next"].donor(row)] == {0: 1, 1: 3, 3: 0}[group]
        same = variants["mixed_same"].donor(row)
        assert groups[same] == group
        assert (same == row) == (groups.count(group) == 1)
        donor = variants["mixed_rand"].donor(row)
        image_HWC = decode_rgb(variants["mixed_rand"].read(row))
        assert image_HWC.shape == (224, 224, 3)
        own, other = (SCENES[variants["original"].keys[each]] for each in (row, donor))
        assert np.array_equal(image_HWC[112, 112], colour(own[0]))
        assert np.array_equal(image_HWC[5, 5], colour(other[1]))


def test_the_same_seed_draws_the_same_donors(scenes: Path) -> None:
    def donors(seed: int) -> list[int]:
        variant = variants_of(scenes, seed)["mixed_rand"]
        return [variant.donor(row) for row in range(len(variant))]

    assert donors(0) == donors(0)
    assert len({tuple(donors(seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("task", [imagenet_9, mask_quality])
def test_answers_to_variants_of_other_masks_are_not_taken(task: ModuleType, scenes: Path) -> None:
    """Files of one name and size, of which the content or the threshold decides what is foreground."""
    subject = oracle(scenes)

    def only_fg(folder: str, threshold: float) -> float:
        options = task.Options(masks=str(scenes / folder), mask_threshold=threshold)
        return task.run(subject, scenes / "scenes", options).metrics["only_fg"]

    around_HW = np.zeros((128, 128), dtype=np.uint8)
    around_HW[10:118, 10:118] = 100
    square_HW, beside_HW = around_HW.copy(), around_HW.copy()
    square_HW[SQUARE], beside_HW[10:30, 10:118] = 255, 255
    for folder, mask_HW in (("square", square_HW), ("beside", beside_HW)):
        for key in SCENES:
            path = scenes / folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask_HW).save(path, compress_level=0)
    assert len({path.stat().st_size for path in (*scenes.glob("square/*/*"), *scenes.glob("beside/*/*"))}) == 1
    assert only_fg("square", 0.5) == 100.0
    assert only_fg("beside", 0.5) == 0.0  # the background's colours
    assert only_fg("square", 0.3) == 0.0  # mostly those


def test_masks_without_foreground_of_another_size_or_absent(scenes: Path) -> None:
    save_mask(scenes / "masks" / WNIDS[10] / "a.png", np.zeros((56, 56)))
    save_mask(scenes / "masks" / WNIDS[35] / "a.png", np.ones((56, 56)), (128, 120))
    (scenes / "masks" / WNIDS[207] / "b.png").unlink()
    result = score(scenes, scenes / "scenes", masks=str(scenes / "masks"))
    assert result.facts["images"]["with a mask"] == 3
    assert result.metrics["only_fg"] == 100.0  # of the dog that is left
    told = " | ".join(result.problems)
    assert "1 images have no mask: left out" in told
    # Named once, and no other image's background.
    assert told.count(f"{WNIDS[35]}/a.png: image or mask cannot be decoded, or they differ in size") == 1


def test_a_table_of_labels_beside_the_images(scenes: Path) -> None:
    root = scenes / "table"
    save_image(root / "images" / "x_1.png", paint((BLACK, 207), (128, 128)))
    save_mask(root / "masks" / "x_1.png", np.ones((56, 56)))
    (root / "labels.csv").write_text("image,wnid,imagenet_index,in9_class\nx_1,n,207,dog\n")
    result = score(scenes, root, masks=str(root / "masks"))
    assert result.facts["images"]["found"] == 1
    assert "group 0 has one image: its mixed_same background is its own" in result.problems
    (root / "labels.csv").write_text("image,imagenet_index\nx_1,1000\n")
    with pytest.raises(UserError, match=r"not 0 \.\. 999"):
        score(scenes, root, masks=str(root / "masks"))
