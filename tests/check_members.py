"""mypy reads every member of every open set against the set's Protocol: `python -m tests.check_members`.

Modules are values of a Protocol's type to mypy. A file that assigns each of them to its Protocol is written from the
folders' names, so that a new member is checked without an edit elsewhere.
"""

import os
import re
import subprocess
import sys
import tempfile
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from tests.room_graph import FLOORS, PACKAGE, ROOT, module_name

_OPEN_SET = re.compile(r"^(\w+): OpenSet\[(\w+)(?:\[Any\])?\] = OpenSet\(", flags=re.MULTILINE)


def open_sets() -> Iterator[tuple[str, str, str]]:
    """Yield of each open set the package, the name of its OpenSet, and that of its Protocol."""
    for floor in FLOORS[1:-1]:
        for path in sorted((ROOT / floor).rglob("__init__.py")):
            for name, contract in _OPEN_SET.findall(path.read_text()):
                yield f"{PACKAGE}.{module_name(path.parent)}", name, contract


def assignments() -> str:
    """Return a Python file that assigns every built-in member to its Protocol."""
    lines = []
    for package, name, contract in open_sets():
        lines.append(f"from {package} import {contract}")
        for member in getattr(import_module(package), name).built_in():
            lines += assignment(package, contract, member.replace("-", "_"))
    return "\n".join(lines) + "\n"


def assignment(package: str, contract: str, file: str) -> list[str]:
    """Return the lines for one member. Args: file: its name without .py."""
    alias = f"{package.replace('.', '_')}__{file}"
    parameter = _parameter(getattr(import_module(package), contract))
    kind = f"{contract}[{alias}.{parameter}]" if parameter else contract
    return [f"from {package} import {file} as {alias}", f"_{alias}: {kind} = {alias}"]


def _parameter(contract: type) -> str:
    """The member that a generic Protocol is of: the one of type[T] (a method's Settings); "" where it is of none."""
    for name, member in vars(contract).items():
        if isinstance(member, property) and typing.get_origin(member.fget.__annotations__["return"]) is type:
            return name
    return ""


def errors_of(text: str, *search_path: Path) -> str:
    """Return what mypy says of a file, "" where nothing is wrong. Args: search_path: of more modules."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "members.py"
        path.write_text(text)
        environment = {**os.environ, "MYPYPATH": os.pathsep.join(map(str, (ROOT, *search_path)))}
        words = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "setup.cfg"), "--no-error-summary"]
        done = subprocess.run([*words, str(path)], cwd=ROOT, env=environment, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def main() -> None:
    """Check all members; exit code 1 where one does not fit."""
    text = assignments()
    errors = errors_of(text)
    print(errors or f"Success: {text.count(' = ')} members fit their Protocols")
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
