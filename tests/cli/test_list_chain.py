"""The data set `list` through the whole chain: detector, store, publishing, training from the URL, resumed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.stores.format.reader import open_store
from backdrop.trainer.run import metrics_log, run_folder
from tests.material import small_images

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard")

TINY_DETECTOR = ("max_images=4", "working_size_px=64", "stage1_epochs=1", "stage2_epochs=1")
TINY_RUN = ("views.size_px=32", "algorithm.queue_size=32", "algorithm.shuffle_bn_group=4", "batch_size=8", "epochs=1")


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(cli.main, [*map(str, words), "--quiet"])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def settings(*changes: str) -> list[str]:
    return [f"--set={change}" for change in changes]


@pytest.mark.slow
def test_a_list_is_all_that_names_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    small_images.make_images(images)
    small_images.repair(images)
    keys = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*") if path.is_file())[:9]
    (tmp_path / "names.csv").write_text("path,label\n" + "".join(f"{key},{n % 2}\n" for n, key in enumerate(keys)))
    dataset = ["--dataset", f"list:{tmp_path / 'names.csv'}", "--root", images]

    train = ["saliency", "train", *dataset, "--preset", "tiny", "--out", "detector", *settings(*TINY_DETECTOR)]
    assert json.loads(run(*train, "--json"))["num_images"] == 4
    run("build-store", *dataset, "--detector", "detector", "--out", "store.zarr", "--threshold", "0", "--workers", "1")
    assert open_store(Path("store.zarr")).dataset == "list"
    assert list(open_store(Path("store.zarr")).keys()) == keys

    (tmp_path / "names.csv").unlink()  # a store says itself which images it is of
    url = f"file://{tmp_path / 'published'}"
    run("store", "publish", "store.zarr", url)
    pretrain = ["pretrain", "--method", "moco", "--bg", "random", "--recipe", "smoke", "--store", url, "--root", images]
    pretrain += ["--cache", "cache", "--out", "run", "--dataset", "list:names.csv", *settings(*TINY_RUN)]
    run(*pretrain)
    assert run_folder.read_run(Path("run"))["store_id"] == open_store(Path("store.zarr")).store_id
    run(*pretrain, "--resume", "--set", "epochs=2")
    assert [record["step"] for record in metrics_log.read_metrics(Path("run"))] == [0, 1]
