"""Where the curves of a run go beside its metrics.jsonl; a file's name is what `--log` takes.

| file          | what it writes                                                                                      |
|---------------|-----------------------------------------------------------------------------------------------------|
| `tensorboard` | RUN/tensorboard; always                                                                             |
| `csv`         | RUN/curves.csv: step,name,value                                                                     |
| `wandb`       | a run of Weights & Biases, where its own variables say (WANDB_MODE=offline: RUN/wandb, no network)  |
| `mlflow`      | a run of MLflow at MLFLOW_TRACKING_URI (a folder or a server)                                       |

Members import their package in `open` alone.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from backdrop.open_sets import OpenSet

# Always written: `report`'s charts do not need it, but there is nothing to install or to ask.
ALWAYS = "tensorboard"


class Logger(Protocol):
    """Takes the numbers of a run while it goes on."""

    def log(self, step: int, values: Mapping[str, float], unix_time: float) -> None:
        """Take the numbers of one step. Args: step: that they are of. values: by name. unix_time: in seconds."""

    def close(self) -> None:
        """Write what is left; the run goes on later or is done."""


class LoggerFile(Protocol):
    """What a file of `trainer/loggers/`, or a plug-in of the set `loggers`, provides."""

    def open(self, folder: Path, settings: Mapping[str, Any], first_step: int) -> Logger:
        """Begin, or go on with what was begun for the same folder.

        Args: folder: the run's. settings: of the run, by path. first_step: the run goes on from here; numbers from this
            step on come again.
        Raises: UserError: its package is not installed.
        """


LOGGERS: OpenSet[LoggerFile] = OpenSet("loggers", __name__, __path__, contract=LoggerFile)
NAMES = LOGGERS.built_in()


def names_in(text: str) -> tuple[str, ...]:
    """Return the loggers that a setting names, without the one that is always there; "" = none.

    Raises: UserError: there is none of that name.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        LOGGERS.load(name)
    return tuple(name for name in names if name != ALWAYS)


def open_loggers(text: str, folder: Path, settings: Mapping[str, Any], first_step: int) -> Sequence[Logger]:
    """Open the one that is always there and those that a setting names, see `LoggerFile.open`; all of them, or none."""
    opened: list[Logger] = []
    with ExitStack() as stack:
        for name in (ALWAYS, *names_in(text)):
            opened.append(LOGGERS.load(name).open(folder, settings, first_step))
            stack.callback(opened[-1].close)
        stack.pop_all()
    return opened
