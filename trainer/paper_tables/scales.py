"""What rows become where the papers' scale is out of reach: `scales.toml` as records, and a training under one."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources

from backdrop.errors import UserError
from backdrop.settings.overrides import split_override
from backdrop.trainer.paper_tables.records import Cell, Evaluation, Training

PAPER = "paper"


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """What is computed in place of an evaluation of the papers. scores: the paper's score -> its name there."""

    evaluation: Evaluation
    scores: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A scale of `scales.toml`, which says what each field is; "" and None = as the row has it."""

    name: str
    data: str = ""
    masks: str = ""
    threshold: float | None = None
    recipe: str = ""
    seeds: int | None = None
    epochs: Mapping[int, int] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    settings_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    evaluations: Mapping[str, Replacement] = field(default_factory=dict)
    departures: tuple[str, ...] = ()


@cache
def scales() -> dict[str, Scale]:
    """Return the scales by name, the papers' own first."""
    text = resources.files("backdrop.trainer.paper_tables").joinpath("scales.toml").read_text(encoding="utf-8")
    found = {PAPER: Scale(name=PAPER)}
    for name, read in tomllib.loads(text).items():
        lists = {key: tuple(value) for key, value in read.items() if key in ("settings", "idle", "departures")}
        deeper = {
            "epochs": {int(paper): here for paper, here in read.get("epochs", {}).items()},
            "settings_of": {method: tuple(given) for method, given in read.get("settings_of", {}).items()},
            "evaluations": {one["task"]: _replacement(one) for one in read.get("evaluations", [])},
        }
        found[name] = Scale(name=name, **read | lists | deeper)
    return found


def scale(name: str) -> Scale:
    """Return one scale. Raises: UserError: there is none of that name."""
    if name not in scales():
        raise UserError(f"no scale {name!r}; there are {', '.join(scales())}")
    return scales()[name]


def at_scale(training: Training, scale: Scale) -> Training:
    """Return what a row's training is at a scale; at the papers' own it is itself.

    The row's own settings stay, whatever the recipe in their place says of them; then come those of the scale.
    Rows that differ in nothing but what a scale replaces become equal.
    """
    if scale.name == PAPER:
        return training
    own = tuple(one for one in training.settings if split_override(one)[0] not in scale.idle)
    length = scale.epochs.get(training.resolved().epochs)
    # A network that goes on from another one has the length, rate and batch of its own recipe.
    is_own_recipe = training.start_from is not None or not scale.recipe
    added = [*scale.settings, *scale.settings_of.get(training.method, ())]
    added += scale.settings_of.get(f"{training.method} on {training.data}", ())
    added += [f"epochs={length}"] if length is not None else []
    return replace(
        training,
        recipe=training.recipe if is_own_recipe else scale.recipe,
        settings=(*own, *added),
        data=scale.data or training.data,
        masks=(scale.masks or training.masks) if training.masks else "",
        threshold=(scale.threshold if scale.masks else training.threshold) if training.masks else None,
        seeds=scale.seeds or training.seeds,
        start_from=at_scale(training.start_from, scale) if training.start_from else None,
    )


def evaluation_at(cell: Cell, scale: Scale) -> tuple[Evaluation | None, str]:
    """Return what computes a cell at a scale and under what name its score is; None, "" where nothing does."""
    if cell.evaluation is None or scale.name == PAPER:
        return cell.evaluation, cell.score
    other = scale.evaluations.get(cell.evaluation.task)
    if other is None or cell.score not in other.scores:
        return None, ""
    return replace(other.evaluation, is_untrained=cell.evaluation.is_untrained), other.scores[cell.score]


def _replacement(read: Mapping[str, object]) -> Replacement:
    options = read.get("options", [])
    scores = read["scores"]
    assert isinstance(options, list)
    assert isinstance(scores, dict)
    evaluation = Evaluation(task=str(read["evaluation"]), options=tuple(options), data=str(read.get("data", "")))
    return Replacement(evaluation=evaluation, scores=scores)
