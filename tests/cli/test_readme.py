"""Every command of the README and the pages about commands runs, as written and in order, on a small data set."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.saliency.deepusps2.settings import PRESETS
from backdrop.trainer.recipes import smoke

ROOT = Path(__file__).resolve().parents[2]
# Not run here: they build the environment that this test runs in, and run this test.
NOT_RUN = ("make demo", "make test", "source .venv")


FEW_PIXELS = {"working_size_px": 64, "crf_test_size_px": 96}

# In the order in which their commands build on each other.
PAGES = (
    "README.md",
    "backdrop/COMMANDS.md",
    "saliency/DETECTORS.md",
    "stores/sharing/SHARING.md",
    "pipeline/loader/LOADER.md",
    "trainer/evaluation/SCORES.md",
)


def documented_commands() -> list[str]:
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("export", *NOT_RUN))]


def scene(number: int, height: int, width: int) -> np.ndarray:
    """A photograph-like scene: a coloured disc on a striped ground, all of it decided by `number`."""
    rows, columns = np.mgrid[:height, :width]
    ground = 90 + 40 * np.sin(columns / (4 + number % 5) + rows / 9)
    image_HWC = np.stack([ground, ground * 0.9, ground * 0.7 + number % 40], axis=2)
    centre = (height * (0.4 + 0.02 * (number % 10)), width * (0.6 - 0.02 * (number % 10)))
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (min(height, width) * 0.25) ** 2
    image_HWC[disc] = (230, 40 + 10 * (number % 12), 60)
    return image_HWC.clip(0, 255).astype(np.uint8)


def write_images(folder: Path, numbers: range, suffix: str) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        assert cv2.imwrite(str(folder / f"{number:04d}.jpg"), scene(number, 96, 128))
        (folder / f"{number:04d}.jpg").rename(folder / f"{number:04d}{suffix}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_images(root / "msra-b", range(5), ".jpg")
    for number, wnid in enumerate(("n01440764", "n02102040")):
        write_images(root / "imagenet" / "train" / wnid, range(100 * number, 100 * number + 32), ".JPEG")
        write_images(root / "imagenet" / "val" / wnid, range(100 * number + 50, 100 * number + 58), ".JPEG")
    write_images(root / "coco" / "train2017", range(20), ".jpg")
    write_images(root / "photos" / "discs", range(3), ".jpg")
    return root


@pytest.fixture
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the defaults of a CPU shorter: the same stages, phases, losses and files, fewer epochs and pixels.

    What the defaults are is tested where they stand (test_recipes.py, test_deepusps.py); here, that commands fit.
    """
    small = replace(PRESETS["small"], stage1_epochs=2, averaged_epochs=1, stage2_epochs=2, **FEW_PIXELS)
    monkeypatch.setitem(PRESETS, "small", small)
    as_it_is = smoke.settings
    monkeypatch.setattr(smoke, "settings", lambda *given: replace(as_it_is(*given), epochs=2))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("few_epochs")
def test_documented_commands_run_as_written(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKDROP_DATA", str(data))
    commands = documented_commands()
    assert len(commands) >= 20
    for command in commands:
        words = shlex.split(command.replace("$BACKDROP_DATA", str(data)).replace("~/", f"{data}/"))
        assert words[:2] == ["python", "cli.py"], f"a documented command that is none of ours: {command}"
        # In this process: a dozen of them would spend most of a minute importing torch.
        result = CliRunner().invoke(cli.main, words[2:])
        assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
    assert (tmp_path / "artifacts" / "swav-random" / "report.html").stat().st_size > 10_000
