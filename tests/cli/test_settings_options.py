"""--show-settings, --config, --save-config and the options of settings of their own, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.trainer.run.loop import resolve_settings
from backdrop.trainer.settings import to_json

SMOKE = ["pretrain", "--recipe", "smoke"]


def ran(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(cli.main, [*map(str, words), "--quiet"])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def shown(*words: str | Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(ran(*words, "--show-settings", "--json"))}


def test_every_setting_of_a_run_is_shown_with_its_source(tmp_path: Path) -> None:
    config = tmp_path / "my.toml"
    config.write_text("batch_size = 64\nseed = 1\n[views]\nsize_px = 48\n")
    rows = shown(
        *SMOKE, "--method", "byol", "--bg", "rm", "--config", config, "--lr", "0.5", "--epochs", "7", "--seed", "2",
        "--set", "epochs=9",
    )  # fmt: skip
    source = {name: (row["value"], row["source"]) for name, row in rows.items()}
    assert source["method"] == ("byol", "--method")
    assert source["background.name"] == ("rm", "--bg")
    assert source["batch_size"] == (64, f"--config {config}")
    assert source["views.1.size_px"] == (48, f"--config {config}")
    assert source["optimiser.lr"] == (0.5, "--lr")
    assert source["seed"] == (2, "--seed")
    assert source["epochs"] == (9, "--set")
    assert source["backbone"] == ("resnet18", "recipe smoke")
    assert source["loader_threads"] == (0, "default")
    assert all(row["meaning"] for row in rows.values())


@pytest.mark.parametrize(("method", "bg", "cast"), [("moco", "swaps", True), ("swav", "random", False)])
def test_a_runs_settings_file_gives_that_run_again(tmp_path: Path, method: str, bg: str, cast: bool) -> None:
    settings = resolve_settings("smoke", method, bg, cast, ["optimiser.lr=0.123", "views.0.flip_probability=0.25"])
    (tmp_path / "settings.json").write_text(json.dumps(to_json(settings)))
    saved = tmp_path / "saved.toml"
    rows = shown(*SMOKE, "--config", tmp_path / "settings.json", "--save-config", saved)
    again = shown(*SMOKE, "--config", saved)
    assert {name: row["value"] for name, row in rows.items()} == {name: row["value"] for name, row in again.items()}
    assert rows["optimiser.lr"]["value"] == 0.123
    assert rows["method"]["source"] == f"--config {tmp_path / 'settings.json'}"
    assert rows["background.name"]["value"] == bg
    assert ("cast.weight" in rows) == cast


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no method was named"),
        (["--config", "run.toml", "--method", "byol"], "--method is byol, and --config run.toml says moco"),
        (["--config", "run.toml", "--bg", "rm"], "--bg is rm, and --config run.toml says swaps"),
        (["--config", "run.toml", "--cast"], "--cast was given, and --config run.toml is of a run without"),
        (["--method", "moco", "--config", "none.toml"], "there is no file none.toml"),
        (["--method", "moco", "--config", "typo.toml"], "unknown setting 'epoch'. Did you mean epochs?"),
        (["--method", "moco", "--epochs", "0"], "epochs=0 must be 1 or more"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('method = "moco"\nbackground.name = "swaps"\ncast = "none"\n')
    Path("typo.toml").write_text("epoch = 3\n")
    assert message in ran(*SMOKE, *words, "--show-settings", code=2)


def test_evaluations_show_and_keep_their_options(tmp_path: Path) -> None:
    rows = shown("evaluate", "knn", "--set", "k=5", "--save-config", tmp_path / "knn.toml")
    assert (rows["k"]["value"], rows["k"]["source"], rows["k"]["allowed"]) == (5, "--set", "1 or more")
    again = shown("evaluate", "knn", "--config", tmp_path / "knn.toml")
    assert {name: row["value"] for name, row in rows.items()} == {name: row["value"] for name, row in again.items()}
    assert "of one evaluation" in ran("evaluate", "all", "--show-settings", code=2)
    assert "k=0 must be 1 or more" in ran("evaluate", "knn", "--set", "k=0", "--show-settings", code=2)


def test_detectors_show_and_keep_their_settings(tmp_path: Path) -> None:
    train = ["saliency", "train", "--preset", "tiny"]
    rows = shown(*train, "--set", "stage1_epochs=2", "--save-config", tmp_path / "tiny.toml")
    assert (rows["stage1_epochs"]["value"], rows["stage1_epochs"]["source"]) == (2, "--set")
    assert rows["architecture"]["source"] == "preset tiny"
    (tmp_path / "settings.json").write_text(
        json.dumps({"seed": 0, "settings": {name: row["value"] for name, row in rows.items()}})
    )
    for config in ("tiny.toml", "settings.json"):
        again = shown(*train, "--config", tmp_path / config)
        assert {name: row["value"] for name, row in rows.items()} == {name: row["value"] for name, row in again.items()}
    assert "methods=rbd leaves out --source mc" in ran(
        *train, "--config", tmp_path / "tiny.toml", "--source", "mc", "--show-settings", code=2
    )


def test_people_read_a_line_per_setting() -> None:
    text = ran(*SMOKE, "--method", "moco", "--show-settings")
    assert "epochs = 40  (recipe smoke; 1 or more)\n    Passes over the images\n" in text


def test_how_a_method_computes_is_said_beside_its_settings() -> None:
    rows = shown(*SMOKE, "--method", "byol", "--set", "is_compiled=true", "--set", "accumulation_steps=4")
    said = {name.removeprefix("computes."): row for name, row in rows.items() if name.startswith("computes.")}
    assert said["number_format"]["value"] == "bf16 on a GPU, fp32 on a CPU"
    assert said["memory_layout"]["value"] == "channels last"
    assert said["compiled"]["value"] == "every backbone"
    assert said["parts_of_a_step"]["value"] == "4"
    # 32 images: parts of one image cannot be normalised.
    assert "one of 1, 2, 4, 8, 16" in said["parts_of_a_step"]["meaning"]
    assert "32" not in said["parts_of_a_step"]["meaning"]
    moco = shown(*SMOKE, "--method", "moco", "--set", "precision=bf16")
    assert moco["computes.number_format"]["value"] == "bf16"
    assert "algorithm.head=bn_mlp" in moco["computes.parts_of_a_step"]["meaning"]
