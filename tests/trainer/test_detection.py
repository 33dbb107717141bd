"""Detectors: their parts against closed forms, and both evaluations on data sets of a few painted images."""

import copy
import json
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.detection.image_list import ImageList

from backdrop.errors import UserError
from backdrop.pipeline.views import random_streams
from backdrop.settings.overrides import with_override
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.evaluation import coco_segmentation, voc_detection
from backdrop.trainer.evaluation.detection import training as _detection_training
from backdrop.trainer.evaluation.detection.images import (
    LabelledImage,
    Sizes,
    Visit,
    batches_of_visits,
    outlines_as_masks,
    resized_size,
    training_example,
)
from backdrop.trainer.evaluation.detection.model import (
    Anchors,
    RoiPool,
    Sampler,
    _rpn,
    build_detector,
    padded,
    paste_masks,
)
from backdrop.trainer.evaluation.detection.training import Schedule, measure_batch_norm, resolved
from backdrop.trainer.evaluation.harness import subject as _subject
from backdrop.trainer.evaluation.harness.evaluate import _summary, evaluate_run
from backdrop.trainer.evaluation.harness.result import Result
from tests.material.detection_fixtures import (
    THREE_OF_2007,
    TWO_IMAGES,
    TWO_OF_2012,
    tiny_subject,
    write_coco,
    write_voc,
)
from tests.material.evaluation_fixtures import FACTS

# pycocotools 2.0 against numpy 2: its arrays do not know the keyword `copy`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SMALL = {
    "sizes.train_short_px": "64,96",
    "sizes.test_short_px": "96",
    "sizes.max_long_px": "224",
    "schedule.regions_per_image": "16",
    "schedule.batch_size": "2",
    "schedule.iterations": "2",
    "schedule.precise_bn_iterations": "1",
}


def chosen(module: Any, **changes: str) -> Any:
    options = module.Options()
    for name, value in (SMALL | {name.replace("__", "."): text for name, text in changes.items()}).items():
        options = with_override(options, name, value)
    return options


# ------------------------------------------------------------------------------------------------------------- parts


def test_anchors_lie_at_multiples_of_the_stride() -> None:
    images = ImageList(torch.zeros(2, 3, 40, 70), [(40, 70), (30, 60)])
    # The map has ceil(70 / 16) columns: its places are 16 px apart all the same.
    (anchor_N4, again) = Anchors([[32.0, 64.0]], [16])(images, [torch.zeros(2, 8, 3, 5)])
    assert torch.equal(anchor_N4, again)
    assert anchor_N4.shape == (3 * 5 * 6, 4)
    root = 2**0.5
    wide = torch.tensor([-16 * root, -8 * root, 16 * root, 8 * root])  # 32^2 px, height / width = 1/2, not rounded
    assert torch.allclose(anchor_N4[0], wide)
    assert torch.allclose(anchor_N4[6], wide + torch.tensor([16.0, 0, 16, 0]))
    assert torch.allclose(anchor_N4[30], wide + torch.tensor([0.0, 16, 0, 16]))
    assert torch.allclose(anchor_N4[4], torch.tensor([-32.0, -32, 32, 32]))


def test_regions_are_aligned_and_sampled_everywhere() -> None:
    # A map that holds its own column: the mean over a bin is the column at its centre, in the map's pixels less half.
    ramp = torch.arange(40.0).expand(1, 1, 40, 40)
    pooled = RoiPool([4], 2)({"0": ramp}, [torch.tensor([[8.0, 8.0, 72.0, 72.0]])])
    assert torch.allclose(pooled[0, 0, 0], torch.tensor([24 / 4 - 0.5, 56 / 4 - 0.5]))
    # One bin over 32 columns with a single bright one: two samples per bin would miss it, 32 do not.
    spot = torch.zeros(1, 1, 40, 40)
    spot[..., 7] = 1
    pooled = RoiPool([1], 1)({"0": spot}, [torch.tensor([[0.0, 0, 32, 32]])])
    assert pooled.item() == pytest.approx(1 / 32)


