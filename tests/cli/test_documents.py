"""What the pages say of the code is true of it: every path and symbol is there, every command can be given."""

import ast
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click
import pytest

import backdrop.trainer.evaluation
import backdrop.trainer.methods
import backdrop.trainer.recipes
from backdrop import cli
from backdrop.saliency.training_presets import choose_training
from backdrop.trainer.evaluation import EVALUATIONS
from backdrop.trainer.evaluation.harness.evaluate import chosen_options
from backdrop.trainer.methods import METHODS
from backdrop.trainer.run.loop import resolve_settings
from tests.ladder.tables import documents, kept_cells
from tests.material import background_contract as contract
from tests.material.command_tree import commands_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in (
        "*.md",
        "backdrop/*.md",
        *(f"{floor}/**/*.md" for floor in ("stores", "saliency", "pipeline", "trainer", "tests")),
    )
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
COMMANDS = tuple(commands_of(cli.main))
# A span that is a path of the tree (with a symbol or not), e.g. `trainer/cast.py:Settings.weight`.
PLACE = re.compile(r"^(?:cli|(?:backdrop|stores|saliency|pipeline|trainer|tests)/[\w/]+)\.(?:py|md)(?::[\w.]+)?$")

PAPERS = (Path("trainer/recipes/RYALI.md"), Path("trainer/recipes/CAST.md"))
# The file that CONTRIBUTING.md has its reader write.
TO_BE_WRITTEN = {"pipeline/views/backgrounds/colour.py"}


def spans(page: Path) -> list[str]:
    """What stands between backticks outside blocks of code."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def places(page: Path) -> list[str]:
    return sorted({span for span in spans(page) if PLACE.match(span)} - TO_BE_WRITTEN)


def commands(page: Path) -> list[str]:
    """Spans that begin as a command line does and name an option."""
    return sorted({span for span in spans(page) if span.split()[0] in COMMANDS and " --" in span})


@cache
def names_of(path: str) -> dict[str, set[str]]:
    """What a file defines: name -> names of its methods and fields."""
    found: dict[str, set[str]] = {}
    for node in ast.parse((ROOT / path).read_text()).body:
        match node:
            case ast.ClassDef():
                found[node.name] = {name for item in node.body for name in defined(item)}
            case _:
                found.update({name: set() for name in defined(node)})
    return found


def defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def test_there_are_pages_to_look_at() -> None:
    names = {str(page) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "trainer/recipes/RYALI.md", "pipeline/build/COSTS.md"} <= names
    assert len(places(PAPERS[0])) > 60
    assert len(commands(PAPERS[0])) > 30


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_place_named_is_there(page: Path) -> None:
    for place in places(page):
        path, _, symbol = place.partition(":")
        assert (ROOT / path).is_file(), f"{page} names {path}"
        name, _, member = symbol.partition(".")
        if name:
            assert name in names_of(path), f"{page} names {place}"
        if member:
            assert member in names_of(path)[name], f"{page} names {place}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_option_named_is_there(page: Path) -> None:
    for command in commands(page):
        chosen, words = command_of(command)
        known = {option for param in chosen.params for option in [*param.opts, *param.secondary_opts]}
        assert {word for word in words if word.startswith("--")} <= known, f"{page}: {command}"


@pytest.mark.parametrize("page", PAPERS, ids=str)
def test_every_command_for_a_table_can_be_given(page: Path) -> None:
    """It is parsed as click does, and its settings are resolved; nothing runs."""
    for command in commands(page):
        chosen, words = command_of(command)
        try:
            given = chosen.make_context(chosen.name, words).params
        except click.UsageError as error:
            pytest.fail(f"{command}: {error.format_message()}")
        if chosen.name == "pretrain":
            method = given["method"]
            recipe = given["recipe"] or METHODS.load(method).DEFAULT_RECIPE
            resolve_settings(recipe, method, given["bg"] or "none", given["with_cast"], given["overrides"])
        elif given.get("task", "all") != "all":
            chosen_options(EVALUATIONS.load(given["task"]), given["overrides"])
        elif "preset" in given:
            choose_training(given["preset"], given["overrides"], given.get("sources", ()))


def command_of(line: str) -> tuple[click.Command, list[str]]:
    """The command that a line names, and the words after its name."""
    command, words = cli.main, shlex.split(line)
    while isinstance(command, click.Group):
        below = commands_of(command)
        assert words[0] in below, line
        command = below[words.pop(0)]
    return command, words


def sentences(group: click.Group, above: str = "") -> dict[str, str]:
    """The first sentence of every command's help."""
    found = {}
    for name, command in commands_of(group).items():
        if isinstance(command, click.Group):
            found |= sentences(command, f"{above}{name} ")
        else:
            found[above + name] = command.get_short_help_str(limit=200)
    return found


