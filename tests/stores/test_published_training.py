"""Training from a URL: fetched once, exported once, the second run asks for the manifest alone, or for nothing."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import backdrop.stores.sharing.object_storage
from backdrop import cli
from backdrop.stores.format.reader import open_store
from backdrop.stores.sharing.object_storage import ObjectStorage
from backdrop.stores.sharing.remote import publish
from backdrop.trainer.recipes import smoke
from backdrop.trainer.report.loaded_run import load
from backdrop.trainer.run import metrics_log, run_folder
from tests.material import small_images
from tests.material.s3_server import ACCESS_KEY, BUCKET, FEW_RETRIES, SECRET_KEY, S3Server, environment
from tests.material.small_store import tree
from tests.material.tiny_runs import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What BACKDROP_DATA names."""
    root = tmp_path_factory.mktemp("data")
    small_images.make_images(root / "folder")
    return root


@pytest.fixture(scope="module")
def store(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "small.zarr"
    with small_images.parts_of_few_rows():
        small_images.build(data / "folder", out)
    return out


@pytest.fixture
def url(server: S3Server, store: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The store, published; the folder of data, a cache and tiny runs as defaults."""
    for name, value in {**environment(server.port), "BACKDROP_DATA": str(data), "BACKDROP_CACHE": "cache"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backdrop.stores.sharing.object_storage, "RETRY", FEW_RETRIES)
    monkeypatch.chdir(tmp_path)
    settings = replace(tiny("moco", "random"), epochs=1)
    monkeypatch.setattr(smoke, "settings", lambda method, background, with_cast: settings)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    publish(store, f"s3://{BUCKET}/{tmp_path.name}", progress=False)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    torch.set_num_threads(num_threads)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the objects asked for in this process."""
    names: list[str] = []
    for method in ("read", "download"):

        def listed(
            self: ObjectStorage, name: str, *rest: object, of: object = getattr(ObjectStorage, method)
        ) -> object:
            is_range = len(rest) == 4 and rest[3] is not None
            names.append(f"{name} from {rest[3]}" if is_range else name)
            return of(self, name, *rest)

        monkeypatch.setattr(ObjectStorage, method, listed)
    return names


def invoked(*words: str) -> Result:
    """Run a command that succeeds."""
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def run(*words: str) -> str:
    """Run a command that succeeds; what it prints on standard output."""
    return invoked(*words).stdout


def pretrain(url: str, out: str, *words: str) -> str:
    """All that it says, results and warnings."""
    return invoked(
        "pretrain", "--method", "moco", "--bg", "random", "--recipe", "smoke", "--store", url, "--out", out, *words
    ).output


def test_a_run_from_a_url_is_fetched_and_exported_once(
    url: str, requests: list[str], store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store_id = open_store(store).store_id
    pretrain(url, "first")
    parts = [name for name in requests if name.startswith("parts/part-")]
    assert len(parts) == len(set(parts)) > 0
    assert not [name for name in parts if "saliency" in name or "foreground_fraction" in name]
    about = run_folder.read_run(Path("first"))
    assert (about["store_id"], about["store_url"]) == (store_id, url)
    assert about["beton"] == str(tmp_path / "cache" / f"{store_id}.beton")

    requests.clear()
    monkeypatch.delenv("BACKDROP_DATA")  # of the images nothing is needed any more
    assert "--cache" not in pretrain(url, "second")
    assert requests == ["MANIFEST.json"]
    assert losses("second") == losses("first")

    # The report finds the soft maps, which the run had no need of.
    found = load(Path("first"))
    assert found.store is not None
    assert found.store.saliency(0) is not None
    # Without the network a run goes on, and says from what.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = pretrain(url, "second", "--resume")
    assert "already finished" in said
    assert SECRET_KEY not in said
    assert f"Going on with what {tmp_path / 'cache'} holds of store {store_id}" in said
    for content in tree(tmp_path).values():
        assert ACCESS_KEY.encode() not in content
        assert SECRET_KEY.encode() not in content


def losses(out: str) -> list[float]:
    return [record["loss"] for record in metrics_log.read_metrics(Path(out))]


def test_what_else_takes_a_url(url: str, requests: list[str], store: Path, tmp_path: Path) -> None:
    about = json.loads(run("store", "info", url))
    assert (about["store_id"], about["num_rows"]) == (open_store(store).store_id, small_images.NUM_IMAGES)
    assert about["status"]["decode-error"] == 1
    assert requests == ["MANIFEST.json", "zarr.json", "parts/zarr.json"]
    requests.clear()
    assert '"equal": true' in run("store", "diff", url, str(store))
    assert {name.split("/")[-1] for name in requests} == {"MANIFEST.json", "part.json"}
    for words in (("--format", "png"), ("--max-side-px", "64")):
        result = CliRunner().invoke(cli.main, ["store", "export", url, *words])
        assert (result.exit_code, "--out" in result.output) == (2, True), result.output
    run("store", "export", url, "--format", "png", "--out", "there")
    run("store", "export", str(store), "--format", "png", "--out", "here")
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


def test_root_and_the_default_cache(url: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKDROP_CACHE")
    result = CliRunner().invoke(cli.main, ["store", "info", url])
    assert json.loads(result.stdout)["store_id"] == open_store(store).store_id
    assert result.stderr == "cache: artifacts/cache (the default of --cache and BACKDROP_CACHE)\n"
    words = ["pretrain", "--method", "moco", "--store", str(store), "--root", "images"]
    assert "--root says where the images of a published store lie" in CliRunner().invoke(cli.main, words).output
