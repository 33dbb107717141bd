"""Runs as a user has them: folders, resume after a kill, what is refused before anything is built."""

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch

from backdrop.errors import UserError
from backdrop.pipeline.beton.beton_of_store import StoreSource, find_beton
from backdrop.saliency.deepusps2.deepusps import initial_weights
from backdrop.saliency.networks.drn import Drn
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.methods import moco
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.run import checkpoint, metrics_log, run_folder
from backdrop.trainer.run.loop import RunRequest, pretrain
from tests.material.interrupted_runs import (
    Interrupted,
    assert_same_end,
    final_state,
    losses,
    run,
)
from tests.material.small_store import small_store
from tests.material.tiny_runs import tiny

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.mark.parametrize(
    ("method", "background", "with_cast"),
    [
        ("cast", "random", False),
        pytest.param("byol", "rm", True, marks=pytest.mark.slow),
        pytest.param("swav", "random", False, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_as_one_that_was_never_stopped(
    tmp_path: Path, method: str, background: str, with_cast: bool
) -> None:
    settings = tiny(method, background, with_cast=with_cast, checkpoint_steps=2)
    run(settings, tmp_path / "whole")
    # In the second epoch, one step past the latest checkpoint.
    with pytest.raises(Interrupted):
        run(settings, tmp_path / "parts", stop_at=(1, 2))
    assert [path.name for path in sorted((tmp_path / "parts" / "checkpoints").iterdir())] == [
        "step-00000003.safetensors",
        "step-00000004.safetensors",
    ]
    assert run(settings, tmp_path / "parts", resume=True)["state"] == "finished"
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert [step for step, _ in losses(tmp_path / "parts")] == list(range(6))
    assert run(settings, tmp_path / "parts", resume=True)["state"] == "already finished"


def test_a_run_that_is_made_longer_is_told_that_its_schedule_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(tiny("moco"), epochs=1)
    run(settings, tmp_path)
    for epochs, is_told in ((1, False), (2, True), (2, False)):
        capsys.readouterr()
        run(replace(settings, epochs=epochs), tmp_path, resume=True)
        assert ("epochs: 1 -> 2. The learning rate" in capsys.readouterr().err) == is_told
    rates = [record["lr"] for record in metrics_log.read_metrics(tmp_path)]
    assert rates[3] > rates[2], "the cosine of two epochs is not over where that of one was"
    with pytest.raises(UserError, match=r"epochs: 2 -> 1 \(it may only grow\)"):
        run(settings, tmp_path, resume=True)


def test_a_runs_folder_says_when_where_and_with_what_it_was_trained_and_what_it_warned_of(tmp_path: Path) -> None:
    settings = replace(tiny("moco"), epochs=1)
    run(settings, tmp_path)
    with pytest.raises(Interrupted):
        run(replace(settings, epochs=2), tmp_path, resume=True, stop_at=(1, 1))
    events = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "end", "start", "warning", "end"]
    first, second = events[0], events[2]
    assert (first["first_step"], second["first_step"]) == (0, 3)
    assert first["host"] == socket.gethostname()
    assert first["processes"] == 1
    assert first["packages"]["torch"] == importlib.metadata.version("torch")
    assert "epochs: 1 -> 2" in events[3]["text"]
    assert [(event["state"], event["step"]) for event in events if event["event"] == "end"] == [
        ("finished", 3),
        ("Interrupted: ", None),
    ]
    times = [datetime.fromisoformat(event["time"]) for event in events]
    assert times == sorted(times)
    # A run that is over is not begun again, and one that may not go on leaves another's record alone.
    before = (tmp_path / "history.jsonl").read_text()
    with pytest.raises(UserError):
        run(replace(settings, seed=1), tmp_path, resume=True)
    assert (tmp_path / "history.jsonl").read_text() == before


def test_a_drn_is_pretrained_for_the_detector(tmp_path: Path) -> None:
    settings = replace(tiny("byol"), backbone="drn_d_22", epochs=1)
    run(settings, tmp_path / "run")
    weights = initial_weights(tmp_path / "run", "drn_d_22")
    trained = checkpoint.load_backbone(tmp_path / "run")
    network = Drn("drn_d_22").eval()
    network.load_state_dict(weights)
    images_BCHW = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(images_BCHW), trained.forward_map(images_BCHW))
    assert trained(images_BCHW).shape == (2, 512)
    with pytest.raises(UserError, match="are of drn_d_22, the detector's network is drn_d_105"):
        initial_weights(tmp_path / "run", "drn_d_105")
    with pytest.raises(UserError, match="finished `pretrain` run"):
        initial_weights(tmp_path, "drn_d_22")
    with pytest.raises(UserError, match="cifar_stem"):
        build_backbone("drn_d_22", cifar_stem=True)


KILLED_RUN = """
import sys
import torch
from pathlib import Path
from tests.material.interrupted_runs import run
from tests.material.tiny_runs import tiny
torch.set_num_threads(1)
run(tiny("moco", "swaps", checkpoint_steps=1), Path(sys.argv[1]), resume=True)
"""


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    settings = tiny("moco", "swaps", checkpoint_steps=1)
    run(settings, tmp_path / "whole")
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(killed)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while checkpoint_files.latest(killed) is None or checkpoint_files.step_of(checkpoint_files.latest(killed)) < 2:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint_files.step_of(checkpoint_files.latest(killed)) < 6
    run(settings, killed, resume=True)
    assert_same_end(tmp_path / "whole", killed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(replace(tiny("moco", "random"), epochs=1), out)
    return out


def test_run_folder_tells_everything(finished: Path) -> None:
    assert run_folder.read_settings(finished) == replace(tiny("moco", "random"), epochs=1)
    about = run_folder.read_run(finished)
    assert about["store_id"] == "0" * 64
    assert {"recipe", "seed", "commit", "versions", "num_threads"} <= about.keys()
    records = metrics_log.read_metrics(finished)
    assert [record["step"] for record in records] == [0, 1, 2]
    assert {"loss", "lr", "images_per_s", "view0/tries", "view1/fallback", "view0/no_foreground"} <= records[0].keys()
    assert list((finished / "tensorboard").glob("events*"))


def test_the_trained_backbone_is_the_query_encoders(finished: Path) -> None:
    state = final_state(finished)
    for source in (finished, finished / "backbone.safetensors"):
        backbone = checkpoint.load_backbone(source)
        assert not backbone.training
        assert torch.equal(backbone.conv1.weight, state["method.backbone.conv1.weight"])
        assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_results_of_an_evaluation_replace_its_earlier_ones(finished: Path) -> None:
    run_folder.add_results(finished, "knn", [("top1", 0.25), ("top5", 0.5)])
    run_folder.add_results(finished, "linear", [("top1", 0.75)])
    run_folder.add_results(finished, "knn", [("top1", 0.5)])
    lines = (finished / "results.csv").read_text().splitlines()
    assert lines[0] == "metric,value,evaluation,recipe,seed,commit,store_id,facts"
    assert [line.split(",")[:3] for line in lines[1:]] == [["top1", "0.75", "linear"], ["top1", "0.5", "knn"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"batch_size": 4}, "batch_size: 8 -> 4"),
        ({"without": "1,5-9"}, "without: '' -> '1,5-9'"),
        ({"views": tiny("moco", "random", with_cast=True).views}, "views.0.size_px"),
    ],
)
def test_resume_with_other_settings_names_them(finished: Path, changes: dict, message: str) -> None:
    settings = replace(tiny("moco", "random"), epochs=1)
    with pytest.raises(UserError, match=message):
        run(replace(settings, **changes), finished, resume=True)


