"""Evaluations; a file's name, with hyphens, is its name on the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from backdrop.open_sets import OpenSet

if TYPE_CHECKING:
    from backdrop.trainer.evaluation.harness.result import Result
    from backdrop.trainer.evaluation.harness.subject import Subject

# An evaluation's own Options.
Chosen = TypeVar("Chosen")


class EvaluationFile(Protocol[Chosen]):
    """What a file of `trainer/evaluation/`, or a plug-in of the set `evaluations`, provides.

    The first line of its docstring says what is measured. What it has nothing to say to, it takes from
    `harness/defaults.py`: `needed_beside = nothing_beside`.
    """

    @property
    def DATA(self) -> str:
        """The folder of its data set below BACKDROP_DATA."""

    @property
    def LAYOUT(self) -> str:
        """What lies in that folder, ROOT, for messages."""

    @property
    def SOURCE(self) -> str:
        """Where the data set comes from, for messages."""

    @property
    def TAKES_DAYS(self) -> bool:
        """Whether it trains for days on eight GPUs: `evaluate all` has it last, so that nobody waits for it."""

    @property
    def Options(self) -> type[Chosen]:
        """A frozen dataclass of what may be chosen, every field with a default."""

    def run(self, subject: "Subject", data: Path, options: Chosen) -> "Result":
        """Score a network.

        Args: subject: the network. data: the data set's folder; "sample" where it is asked for. options: checked here.
        Raises: UserError: another layout, an option out of range, a network that this cannot score.
        """

    def needed_beside(self, data: Path, options: Chosen) -> Sequence[Path]:
        """Return the files that must be there besides the images: `evaluate all` looks for them before it begins."""

    def facts_of_data(self, data: Path, options: Chosen) -> Mapping[str, Any]:
        """Return the facts of a score that tell without scoring whether it was of the data that are there now.

        Raises: UserError: they cannot be read.
        """

    def problems_of_data(self, data: Path, options: Chosen) -> Sequence[str]:
        """Return what is odd about the data and can be told before days of work: `--strict` refuses it at once.

        Raises: UserError: another layout.
        """


EVALUATIONS: OpenSet[EvaluationFile[Any]] = OpenSet(
    "evaluations", __name__, __path__, contract=EvaluationFile, hyphens=True
)
NAMES = EVALUATIONS.built_in()
