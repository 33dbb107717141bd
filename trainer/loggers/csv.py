"""RUN/curves.csv: a line `step,name,value` per number, so that names may come later (pandas: `pivot`)."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE, HEADER = "curves.csv", ("step", "name", "value")


def open(folder: Path, settings: Mapping[str, Any], first_step: int) -> "_Csv":
    """Begin the file, or drop of one that is there the steps that come again."""
    return _Csv(folder / FILE, first_step)


class _Csv:
    def __init__(self, path: Path, first_step: int) -> None:
        kept = _lines_before(path, first_step) if path.exists() else []
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerows([HEADER, *kept])

    def log(self, step: int, values: Mapping[str, float], unix_time: float) -> None:
        """Write a line per number."""
        self._writer.writerows((step, name, value) for name, value in values.items())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lines_before(path: Path, first_step: int) -> list[list[str]]:
    """The lines of steps that do not come again; what a kill left of a line is none."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    return [line for line in lines if len(line) == len(HEADER) and int(line[0]) < first_step]
