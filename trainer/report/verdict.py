"""What a page about a run leads with: how good its features are and how much backgrounds count."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from backdrop.errors import program
from backdrop.stores.pages.bars import Bar, bars
from backdrop.trainer.report.score_table import kept_summary

# Evaluations that say how good features are, the stricter first.
_TASKS = ("linear", "knn")
# What ImageNet-9's variants show (Xiao et al. 2020), by their names in the papers.
VARIANTS = {
    "original": ("Original", "images as they are"),
    "mixed_same": ("Mixed-Same", "the foreground on a background of another image of its class"),
    "mixed_rand": ("Mixed-Rand", "the foreground on a background of any class"),
    "mixed_next": ("Mixed-Next", "the foreground on a background of the next class"),
    "only_fg": ("Only-FG", "the foreground alone, on black"),
    "no_fg": ("No-FG", "the foreground black: its outline is left"),
    "only_bg_b": ("Only-BG-B", "the foreground's box black: the background alone"),
    "only_bg_t": ("Only-BG-T", "the foreground's box filled from the background: the background alone"),
}
_GAP = "bg_gap"


def verdict(run: Path) -> str:
    """Return the lead of a run's page as HTML: the sentence and the bars of what was scored; "" without such scores.

    Args: run: its folder, with <evaluation>.json where it was scored.
    """
    summaries = {task: kept_summary(run, task) for task in (*_TASKS, "imagenet-9")}
    main = next((task for task in _TASKS if summaries[task]), None)
    if main is None:
        return (
            f'<p class="verdict">Whether its features are any good is not known yet: '
            f"<code>{escape(f'{program()} evaluate knn --run {run}')}</code></p>"
        )
    scores, before = _scores(summaries[main])
    gap_scores, gap_before = _scores(summaries["imagenet-9"]) if summaries["imagenet-9"] else (scores, before)
    parts = [f"<p class='verdict'>{_sentence(main, scores, before, gap_scores, gap_before)}</p>"]
    drawn = [
        Bar(label=name, words=words, value=gap_scores[key], before=gap_before.get(key))
        for key, (name, words) in VARIANTS.items()
        if key in gap_scores
    ]
    if drawn:
        parts.append(bars("accuracy on ImageNet-9's variants, %", drawn))
        parts.append('<p class="note">Bars: this run, %. Ticks: the same network untrained.</p>')
    return "".join(parts)


def _sentence(
    task: str,
    scores: Mapping[str, float],
    before: Mapping[str, float],
    gap_scores: Mapping[str, float],
    gap_before: Mapping[str, float],
) -> str:
    how = "its nearest neighbours name" if task == "knn" else "a linear classifier on its features names"
    chance = f" (untrained {before['top1']:.0f} %)" if "top1" in before else ""
    said = f"Of images it has not seen, {how} <b>{scores['top1']:.0f} %</b>{chance}"
    if _GAP not in gap_scores:
        return f"{said}."
    gap = f" (untrained {gap_before[_GAP]:.0f})" if _GAP in gap_before else ""
    return (
        f"{said}; a right background is worth <b>{gap_scores[_GAP]:.0f} points</b>{gap} to it: BG-Gap, Mixed-Same less "
        "Mixed-Rand, lower is better."
    )


def _scores(summary: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of the run and of its network untrained; kNN calls those of variants "..._top1"."""
    found, before = (
        {name.removesuffix("_top1"): value for name, value in summary[part].items()} for part in ("scores", "untrained")
    )
    return found, before
