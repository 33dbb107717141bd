"""Training a detector: targets, moving average, resume, and what a user may get wrong. All on a tiny scale."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backdrop.errors import UserError
from backdrop.saliency import report_page
from backdrop.saliency.deepusps2 import pseudo_labels, training_state
from backdrop.saliency.deepusps2.deepusps import default_preset, train
from backdrop.saliency.deepusps2.phases import decayed, phases
from backdrop.saliency.deepusps2.pseudo_labels import square_image
from backdrop.saliency.deepusps2.settings import DeepUspsSettings, check, choose_settings, is_papers
from backdrop.saliency.deepusps2.training_log import read_training_log, run_of
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.inference import encode_png
from backdrop.saliency.trained_detector.drn_detector import load_detector
from backdrop.saliency.trained_detector.sanity_score import read_score
from backdrop.stores.datasets import open_index
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.material.tiny_detector import SETTINGS, draw_images


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    """Ten images of a bright box on noise."""
    return draw_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def finished(index: DatasetIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted training."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(index, run, SETTINGS, num_workers=1)
    return run


def weights(run: Path) -> bytes:
    return (run / "detector.safetensors").read_bytes()


def test_a_finished_run_is_a_detector(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "settings.json",
        "detector.json",
        "detector.safetensors",
        "pseudo_labels.h5",
        "sanity.json",
        "training.jsonl",
    }
    records = [json.loads(line) for line in (finished / "training.jsonl").read_text().splitlines()]
    rounds = [(1, method, round_, e) for method in ("rbd", "mc") for round_ in (1, 2) for e in range(2)]
    expected = [*rounds, *((2, None, 1, e) for e in range(3))]
    assert [(r["stage"], r["method"], r["round"], r["epoch"]) for r in records] == expected
    detector = open_detector(str(finished))
    saliency_HW = detector(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8), "key")
    assert saliency_HW.shape == (50, 70)
    assert saliency_HW.dtype == np.float32
    assert saliency_HW.min() >= 0
    assert saliency_HW.max() <= 1
    assert str(finished) not in json.dumps(detector.identity)


def measured_on(run: Path) -> str:
    score = read_score(run)
    assert score is not None
    return score.set_name


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("num_epochs", [1, 2, 3, 6, 9])
def test_an_interrupted_training_gives_the_same_weights(
    index: DatasetIndex, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_epochs: int
) -> None:
    run, original, count = tmp_path / "run", training_state.save_state, 0

    def save_and_stop(*arguments: object) -> None:
        nonlocal count
        original(*arguments)  # type: ignore[arg-type]
        count += bool(arguments[2])
        if count == num_epochs:
            raise Stopped

    monkeypatch.setattr(training_state, "save_state", save_and_stop)
    with pytest.raises(Stopped):
        train(index, run, SETTINGS, num_workers=1)
    monkeypatch.setattr(training_state, "save_state", original)
    with pseudo_labels.open_labels(run / pseudo_labels.FILE) as file:
        # what the interrupted epoch had already written must not matter
        epoch = training_state.load_state(run)[0].num_epochs
        file["moving_average"][(epoch + 1) % 2] = 77
    train(index, run, SETTINGS, num_workers=1)
    assert weights(run) == weights(finished)
    assert (run / "training.jsonl").read_text() == (finished / "training.jsonl").read_text()


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_weights(index: DatasetIndex, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    program = (
        "from pathlib import Path\n"
        "from backdrop.saliency.deepusps2.deepusps import train\n"
        "from backdrop.stores.datasets import open_index\n"
        "from tests.material.tiny_detector import SETTINGS\n"
        f"train(open_index('folder', root=Path({str(index.root)!r})), {str(run)!r}, SETTINGS, num_workers=1)\n"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", program], cwd=root, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (run / "training.jsonl").is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (run / "training.jsonl").is_file()
    assert not (run / "detector.json").is_file()
    train(index, run, SETTINGS, num_workers=1)
    assert weights(run) == weights(finished)


def test_running_a_finished_training_again_changes_nothing(index: DatasetIndex, finished: Path) -> None:
    before = (finished / "detector.safetensors").stat().st_mtime_ns
    summary = train(index, finished, SETTINGS)
    assert summary["num_images"] == 10
    assert (finished / "detector.safetensors").stat().st_mtime_ns == before


def test_other_settings_are_refused_by_name(index: DatasetIndex, finished: Path) -> None:
    with pytest.raises(UserError, match=r"seed is 0 there, 3 now; settings\.stage2_epochs is 3 there, 9 now"):
        train(index, finished, replace(SETTINGS, stage2_epochs=9), seed=3)


def test_unusable_run_folders_are_refused(index: DatasetIndex, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    for name, match in (("file", "cannot be a run folder"), ("other", "thesis.tex")):
        with pytest.raises(UserError, match=match):
            train(index, tmp_path / name, SETTINGS)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "x"


def test_wrong_settings_are_refused() -> None:
    for wrong in (
        {"architecture": "resnet"},
        {"stage1_learning_rates": ()},
        {"first_thresholds": (0.5,)},
        {"stage2_batch_size": 0},
        {"averaged_epochs": 0},
        {"scales": (0.001,)},
        {"methods": ("rbd", "RBD", "mc", "hs")},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            check(DeepUspsSettings(**wrong))  # type: ignore[arg-type]


def test_a_preset_is_changed_by_name_and_given_more_sources() -> None:
    settings = choose_settings("small", ["stage2_epochs=3", "crf.iterations=2", "scales=0.5,1"], ["masks:/some/Maps"])
    assert (settings.stage2_epochs, settings.crf.iterations, settings.scales) == (3, 2, (0.5, 1.0))
    assert settings.array_names == ("mean", "masks-maps")
    assert settings.first_thresholds[-1] is None
    named = {
        "masks:/some/Maps/": "masks-maps",
        "masks:/some/Maps:alpha:inverted": "masks-maps-alpha-inverted",
        "tokencut:weights/Vit.pth:tau=0.3": "tokencut-vit-pth-tau-0-3",
        "found:a/vit.pth,b/head.pt:single": "found-vit-pth-head-pt-single",
        "artifacts/detector:no-crf": "detector-no-crf",
        "masks:maps": "masks-maps",
    }
    assert replace(settings, methods=tuple(named)).array_names == tuple(named.values())
    both = choose_settings("paper", ["methods=rbd", "first_thresholds=none"])
    assert (both.methods, both.first_thresholds) == (("rbd",), (None,))
    for override, match in (("stage2_epoch=3", "Did you mean stage2_epochs"), ("methods=rbd,mc", "first_thresholds")):
        with pytest.raises(UserError, match=match):
            choose_settings("paper", [override])
    with pytest.raises(UserError, match="give one of paper, small, medium, tiny"):
        choose_settings("large")


@pytest.mark.parametrize(
    ("has_gpu", "has_weights", "preset"),
    [(False, False, "small"), (True, False, "medium"), (False, True, "paper"), (True, True, "paper")],
)
def test_the_default_preset_suits_weights_and_machine(
    has_gpu: bool, has_weights: bool, preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert default_preset(has_weights=has_weights) == preset
    assert capsys.readouterr().err.startswith(f"preset: {preset} (")
    settings = choose_settings(preset)
    assert is_papers(settings) == has_weights
    if not has_weights:  # the papers' 6e-6 would not move random weights
        assert min(*settings.stage1_learning_rates, settings.stage2_learning_rate) > 1e-4


def test_the_papers_network_without_weights_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"broken")  # so that nothing is trained
    index = open_index("folder", root=tmp_path / "images")
    for preset in ("paper", "small"):
        settings = choose_settings(preset, ["methods=rbd", "first_thresholds=0.25"])
        with pytest.raises(UserError, match="none of the 1 images"):
            train(index, tmp_path / preset, settings, num_workers=1)
        warned = "drn_d_105 starts from random weights" in capsys.readouterr().err
        assert warned == (preset == "paper")


def test_without_true_masks_of_its_kind_a_detector_keeps_the_middle(finished: Path) -> None:
    threshold = open_detector(str(finished)).threshold
    assert threshold.value == SETTINGS.refined_threshold == 0.5
    assert "--validation" in threshold.source


def test_broken_images_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = draw_images(tmp_path / "images", 5)
    index.path(2).write_bytes(b"\xff\xd8 broken")
    summary = train(open_index("folder", root=tmp_path / "images"), tmp_path / "run", SETTINGS, num_workers=1)
    assert (summary["num_images"], summary["left_out"]) == (4, ["2.jpg"])
    printed = capsys.readouterr().err
    assert "2.jpg is left out" in printed
    assert "1 of 5 images cannot be decoded" in printed
    for row in range(5):
        index.path(row).write_bytes(b"broken")
    with pytest.raises(UserError, match="none of the 5"):
        train(open_index("folder", root=tmp_path / "images"), tmp_path / "run2", SETTINGS, num_workers=1)


def test_moving_average_is_the_papers(tmp_path: Path) -> None:
    path = tmp_path / "labels.h5"
    pseudo_labels.create(path, np.arange(3), ["rbd"], 2)
    predictions = np.random.default_rng(0).random((4, 3, 2, 2)).astype(np.float32)
    with pseudo_labels.open_labels(path) as file:
        file["status"][:] = pseudo_labels.THERE
        for epoch in range(4):
            pseudo_labels.update_moving_average(file, epoch, [2, 0, 1], predictions[epoch, [2, 0, 1]], 0.7)
        expected = np.zeros((3, 2, 2))
        for epoch in range(4):
            expected = 0.7 * expected + 0.3 * predictions[epoch]
        np.testing.assert_allclose(file["moving_average"][0], expected, atol=1e-6)
        pseudo_labels.finish_round(file, "rbd", 4, 0.7)
        np.testing.assert_allclose(file["refined/rbd"][:] / 255, expected / (1 - 0.7**4), atol=0.5 / 255 + 1e-6)


def test_classical_maps_do_not_depend_on_workers_or_interruption(index: DatasetIndex, tmp_path: Path) -> None:
    contents = []
    for num_workers in (1, 2):
        path = tmp_path / f"{num_workers}.h5"
        pseudo_labels.create(path, np.arange(len(index)), ["rbd"], 32)
        with pseudo_labels.open_labels(path) as file:
            if num_workers == 2:
                file["status"][:5] = pseudo_labels.TO_DO
            pseudo_labels.compute_first_labels(file, index, {"rbd": "rbd"}, num_workers)
            contents.append((file["images"][:], file["classical/rbd"][:]))
    np.testing.assert_array_equal(contents[0][0], contents[1][0])
    np.testing.assert_array_equal(contents[0][1], contents[1][1])
    assert contents[0][1].max() == 255


def test_two_trainings_cannot_share_a_folder(index: DatasetIndex, tmp_path: Path) -> None:
    pseudo_labels.create(tmp_path / "labels.h5", np.arange(2), ["rbd"], 8)
    program = f"import h5py; h5py.File({str(tmp_path / 'labels.h5')!r}, 'r+')"
    with pseudo_labels.open_labels(tmp_path / "labels.h5"):
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "lock" in other.stderr


def test_phases_of_the_paper() -> None:
    settings = DeepUspsSettings()
    plan = phases(settings, (0.31, 0.36, 0.23, 0.25))
    assert len(plan) == 13
    assert [(p.method, p.round, p.targets, p.thresholds, p.learning_rate) for p in plan[:3]] == [
        ("mc", 1, ("classical/mc",), (0.31,), 6e-6),
        ("mc", 2, ("refined/mc",), (0.5,), 1.2e-5),
        ("mc", 3, ("refined/mc",), (0.5,), 3e-5),
    ]
    assert plan[-1].targets == ("refined/mc", "refined/hs", "refined/dsr", "refined/rbd")
    assert (plan[-1].beta_squared, plan[0].beta_squared, plan[-1].num_epochs) == (4.0, 1.0, 200)
    assert decayed(1e-6, 24, 25, 0.9) == pytest.approx(1e-6 * 0.04**0.9)


def test_the_crf_can_be_left_out_or_added(finished: Path, tmp_path: Path) -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    with_crf, without = open_detector(str(finished)), open_detector(f"{finished}:no-crf")
    assert open_detector(f"{finished}:crf").identity == with_crf.identity
    assert without.identity == {**with_crf.identity, "crf": None}
    assert np.abs(with_crf(image_HWC, "key") - without(image_HWC, "key")).max() > 0.01
    for name in ("detector.json", "detector.safetensors"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    content = json.loads((tmp_path / "detector.json").read_text())
    (tmp_path / "detector.json").write_text(json.dumps({**content, "crf": None}))
    assert open_detector(f"{tmp_path}:crf").identity["crf"]["bilateral_sigma_px"] == pytest.approx(80 * 48 / 432)
    with pytest.raises(UserError, match="no detector"):
        open_detector(f"{finished}:maybe")


def test_maps_of_a_batch_are_those_of_its_images(finished: Path) -> None:
    detector = load_detector(finished)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((50, 70), (8, 8), (33, 120))]
    for map_HW, image_HWC in zip(detector.maps(images, ["key"] * 3), images, strict=True):
        assert map_HW.shape == image_HWC.shape[:2]
        np.testing.assert_allclose(map_HW, detector(image_HWC, "key"), atol=1e-5)


def test_another_seed_gives_another_detector(index: DatasetIndex, finished: Path, tmp_path: Path) -> None:
    train(index, tmp_path / "run", SETTINGS, seed=1, num_workers=1)
    assert weights(tmp_path / "run") != weights(finished)


def test_every_phase_is_scored_where_asked(index: DatasetIndex, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "masks").mkdir(parents=True)
    (tmp_path / "set" / "images").symlink_to(index.root)
    for row, key in enumerate(index.keys):
        mask_HW = np.zeros(decode_rgb(index.read(row)).shape[:2], np.uint8)
        mask_HW[20:50, 20:56] = 255
        (tmp_path / "set" / "masks" / f"{Path(key).stem}.png").write_bytes(encode_png(mask_HW))
    train(index, tmp_path / "run", SETTINGS, validation=tmp_path / "set", num_workers=1)
    progress = read_training_log(tmp_path / "run")
    records = progress.scores
    assert len(progress.epochs) == 2 * 2 * 2 + 3, "methods x rounds x epochs, and stage 2"
    assert run_of(f"{tmp_path / 'run'}:no-crf") == tmp_path / "run"
    html = report_page.render([], [progress], images=None, size_px=None)
    assert html.count("<svg") == 3 + 3 * 3, "two scores and the loss, each with a legend of two methods and stage 2"
    assert [record["phase"] for record in records] == [
        *(f"stage 1 {method} round {round_}" for method in ("rbd", "mc") for round_ in (1, 2)),
        "stage 2",
    ]
    assert all(0 <= record["mae"] <= 1 and record["num_images"] == 10 for record in records)
    assert weights(tmp_path / "run") == weights(finished)  # a report, nothing more
    assert open_detector(str(tmp_path / "run")).threshold.source.startswith("best IoU on 5 other images of")
    assert measured_on(tmp_path / "run") == f"5 images of {tmp_path / 'set'}"
    assert measured_on(finished) == "30 drawn pictures"


def test_a_tampered_detector_is_refused(finished: Path, tmp_path: Path) -> None:
    for name in ("detector.json", "detector.safetensors"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    data = bytearray(weights(finished))
    data[-1] ^= 1
    (tmp_path / "detector.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="fresh copy"):
        load_detector(tmp_path)
    content = json.loads((tmp_path / "detector.json").read_text())
    (tmp_path / "detector.json").write_text(json.dumps({**content, "algorithm_version": 99}))
    with pytest.raises(UserError, match="version 99"):
        load_detector(tmp_path)


def test_opening_a_detector_leaves_the_global_generator_alone(finished: Path) -> None:
    before = torch.get_rng_state()
    load_detector(finished)
    assert torch.equal(before, torch.get_rng_state())


def test_images_that_are_gone_are_not_left_out_for_good(tmp_path: Path) -> None:
    absent = tmp_path / "a.jpg"
    with pytest.raises(UserError, match=r"a\.jpg was there when the data set was listed and is gone"):
        square_image(absent, 9, "a.jpg", ["rbd"], 32)
    assert "No such file" in square_image(absent, 0, "a.jpg", ["rbd"], 32).problem