def test_the_page_of_commands_has_them_all() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9 -]+)` \| (.+) \|$", (ROOT / "backdrop/COMMANDS.md").read_text(), flags=re.MULTILINE
    )
    assert dict(rows) == sentences(cli.main)
    assert len(rows) == len(dict(rows))


def test_every_open_set_has_its_place_in_a_page_of_a_paper() -> None:
    """A recipe or an evaluation that no page names cannot be found by who reads the papers."""
    named = {place.partition(":")[0] for page in PAPERS for place in places(page)}
    for recipe in set(backdrop.trainer.recipes.NAMES) - {"smoke", "moco_v2_200"}:  # of no paper; of MoCo-v2's own
        assert f"trainer/recipes/{recipe}.py" in named
    for task in set(backdrop.trainer.evaluation.NAMES) - {"knn"}:  # of neither paper
        assert f"trainer/evaluation/{task.replace('-', '_')}.py" in named
    for method in set(backdrop.trainer.methods.NAMES) - {"cast", "rotnet"}:  # both by their recipes
        assert f"trainer/methods/{method}.py" in named


COSTS = (ROOT / "pipeline/build/COSTS.md").read_text().splitlines()
PRICED = [line for line in COSTS if re.match(r"\| `\w+` \| [\d,]+ \|", line)]


@pytest.mark.parametrize("line", PRICED, ids=lambda line: line.split("`")[1])
def test_gpu_hours_are_images_times_epochs_over_the_rate(line: str) -> None:
    cells = [cell.strip(" `").replace(",", "") for cell in line.strip("|").split("|")]
    recipe, images, epochs, rate, _, hours, money, h100_rate, h100_hours = cells
    method = re.search(r"--method (\w+)", import_module(f"backdrop.trainer.recipes.{recipe}").__doc__ or "")
    assert method is not None
    background = "rm" if recipe == "swav_100_wide_crops" else "none"
    assert int(epochs) == resolve_settings(recipe, method[1], background, False, ()).epochs
    assert int(hours) == round(int(images) * int(epochs) / float(rate) / 3600)
    assert int(money) == pytest.approx(2.5 * int(hours), abs=1)
    measured = _h100_step_ms({"moco": "none", "cast": "cast"}.get(method[1], "not measured"))
    assert h100_rate == ("" if measured is None else f"{256 / measured * 1000:.0f}")
    assert h100_hours == (h100_rate and f"{int(images) * int(epochs) / int(h100_rate) / 3600:.1f}")


def _h100_step_ms(case: str) -> float | None:
    """Milliseconds of a step of 256 images, as last measured."""
    with (ROOT / "tests/golden/gpu_steps.csv").open(newline="") as file:
        found = [row["ms"] for row in csv.DictReader(file) if row["case"] == case]
    return float(found[-1]) if found else None


# ------------------------------------------------------------------------------------------- what CONTRIBUTING.md tells


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
ROW = re.compile(r"^\| [\w ]+ \| `([\w/]+)/<name>\.py` \| ([^|]+) \| `([\w/.]+)` \|$", flags=re.MULTILINE)
OPEN_SETS = ROW.findall(CONTRIBUTING)


@pytest.mark.parametrize(("folder", "provided", "test"), OPEN_SETS, ids=[folder for folder, *_ in OPEN_SETS])
def test_a_file_of_an_open_set_provides_what_the_table_says(folder: str, provided: str, test: str) -> None:
    package = import_module(f"backdrop.{folder}".replace("/", "."))
    wanted = re.findall(r"`(\w+)`", provided)
    assert wanted
    for name in package.NAMES:
        module = import_module(f"{package.__name__}.{name.replace('-', '_')}")
        assert all(hasattr(module, item) for item in wanted), f"{module.__name__} lacks one of {wanted}"
    assert (ROOT / test).is_file()


def test_the_table_has_all_open_sets() -> None:
    floors = ("stores", "saliency", "pipeline", "trainer")
    packages = [path for floor in floors for path in (ROOT / floor).rglob("__init__.py")]
    sets = {path.parent.relative_to(ROOT).as_posix() for path in packages if ": OpenSet[" in path.read_text()}
    assert len(sets) >= 6
    assert sets <= {folder for folder, *_ in OPEN_SETS}


def test_the_background_of_the_page_works_as_one_file_more(tmp_path: Path) -> None:
    """Written into a copy of the tree, it is on the command line; it does what every background must."""
    (source,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)
    for folder in ("stores", "saliency", "pipeline", "trainer"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    shutil.copytree(ROOT / "backdrop", tmp_path / "backdrop", symlinks=True)
    shutil.copy(ROOT / "cli.py", tmp_path)
    (tmp_path / "pipeline/views/backgrounds/colour.py").write_text(source)
    code = (
        "from backdrop.trainer.commands import pretrain_command; "
        "print(next(p for p in pretrain_command.params if p.name == 'bg').type.choices)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "colour" in done.stdout
    background = ModuleType("colour")
    exec(source, background.__dict__)
    contract.declares_what_it_needs(background)
    contract.keeps_shape_dtype_foreground_and_rows_not_drawn(background)
    contract.replaces_every_background_pixel_or_none(background)


def test_tables_of_detectors_are_those_of_the_kept_measurements() -> None:
    """`python -m tests.ladder` makes them; the README's is an excerpt of the first of the detectors' page."""
    made = documents(kept_cells())
    assert {path.name for path in made} == {"DETECTORS.md", "README.md"}
    for path, text in made.items():
        assert path.read_text() == text, f"{path} is not up to date: run python -m tests.ladder"
    ladder_text = made[ROOT / "saliency" / "DETECTORS.md"].partition("## Scores")[2]
    ladder = {row[0]: row for row in table_rows(ladder_text)[::-1]}  # of a name that several sets have: the first's
    of_readme = made[ROOT / "README.md"].partition("## What to expect")[2].partition("Small runs")[0]
    for row in table_rows(of_readme)[2:]:
        assert [cell for cell in row if cell and cell not in ladder[row[0]]] == [], row[0]


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
