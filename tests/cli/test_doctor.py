"""`doctor`: every finding in the states it can have, what it says to do, and that the command takes a moment."""

import json
import os
import resource
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from backdrop import cli
from backdrop.errors import UserError
from backdrop.pipeline.doctor import data_sets, machine
from backdrop.pipeline.doctor.finding import Finding, lines_of

ROOT = Path(__file__).resolve().parents[2]
_Usage = namedtuple("_Usage", "total used free")


def test_the_command_says_a_line_each_and_takes_a_moment(tmp_path: Path) -> None:
    """Torch, which takes seconds, is imported only where there is a GPU's driver."""
    code = (
        "import sys, cli\n"
        "from backdrop.pipeline.doctor import machine\n"
        "machine.nvidia_driver = lambda: 'none'\n"
        "try: cli.main(['doctor', '--json'], standalone_mode=False)\n"
        "except SystemExit as end: print(end.code, file=sys.stderr)\n"
        "print([name for name in ('torch', 'ffcv', 'numba') if name in sys.modules], file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BACKDROP_DATA": str(tmp_path)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 2
    findings = json.loads(done.stdout)
    subjects = [finding["subject"] for finding in findings]
    expected = ["system", "Python", "packages", "CUDA", "libjpeg-turbo", "FFCV", "disk", "shared memory", "open files"]
    assert subjects == [*expected, "BACKDROP_DATA"]
    problem = any(finding["state"] == "problem" for finding in findings)
    assert done.stderr.splitlines() == [str(int(problem)), "[]"]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("problem", 1)])
def test_the_exit_code_tells_of_a_problem(state, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding(subject="disk", state=state, found="as it is", to_do="this")]
    monkeypatch.setattr(machine, "machine", lambda: found)
    monkeypatch.delenv("BACKDROP_DATA", raising=False)
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code == code
    assert f"{state:7}  disk           as it is -> this\n" in result.stdout
    assert "note     BACKDROP_DATA  not set -> export BACKDROP_DATA=FOLDER" in result.stdout


def test_lines_stand_below_each_other() -> None:
    findings = [Finding(subject="CUDA", state="ok", found="a"), Finding(subject="Python", state="note", found="b")]
    assert lines_of(findings) == "ok       CUDA    a\nnote     Python  b"


def test_another_system_than_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.system().state == "ok"
    monkeypatch.setattr(machine, "ENOUGH_MEMORY_GB", 10**6)
    assert "--workers 1" in machine.system().to_do
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert machine.system().state == "problem"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 4), "problem"), ((3, 11, 0), "ok"), ((3, 13, 5), "ok"), ((3, 14, 0), "note")]
)
def test_versions_of_python(version: tuple[int, int, int], state: str) -> None:
    finding = machine.python(version)
    assert finding.state == state
    assert finding.found.startswith(".".join(map(str, version)))


def test_packages_that_are_missing_are_named() -> None:
    assert machine.packages(("numpy",)).state == "ok"
    finding = machine.packages(("numpy", "no-such-package-at-all"))
    assert (finding.state, finding.found) == ("problem", "missing: no-such-package-at-all")


@pytest.mark.parametrize(
    ("driver", "built_for", "gpus", "hidden", "state", "said"),
    [
        ("none", "torch built for 13.0", [], None, "note", "recipe smoke"),
        ("580.1", "torch built without", [], None, "problem", "install the build of torch for CUDA"),
        ("580.1", "torch built for 13.0", ["H100"], None, "ok", "H100"),
        ("580.1", "torch built for 13.0", [], "", "note", "unset CUDA_VISIBLE_DEVICES"),
        ("470.1", "torch built for 13.0", [], None, "problem", "update the driver"),
    ],
)
def test_gpus(driver, built_for, gpus, hidden, state, said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(machine, "nvidia_driver", lambda: driver)
    monkeypatch.setattr(machine, "cuda_of_torch", lambda: built_for)
    monkeypatch.setattr(machine, "_names_of_gpus", lambda: gpus)
    finding = machine.cuda()
    assert finding.state == state
    assert said in f"{finding.found} {finding.to_do}"


def test_ffcv_that_is_missing_or_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    assert machine.ffcv().state == "ok"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec())
    assert "not compiled" in machine.ffcv().found
    (tmp_path / "_libffcv.so").write_bytes(b"no library")
    finding = machine.ffcv()
    assert finding.state == "problem"
    assert "does not load" in finding.found
    assert "libopencv-dev" in finding.to_do
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in machine.ffcv().found
    assert machine.ffcv().state == "note"


def test_libjpeg_turbo_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.libjpeg_turbo().state == "ok"
    with monkeypatch.context() as patch:
        patch.setattr("backdrop.pipeline.beton.turbojpeg._NEWEST_USED", "tjNotYetThere")
        finding = machine.libjpeg_turbo()
        assert finding.state == "problem"
        assert "older than version 2.0" in f"{finding.found} {finding.to_do}"
    monkeypatch.setattr("backdrop.pipeline.beton.turbojpeg._NAME", "libnosuch.so.0")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    finding = machine.libjpeg_turbo()
    assert finding.state == "problem"
    assert "apt-get install libturbojpeg0" in finding.to_do


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(0, 0, 10**11))
    assert machine.disk(tmp_path / "is" / "made").state == "ok"
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(0, 0, 10**9))
    assert machine.disk(tmp_path).state == "note"
    (tmp_path / "file").touch()
    finding = machine.disk(tmp_path / "file" / "below")
    assert (finding.state, finding.found) == ("problem", f"{tmp_path / 'file'} cannot be written")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert machine.disk(tmp_path).state == "problem"


