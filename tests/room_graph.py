"""Which room of the house imports which: `python -m tests.room_graph` prints it, tests/test_architecture.py judges it.

A room is a file or folder that lies directly in a floor; the open folder trainer/evaluation is a house of its own, with
its folders as rooms and the files of its tasks as one room above them.
"""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "backdrop"
FLOORS = (PACKAGE, "stores", "saliency", "pipeline", "trainer", "cli")
# The floors are linked into the package's folder: each file is read once, where it lies.
SOURCES = [
    *sorted(path for path in (ROOT / PACKAGE).rglob("*.py") if not any(p.is_symlink() for p in (path, *path.parents))),
    *sorted(path for floor in FLOORS[1:-1] for path in (ROOT / floor).rglob("*.py")),
    ROOT / "cli.py",
]
# Houses: a folder whose rooms are looked at, and what its single files are.
HOUSES = ("stores", "saliency", "pipeline", "trainer", "trainer/evaluation")
EVALUATION = "trainer/evaluation"


def module_name(path: Path) -> str:
    """Return the dotted name of a file below the root: pipeline.views.crops."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def parse(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(), filename=str(path))


@cache
def imported(tree: ast.Module) -> tuple[str, ...]:
    """Return the dotted names that a file imports, within functions too."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(names)


@cache
def file_graph() -> dict[str, set[str]]:
    """Return file -> files of the project that it imports, by dotted name without the package's."""
    names = {module_name(path).removesuffix(".__init__") for path in SOURCES}
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        mine = module_name(path).removesuffix(".__init__")
        theirs = {_file_of(name.removeprefix(f"{PACKAGE}."), names) for name in imported(parse(path))}
        graph[mine] = {name for name in theirs if name and name != mine}
    return graph


def _file_of(name: str, names: set[str]) -> str:
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name


def room_of(name: str, house: str) -> str:
    """Return the room of a house that a file, by dotted name, lies in; "" outside the house."""
    inside = f"{house.replace('/', '.')}."
    if not name.startswith(inside):
        return ""
    room, _, rest = name.removeprefix(inside).partition(".")
    return "tasks" if house == EVALUATION and not rest and not (ROOT / house / room).is_dir() else room


def room_graph(house: str) -> dict[str, dict[str, set[tuple[str, str]]]]:
    """Return room -> other room of the house -> the imports, as (file, file)."""
    graph: dict[str, dict[str, set[tuple[str, str]]]] = defaultdict(lambda: defaultdict(set))
    for mine, theirs in file_graph().items():
        for other in theirs:
            room, other_room = room_of(mine, house), room_of(other, house)
            if room and other_room and room != other_room:
                graph[room][other_room].add((mine, other))
    return {room: dict(others) for room, others in graph.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the names along one circle of a graph; [] where there is none."""
    done: set[str] = set()
    way: list[str] = []

    def visit(name: str) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        way.append(name)
        for other in sorted(graph.get(name, ())):
            if found := visit(other):
                return found
        way.pop()
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name))), [])


def main() -> None:
    """Print every house's rooms and the imports between them."""
    for house in HOUSES:
        rooms = {room_of(name, house) for name in file_graph()} - {""}
        graph = room_graph(house)
        count = sum(len(others) for others in graph.values())
        print(f"{house}: {len(rooms)} rooms, {count} between rooms")
        for room, others in sorted(graph.items()):
            print(f"  {room} -> {', '.join(sorted(others))}")


if __name__ == "__main__":
    main()