def test_regions_go_to_the_map_of_their_size() -> None:
    maps = {str(level): torch.full((1, 1, 256 >> level, 256 >> level), float(level)) for level in range(4)}
    boxes = torch.tensor([[0.0, 0, side, side] for side in (20, 111, 112, 223, 224, 447, 448, 900)])
    pooled = RoiPool([4, 8, 16, 32], 7)(maps, [boxes])
    assert pooled[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_region_proposals_lose_the_absolute_difference_per_anchor_asked_for() -> None:
    rpn = _rpn(8, [[32.0]], [16], before_nms=(10, 10), after_nms=10)
    rpn.fg_bg_sampler = Sampler(4, 0.5)
    found = torch.tensor([[0.5, 0, 0, 0], [9.0, 9, 9, 9], [1, 1, 1, 1]])
    target = torch.tensor([[0.0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]])
    label = torch.tensor([1.0, 0.0, -1.0])
    objectness, box = rpn.compute_loss(torch.zeros(3, 1), found, [label], [target])
    assert box.item() == pytest.approx(2.5 / 4)  # anchor 0 alone; a smooth loss would say less
    assert objectness.item() == pytest.approx(2 * np.log(2) / 4)  # two drawn of the four asked for


def test_the_sampler_draws_what_its_seed_says() -> None:
    sampler, label = Sampler(8, 0.25), torch.tensor([1] * 10 + [0] * 20 + [-1] * 10)
    draws = []
    for seed in (3, 3, 4):
        sampler.reseed(seed)
        positive, negative = sampler([label])
        assert (int(positive[0].sum()), int(negative[0].sum())) == (2, 6)
        assert int(positive[0][10:].sum()) == int(negative[0][:10].sum() + negative[0][30:].sum()) == 0
        draws.append(torch.cat([positive[0], negative[0]]).tolist())
    assert draws[0] == draws[1] != draws[2]
    # Where positives are few, negatives take their places.
    positive, negative = sampler([torch.tensor([1] + [0] * 20)])
    assert (int(positive[0].sum()), int(negative[0].sum())) == (1, 7)


def test_masks_are_pasted_into_their_boxes() -> None:
    box = torch.tensor([[3.0, 2.0, 9.0, 6.0], [-4.0, -4.0, 4.0, 4.0]])
    left_half = torch.zeros(1, 1, 4, 4)
    left_half[..., :2] = 1
    full, half = paste_masks(torch.cat([torch.ones(1, 1, 4, 4), left_half]), box, 8, 12)
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[2:6, 3:9] = True
    assert torch.equal(full, expected)
    assert not half.any()  # what is inside the image is the right half


def test_a_batch_is_normalised_before_it_is_padded() -> None:
    batch = padded([torch.full((3, 4, 6), 255, dtype=torch.uint8), torch.zeros(3, 5, 3, dtype=torch.uint8)], 4)
    assert batch.tensors.shape == (2, 3, 8, 8)
    assert batch.image_sizes == [(4, 6), (5, 3)]
    assert batch.tensors[0, :, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, 0.544 / 0.224, 0.594 / 0.225])
    assert batch.tensors[0, :, 4:].abs().max() == batch.tensors[1, :, :, 3:].abs().max() == 0


def test_everything_starts_at_the_network_and_everything_learns(tmp_path: Path) -> None:
    backbone = tiny_subject(tmp_path).backbone
    detector = build_detector(backbone, "c4", 20, has_masks=False, seed=0)
    own = detector.state_dict()
    for name, value in backbone.state_dict().items():
        place = f"roi_heads.box_head.{name}" if name.startswith("layer4") else f"trunk.{name}"
        assert torch.equal(own[place], value)
    assert own["roi_heads.box_head.norm.weight"].shape == (64,)
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert detector.roi_heads.box_predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.2)
    same = build_detector(backbone, "c4", 20, has_masks=False, seed=0).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in own.items())
    pyramid = build_detector(backbone, "fpn", 2, has_masks=True, seed=0).trunk[1]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in pyramid.modules()) == 8  # 4 lateral, 4 output


