"""The demo's stages, how long they take, and what came of them in a sentence."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backdrop.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of the demo.

    words: the command line after the program's name. seconds: that it takes on two cores; they share out the time that
    is left.
    """

    words: tuple[str, ...]
    seconds: float


def stages(out: Path) -> tuple[Stage, ...]:
    """Return the commands of the whole chain on the sample set. Args: out: where everything goes."""
    detector, store, run = (shlex.quote(str(out / name)) for name in ("detector", "sample-train.zarr", "moco-random"))
    # Views that show something on the page, and half of the recipe's time.
    training = "--recipe smoke --set views.size_px=48 --set epochs=16"
    lines = [
        (45.0, f"saliency train --dataset sample --preset tiny --out {detector}"),
        (12.0, f"build-store --dataset sample --detector {detector} --soft-maps --out {store}"),
        (3.0, f"store verify {store}"),
        (115.0, f"pretrain --method moco --bg random --store {store} {training} --out {run}"),
        (8.0, f"evaluate knn --run {run} --data sample"),
        (7.0, f"report {run}"),
    ]
    return tuple(Stage(words=tuple(shlex.split(line)), seconds=seconds) for seconds, line in lines)


def headings(of: Sequence[Stage], clock: Iterator[float]) -> Iterator[str]:
    """Return what stands above each stage: which of how many it is, and about how long all that is left takes.

    The first one goes by two cores; the later ones by how fast this machine was so far.

    Args: clock: gives the time in seconds whenever it is asked.
    """
    start, whole, done = next(clock), sum(stage.seconds for stage in of), 0.0
    for number, stage in enumerate(of, start=1):
        if done:
            left = f"about {_minutes((whole - done) * (next(clock) - start) / done)} left"
        else:
            left = f"about {_minutes(whole)} on two cores"
        yield f"stage {number} of {len(of)}, {left}"
        done += stage.seconds


def _minutes(seconds: float) -> str:
    return f"{round(seconds / 60)} min" if seconds >= 90 else f"{max(1, round(seconds))} s"


def outcome(out: Path) -> str:
    """Return what the demo found, in a sentence, and which file to open."""
    run = out / "moco-random"
    try:
        summary = json.loads((run / "knn.json").read_text())
    except OSError as error:
        raise UserError(f"the demo has no scores in {run}: {error.strerror}. Run it again") from error
    scores, before = summary["scores"], summary["untrained"]
    return (
        f"From 800 drawn images without labels the network learned to name {scores['top1']:.0f} % of 200 new ones by "
        f"their nearest neighbours, {before['top1']:.0f} % before training; a right background is worth "
        f"{scores['bg_gap']:.0f} points to it.\nOpen this file: {run / 'report.html'}"
    )
