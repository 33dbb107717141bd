"""The rules of the house that a machine can check: floors, file names, docstrings, size of functions."""

import ast
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from tests.room_graph import (
    EVALUATION,
    FLOORS,
    HOUSES,
    PACKAGE,
    ROOT,
    SOURCES,
    circle,
    file_graph,
    imported,
    module_name,
    parse,
    room_graph,
)

# What may not know of one another although the floors would let them: the store is their only contract.
FORBIDDEN = (
    ("pipeline/build", "backdrop.pipeline.loader"),
    ("pipeline/loader", "backdrop.saliency"),
    ("trainer", "backdrop.saliency.detectors"),
    ("trainer", "backdrop.saliency.detector"),
)
# What a command line is made of; no other file knows that there is one.
COMMAND_FILES = ("cli.py", "commands.py", "command_line.py", "command_options.py", "settings_options.py")
MAX_BODY_LINES = 45
MAX_NESTING = 3
MAX_PARAMETERS = 7


def of_every(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a rule for files, which names all that break it: a test a file costs more than the rules."""

    def decorate(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = [f"{path.relative_to(ROOT)}: {error}" for path in paths for error in _errors(rule, path)]
            assert not broken, "\n".join(broken)

        test.__doc__ = rule.__doc__
        return test

    return decorate


def _errors(rule: Callable[[Path], None], path: Path) -> Iterator[AssertionError]:
    try:
        rule(path)
    except AssertionError as error:
        yield error


@of_every(SOURCES)
def test_imports_go_down_only(path: Path) -> None:
    floor = FLOORS.index(module_name(path).split(".")[0])
    for name in imported(parse(path)):
        top, *rest = name.split(".")
        if top == PACKAGE:
            other = rest[0] if rest and rest[0] in FLOORS else PACKAGE
            assert FLOORS.index(other) <= floor, f"{module_name(path)} imports {name} from a floor above"
        assert top not in FLOORS[1:], f"{module_name(path)} imports {name} by another name than backdrop.{name}"
        assert top != "tests", f"{module_name(path)} imports {name}"


@pytest.mark.parametrize(("folder", "name"), FORBIDDEN)
def test_the_two_halves_meet_only_in_the_store(folder: str, name: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not any(f"{other}.".startswith(f"{name}.") for other in imported(parse(path))), f"{path} imports {name}"


@pytest.mark.parametrize("house", HOUSES)
def test_rooms_of_a_floor_import_one_way(house: str) -> None:
    graph = room_graph(house)
    found = circle({room: set(others) for room, others in graph.items()})
    why = [sorted(graph[room][other]) for room, other in pairwise(found)]
    assert not found, f"{house}: {' -> '.join(found)} by {why}"


def test_tasks_are_above_every_room_of_the_evaluations() -> None:
    assert "tasks" not in {other for others in room_graph(EVALUATION).values() for other in others}


def test_files_import_one_way() -> None:
    found = circle(file_graph())
    assert not found, " -> ".join(found)


def test_what_is_private_to_a_room_stays_in_it() -> None:
    for mine, theirs in file_graph().items():
        for other in theirs:
            folder, _, file = other.rpartition(".")
            assert not file.startswith("_") or mine.startswith(folder), f"{mine} imports {other}"


@of_every(SOURCES)
def test_the_command_line_is_known_to_commands_alone(path: Path) -> None:
    if path.name in COMMAND_FILES:
        return
    top = {name.partition(".")[0] for name in imported(parse(path))}
    assert "click" not in top, f"{module_name(path)} imports click"
    files = {name.removesuffix(".py") for name in COMMAND_FILES}
    known = [name for name in imported(parse(path)) if name.startswith(f"{PACKAGE}.") and files & {*name.split(".")}]
    assert not known, f"{module_name(path)} imports {known}"


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "misc", "common", "base", "helpers", "helper"}
    assert not [
        path for path in SOURCES if {part.strip("_") for part in path.relative_to(ROOT).with_suffix("").parts} & drawers
    ]


# What a test file may import of tests/: what several need, slow restatements, and the programs that are its subject.
SHARED_BY_TESTS = (
    "bench",
    "ladder",
    "golden",
    "golden_stores",
    "material",
    "reference",
    "room_graph",
    "check_members",
    "scale",
    "study",
)


@of_every(sorted((ROOT / "tests").rglob("*.py")))
def test_no_test_file_is_imported(path: Path) -> None:
    """Nor in a program that is written in a string, for another process."""
    programs = [
        tree
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value
        if (tree := _program(node.value))
    ]
    for name in [name for tree in (parse(path), *programs) for name in imported(tree)]:
        top, *rest = name.split(".")
        if top == "tests":
            assert not any(part.startswith("test_") for part in rest), (
                f"{path} imports {name}: move it to tests/material"
            )
            assert rest[0] in SHARED_BY_TESTS, f"{path} imports {name}"


def _program(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    item for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
                )


@of_every(SOURCES)
def test_everything_public_says_what_it_is(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree), f"{module_name(path)} has no docstring"
    silent = [node.name for node in public_definitions(tree) if not ast.get_docstring(node)]
    assert not silent, f"{module_name(path)}: no docstring at {silent}"


def nesting(node: ast.AST, depth: int = 0) -> int:
    deeper = isinstance(node, (ast.For, ast.While, ast.If, ast.With, ast.Try))
    return max(
        [depth + deeper]
        + [
            nesting(child, depth + deeper)
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, (ast.FunctionDef, ast.ClassDef))
        ]
    )


@of_every(SOURCES)
def test_functions_can_be_read_without_scrolling(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.FunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        num_lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        assert num_lines <= MAX_BODY_LINES, f"{module_name(path)}.{node.name}: {num_lines} lines"
        # An elif chain counts as depth in the syntax tree, hence one level of grace over the written rule.
        assert nesting(node) <= MAX_NESTING + 1, f"{module_name(path)}.{node.name} nests {nesting(node)} deep"


@of_every(SOURCES)
def test_what_belongs_together_has_a_name(path: Path) -> None:
    """A command is excepted: click gives it every option of the command line as a parameter of its own."""
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.FunctionDef) or any("click." in ast.unparse(each) for each in node.decorator_list):
            continue
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        own = names[1:] if names[:1] in (["self"], ["cls"], ["typing_context"]) else names  # the last is numba's
        assert len(own) <= MAX_PARAMETERS, f"{module_name(path)}.{node.name} takes {len(own)}: {', '.join(own)}"


@of_every(SOURCES)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{module_name(path)}:{node.lineno}: bare except"
            silent = all(isinstance(item, (ast.Pass, ast.Continue)) for item in node.body)
            wide = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            assert not (silent and wide), f"{module_name(path)}:{node.lineno}: swallows every error"


@of_every(SOURCES)
def test_bars_and_messages_have_one_style(path: Path) -> None:
    """Bars come from backdrop/progress.py; standard output is for results, which commands alone print."""
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        is_own = module_name(path) == "backdrop.progress"
        is_silent = any(isinstance(keyword.value, ast.Dict) for keyword in node.keywords if keyword.arg is None)
        assert is_own or is_silent or called not in ("tqdm", "tqdm.write"), (
            f"{path}:{node.lineno}: take stage_bar, warn"
        )
        to_stderr = any(keyword.arg == "file" and "stderr" in ast.unparse(keyword.value) for keyword in node.keywords)
        assert called != "print" or to_stderr, f"{path}:{node.lineno}: print: use backdrop.progress.warn or note"


def test_every_package_is_shipped() -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {module_name(path.parent) for path in SOURCES if path.name == "__init__.py"}
    assert listed == {name if name.partition(".")[0] == PACKAGE else f"{PACKAGE}.{name}" for name in found}


def test_every_asset_of_a_page_is_shipped() -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    shipped = {name: patterns.split() for name, patterns in config["options.package_data"].items()}
    assets = [
        path for floor in FLOORS[1:-1] for path in (ROOT / floor).rglob("*") if path.suffix in (".html", ".css", ".js")
    ]
    assert assets
    for path in assets:
        assert any(path.match(pattern) for pattern in shipped.get(f"{PACKAGE}.{module_name(path.parent)}", [])), path