def test_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(0, 0, 10**10))
    assert machine.shared_memory().state == "ok"
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(0, 0, 1 << 26))
    assert "--shm-size=1g" in machine.shared_memory().to_do

    def refused(what: str) -> None:
        raise UserError("none is given; mount it: mount -t tmpfs tmpfs /dev/shm")

    monkeypatch.setattr(machine, "check_shared_memory", refused)
    finding = machine.shared_memory()
    assert (finding.state, finding.to_do) == ("problem", "mount it: mount -t tmpfs tmpfs /dev/shm")


@pytest.mark.parametrize(
    ("soft", "hard", "state", "said"),
    [
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, "ok", ""),
        (1024, 4096, "ok", ""),
        (256, 4096, "note", "ulimit -n 1024"),
        (256, 512, "note", "machine's owner"),
    ],
)
def test_limits_of_open_files(soft, hard, state, said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda kind: (soft, hard))
    finding = machine.open_files()
    assert finding.state == state
    assert said in finding.to_do


# ---------------------------------------------------------------------------------------------------------- data


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 30, 60)).save(path, "JPEG")
    return path


def test_a_folder_of_data_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path / "gone"))
    (finding,) = data_sets.data_sets()
    assert finding.state == "problem"
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    (tmp_path / "ImageNet").mkdir()
    (finding,) = data_sets.data_sets()
    assert finding.state == "note"
    assert "ImageNet" in finding.found
    assert "imagenet" in finding.to_do
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "cannot be read" in data_sets.data_sets()[0].found


def test_data_sets_and_their_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "imagenet" / "train" / "n01440764" / "a.JPEG")
    (tmp_path / "imagenet" / "val").mkdir()
    (tmp_path / "coco" / "images").mkdir(parents=True)
    image(tmp_path / "folder" / "deep" / "below" / "a.jpg")
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    findings = {finding.subject: finding for finding in data_sets.data_sets()}
    states = {name: finding.state for name, finding in findings.items()}
    assert states == {
        "BACKDROP_DATA": "ok",
        "imagenet train": "ok",
        "imagenet val": "problem",
        "coco": "problem",
        "folder": "ok",
    }
    assert findings["imagenet train"].found == "1 image looked at, 1 of them decoded"
    assert "2017" in findings["coco"].to_do


def test_data_sets_in_shards_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    (tmp_path / "tar" / "train").mkdir(parents=True)
    (tmp_path / "huggingface" / "data").mkdir(parents=True)
    (tmp_path / "huggingface" / "data" / "train-0.parquet").touch()
    found = {finding.subject: finding for finding in data_sets.data_sets()}
    assert found["huggingface"].state == "ok"
    assert found["huggingface"].found.startswith("1 .parquet or .arrow file; ")
    assert (found["tar"].state, found["tar"].found) == ("problem", f"no .tar file in {tmp_path / 'tar'}")
    assert "{split}/*.tar" in found["tar"].to_do


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(folder: Path):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", closed)
    finding = data_sets.sampled("folder", tmp_path)
    assert (finding.state, finding.found) == ("problem", f"{tmp_path} cannot be read")


def test_odd_files_are_named_with_what_is_odd(tmp_path: Path) -> None:
    for number in range(3):
        image(tmp_path / "class" / f"{number}.jpg")
    assert data_sets.sampled("folder", tmp_path).state == "ok"
    (tmp_path / "class" / "empty.jpg").touch()
    (tmp_path / "class" / "nowhere.jpg").symlink_to("gone")
    (tmp_path / "class" / "notes.txt").write_text("no image, and none that is missed")
    (tmp_path / "class" / "scan.tiff").write_bytes(b"II*")
    (tmp_path / "class" / "web page.jpg").write_text("<html>")
    (tmp_path / "class" / "half.jpg").write_bytes(image(tmp_path / "class" / "half.jpg").read_bytes()[:400])
    finding = data_sets.sampled("folder", tmp_path)
    assert finding.state == "note"
    assert finding.found.startswith("7 images looked at, 7 of them decoded; odd: ")
    for said in (
        "1 empty: class/empty.jpg",
        "1 a link to nowhere: class/nowhere.jpg",
        "1 of a format that is passed over: class/scan.tiff",
        "1 not an image file of a known format",
        "class/web page.jpg",
        "class/half.jpg",
    ):
        assert said in finding.found
    assert "notes.txt" not in finding.found


def test_a_large_data_set_is_sampled_from_all_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sets, "LOOKED_AT", 8)
    for number in range(32):
        image(tmp_path / f"class-{number // 8}" / f"{number}.jpg")
    (tmp_path / "class-3" / "24.jpg").write_bytes(b"")
    finding = data_sets.sampled("folder", tmp_path)
    assert finding.found.startswith("of many files 8 images looked at")
    assert "class-3/24.jpg" in finding.found
