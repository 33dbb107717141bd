"""The parts of a probe: kept features, cuts, schedule, steps, resuming, and what may not change."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import functional as theirs

from backdrop.errors import UserError
from backdrop.pipeline.views import crops
from backdrop.trainer.downstream_settings import check_schedule
from backdrop.trainer.evaluation.data.images import ArrayImages, Images
from backdrop.trainer.evaluation.data.transforms import Transform, random_resized_crop, resized_to_square
from backdrop.trainer.evaluation.harness.subject import weights_digest
from backdrop.trainer.evaluation.probing import features as _features
from backdrop.trainer.evaluation.probing import frozen_backbone as _frozen_backbone
from backdrop.trainer.evaluation.probing import probe as _probe
from backdrop.trainer.evaluation.probing.features import FeatureFile, features_of
from backdrop.trainer.evaluation.probing.frozen_backbone import Probing, fit_head
from backdrop.trainer.evaluation.probing.probe import (
    Fit,
    Schedule,
    epoch_batches,
    fit,
    lr_fraction,
    new_head,
    score,
    split,
)
from backdrop.trainer.parts.backbones import Backbone
from tests.reference import linear_probe as reference

CPU = torch.device("cpu")
PLAIN = resized_to_square(8)


def random_images(num_images: int, seed: int = 0) -> ArrayImages:
    image_NHWC = np.random.default_rng(seed).integers(0, 256, (num_images, 10, 12, 3), dtype=np.uint8)
    return ArrayImages(image_NHWC, np.arange(num_images) % 3)


def colour_backbone(*, has_batch_norm: bool = False) -> Backbone:
    layers: dict[str, nn.Module] = {"pool": nn.AdaptiveAvgPool2d(2)}
    return Backbone(layers | ({"bn": nn.BatchNorm2d(3)} if has_batch_norm else {}), 3).eval()


def probing(folder: Path, backbone: Backbone, **changes: object) -> Probing:
    train, val = random_images(23, 1), random_images(7, 2)
    base = Probing(
        backbone=backbone,
        weights_sha256=weights_digest(backbone, None),
        name="test",
        folder=folder,
        device=CPU,
        train=train,
        val=val,
        num_classes=3,
        val_transform=PLAIN,
        transform_of_epoch=lambda epoch: random_resized_crop(8, seed=5, epoch=epoch),
        images_per_pass=4,
        cache_dtype="float32",
    )
    return replace(base, **changes)


# ---------------------------------------------------------------------------------------------------------- features


def test_features_are_kept_and_go_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_features, "BATCH_SIZE", 4)
    monkeypatch.setattr(_features, "_BATCHES_PER_FLUSH", 1)
    for row in range(10):
        image_HWC = np.full((8, 8, 3), 20 * row, np.uint8)
        Image.fromarray(image_HWC).save(tmp_path / f"{row}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    images = Images(tmp_path, tuple(f"{row}.png" for row in range(11)), np.zeros(11, np.int64))  # the last is not there
    num_seen: list[int] = []

    def answer(image_BCHW: torch.Tensor) -> torch.Tensor:
        num_seen.append(len(image_BCHW))
        if len(num_seen) == 3:
            raise KeyboardInterrupt
        return image_BCHW.mean(dim=(2, 3))

    def found() -> _features.Features:
        return features_of(
            answer,
            images,
            PLAIN,
            file=FeatureFile(folder=tmp_path / "kept", name="f"),
            identity=("weights",),
            device=CPU,
        )

    with pytest.raises(KeyboardInterrupt):
        found()
    kept = found()
    assert num_seen == [1, 3, 4, 4, 2]  # one to see how many features there are; the first batch is not done again
    assert kept.corrupt == ("3.png", "10.png")
    assert kept.row_M.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert kept.feature_ND.dtype == np.float16
    expected = (20 * kept.row_M[:, None] / 255 - np.array(PLAIN.mean)) / np.array(PLAIN.std)
    np.testing.assert_allclose(kept.feature_ND[kept.row_M], expected, rtol=1e-3, atol=1e-3)
    found()
    assert len(num_seen) == 5  # nothing is computed again
    (path,) = (tmp_path / "kept").iterdir()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["features"][:], kept.feature_ND)
        assert file["status"][:].tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2]


def test_features_of_other_weights_images_or_cuts_are_others(tmp_path: Path) -> None:
    def keep(identity: str = "a", seed: int = 0, transform: Transform = PLAIN, dtype: str = "float16") -> None:
        features_of(
            lambda image: image.mean(dim=(2, 3)), random_images(3, seed), transform,
            file=FeatureFile(folder=tmp_path, name="f", dtype=dtype), identity=(identity,), device=CPU,
        )  # fmt: skip

    keep()
    keep()
    assert len(list(tmp_path.iterdir())) == 1
    for number, change in enumerate(
        (
            {"identity": "b"},
            {"seed": 1},
            {"transform": resized_to_square(9)},
            {"transform": replace(PLAIN, std=(1, 1, 1))},
            {"dtype": "float32"},
        )
    ):
        keep(**change)
        assert len(list(tmp_path.iterdir())) == number + 2


def test_features_that_cannot_be_are_named(tmp_path: Path) -> None:
    def keep(factor: float, dtype: str = "float16") -> None:
        features_of(
            lambda image: image.mean(dim=(2, 3)) * factor, random_images(3), PLAIN,
            file=FeatureFile(folder=tmp_path, name="f", dtype=dtype), identity=(str(factor),), device=CPU,
        )  # fmt: skip

    with pytest.raises(UserError, match="not finite"):
        keep(float("nan"))
    with pytest.raises(UserError, match="float16"):
        keep(1e9)
    keep(1e9, "float32")
    damaged = next(tmp_path.iterdir())
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="delete it") as caught:
        keep(1e9, "float32")
    assert damaged.parent.name in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- cuts


def test_training_crops_are_torchvisions_of_the_drawn_box() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    plan = crops.ViewPlan(views=(crops.View(scale=(0.08, 1.0)),))
    whole = crops.foreground(np.full((60, 12), 255, np.uint8), 90)
    flips = 0
    for row in range(12):
        box, *_ = crops.draw_box(plan, 0, whole, seed=1, epoch=2, row=row)
        expected = np.asarray(theirs.resized_crop(Image.fromarray(image_HWC), *box, [16, 16]))
        actual = random_resized_crop(16, seed=1, epoch=2).apply(image_HWC, row)
        is_flipped = np.array_equal(actual, expected[:, ::-1])
        assert is_flipped or np.array_equal(actual, expected)
        flips += is_flipped
    assert 2 <= flips <= 10
    assert random_resized_crop(16, seed=1, epoch=3).identity != random_resized_crop(16, seed=1, epoch=2).identity


# ---------------------------------------------------------------------------------------------------- steps and rate


def test_no_row_is_dropped_and_none_is_left_alone() -> None:
    assert [len(piece) for piece in split(np.arange(12_811), 2048)] == [2048] * 6 + [523]
    assert [piece.tolist() for piece in split(np.arange(5), 2)] == [[0, 1], [2, 3, 4]]
    assert [piece.tolist() for piece in split(np.arange(1), 2)] == [[0]]
    schedule = Schedule(epochs=2, batch_size=8, lr=1.0)
    first, again, second = (epoch_batches(np.arange(30, 50), schedule, seed=0, epoch=epoch) for epoch in (0, 0, 1))
    assert sorted(np.concatenate(first)) == list(range(30, 50))
    assert np.concatenate(first).tolist() == np.concatenate(again).tolist() != np.concatenate(second).tolist()


def test_the_rate_follows_its_schedule() -> None:
    steps = Schedule(
        epochs=10, batch_size=2048, lr=30.0, warmup_epochs=2, step_epochs=(4, 6), step_fractions=(0.1, 0.01)
    )
    assert steps.peak_lr == 240.0
    assert [lr_fraction(steps, epoch) for epoch in (0, 1, 2, 3.99, 4, 5.5, 6, 9)] == [
        0,
        0.5,
        1,
        1,
        0.1,
        0.1,
        0.01,
        0.01,
    ]
    cosine = Schedule(epochs=12, batch_size=32, lr=0.08, warmup_epochs=2)
    assert cosine.peak_lr == pytest.approx(0.01)
    assert [lr_fraction(cosine, epoch) for epoch in (1, 2, 7, 12)] == pytest.approx([0.5, 1.0, 0.5, 0.0])
    for wrong in ({"step_epochs": (4,)}, {"step_epochs": (6, 4)}, {"warmup_epochs": 10}, {"epochs": 0}, {"lr": -1.0}):
        with pytest.raises(UserError):
            check_schedule(replace(steps, **wrong))


def test_top_accuracies_count_equal_logits_once() -> None:
    logits_BC = torch.tensor([[1.0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0]])
    assert score(nn.Identity(), [(logits_BC, torch.tensor([0, 1, 5, 4]))]) == {"top1": 25.0, "top5": 75.0}


def problem(num_rows: int, num_features: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    label_N = rng.integers(0, num_classes, num_rows)
    centre_CD = rng.normal(size=(num_classes, num_features))
    return (centre_CD[label_N] + rng.normal(size=(num_rows, num_features))).astype(np.float32), label_N


def new_fit(num_features: int, num_classes: int) -> Fit:
    head = new_head(num_features, num_classes, init_std=0.01, seed=0)
    return Fit(model=head, groups=[{"params": list(head.parameters()), "lr_factor": 1.0}])


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_equal_the_loop_reference(nesterov: bool, tmp_path: Path) -> None:
    feature_ND, label_N = problem(11, 5, 4)
    schedule = Schedule(
        epochs=3, batch_size=4, lr=20.0, weight_decay=0.01, warmup_epochs=1, nesterov=nesterov,
        step_epochs=(2,), step_fractions=(0.1,),
    )  # fmt: skip

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in epoch_batches(np.arange(11), schedule, seed=0, epoch=epoch):
            yield torch.from_numpy(feature_ND[rows]), torch.from_numpy(label_N[rows])

    state = new_fit(5, 4)
    weight, bias = state.model.weight.detach().numpy().copy(), state.model.bias.detach().numpy().copy()
    assert bias.tolist() == [0] * 4
    assert weight.std() == pytest.approx(0.01, rel=0.4)
    fit(state, schedule, batches, lambda: batches(0), num_rows=11, path=tmp_path / "fit")
    rates = [20.0 * 4 / 256 * fraction for fraction in (0, 1 / 3, 2 / 3, 1, 1, 1, 0.1, 0.1, 0.1)]
    steps = [(f.numpy(), label.numpy()) for epoch in range(3) for f, label in batches(epoch)]
    expected = reference.sgd(weight, bias, steps, rates, weight_decay=0.01, momentum=0.9, nesterov=nesterov)
    np.testing.assert_allclose(state.model.weight.detach().numpy(), expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.model.bias.detach().numpy(), expected[1], rtol=1e-4, atol=1e-6)


def test_the_fit_goes_to_the_optimum(tmp_path: Path) -> None:
    feature_ND, label_N = problem(40, 5, 3)
    decay = 0.02
    whole = (torch.from_numpy(feature_ND), torch.from_numpy(label_N))
    state = new_fit(5, 3)
    schedule = Schedule(epochs=5, batch_size=40, lr=1.92, weight_decay=decay)
    fit(state, schedule, lambda epoch: [whole] * 40, lambda: [whole], num_rows=1600, path=tmp_path / "fit")
    assert state.history[0]["loss"] < np.log(3)
    assert state.best["top1"] == max(scores["top1"] for scores in state.history) >= state.last["top1"]
    weight, bias = (value.detach().numpy().astype(np.float64) for value in (state.model.weight, state.model.bias))
    loss, *_ = reference.gradient(weight, bias, feature_ND, label_N, decay)
    penalty = decay / 2 * ((weight**2).sum() + (bias**2).sum())
    assert loss + penalty == pytest.approx(reference.optimum(feature_ND, label_N, 3, decay), abs=1e-5)


def test_a_fit_that_diverges_or_whose_state_is_damaged_says_so(tmp_path: Path) -> None:
    batch = [(torch.full((2, 5), float("inf")), torch.tensor([0, 1]))]
    schedule = Schedule(epochs=1, batch_size=2, lr=1.0)
    with pytest.raises(UserError, match="smaller rate"):
        fit(new_fit(5, 3), schedule, lambda epoch: batch, lambda: batch, num_rows=2, path=tmp_path / "fit")
    (tmp_path / "fit").write_bytes(b"cut")
    with pytest.raises(UserError, match="delete it"):
        fit(new_fit(5, 3), schedule, lambda epoch: batch, lambda: batch, num_rows=2, path=tmp_path / "fit")


# --------------------------------------------------------------------------------------------------- frozen backbone


@pytest.mark.parametrize("bn_mode", ["eval", "adapt"])
def test_a_killed_fit_goes_on_as_if_nothing_had_happened(
    bn_mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(epochs=4, batch_size=8, lr=10.0)

    def settings(folder: str) -> Probing:
        return probing(tmp_path / folder, colour_backbone(has_batch_norm=True), bn_mode=bn_mode)

    whole_probing = settings("whole")
    whole = fit_head(whole_probing, schedule)
    num_epochs = 0
    one_epoch = _probe._one_epoch

    def killed(*arguments: object) -> float:
        nonlocal num_epochs
        num_epochs += 1
        if num_epochs == 3:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    monkeypatch.setattr(_probe, "_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_head(settings("cut"), schedule)
    resumed_probing = settings("cut")
    resumed = fit_head(resumed_probing, schedule)
    assert num_epochs == 5  # two, the one that was killed, and the two that were left
    assert resumed.history == whole.history
    for actual, expected in ((resumed.model, whole.model), (resumed_probing.backbone, whole_probing.backbone)):
        for name, value in expected.state_dict().items():
            assert torch.equal(actual.state_dict()[name], value), name
    assert fit_head(settings("cut"), schedule).history == whole.history
    assert num_epochs == 5  # it was done


def test_kept_crops_train_the_same_classifier_as_fresh_ones(tmp_path: Path) -> None:
    schedule = Schedule(epochs=3, batch_size=8, lr=10.0)
    fresh = fit_head(probing(tmp_path / "fresh", colour_backbone()), schedule)
    cuts = tuple(random_resized_crop(8, seed=5, epoch=epoch) for epoch in range(3))
    kept = fit_head(
        probing(
            tmp_path / "kept", colour_backbone(), transform_of_epoch=None, cached_transforms=cuts,
            cached_transform_of=lambda epoch, rows: np.full(len(rows), epoch),
        ),
        schedule,
    )  # fmt: skip
    torch.testing.assert_close(kept.model.state_dict(), fresh.model.state_dict())
    assert kept.history == [pytest.approx(scores) for scores in fresh.history]
    with pytest.raises(UserError, match="bn_mode=eval"):
        fit_head(probing(tmp_path, colour_backbone(), cached_transforms=cuts, bn_mode="adapt"), schedule)


def test_adapting_moves_statistics_and_nothing_else(tmp_path: Path) -> None:
    """One epoch of three groups of images: the running mean is momentum's average of theirs, by hand."""
    backbone = colour_backbone(has_batch_norm=True)
    with torch.no_grad():
        backbone.bn.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    settings = probing(tmp_path, backbone, bn_mode="adapt", transform_of_epoch=lambda epoch: PLAIN)
    fit_head(settings, Schedule(epochs=1, batch_size=12, lr=1.0), seed=3)
    mean_C = np.zeros(3)
    for step in epoch_batches(np.arange(23), Schedule(epochs=1, batch_size=12, lr=1.0), seed=3, epoch=0):
        for rows in split(step, 4):
            images = np.stack([PLAIN.apply(settings.train.pixels(row), row) for row in rows]) / 255
            normalised = (images - np.array(PLAIN.mean)) / np.array(PLAIN.std)
            mean_C = 0.9 * mean_C + 0.1 * normalised.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(backbone.bn.running_mean.numpy(), mean_C, rtol=1e-4, atol=1e-6)
    assert backbone.bn.weight.tolist() == [1.0, 2.0, 3.0]
    assert not backbone.training
    still = colour_backbone(has_batch_norm=True)
    fit_head(probing(tmp_path, still), Schedule(epochs=1, batch_size=12, lr=1.0))
    assert still.bn.running_mean.tolist() == [0, 0, 0]