@pytest.mark.parametrize("form", ["c4", "fpn"])
def test_a_step_moves_every_weight_that_decides(form: str, tmp_path: Path) -> None:
    detector = build_detector(tiny_subject(tmp_path).backbone, form, 2, has_masks=True, seed=0, regions_per_image=4)
    detector.train().reseed(0)
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 8:40, 8:40] = 1
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([2]), "masks": masks}
    losses = detector([torch.randint(0, 255, (3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()], [target])
    assert isinstance(losses, dict)
    assert set(losses) == {"class", "box", "mask", "loss_objectness", "loss_rpn_box_reg"}
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: parameter.grad for name, parameter in detector.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    # Masks start at 0.5 everywhere, classes at three equal ones.
    assert losses["mask"].item() == pytest.approx(np.log(2), abs=0.05)
    assert losses["class"].item() == pytest.approx(np.log(3), abs=0.2)


def test_batch_norm_statistics_become_averages_of_the_batches() -> None:
    class Fake(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def reseed(self, seed: int) -> None:
            pass

        def forward(self, pixels: torch.Tensor, targets: None) -> None:
            self.norm(pixels)

    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 1, 3, 3, generator=generator) * scale + scale for scale in (1.0, 2.0, 6.0)]
    fake: Any = Fake()
    measure_batch_norm(fake, iter((batch, None) for batch in batches), Schedule(iterations=1, tenth_at=()))
    assert fake.norm.running_mean.item() == pytest.approx(np.mean([batch.mean().item() for batch in batches]), rel=1e-5)
    assert fake.norm.running_var.item() == pytest.approx(np.mean([batch.var().item() for batch in batches]), rel=1e-5)
    assert fake.norm.momentum == 0.1


def test_the_rate_warms_up_and_falls() -> None:
    schedule = resolved(voc_detection.Options().schedule, asdict(voc_detection.rates_of("swav", "")[1]))
    rates = [schedule.lr_at(step) for step in (0, 500, 1_000, 17_999, 18_000, 22_000)]
    assert rates == pytest.approx([0.1 / 3, 0.1 * (1 / 6 + 1 / 2), 0.1, 0.1, 0.01, 0.001])
    with pytest.raises(UserError, match="batch_size"):
        resolved(replace(schedule, batch_size=0), {})
    with pytest.raises(UserError, match="train_short_px"):
        Sizes(train_short_px=())


@pytest.mark.parametrize(
    ("chosen_by", "method", "lr"), [("", "byol", 0.08), ("", "", 0.02), ("swav", "byol", 0.1), ("", "cast", 0.02)]
)
def test_settings_follow_the_method(chosen_by: str, method: str, lr: float) -> None:
    name, rates = voc_detection.rates_of(chosen_by, method)
    assert (name, rates.lr) == (chosen_by or method or "moco", lr)


def test_a_method_without_rates_is_not_given_anothers() -> None:
    with pytest.raises(
        UserError, match=r"'rotnet' of this run states no rate of detection.*settings_of=NAME, one of b"
    ):
        voc_detection.rates_of("", "rotnet")
    with pytest.raises(
        UserError, match=r"settings_of='rotnet': no method of that name states.*allowed: byol, cast, mo"
    ):
        voc_detection.rates_of("rotnet", "moco")


# ------------------------------------------------------------------------------------------------------------ examples


def labelled(height: int, width: int, **fields: Any) -> LabelledImage:
    empty = {"box_N4": np.zeros((0, 4)), "class_N": np.zeros(0, np.int64)}
    return LabelledImage(key="x", path=Path("x"), height=height, width=width, **(empty | fields))


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((300, 900), (444, 1333))]
)
def test_sides_of_the_resized_image(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, 800, 1333) == expected


def test_batches_hold_one_orientation_and_every_image_once_an_epoch() -> None:
    images = [labelled(10, 20 if row % 3 else 5) for row in range(12)]
    batches = list(islice(batches_of_visits(images, 2, seed=1), 12))
    for batch in batches:
        assert len({images[visit.row].width for visit in batch}) == 1
    assert {visit.row for batch in batches for visit in batch if visit.epoch == 0} == set(range(12))
    assert batches == list(islice(batches_of_visits(images, 2, seed=1), 12))
    assert batches != list(islice(batches_of_visits(images, 2, seed=2), 12))


def test_boxes_and_masks_go_with_the_pixels(tmp_path: Path) -> None:
    data = write_coco(tmp_path)
    annotations = coco_segmentation.read_annotations(data, "train2017")
    image = coco_segmentation.labelled_images(data / "train2017", annotations, [])[1]
    sizes = Sizes(train_short_px=(192,))
    mirrored = 0
    for epoch in range(6):
        pixels, target = training_example(image, Visit(epoch, 1), sizes, seed=0, has_masks=True)
        is_mirrored = random_streams.uniform(0, epoch, 1, 0, random_streams.FLIP) < 0.5
        mirrored += is_mirrored
        assert pixels.shape == (3, 192, 256)
        left = 2 * 8 if not is_mirrored else 256 - 2 * 56
        assert target["boxes"][0].tolist() == [left, 48, left + 96, 144]
        assert target["labels"].tolist() == [1, 2]  # dog is 3, car 90
        for box, mask, channel in zip(target["boxes"], target["masks"], (2, 0), strict=True):
            rows, columns = mask.nonzero().T
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert [abs(float(side) - float(edge)) <= 1 for side, edge in zip(found, box, strict=True)] == [True] * 4
            assert pixels[channel][mask.bool()].float().mean() > 190
    assert 0 < mirrored < 6


