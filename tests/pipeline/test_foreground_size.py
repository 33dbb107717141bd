"""How large the masks of a build are: counted, shown, and warned about with a command that works."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from backdrop import cli
from backdrop.pipeline.build.foreground_size import Another, foreground_size, histogram, warning
from backdrop.saliency.inference import encode_png
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import NOT_BUILT, Status
from backdrop.stores.images.image_codec import encode_jpeg

AGAIN = Another(words=["--dataset", "coco"], source=Path("a/s.zarr"), out=Path("a/s.zarr"), tried=0.9, own=0.3)


def size_of(*fractions: float) -> dict:
    """Of rows with these fractions; 0 and 1 are the empty and the full mask."""
    kinds = {0: Status.NO_FOREGROUND, 1: Status.ALL_FOREGROUND}
    return foreground_size(
        np.array(fractions, np.float32), np.array([kinds.get(fraction, Status.OK) for fraction in fractions], np.uint8)
    )


def test_masks_are_counted_by_their_size() -> None:
    size = size_of(0, 0, 0.01, 0.049, 0.07, 0.35, 0.99, 1)
    assert size["histogram"] == {
        "none": 2, "0 to 5 %": 2, "5 to 10 %": 1, "10 to 20 %": 0, "20 to 30 %": 0, "30 to 40 %": 1, "40 to 60 %": 0,
        "60 to 80 %": 0, "80 to 100 %": 1, "all": 1,
    }  # fmt: skip
    assert size["num_masks"] == sum(size["histogram"].values()) == 8
    assert size["median"] == pytest.approx((0.049 + 0.07) / 2, abs=1e-4)


def test_rows_without_a_mask_are_left_out() -> None:
    statuses = [Status.OK, Status.DECODE_ERROR, Status.MASK_ERROR, NOT_BUILT]
    size = foreground_size(np.array([0.2, 0, 0, 0], np.float32), np.array(statuses, np.uint8))
    assert (size["num_masks"], size["median"]) == (1, pytest.approx(0.2))
    nothing = foreground_size(np.zeros(1, np.float32), np.array([Status.DECODE_ERROR], np.uint8))
    assert (nothing["num_masks"], nothing["median"]) == (0, None)
    assert histogram(nothing) == "foreground: no row has a mask"
    assert warning(nothing, AGAIN) == ""


def test_the_histogram_has_a_line_per_kind() -> None:
    lines = histogram(size_of(0, 0.02, 0.02, 0.15)).splitlines()
    assert lines[0] == "foreground: half of the masks cover less than 2.0% of their image"
    assert [line.split()[-1] for line in lines[1:5]] == ["#" * 20, "#" * 40, "0", "#" * 20]
    assert len(lines) == 1 + 10


@pytest.mark.parametrize(
    ("fractions", "words", "threshold"),
    [
        ((0.2, 0.3, 0.4), "", ""),
        ((0.01, 0.02, 0.4), "cover less than 2.0% of their image", "0.3"),
        ((0.7, 0.7, 0.1), "cover more than 70% of their image", "0.95"),
        ((0, 0, 0, 0, 0.2), "80% of the masks are empty", "0.3"),
        ((0, 0.2, 0.2), "33% of the masks are empty", "0.3"),
        ((0, *[0.2] * 9), "", ""),
    ],
)
def test_what_cannot_be_right_is_said_with_the_way_out(
    fractions: tuple[float, ...], words: str, threshold: str
) -> None:
    said = warning(size_of(*fractions), AGAIN)
    assert words in said
    assert bool(said) == bool(words)
    if words:
        command = said.splitlines()[-1]
        assert command.strip() == (
            f"python cli.py build-store --dataset coco --from a/s.zarr --threshold {threshold} "
            f"--out a/s-{threshold}.zarr"
        )


def test_the_detectors_own_threshold_is_not_advised_twice() -> None:
    from dataclasses import replace

    for again in (replace(AGAIN, tried=0.3), replace(AGAIN, tried=0.3, own=None), replace(AGAIN, tried=0.3, own=0.5)):
        assert "--threshold 0.15 --out a/s-0.15.zarr" in warning(size_of(0.01, 0.01), again)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images whose maps are .8 on 2 % of them and .6 on a fifth."""
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
    map_HW = np.zeros((40, 50), np.uint8)
    map_HW[:20, :20] = 153
    map_HW[:8, :5] = 204
    for number in range(4):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(encode_jpeg(np.full((40, 50, 3), 99, np.uint8)))
        (tmp_path / "maps" / f"{number}.png").write_bytes(encode_png(map_HW))
    return tmp_path


def run(*words: str) -> Result:
    result = CliRunner().invoke(cli.main, [*words, "--no-beton"])
    assert result.exit_code == 0, result.output
    return result


def build_words(folder: Path) -> list[str]:
    return ["build-store", "--dataset", "folder", "--root", str(folder / "images"), "--detector",
            f"masks:{folder / 'maps'}", "--out", str(folder / "s.zarr")]  # fmt: skip


@pytest.mark.parametrize("more", [["--soft-maps"], []])
def test_the_command_of_the_warning_cuts_anew(images: Path, more: list[str]) -> None:
    built = run(*build_words(images), *more, "--threshold", "0.7")
    assert "foreground: half of the masks cover less than 2.0% of their image" in built.stderr
    assert "warning: half of the masks" in built.stderr
    command = built.stderr.split("python cli.py ")[1].splitlines()[0]
    assert ("--from" in command) == bool(more)
    again = run(*shlex.split(command))
    assert "warning" not in again.stderr
    store = open_store(images / "s-0.5.zarr")
    assert store.foreground_fraction.tolist() == pytest.approx([0.2] * 4)
    assert store.identity["mask"]["threshold"] == "0.5"


def test_a_build_at_the_detectors_own_threshold_says_so_and_does_not_warn(images: Path) -> None:
    built = run(*build_words(images))
    assert "threshold: 0.5 (the middle of 0 and 255; masks are the same at any)" in built.stderr
    assert "20.0% of their image" in built.stderr
    assert "warning" not in built.stderr


def test_a_plan_shows_the_size_on_its_sample(images: Path) -> None:
    planned = run(*build_words(images), "--plan", "--threshold", "0.7")
    assert "warning: half of the masks cover less than 2.0%" in planned.stderr
    assert '"median": 0.02' in planned.stdout
    assert not (images / "s.zarr").exists()