def test_a_backbone_that_moves_is_noticed(tmp_path: Path) -> None:
    class Moving(nn.BatchNorm2d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.weight += 1
            return super().forward(image)

    for bn_mode in ("eval", "adapt"):
        backbone = Backbone({"bn": Moving(3)}, 3).eval()
        with pytest.raises(AssertionError, match="changed the backbone"):
            fit_head(probing(tmp_path, backbone, bn_mode=bn_mode), Schedule(epochs=1, batch_size=8, lr=1.0))


def test_rotnets_classifier_looks_at_a_map_of_six_by_six(tmp_path: Path) -> None:
    backbone = Backbone({"pool": nn.AdaptiveAvgPool2d(13)}, 3).eval()
    settings = probing(tmp_path, backbone, pooling="max6", val_transform=resized_to_square(26))
    image = torch.arange(3 * 26 * 26, dtype=torch.float32).reshape(1, 3, 26, 26)
    map_BChw = backbone.forward_map(image)
    answer = settings.features(image).reshape(3, 6, 6)
    for row in range(6):  # fields of three with stride two, as Gidaris et al. pool a map of 13 x 13
        expected = map_BChw[0, :, 2 * row : 2 * row + 3, 4:7].amax(dim=(1, 2))
        assert torch.equal(answer[:, row, 2], expected)
    model = _frozen_backbone._model(settings, init_std=0.5, has_batch_norm=True, seed=0)
    assert [type(layer).__name__ for layer in model] == ["Unflatten", "BatchNorm2d", "Flatten", "Linear"]
    assert not list(model[1].parameters())
    assert fit_head(settings, Schedule(epochs=1, batch_size=8, lr=0.1), has_batch_norm=True).epochs_done == 1
