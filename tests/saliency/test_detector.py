"""Detectors by name, thresholds, and folders of maps."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.saliency.binarise import binarise
from backdrop.saliency.default_detector import default_detector
from backdrop.saliency.detector import MaskError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.inference import encode_png, predict_folder
from backdrop.stores.format.schema import Status
from backdrop.stores.images.image_codec import decode_grey, encode_jpeg

IMAGE_HWC = np.zeros((5, 7, 3), np.uint8)


def test_binarise() -> None:
    mask_HW, status = binarise(np.array([[0.95, 0.9], [0.5, 1.0]], np.float32), threshold=0.9)
    assert mask_HW.dtype == np.uint8
    # float32(0.9) is below 0.9
    assert mask_HW.tolist() == [[1, 0], [0, 1]]
    assert status is Status.OK
    assert binarise(np.zeros((2, 2)), 0.5)[1] is Status.NO_FOREGROUND
    assert binarise(np.ones((2, 2)), 0.5)[1] is Status.ALL_FOREGROUND
    with pytest.raises(UserError, match=r"1\.0"):
        binarise(np.ones((2, 2)), threshold=1.0)


def test_unknown_names_say_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rbd"):
        open_detector("u2net")
    with pytest.raises(UserError, match="not finished"):
        open_detector(str(tmp_path))
    with pytest.raises(UserError, match="not a folder"):
        open_detector(f"masks:{tmp_path / 'absent'}")


def test_a_map_is_found_by_its_key_or_its_stem(tmp_path: Path) -> None:
    (tmp_path / "n01").mkdir()
    (tmp_path / "n01" / "a.png").write_bytes(encode_png(np.full((5, 7), 51, np.uint8)))
    (tmp_path / "b.png").write_bytes(encode_png(np.full((5, 7), 255, np.uint8)))
    detector = open_detector(f"masks:{tmp_path}")
    np.testing.assert_array_equal(detector(IMAGE_HWC, "n01/a.JPEG"), np.full((5, 7), 51 / 255, np.float32))
    assert detector(IMAGE_HWC, "n02/b.JPEG").min() == 1
    for key in ("n01/c.JPEG", "../b.jpg", "/b.jpg"):
        with pytest.raises(MaskError, match=r"[cb]\.(JPEG|jpg)"):
            detector(IMAGE_HWC, key)


def test_a_misfit_or_damaged_map_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(np.full((7, 5), 255, np.uint8)))
    (tmp_path / "b.png").write_bytes(encode_png(np.full((5, 7), 255, np.uint8))[:30])
    detector = open_detector(f"masks:{tmp_path}")
    with pytest.raises(MaskError, match=r"a\.jpg: the map has 5 x 7 px, the image 7 x 5 px"):
        detector(IMAGE_HWC, "a.jpg")
    with pytest.raises(MaskError, match=r"b\.jpg"):
        detector(IMAGE_HWC, "b.jpg")


def test_masks_of_zero_and_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(np.eye(4, dtype=np.uint8)))
    with pytest.raises(UserError, match="0 and 255"):
        open_detector(f"masks:{tmp_path}")


def test_a_mask_folder_is_known_by_its_content_not_its_place(tmp_path: Path) -> None:
    for name, value in (("one", 255), ("copy", 255), ("other", 254)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(encode_png(np.full((2, 2), value, np.uint8)))
    identities = [open_detector(f"masks:{tmp_path / name}").identity for name in ("one", "copy", "other")]
    assert identities[0] == identities[1] != identities[2]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two readable images in a tree, and a broken one."""
    folder = tmp_path / "images"
    (folder / "cats").mkdir(parents=True)
    image_HWC = np.full((40, 60, 3), 80, np.uint8)
    image_HWC[10:30, 20:40] = (250, 10, 10)
    (folder / "a.jpg").write_bytes(encode_jpeg(image_HWC))
    (folder / "cats" / "b.jpg").write_bytes(encode_jpeg(image_HWC[:, :50]))
    (folder / "broken.jpg").write_bytes(encode_jpeg(image_HWC)[:100])
    return folder


def test_predict_writes_maps_names_the_broken_and_resumes(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    summary = predict_folder(images, "rbd", out)
    assert (summary["num_written"], summary["num_skipped"], list(summary["problems"])) == (2, 0, ["broken.jpg"])
    assert decode_grey((out / "a.png").read_bytes()).shape == (40, 60)
    assert decode_grey((out / "cats" / "b.png").read_bytes()).shape == (40, 50)
    first = (out / "a.png").stat().st_mtime_ns
    (out / "cats" / "b.png").unlink()
    summary = predict_folder(images, "rbd", out)
    assert (summary["num_written"], summary["num_skipped"]) == (1, 1)
    assert (out / "a.png").stat().st_mtime_ns == first
    assert not list(out.rglob("*.partial"))


def test_predict_refuses_what_would_mix_maps(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    predict_folder(images, "rbd", out)
    with pytest.raises(UserError, match="another detector"):
        predict_folder(images, f"masks:{out}", out)
    with pytest.raises(UserError, match="cannot take"):
        predict_folder(images, "rbd", images / "a.jpg")
    (images / "a.png").write_bytes(encode_png(np.zeros((4, 4), np.uint8)))
    with pytest.raises(UserError, match=r"a\.jpg and a\.png"):
        predict_folder(images, "rbd", tmp_path / "fresh")


def test_the_default_is_what_was_trained_here_and_never_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_detector() == "rbd"
    assert "detector: rbd (none was trained yet)" in capsys.readouterr().err
    run = tmp_path / "artifacts" / "detector"
    run.mkdir(parents=True)
    (run / "settings.json").touch()
    with pytest.raises(UserError, match=r"training has not finished\. Run the same .* again .*--detector rbd"):
        default_detector()
    (run / "detector.json").touch()
    assert default_detector() == "artifacts/detector"


def test_a_store_is_not_built_past_an_unfinished_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(encode_jpeg(np.zeros((20, 20, 3), np.uint8)))
    (tmp_path / "artifacts" / "detector").mkdir(parents=True)
    words = ["build-store", "--dataset", "folder", "--root", "images", "--no-beton", "--out", "s.zarr"]
    refused = CliRunner().invoke(cli.main, words)
    assert refused.exit_code == 2
    assert "--detector rbd" in refused.output
    assert not (tmp_path / "s.zarr").exists()
    assert CliRunner().invoke(cli.main, [*words, "--detector", "rbd"]).exit_code == 0
