"""What a table of a paper is made of: rows, the trainings behind them, the evaluations that give their cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backdrop.stores.format.provenance import identity_digest
from backdrop.trainer.paper_tables.counting_settings import counting
from backdrop.trainer.run.loop import RunRequest
from backdrop.trainer.settings import RunSettings

# What is scored in a row: a network of ours, a saliency detector of ours, the supervised network of torchvision,
# random weights; of the others nothing can be computed here.
SUBJECTS = ("training", "detector", "torchvision", "untrained", "published", "none")


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training, as `pretrain` takes it.

    method, recipe, background: names of members of those sets.
    settings: name=value changes of the recipe. All that the paper states of the row stands here, also where the recipe
        has it, so that a row stays itself under a smaller recipe.
    data: a name of stores/datasets, of the images trained on.
    masks: whose masks: deepusps2, u2net, deepusps; "" where no mask is used.
    threshold: of those masks' saliency, None without masks.
    seeds: runs that the paper's number is the mean of.
    start_from: the training whose finished network this one starts from.
    """

    method: str
    recipe: str
    background: str = "none"
    settings: tuple[str, ...] = ()
    data: str
    masks: str = ""
    threshold: float | None = None
    seeds: int = 1
    start_from: "Training | None" = None

    def request(self, *, seed: int = 0, start_from: Path | None = None) -> RunRequest:
        """Return what `pretrain` takes for one of its runs.

        Args: seed: of the run. start_from: folder of the run of `self.start_from`.
        """
        added = [f"seed={seed}"] if seed else []
        added += [f"algorithm.start_from={start_from}"] if start_from is not None else []
        return RunRequest(
            method=self.method,
            background=self.background,
            recipe=self.recipe,
            overrides=(*self.settings, *added),
        )

    def resolved(self) -> RunSettings:
        """Return every setting of the run of seed 0, but for the folder that it starts from.

        Raises: UserError: an unknown recipe or setting.
        """
        return self.request().unchecked()

    def identity(self) -> dict[str, object]:
        """Return all that decides the trained network, but for the seed."""
        return {
            "data": self.data,
            "masks": self.masks,
            "threshold": self.threshold,
            "settings": dict(self.counting()),
            "start_from": self.start_from.identity() if self.start_from else None,
        }

    def counting(self) -> Mapping[str, Any]:
        """Return the settings that decide its network, by path (`counting_settings.py`)."""
        return _counting(self)

    def digest(self) -> str:
        """Return SHA-256 (hex) of `identity`: of the resolved settings, not of the texts that gave them."""
        return identity_digest(self.identity())


@cache
def _counting(training: Training) -> Mapping[str, Any]:
    return MappingProxyType(counting(training.resolved()))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation, as `evaluate TASK --set ...` takes it.

    task: a name of trainer/evaluation. options: name=value changes of its options. data: the data set's folder, or
    "sample"; "" = its place under BACKDROP_DATA. after: the one that has to be done before it, because it leaves the
    classifier that this one scores. is_untrained: of the network with weights drawn anew.
    """

    task: str
    options: tuple[str, ...] = ()
    data: str = ""
    after: "Evaluation | None" = None
    is_untrained: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a paper.

    paper, table, row: where it is printed. setting, task, data, metric: what it is, in the words of numbers.csv.
    value, sem: as printed, trailing zeros kept; sem is "" where there is none. Percent, but for an IoU.
    note: what else the paper says of it.
    evaluation: what computes it here; None = nothing, see why_not. score: under what name among its scores.
    """

    paper: str
    table: str
    row: str
    setting: str
    task: str
    data: str
    metric: str
    value: str
    sem: str
    note: str
    evaluation: Evaluation | None
    score: str
    why_not: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a table says of one network: a printed row, or one column of it where columns are networks.

    name: of the printed row. method, background, epochs, pretrain_data, masks: in the words of numbers.csv, "" where
    the paper states none. stated: what else it states of the training, "; " between.
    subject: of SUBJECTS. training: where the subject is one of ours. seeds: runs averaged, of a detector too.
    cells: in the paper's order. note: what was assumed where the paper is silent, or why there is no training.
    """

    name: str
    method: str
    background: str
    stated: str
    epochs: str
    pretrain_data: str
    masks: str
    subject: str
    training: Training | None
    seeds: int
    cells: tuple[Cell, ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table, figure (F4) or section with numbers of its own (S4.6, SC.2).

    paper: ryali or cast. number: as printed. title: what it compares. rows: in the paper's order.
    """

    paper: str
    number: str
    title: str
    rows: tuple[Row, ...]