# ----------------------------------------------------------------------------------------------------------------- VOC


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    test = {f"00100{number}": value for number, value in enumerate(TWO_IMAGES.values())}
    return write_voc(
        tmp_path / "voc", {"2007/trainval": THREE_OF_2007, "2007/test": test, "2012/trainval": TWO_OF_2012}
    )


def test_voc_is_read_as_it_counts_pixels(voc: Path) -> None:
    problems: list[str] = []
    first = voc_detection.read_split(voc, "2007", "trainval", problems)[0]
    assert first.image.box_N4.tolist() == [[10, 20, 58, 68], [80, 32, 120, 80]]  # difficult ones are learned from
    assert [voc_detection.CLASSES[number] for number in first.image.class_N] == ["car", "dog"]
    assert first.objects.box_M4[0].tolist() == [11, 21, 58, 68]
    assert first.objects.is_difficult_M.tolist() == [False, True]
    assert problems == []


def test_both_layouts_of_voc(voc: Path, tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    voc.rename(tmp_path / "kit" / "VOCdevkit")
    assert len(voc_detection.read_split(tmp_path / "kit", "2012", "trainval", [])) == 2
    with pytest.raises(UserError, match=r"there is no VOC2012 in .* Expected: ROOT/VOCdevkit"):
        voc_detection.read_split(tmp_path, "2012", "trainval", [])


def test_a_killed_fine_tuning_goes_on_as_if_nothing_had_happened(voc: Path, tmp_path: Path) -> None:
    options = chosen(voc_detection, schedule__checkpoint_iterations="1", schedule__iterations="2")
    # Damage that a fine-tuning must survive, and name.
    (voc / "VOC2007" / "JPEGImages" / "000003.jpg").write_bytes(b"no image")
    (voc / "VOC2012" / "Annotations" / "2008_000002.xml").unlink()
    whole = voc_detection.run(tiny_subject(tmp_path / "whole"), voc, options)
    steps: list[int] = []
    real = _detection_training._step

    def dies(*arguments: Any) -> dict[str, float]:
        if len(steps) == 1:
            raise KeyboardInterrupt
        steps.append(arguments[-1])
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_detection_training, "_step", dies)
        with pytest.raises(KeyboardInterrupt):
            voc_detection.run(tiny_subject(tmp_path / "killed"), voc, options)
    again = voc_detection.run(tiny_subject(tmp_path / "killed"), voc, options)
    assert again.metrics == whole.metrics
    (one,), (other,) = (list((tmp_path / name).iterdir()) for name in ("whole", "killed"))
    assert one.name == other.name
    tensors, others = load_file(one), load_file(other)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in tensors.items())
    assert not any(name.startswith("momentum.") for name in tensors)  # of no use once it is finished
    assert whole.facts.keys() >= FACTS
    assert list(whole.metrics) == ["ap50", "ap", "ap75"]
    assert whole.facts["VOC2007 trainval images"] == {"seen": 3, "expected": 5011}
    assert any("2008_000002.xml cannot be read" in line for line in whole.problems)


