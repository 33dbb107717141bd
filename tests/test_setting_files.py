"""Settings from a file and for people: what is written is read back, what is wrong is one sentence."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.settings import at_least, one_of, table, within
from backdrop.settings.config_files import read_config, save_config, written_config
from backdrop.settings.given import given_settings, sources_of
from backdrop.settings.overrides import with_override


@dataclass(frozen=True, kw_only=True)
class View:
    size_px: Annotated[int, at_least(1), "Side"] = 224
    scale: Annotated[tuple[float, float], within(0, 1), "Area"] = (0.2, 1.0)


@dataclass(frozen=True, kw_only=True)
class Run:
    epochs: Annotated[int, at_least(1), "Passes over the images"] = 10
    lr: Annotated[float, at_least(0), "Rate"] = 0.1
    limit: Annotated[int | None, at_least(1), "Rows; None = all"] = None
    falls: Annotated[tuple[int, ...], at_least(0), "Epochs at which the rate falls"] = ()
    name: Annotated[str, one_of(("sgd", "lars")), "Optimiser"] = "sgd"
    flip: Annotated[bool, "Whether to mirror"] = True
    note: Annotated[str, "Free text"] = ""
    views: Annotated[tuple[View, ...], "The views"] = (View(), View(size_px=96))


def applied(record: Run, values: dict[str, str]) -> Run:
    for path, text in values.items():
        record = with_override(record, path, text)
    return record


runs = st.builds(
    Run,
    epochs=st.integers(1, 10**6),
    lr=st.floats(0, 1e30, allow_nan=False),
    limit=st.none() | st.integers(1),
    falls=st.lists(st.integers(0, 999)).map(tuple),
    name=st.sampled_from(["sgd", "lars"]),
    flip=st.booleans(),
    note=st.text(st.characters(codec="utf-8")),
    views=st.tuples(*[st.builds(View, size_px=st.integers(1), scale=st.tuples(*[st.floats(0, 1)] * 2))] * 2),
)


@drawn(run=runs)
def test_a_written_file_gives_the_same_settings(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("config")
    (folder / "run.toml").write_text(written_config(run), encoding="utf-8")
    assert applied(Run(), read_config(folder / "run.toml")) == run
    (folder / "settings.json").write_text(json.dumps(asdict(run)))
    assert applied(Run(), read_config(folder / "settings.json")) == run


def test_a_file_of_ones_own_may_have_sections_and_lists(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("epochs = 3\nviews.size_px = 32\n[optimiser]\nlr = 1e-3\nbetas = [0.9, 1]\n")
    assert read_config(tmp_path / "run.toml") == {
        "epochs": "3",
        "views.size_px": "32",
        "optimiser.lr": "0.001",
        "optimiser.betas": "0.9,1",
    }
    (tmp_path / "views.toml").write_text("[[views]]\nsize_px = 8\n[[views]]\nsize_px = 9\n")
    assert read_config(tmp_path / "views.toml") == {"views.0.size_px": "8", "views.1.size_px": "9"}


def test_what_is_written_says_meaning_and_range() -> None:
    lines = written_config(Run()).splitlines()
    assert lines[:2] == ["# Passes over the images; 1 or more", "epochs = 10"]
    assert 'limit = "none"' in lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        ("epochs = ", "cannot be read as settings"),
        ("started = 1979-05-27\n", "started is neither a number, a text"),
        ("epochs = [[1], [2]]\n", "epochs is neither"),
        (b"\xff\xfe", "cannot be read as settings"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_json_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="holds no settings"):
        read_config(tmp_path / "settings.json")


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    save_config(Run(), tmp_path / "deep" / "run.toml")
    with pytest.raises(UserError, match="is there already"):
        save_config(Run(epochs=5), tmp_path / "deep" / "run.toml")
    assert applied(Run(), read_config(tmp_path / "deep" / "run.toml")) == Run()


def test_the_strongest_source_is_named_and_counts(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("epochs = 3\nlr = 0.5\nviews.size_px = 32\n")
    options = {"--epochs": ("epochs", 4), "--limit": ("limit", None)}
    given = given_settings(
        config=tmp_path / "run.toml",
        options=options,
        overrides=["epochs=5", "views.1.size_px=48"],
    )
    run = Run()
    for one in given:
        run = with_override(run, one.path, one.text)
    assert (run.epochs, run.lr, [view.size_px for view in run.views]) == (5, 0.5, [32, 48])
    config = f"--config {tmp_path / 'run.toml'}"
    assert sources_of(run, given) == {
        "epochs": "--set",
        "lr": config,
        "views.0.size_px": config,
        "views.1.size_px": "--set",
    }


def test_the_table_says_value_source_range_and_meaning() -> None:
    rows = table.rows(Run(lr=0.3, epochs=5), given_settings(overrides=["epochs=5"]), "recipe moco")
    by_name = {row["name"]: row for row in rows}
    assert by_name["epochs"] == {
        "name": "epochs", "value": 5, "allowed": "1 or more", "source": "--set", "meaning": "Passes over the images",
    }  # fmt: skip
    assert by_name["lr"]["source"] == "recipe moco"
    assert by_name["name"]["source"] == "default"
    assert by_name["name"]["allowed"] == "one of sgd, lars"
    assert "views.1.size_px" in by_name
    lines = table.text(rows).splitlines()
    assert lines[:2] == ["epochs = 5  (--set; 1 or more)", "    Passes over the images"]
