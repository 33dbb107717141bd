"""The sample data set: drawn once, the same for everybody, whole or not there."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import backdrop.stores.drawn_sample.sample_dataset
from backdrop.errors import UserError
from backdrop.stores.datasets import open_index
from backdrop.stores.drawn_sample.background_variants import NAMES, choose_donor
from backdrop.stores.drawn_sample.sample_dataset import SampleSettings, draw_if_absent, draw_picture, picture_key
from backdrop.stores.images.image_codec import decode_grey, decode_rgb
from tests.material.small_store import tree

SMALL = SampleSettings(num_train=20, num_val=20, side_px=64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "sample"
    draw_if_absent(root, SMALL)
    return root


def test_layout(root: Path) -> None:
    for split in ("train", "val"):
        index = open_index("sample", root=root, split=split)
        assert len(index) == 20
        assert np.bincount(index.labels).tolist() == [2] * 10
        for row in (0, 19):
            mask_HW = decode_grey((root / "masks" / split / index.keys[row]).with_suffix(".png").read_bytes())
            assert mask_HW.shape == decode_rgb(index.read(row)).shape[:2] == (64, 64)
            assert set(np.unique(mask_HW)) == {0, 255}
    assert sorted(path.name for path in (root / "variants").iterdir()) == sorted(NAMES)
    keys = {file.relative_to(root / "val") for file in (root / "val").rglob("*.jpg")}
    for name in NAMES:
        assert {
            file.relative_to(root / "variants" / name) for file in (root / "variants" / name).rglob("*.jpg")
        } == keys


def test_variants_show_what_they_should(root: Path) -> None:
    for key in ("ball/ball_0001", "star/star_0002"):
        foreground_HW = decode_grey((root / "masks/val" / f"{key}.png").read_bytes()) > 0
        shown = {name: decode_rgb((root / "variants" / name / f"{key}.jpg").read_bytes()).astype(int) for name in NAMES}
        assert shown["only_fg"][~foreground_HW].mean() < 6
        assert shown["no_fg"][foreground_HW].mean() < 25
        for name in ("only_fg", "mixed_same", "mixed_rand", "mixed_next"):
            assert np.abs(shown[name] - shown["original"])[foreground_HW].mean() < 14
        for name in ("mixed_same", "mixed_rand", "mixed_next"):
            assert np.abs(shown[name] - shown["original"])[~foreground_HW].mean() > 4


def test_a_picture_depends_on_seed_split_and_number_only(root: Path) -> None:
    image_HWC, mask_HW = draw_picture(SMALL, "train", 13)
    more = SampleSettings(num_train=900, num_val=50, side_px=64)
    np.testing.assert_array_equal(draw_picture(more, "train", 13)[0], image_HWC)
    np.testing.assert_array_equal(
        decode_grey((root / "masks/train" / f"{picture_key(13)}.png").read_bytes()), mask_HW * 255
    )
    others = [draw_picture(SMALL, "val", 13), draw_picture(SMALL, "train", 23)]
    others.append(draw_picture(SampleSettings(seed=1, side_px=64), "train", 13))
    assert all((other[0] != image_HWC).any() for other in others)


def test_masks_are_true_and_whole() -> None:
    for number in range(40):
        _, mask_HW = draw_picture(SampleSettings(), "train", number)
        assert 0.03 < mask_HW.mean() < 0.5
        assert mask_HW[[0, -1]].mean() < 0.2
        assert mask_HW[:, [0, -1]].mean() < 0.2


def test_background_correlation_is_a_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, str]] = []
    monkeypatch.setattr(
        backdrop.stores.drawn_sample.sample_dataset,
        "draw",
        lambda rng, number, family, side: drawn.append((number, family)),
    )

    def share_on_own_background(correlation: float) -> float:
        drawn.clear()
        for number in range(600):
            draw_picture(SampleSettings(background_correlation=correlation), "val", number)
        return float(
            np.mean(
                [backdrop.stores.drawn_sample.sample_dataset.BACKGROUNDS[number] == family for number, family in drawn]
            )
        )

    assert share_on_own_background(1.0) == 1.0
    assert share_on_own_background(0.7) == pytest.approx(0.73, abs=0.06)  # 0.7 + 0.3 / 10
    assert share_on_own_background(0.0) == pytest.approx(0.1, abs=0.04)


def test_what_is_there_is_kept_and_other_things_are_refused(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    draw_if_absent(root)
    draw_if_absent(root, SMALL)
    assert tree(root) == before
    with pytest.raises(UserError, match="sample data set of other settings"):
        draw_if_absent(root, SampleSettings(seed=5))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UserError, match="something other than the sample"):
        draw_if_absent(tmp_path / "photos", SMALL)


DRAW = (
    "import sys; from pathlib import Path; from backdrop.stores.drawn_sample.sample_dataset import *; "
    f"draw_if_absent(Path(sys.argv[1]), {SMALL})"
)


def test_a_killed_draw_leaves_nothing_and_the_same_command_draws(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "sample"
    command = [sys.executable, "-c", DRAW, str(target)]
    repository = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("sample.drawing-*/train/*/*.jpg")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    draw_if_absent(target, SMALL)
    assert tree(target) == tree(root)
    assert os.listdir(tmp_path) == ["sample"]


def draw_at(root: Path) -> None:
    draw_if_absent(root, SMALL)


def test_two_processes_may_draw_at_once(root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=draw_at, args=(tmp_path / "sample",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert tree(tmp_path / "sample") == tree(root)


def test_a_donor_is_another_image_of_the_class_that_the_variant_names() -> None:
    class_N = np.array([0, 1, 0, 2, 1, 0])
    for row, own in enumerate(class_N):
        for seed in range(20):
            of_variant = {
                variant: choose_donor(np.random.default_rng(seed), variant, row, class_N, 3)
                for variant in ("mixed_same", "mixed_next", "mixed_rand")
            }
            assert row not in of_variant.values()
            if own == 2:
                assert of_variant["mixed_same"] is None  # alone in its class
            else:
                assert class_N[of_variant["mixed_same"]] == own
            assert class_N[of_variant["mixed_next"]] == (own + 1) % 3
    drawn = [choose_donor(np.random.default_rng(seed), "mixed_rand", 0, class_N, 3) for seed in range(50)]
    assert {class_N[row] for row in drawn} == {0, 1, 2}