def test_a_detector_is_of_the_pretrained_weights_and_the_boxes(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `evaluate linear` leaves does not have days of fine-tuning start over; another box does."""
    options = chosen(voc_detection, schedule__iterations="1")
    plain = tiny_subject(tmp_path / "kept")
    before = voc_detection.run(plain, voc, options)
    adapted = copy.deepcopy(plain.backbone)
    adapted.bn1.running_mean += 1
    monkeypatch.setattr("backdrop.trainer.run.checkpoint.load_backbone", lambda path: copy.deepcopy(plain.backbone))
    monkeypatch.setattr("backdrop.trainer.run.checkpoint.load_classifier", lambda path: None)
    fitted = replace(
        plain, backbone=adapted, head=nn.Linear(64, 1000), weights_sha256="with its classifier", pretrained_at=tmp_path
    )
    after = voc_detection.run(fitted, voc, options)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert after.metrics == before.metrics
    assert after.facts["pretrained_sha256"] == before.facts["pretrained_sha256"] == plain.weights_sha256
    annotation = voc / "VOC2007" / "Annotations" / "000001.xml"
    annotation.write_text(annotation.read_text().replace("<name>dog<", "<name>car<"))
    voc_detection.run(fitted, voc, options)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_row_says_the_format_that_a_detector_is_computed_in(voc: Path, tmp_path: Path) -> None:
    """Its layers are called one by one, beside the backbone's bfloat16 on a GPU."""
    options = chosen(voc_detection, schedule__iterations="1")
    subject = tiny_subject(tmp_path / "kept")
    seen: list[torch.dtype] = []

    def look(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        seen.append(output.dtype)

    subject.backbone.conv1.register_forward_hook(look)
    subject.backbone.autocast_dtype = torch.bfloat16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_subject, "number_format", lambda device: torch.bfloat16)
        result = voc_detection.run(subject, voc, options)
    assert set(seen) == {torch.float32}
    assert subject.precision == "bfloat16"
    assert _summary("voc-detection", subject, tmp_path, voc, options, result)["precision"] == "float32"
    assert _summary("knn", subject, tmp_path, voc, options, Result())["precision"] == "bfloat16"


def test_unreadable_images_are_named_and_left_out(voc: Path, tmp_path: Path) -> None:
    # Enough batches to meet every image to train on.
    options = chosen(voc_detection, schedule__batch_size="3", schedule__iterations="4")
    for name in ("000001", "001000"):
        path = voc / "VOC2007" / "JPEGImages" / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:300])
    (voc / "VOC2007" / "JPEGImages" / "000002.jpg").unlink()
    result = voc_detection.run(tiny_subject(tmp_path / "s"), voc, options)
    named = {line.split()[0]: line for line in result.problems if line.startswith("VOC2007/00")}
    assert named.keys() == {"VOC2007/000001", "VOC2007/000002", "VOC2007/001000"}
    assert [name for name, line in named.items() if "nothing is found in it" in line] == ["VOC2007/001000"]


