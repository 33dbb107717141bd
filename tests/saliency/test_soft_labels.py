"""What the preset for a CPU does otherwise than the papers: soft labels, shares of labels and CRF, companions."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from backdrop.errors import UserError
from backdrop.saliency.classical_detector import ClassicalDetector
from backdrop.saliency.crf.dense_crf import DEFAULTS, refine
from backdrop.saliency.deepusps2 import pseudo_labels
from backdrop.saliency.deepusps2.deepusps import train
from backdrop.saliency.deepusps2.refinement import Refiner
from backdrop.saliency.deepusps2.settings import PRESETS, DeepUspsSettings, check, choose_settings
from backdrop.saliency.networks.drn import DrnSegmenter
from backdrop.saliency.trained_detector.drn_detector import (
    DetectorDescription,
    DrnDetector,
    load_detector,
    save_detector,
)
from tests.material.tiny_detector import SETTINGS, draw_images
from tests.reference import saliency_losses as reference

PLAIN = DetectorDescription(
    architecture="drn_d_tiny", working_size_px=32, mean_RGB=(0.5, 0.5, 0.5), std_RGB=(1, 1, 1), crf_size_px=32
)


def detector(description: DetectorDescription) -> DrnDetector:
    torch.manual_seed(0)
    return DrnDetector(DrnSegmenter(description.architecture), description, "cpu")


def image() -> np.ndarray:
    image_HWC = np.random.default_rng(0).integers(60, 100, (40, 60, 3)).astype(np.uint8)
    image_HWC[10:30, 12:40] = (230, 60, 20)
    return image_HWC


def test_labels_that_weigh_all_come_out_soft_and_unsharpened(tmp_path: Path) -> None:
    settings = replace(
        SETTINGS,
        methods=("rbd",),
        first_thresholds=(0.25,),
        label_softness=0.08,
        label_share=1.0,
        crf_share=0.0,
        stage1_learning_rates=(1e-3, 1e-3),
        stage1_epochs=1,
        stage2_epochs=1,
        crf_at_test=False,
    )
    index = draw_images(tmp_path / "images", 4)
    train(index, tmp_path / "run", settings, num_workers=1)
    with pseudo_labels.open_labels(tmp_path / "run" / pseudo_labels.FILE) as file:
        first, refined = file["classical/rbd"][:] / 255, file["refined/rbd"][:]
    expected = np.vectorize(reference.soft_label)(first, 0.25, 0.08) * 255
    # of two rounds: the second takes what the first made as it is
    np.testing.assert_allclose(refined, expected, atol=1.01)


def test_the_crf_has_its_share() -> None:
    image_HWC, map_HW = image(), np.random.default_rng(1).random((40, 60)).astype(np.float32)
    with Refiner(DEFAULTS, 1, share=0.25) as refiner:
        refiner.put(np.array([3]), torch.from_numpy(image_HWC)[None], torch.from_numpy(map_HW)[None])
        ((places, maps_BHW),) = refiner.take(everything=True)
    assert places.tolist() == [3]
    np.testing.assert_allclose(maps_BHW[0], 0.25 * refine(image_HWC, map_HW, DEFAULTS) + 0.75 * map_HW, atol=1e-6)


def test_the_crf_of_a_finished_detector_may_weigh_less() -> None:
    settings = replace(PRESETS["tiny"], crf_at_test=True, crf_test_size_px=256, crf_test_weight=0.5)
    crf = settings.test_crf
    assert crf is not None
    assert crf == replace(DEFAULTS.at_scale(2), spatial_weight=1.5, bilateral_weight=5.0)
    assert settings.crf == DEFAULTS


def test_the_mirrored_image_counts_as_much() -> None:
    plain, both = detector(PLAIN), detector(replace(PLAIN, mirrors=True))
    image_HWC = np.ascontiguousarray(cv2.resize(image(), (32, 32)))
    mirrored_HW = plain(np.ascontiguousarray(image_HWC[:, ::-1]), "")[:, ::-1]
    np.testing.assert_allclose(both(image_HWC, ""), (plain(image_HWC, "") + mirrored_HW) / 2, atol=1e-6)


@pytest.mark.parametrize("crf", [None, DEFAULTS])
def test_companions_are_averaged_in_before_the_crf(crf: object) -> None:
    with_crf = replace(PLAIN, crf=crf)  # type: ignore[arg-type]
    image_HWC = np.ascontiguousarray(cv2.resize(image(), (32, 32)))
    network_HW = detector(PLAIN)(image_HWC, "")
    labels = []
    for name in ("rbd", "mc"):
        companion = ClassicalDetector(name)
        soft = np.vectorize(reference.soft_label)(companion(image_HWC, ""), companion.threshold.value, 0.08)
        labels.append(soft)
    expected = (0.6 * network_HW + 0.4 * np.mean(labels, axis=0)).astype(np.float32)
    found = detector(replace(with_crf, companions=("rbd", "mc"), companion_share=0.4))
    if crf is not None:
        expected = refine(image_HWC, expected, DEFAULTS)
    np.testing.assert_allclose(found(image_HWC, ""), expected, atol=1e-4)
    assert [each["name"] for each in found.identity["companions"]] == ["rbd", "mc"]


def test_detectors_without_them_keep_their_identity(tmp_path: Path) -> None:
    later = {"mirrors", "companions", "companion_share"}
    assert not later & detector(PLAIN).identity.keys()
    described = replace(PLAIN, mirrors=True, companions=("rbd",), companion_share=0.5)
    save_detector(tmp_path, DrnSegmenter("drn_d_tiny"), described)
    assert later < json.loads((tmp_path / "detector.json").read_text()).keys()
    assert load_detector(tmp_path, device="cpu").identity["companions"] == [ClassicalDetector("rbd").identity]


def test_a_run_of_the_papers_settings_keeps_its_identity(tmp_path: Path) -> None:
    one = replace(SETTINGS, methods=("rbd",), first_thresholds=(0.25,), stage1_epochs=1, stage2_epochs=1)
    index = draw_images(tmp_path / "images", 4)
    train(index, tmp_path / "run", replace(one, mirrored_at_test=True), num_workers=1)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]
    assert settings["mirrored_at_test"] is True
    assert "label_softness" not in settings
    assert "flip" in settings


def test_shares_need_what_they_are_of() -> None:
    for wrong, match in (
        ({"label_share": 0.5}, "give label_softness"),
        ({"companions": ("rbd",)}, "need each other"),
        ({"companion_share": 0.5}, "need each other"),
        ({"companions": ("u2net",), "companion_share": 0.5}, "companions"),
    ):
        with pytest.raises(UserError, match=match):
            check(DeepUspsSettings(**wrong))  # type: ignore[arg-type]
    alone = choose_settings("small", ["companions=none", "companion_share=0"])
    assert alone.companions is None
    assert PRESETS["paper"].crf_test_weight == 1
    ours = ("label_softness", "label_share", "crf_share", "companions", "mirrored_at_test")
    assert not any(getattr(PRESETS["paper"], name) for name in ours)
