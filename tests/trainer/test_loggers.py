"""What loggers are told arrives where they say, without a network, and a run that goes on is one run there."""

import csv
import gc
import glob
import sys
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.trainer import loggers
from backdrop.trainer.loggers import LOGGERS, names_in, open_loggers

# Package of a logger -> what keeps it from a network.
OFFLINE = {"wandb": ("WANDB_MODE", "offline"), "mlflow": ("MLFLOW_TRACKING_URI", "file:{}/mlruns")}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, from which no logger can reach a network."""
    for name, value in OFFLINE.values():
        monkeypatch.setenv(name, value.format(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def log_twice(name: str, folder: Path) -> None:
    """Log steps 0 to 5, and go on from step 4 with a new number and other values."""
    for first, last in ((0, 6), (4, 8)):
        opened = open_loggers(name, folder, {"epochs": 3, "optimiser.lr": 0.1}, first)
        for step in range(first, last):
            for logger in opened:
                logger.log(step, {"loss": step + first / 100} | ({"knn_top1": 50.0} if step == 7 else {}), 1e9 + step)
        for logger in opened:
            logger.close()


def test_csv_has_every_step_once(offline: Path) -> None:
    log_twice("csv", offline)
    with (offline / "curves.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        *((str(step), "loss", f"{step + 0.0}") for step in range(4)),
        *((str(step), "loss", f"{step + 0.04}") for step in range(4, 8)),
        ("7", "knn_top1", "50.0"),
    ]


def test_tensorboard_is_always_there(offline: Path) -> None:
    assert names_in("") == names_in("tensorboard") == ()
    log_twice("", offline)
    assert len(glob.glob(f"{offline}/tensorboard/events*")) == 2


@pytest.mark.parametrize("name", sorted(set(LOGGERS.names()) - {"csv", "tensorboard"}))
def test_without_its_package_a_logger_says_what_to_install(
    name: str, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, "mlflow.entities"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'backdrop-ssl\[{name}\]'"):
        open_loggers(name, offline, {}, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_a_folder(offline: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    log_twice("mlflow", offline)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("backdrop").experiment_id])
    assert run.info.run_name == "run"
    assert run.data.params == {"epochs": "3", "optimiser.lr": "0.1"}
    history = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
    assert set(history) >= {(step, float(step)) for step in range(4)} | {(step, step + 0.04) for step in range(4, 8)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(offline: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    log_twice("wandb", offline)
    runs = list((offline / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert len({run.name.rpartition("-")[2] for run in runs}) == 1  # the same run's id
    assert all(list(run.glob("*.wandb")) for run in runs)
    gc.collect()  # what it left open is its own affair


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown logger 'wandbb'. Did you mean wandb\?"):
        names_in("csv,wandbb")
    assert loggers.ALWAYS in loggers.NAMES
