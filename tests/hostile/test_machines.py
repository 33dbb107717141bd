"""Machines on which one may not write beside the package, has no home, or may not read some of one's own images."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
# Root may do everything unless it gives that up; then files of mode 000 are closed to it as to anybody.
AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
READ_ONLY = f"mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} && exec "
is_possible = (
    os.geteuid() == 0
    and shutil.which("setpriv") is not None
    and shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_possible, reason="wants root, setpriv and unshare"),
]
# command -> words, exit code, what is said
COMMANDS: dict[str, tuple[list[str], int, str]] = {
    "build": (["build-store", "--dataset", "folder", "--root", "IMAGES", "--detector", "masks:MASKS", "--workers", "1",
               "--no-beton", "--json", "--out", "OUT/new.zarr"], 0, '"decode-error": 1'),
    "build in workers": (["build-store", "--dataset", "folder", "--root", "IMAGES", "--detector", "masks:MASKS",
                          "--workers", "2", "--no-beton", "--json", "--out", "OUT/new.zarr"], 0, '"decode-error": 1'),
    "predict": (["saliency", "predict", "--images", "IMAGES", "--detector", "masks:MASKS", "--out", "OUT/maps"], 0,
                "5.jpg"),
    "evaluate": (["saliency", "evaluate", "--images", "IMAGES", "--masks", "MASKS", "--detector", "masks:MASKS"], 2,
                 "5.jpg"),
    "calibrate": (["saliency", "calibrate", "--images", "IMAGES", "--masks", "MASKS", "--detector", "masks:MASKS"], 2,
                  "5.jpg"),
    "view": (["store", "view", "OUT/s.zarr", "--root", "IMAGES"], 0, "gallery:"),
    "doctor": (["doctor"], 1, "cannot be written"),
    "closed place": (["store", "view", "OUT/s.zarr", "--root", "IMAGES", "--out", "closed/page"], 2,
                     "closed/page cannot be written"),
    "sample": (["build-store", "--dataset", "sample", "--detector", "rbd"], 2, "cannot be written"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which one cannot be read, their masks, a store that was built before; a folder that is closed."""
    folder = tmp_path_factory.mktemp("machine")
    for name in ("images", "masks", "closed", "out"):
        (folder / name).mkdir()
    mask_HW = np.zeros((24, 32), np.uint8)
    mask_HW[5:15, 10:20] = 255
    for number in range(12):
        Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(mask_HW).save(folder / "masks" / f"{number}.png")
    run(folder, [word.replace("new", "s") for word in COMMANDS["build"][0]], ())
    (folder / "images" / "5.jpg").chmod(0)
    (folder / "closed").chmod(0o555)
    return folder


def run(folder: Path, words: list[str], before: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    places = {"IMAGES": folder / "images", "MASKS": folder / "masks", "OUT": folder / "out"}
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent/home"}
    return subprocess.run(
        [*before, sys.executable, str(ROOT / "cli.py"), *words],
        cwd=folder / "closed" if before else folder, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_or_say_what_they_may_not_do(command: str, folder: Path) -> None:
    words, exit_code, said = COMMANDS[command]
    if command == "closed place":
        words = [word.replace("closed", str(folder / "closed")) for word in words]
    shutil.rmtree(folder / "out" / "new.zarr", ignore_errors=True)
    done = run(folder, words, ("unshare", "-m", "bash", "-c", f'{READ_ONLY}"$@"', "bash", *AS_ANYBODY))
    assert done.returncode == exit_code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("compiled code is not kept") <= 1