@pytest.mark.parametrize("task", ["voc-detection", "coco-segmentation"])
def test_strict_fails_before_a_detector_is_trained(
    task: str, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is odd about lists and annotations is known at once."""
    monkeypatch.setattr(_detection_training, "fine_tuned", None)
    save_file(build_backbone("resnet18").state_dict(), tmp_path / "weights.safetensors")
    data = voc if task == "voc-detection" else write_coco(tmp_path / "coco")
    with pytest.raises(UserError, match=r"--strict: .* images: \d where the official data set has"):
        evaluate_run(task, tmp_path / "weights.safetensors", data, strict=True)


# ---------------------------------------------------------------------------------------------------------------- COCO


def test_coco_categories_and_what_is_learned(tmp_path: Path) -> None:
    data = write_coco(tmp_path)
    annotations = coco_segmentation.read_annotations(data, "train2017")
    assert coco_segmentation.category_ids(annotations) == (3, 90)
    problems: list[str] = []
    annotations["annotations"][0]["segmentation"] = [[1, 1, 5, 5]]  # two points are no polygon
    images = coco_segmentation.labelled_images(data / "train2017", annotations, problems)
    assert [image.class_N.tolist() for image in images] == [[], [0, 1], []]  # no crowd, nothing without an outline
    assert images[1].box_N4[0].tolist() == [8, 24, 56, 72]
    assert problems == ["train2017: 1 objects have no polygon of three points: left out"]


def perfect(annotations: dict[str, Any], number: int) -> dict[str, torch.Tensor]:
    """What a detector that knows the annotations finds in an image: detector's classes, boxes by their corners."""
    objects = [each for each in annotations["annotations"] if each["image_id"] == number and not each["iscrowd"]]
    boxes = torch.tensor([each["bbox"] for each in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = torch.zeros(len(objects), 96, 128, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    ranks = [{3: 0, 90: 1}[each["category_id"]] for each in objects]
    return {"boxes": boxes, "classes": torch.tensor(ranks), "scores": torch.full((len(objects),), 0.9), "masks": masks}


def test_coco_scores_of_a_perfect_detector_and_finds_in_a_crowd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = coco_segmentation.read_annotations(write_coco(tmp_path), "val2017")
    records: list[dict[str, Any]] = []
    for number in (7, 9, 12):
        records += coco_segmentation.coco_records(perfect(annotations, number), number, (3, 90))
    assert [record["category_id"] for record in records] == [90, 3, 90]
    assert records[0]["bbox"] == [16, 16, 48, 48]
    # Found first of all, inside the crowd's pixels: neither right nor wrong, box and mask.
    in_crowd = perfect(annotations, 7)
    in_crowd["boxes"] = torch.tensor([[100.0, 10, 120, 60]])
    in_crowd["masks"] = torch.zeros(1, 96, 128, dtype=torch.bool)
    in_crowd["masks"][0, 10:60, 100:120] = True
    in_crowd["scores"] = torch.tensor([0.99])
    records += coco_segmentation.coco_records(in_crowd, 7, (3, 90))
    scores = coco_segmentation.coco_scores(json.loads(json.dumps(annotations)), records)
    assert list(scores)[:3] == ["box_ap50", "box_ap", "box_ap75"]
    assert scores == pytest.approx(dict.fromkeys(scores, 100.0))
    assert "mask_ap_medium" in scores
    assert "mask_ap_large" not in scores  # there is no large object
    # The same where there is no crowd is an error before the first right answer: precision 1/2 for cars.
    records[-1]["image_id"] = 12
    scores = coco_segmentation.coco_scores(annotations, records)
    assert scores["box_ap50"] == pytest.approx(100 * (1 + 2 / 3) / 2, abs=0.5)
    assert scores["mask_ap50"] == pytest.approx(scores["box_ap50"])
    assert capsys.readouterr().out == ""
    assert set(coco_segmentation.coco_scores(annotations, []).values()) == {0.0}


@pytest.mark.parametrize("form", ["c4", pytest.param("fpn", marks=pytest.mark.slow)])
def test_coco_segmentation_runs(form: str, tmp_path: Path) -> None:
    options = chosen(coco_segmentation, form=form, schedule__iterations="1")
    result: Result = coco_segmentation.run(tiny_subject(tmp_path / "s"), write_coco(tmp_path / "coco"), options)
    assert result.facts.keys() >= FACTS
    assert result.facts["training images with objects"] == 2
    assert result.facts["categories"] == {"seen": 2, "expected": 80}
    assert {name.partition("_")[0] for name in result.metrics} == {"box", "mask"}


@pytest.mark.slow
def test_the_annotations_of_real_photographs_score_themselves_perfectly(shared_data: Path) -> None:
    annotations = coco_segmentation.read_annotations(shared_data / "coco", "val2017")
    images = coco_segmentation.labelled_images(shared_data / "coco" / "val2017", annotations, [])
    ids = coco_segmentation.category_ids(annotations)
    records: list[dict[str, Any]] = []
    for image, described in zip(images, annotations["images"], strict=True):
        found = {
            "boxes": torch.from_numpy(image.box_N4),
            "classes": torch.from_numpy(image.class_N),
            "scores": torch.full((len(image.class_N),), 0.9),
            "masks": torch.from_numpy(outlines_as_masks(image, image.height, image.width)),
        }
        records += coco_segmentation.coco_records(found, described["id"], ids)
    scores = coco_segmentation.coco_scores(annotations, records)
    assert (len(ids), len(scores)) == (80, 12)
    assert scores == pytest.approx(dict.fromkeys(scores, 100.0), abs=0.1)


def test_coco_of_another_layout(tmp_path: Path) -> None:
    annotations = {"images": [], "annotations": [{"image_id": 1}], "categories": []}
    with pytest.raises(UserError, match="not as COCO's \\(KeyError: 'segmentation'\\)"):
        coco_segmentation.labelled_images(tmp_path, annotations, [])
    with pytest.raises(UserError, match=r"instances_train2017\.json .* Expected: ROOT/annotations"):
        coco_segmentation.read_annotations(tmp_path, "train2017")


# ------------------------------------------------------------------------------------------------------------ learning


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", ["voc", "coco"])
def test_two_images_are_learned(task: str, tmp_path: Path) -> None:
    settings = {
        "schedule__iterations": "240",
        "schedule__tenth_at": "200",
        "schedule__lr": "0.03",
        "schedule__warmup_iterations": "20",
        "schedule__precise_bn_iterations": "8",
        "schedule__regions_per_image": "48",
        "sizes__train_short_px": "128",
        "sizes__test_short_px": "128",
    }
    if task == "voc":
        sets = {f"{year}": TWO_IMAGES for year in ("2007/trainval", "2007/test", "2012/trainval")}
        data = write_voc(tmp_path / "data", sets)
        result = voc_detection.run(tiny_subject(tmp_path / "s"), data, chosen(voc_detection, **settings))
        assert result.metrics["ap50"] > 90
        return
    data = write_coco(tmp_path / "data")
    result = coco_segmentation.run(tiny_subject(tmp_path / "s"), data, chosen(coco_segmentation, **settings))
    assert result.metrics["box_ap50"] > 90
    assert result.metrics["mask_ap50"] > 90