def test_a_folder_in_use_is_refused_without_resume(finished: Path) -> None:
    with pytest.raises(UserError, match="resume=True"):
        run(replace(tiny("moco", "random"), epochs=1), finished)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"no settings\.json"):
        run(tiny("moco"), tmp_path, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    settings = replace(tiny("moco"), epochs=1, checkpoint_steps=1)
    with pytest.raises(Interrupted):
        run(settings, tmp_path, stop_at=(0, 2))
    path = checkpoint_files.latest(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"step-00000002\.safetensors .*delete it"):
        run(settings, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_at_its_step_and_is_not_kept(tmp_path: Path) -> None:
    settings = tiny("moco")
    settings = replace(settings, epochs=1, optimiser=replace(settings.optimiser, lr=1e30), log_steps=20)
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step [12] .*ends here again, delete"):
        run(settings, tmp_path)
    assert checkpoint_files.latest(tmp_path) is None


def test_a_step_that_breaks_the_weights_is_not_kept_though_its_own_loss_is_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it is the run's last step, after which no loss would tell."""
    settings = replace(tiny("moco"), epochs=1, checkpoint_steps=1, keep_checkpoints=1)
    after_step = moco.Method.after_step

    def breaking(method: moco.Method, step: int, num_steps: int) -> None:
        after_step(method, step, num_steps)
        if step + 1 == num_steps:
            method.backbone.conv1.weight.data[0, 0] = float("inf")

    monkeypatch.setattr(moco.Method, "after_step", breaking)
    with pytest.raises(UserError, match=r"after step 3 .*backbone.conv1.weight is not finite"):
        run(settings, tmp_path)
    assert checkpoint_files.step_of(checkpoint_files.latest(tmp_path)) == 2
    assert all(tensor.isfinite().all() for tensor in final_state(tmp_path).values())
    assert not (tmp_path / "backbone.safetensors").exists()
    monkeypatch.undo()
    assert run(settings, tmp_path, resume=True)["state"] == "finished"


def test_more_images_a_step_than_rows_is_refused(tmp_path: Path) -> None:
    settings = replace(tiny("moco"), batch_size=32)
    with pytest.raises(UserError, match="24 rows"):
        run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def pretrain_with(tmp_path: Path, *, method: str = "moco", background: str = "none", **changes: object) -> None:
    source = StoreSource(store=changes.pop("store", tmp_path / "missing.zarr"))
    request = RunRequest(**{"method": method, "background": background, "recipe": "smoke"} | changes)
    pretrain(request, source, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "build-store"),
        ({"store": Path("missing.beton")}, "store export missing.zarr --format beton"),
        ({"store": Path("images")}, "neither a .zarr"),
        ({"method": "byol", "background": "swaps"}, "no negatives"),
        ({"method": "rotnet", "with_cast": True}, "--cast is not defined"),
        ({"recipe": "moco_v3"}, "moco_v2_220"),
        ({"recipe": "byol_300"}, "is for method 'byol'"),
        ({"overrides": ["background.probability=1.5"]}, "background.probability=1.5 must be"),
        ({"overrides": ["algorithm.queue_size=100"]}, "multiple of batch_size=32"),
        ({"overrides": ["batch_size=48"]}, "multiple"),
        ({"overrides": ["backbone=resnet19"]}, "resnet18"),
    ],
)
def test_what_cannot_work_is_refused_at_once(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrain_with(tmp_path, **changes)
    assert not (tmp_path / "run").exists()


def test_a_store_stands_for_the_beton_beside_it(tmp_path: Path) -> None:
    small_store(tmp_path / "a.zarr")
    with pytest.raises(UserError, match=r"store export .*a\.zarr"):
        find_beton(tmp_path / "a.zarr")
    (tmp_path / "a.beton").touch()
    assert find_beton(tmp_path / "a.zarr") == find_beton(tmp_path / "a.beton") == tmp_path / "a.beton"


def test_metrics_cut_short_by_a_kill_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    metrics_log.drop_metrics_from(tmp_path, 2)
    assert [record["step"] for record in metrics_log.read_metrics(tmp_path)] == [0, 1]
