"""What was measured, run after run: one line of bench-runs.jsonl for each section that ran, with where and on what."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from backdrop.devices import num_cores
from backdrop.stores.format.provenance import commit

RUNS = Path("bench-runs.jsonl")


@dataclass(frozen=True, kw_only=True)
class SectionRun:
    """One section of one run. lines: as in bench.json. load: of the machine before it, in processes that wanted a core.

    seconds: that it took. commit: with "+" where files differed from it.
    """

    section: str
    time: str
    commit: str
    processor: str
    num_cores: int
    python: str
    load: float
    seconds: float
    lines: dict[str, dict]


class Clock:
    """Times one section. Made before it begins, for the load of a machine counts what is measured too."""

    def __init__(self, section: str) -> None:
        self._section, self._begun, self._load = section, time.perf_counter(), os.getloadavg()[0]

    def ended(self, lines: dict[str, dict]) -> SectionRun:
        """Return the run of the section. Args: lines: what it measured."""
        return SectionRun(
            section=self._section,
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            commit=commit(),
            processor=_processor(),
            num_cores=num_cores(),
            python=platform.python_version(),
            load=round(self._load, 1),
            seconds=round(time.perf_counter() - self._begun, 1),
            lines=lines,
        )


def keep(run: SectionRun, path: Path = RUNS) -> None:
    """Add a run to the file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(run), sort_keys=True) + "\n")


def kept(path: Path = RUNS) -> list[SectionRun]:
    """Return all runs of the file, the oldest first; [] where there is none."""
    if not path.exists():
        return []
    return [SectionRun(**json.loads(line)) for line in path.read_text().splitlines()]


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
