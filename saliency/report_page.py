"""A page about detectors: their scores, precision-recall curves, best and worst images; how trainings went on.

Everything is measured by `saliency.scoring.metrics`, on the same maps that `saliency evaluate` scores.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.saliency.deepusps2.training_log import TrainingLog, read_training_log, run_of
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.scoring.metrics import (
    COLUMNS,
    ImageScores,
    Scored,
    f_beta,
    mean_curve,
    scored_images,
    summarise,
    to_8_bit,
)
from backdrop.stores.datasets import open_index
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.pages import curves, document, pictures
from backdrop.stores.pages.document import Section

# Images shown at either end of a detector's ranking.
NUM_EXTREMES = 6
_ROUND = re.compile(r"stage 1 (.+) round (\d+)")
_SCORE_WORDS = {
    "MAE": "Mean absolute error, 0 to 1 (lower is better)",
    "F(.5)": "F-measure of the map cut at 0.5, per image, 0 to 1",
    "F(adaptive)": "F-measure, cut at twice the map's mean, per image, 0 to 1",
    "F(adaptive, of means)": "The same cut; F of mean precision and recall, 0 to 1",
    "max F": "Best F of mean precision and recall over 256 cuts, 0 to 1",
    "IoU": "Overlap of the map cut at 0.5 with the true mask, 0 to 1",
}


@dataclass(frozen=True, kw_only=True)
class Extreme:
    """An image at one end of a ranking, its pictures small: uint8 RGB."""

    key: str
    scores: ImageScores
    image_HWC: np.ndarray
    map_HWC: np.ndarray
    cut_HWC: np.ndarray
    truth_HWC: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A detector on a set.

    summary: of `summarise`. precision_T, recall_T: float64 (256,), None where every true mask is empty.
    worst, best: by IoU, the most extreme first; images with an empty true mask are not ranked.
    """

    name: str
    summary: dict[str, Any]
    precision_T: np.ndarray | None
    recall_T: np.ndarray | None
    worst: Sequence[Extreme]
    best: Sequence[Extreme]


def write_report(
    page: Path,
    *,
    images: Path | None,
    masks: Path | None,
    detectors: Sequence[str],
    runs: Sequence[Path] = (),
    size_px: int | None = None,
) -> Path:
    """Write the page.

    Args:
        page: the file.
        images, masks, detectors, size_px: as `evaluate_folder` takes them; None and none = nothing is scored.
        runs: folders of `saliency train` to show the course of, finished or not; detectors that are one need no naming.

    Returns:
        page.

    Raises:
        UserError: as `evaluate_folder`; images without masks or the other way round; nothing to report about.
    """
    if (images is None) != (masks is None):
        raise UserError("detectors are scored on images and their true masks: give both --images and --masks")
    measured = []
    if images is not None and masks is not None:
        index = open_index("folder", root=images)
        measured = [measure(index, masks, name, size_px=size_px) for name in detectors]
    named = [run for name in detectors if images is not None and (run := run_of(name)) is not None]
    trainings = [read_training_log(run) for run in dict.fromkeys([*named, *runs])]
    if not measured and not trainings:
        raise UserError("there is nothing to report about: give --images and --masks to score on, or --run FOLDER")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_aside(page, render(measured, trainings, images=images, size_px=size_px))
    return page


def measure(index: DatasetIndex, masks: Path, name: str, *, size_px: int | None = None) -> Measured:
    """Score a detector and keep the pictures of both ends of its ranking.

    Args:
        index: the images.
        masks: folder of true masks.
        name: of the detector.
        size_px: as `evaluate_folder` takes it.
    """
    scores: list[ImageScores] = []
    worst: list[Extreme] = []
    best: list[Extreme] = []
    for scored in scored_images(index, masks, open_detector(name), size_px=size_px):
        scores.append(scored.scores)
        if scored.scores.iou is None:
            continue
        _keep(worst, index, scored, lambda iou: iou)
        _keep(best, index, scored, lambda iou: -iou)
    summary = summarise(scores)
    precision_T, recall_T = (None, None) if summary["f_max"] is None else mean_curve(scores)
    return Measured(name=name, summary=summary, precision_T=precision_T, recall_T=recall_T, worst=worst, best=best)


def _keep(extremes: list[Extreme], index: DatasetIndex, scored: Scored, rank: Callable[[float], float]) -> None:
    """Put an image among the few of lowest rank, where it belongs to them."""

    def rank_of(scores: ImageScores) -> float:
        assert scores.iou is not None
        return rank(scores.iou)

    if len(extremes) == NUM_EXTREMES and rank_of(scored.scores) >= rank_of(extremes[-1].scores):
        return
    extremes.append(_extreme(index, scored))
    extremes.sort(key=lambda extreme: rank_of(extreme.scores))  # stable: of equals the first stays first
    del extremes[NUM_EXTREMES:]


def _extreme(index: DatasetIndex, scored: Scored) -> Extreme:
    image_HWC = decode_rgb(index.read(scored.row))
    map_HW = to_8_bit(scored.map_HW)
    return Extreme(
        key=index.keys[scored.row],
        scores=scored.scores,
        image_HWC=pictures.thumbnail(image_HWC),
        map_HWC=pictures.grey_to_rgb(pictures.thumbnail(map_HW)),
        cut_HWC=pictures.with_contour(image_HWC, (map_HW > 127).astype(np.uint8)),
        truth_HWC=pictures.with_contour(image_HWC, scored.truth_HW.astype(np.uint8)),
    )


# ------------------------------------------------------------------------------------------------------------ page


def render(
    measured: Sequence[Measured], trainings: Sequence[TrainingLog], *, images: Path | None, size_px: int | None
) -> str:
    """The whole page.

    Args:
        measured: the detectors that were scored.
        trainings: the courses to show.
        images: the folder that was scored on.
        size_px: at which size.
    """
    sections = []
    lead = ""
    if measured:
        size = "at the images' own size" if size_px is None else f"at {size_px} x {size_px} px"
        num_images = measured[0].summary["num_images"]
        lead = f'<p class="note">{num_images} images of <code>{escape(str(images))}</code>, scored {size}.</p>'
        sections = [
            Section(anchor="scores", heading="Scores", body=_scores(measured)),
            Section(anchor="curves", heading="Precision and recall", body=_curves(measured)),
            *(
                Section(anchor=f"images-{at}", heading=f"Worst and best of {each.name}", body=_extremes(each))
                for at, each in enumerate(measured)
            ),
        ]
    sections += [
        Section(anchor=f"training-{at}", heading=f"Training of {each.run}", body=_training_log(each))
        for at, each in enumerate(trainings)
    ]
    return document.page("Detectors of foreground", lead, sections)


def _scores(measured: Sequence[Measured]) -> str:
    rows = [[escape(each.name), *(_score(each.summary[key]) for key in COLUMNS.values())] for each in measured]
    words = "".join(f"<dt>{escape(name)}</dt><dd>{escape(_SCORE_WORDS[name])}</dd>" for name in COLUMNS)
    num_empty = measured[0].summary["num_empty_masks"]
    empty = f'<p class="note">{num_empty} true masks are empty: they count for MAE only.</p>' if num_empty else ""
    return (
        document.table(["detector", *map(escape, COLUMNS)], rows, label="scores")
        + empty
        + document.folded("What the scores mean", f'<dl class="kinds">{words}</dl>')
    )


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _curves(measured: Sequence[Measured]) -> str:
    found = [(style, each) for style, each in enumerate(measured) if each.precision_T is not None]
    if not found:
        return "<p>Every true mask is empty: there is no precision and no recall.</p>"
    thresholds = np.arange(256) / 255
    precision_recall, f_measure = [], []
    for style, each in found:
        assert each.precision_T is not None
        assert each.recall_T is not None
        precision_recall.append(curves.Line(x_N=each.recall_T, y_N=each.precision_T, label=each.name, style=style))
        f_by_threshold = f_beta(each.precision_T, each.recall_T)
        f_measure.append(curves.Line(x_N=thresholds, y_N=f_by_threshold, label=each.name, style=style))
    whole = (0.0, 1.0)
    return f'<div class="charts">{_figure("precision", "recall", precision_recall, whole, _PRECISION_WORDS)}' + (
        f"{_figure('F-measure', 'threshold', f_measure, whole, _F_WORDS)}</div>"
    )


_PRECISION_WORDS = (
    "A map is cut at each of 256 thresholds. Precision: which share of what it marks is foreground; recall: which "
    "share of the foreground it marks; means over the images. The nearer to the upper right corner, the better."
)
_F_WORDS = "Precision and recall in one number (beta^2 = 0.3: precision counts more), at each threshold."


def _figure(
    name: str, x_name: str, lines: Sequence[curves.Line], y_range: tuple[float, float] | None, words: str
) -> str:
    drawn = curves.Chart(name=name, lines=tuple(lines), x_name=x_name, x_range=y_range, y_range=y_range)
    return curves.figure(drawn, escape(words))


def _extremes(measured: Measured) -> str:
    if not measured.worst:
        return "<p>Every true mask is empty: no image can be ranked.</p>"
    words = (
        "Ranked by IoU, the overlap of the map cut at 0.5 with the true mask. Maps: white is foreground. Outlined: "
        "what the cut map, and what the true mask calls foreground; the rest is darkened."
    )
    parts = [
        f'<h3>{title}</h3><div class="columns">{"".join(_extreme_html(each) for each in ranked)}</div>'
        for title, ranked in (("Worst", measured.worst), ("Best", measured.best))
    ]
    return f'<p class="note">{words}</p>{"".join(parts)}'


def _extreme_html(extreme: Extreme) -> str:
    key, scores = extreme.key, extreme.scores
    assert scores.fixed is not None
    facts = f"IoU {scores.iou:.3f}, MAE {scores.absolute_error:.3f}, F(.5) {float(f_beta(*scores.fixed)):.3f}"
    figures = (
        (extreme.image_HWC, f"the image {key}", "image"),
        (extreme.map_HWC, f"soft map of {key}, white is foreground", "map"),
        (extreme.cut_HWC, f"what the map of {key} calls foreground, outlined", "map cut at 0.5"),
        (extreme.truth_HWC, f"true foreground of {key}, outlined", "true mask"),
    )
    strip = "".join(document.picture(pictures.img(image, words), caption) for image, words, caption in figures)
    return f'<article class="example"><h4>{escape(key)}: {facts}</h4><div class="strip">{strip}</div></article>'


# -------------------------------------------------------------------------------------------------------- training


def _training_log(progress: TrainingLog) -> str:
    """How a training went on: scores after every phase where they were asked for, the loss of every epoch."""
    words = (
        "Stage 1 refines each classical detector's maps by themselves, round after round: a network learns them, and "
        "what it predicts becomes the next round's target. Stage 2 trains one network on all refined maps."
    )
    if progress.is_of_found:
        words = (
            "A 1x1 convolution on frozen features learns first the coarse masks of background discovery, then its own, "
            "drawn to the edges of each image."
        )
    charts = "".join([*([] if progress.is_of_found else _score_charts(progress)), _losses(progress)])
    return f'<p class="note">{words}</p>{_phase_scores(progress)}<div class="charts">{charts}</div>'


def _phase_scores(progress: TrainingLog) -> str:
    if not progress.scores:
        return "<p>Its networks were not scored on the way; <code>saliency train --validation DIR</code> does so.</p>"
    rows = [
        [escape(record["phase"]), *(_score(record.get(key)) for key in COLUMNS.values())] for record in progress.scores
    ]
    return document.table(["network after", *map(escape, COLUMNS)], rows, label="scores after every phase")


def _score_charts(progress: TrainingLog) -> list[str]:
    return [
        curves.figure(
            curves.Chart(name=f"{name} after every round", lines=_score_lines(progress, key), x_name="round"),
            escape(f"{_SCORE_WORDS[name]}. Stage 2 follows the last round of stage 1."),
        )
        for name, key in (("F(.5)", "f_fixed"), ("MAE", "mae"))
        if progress.scores
    ]


def _score_lines(progress: TrainingLog, key: str) -> tuple[curves.Line, ...]:
    """A line per classical method over its rounds; stage 2 as one more round after the last."""
    of_method: dict[str, list[tuple[int, float]]] = {}
    last_round, of_stage_2 = 0, []
    for record in progress.scores:
        value = float("nan") if record.get(key) is None else float(record[key])
        match = _ROUND.fullmatch(record["phase"])
        if match is None:
            of_stage_2.append(value)
            continue
        last_round = max(last_round, int(match[2]))
        of_method.setdefault(match[1], []).append((int(match[2]), value))
    if of_stage_2:
        of_method["stage 2"] = [(last_round + 1, value) for value in of_stage_2]
    return tuple(_line(name, style, points) for style, (name, points) in enumerate(of_method.items()))


def _losses(progress: TrainingLog) -> str:
    of_network: dict[str, list[tuple[int, float]]] = {}
    for record in progress.epochs:
        name = "stage 2" if record["method"] is None else str(record["method"])
        points = of_network.setdefault(name, [])
        points.append((len(points) + 1, float(record["loss"])))
    lines = tuple(_line(name, style, points) for style, (name, points) in enumerate(of_network.items()))
    if progress.is_of_found:
        lines = tuple(replace(line, label="head") for line in lines)
        drawn = curves.Chart(name="loss between two states", lines=lines, x_name="state")
        return curves.figure(drawn, "Weighted cross-entropies, a mean over the steps since the state before.")
    words = "1 - F of what the network predicts against its targets; a new round starts a new network. "
    drawn = curves.Chart(name="loss of every epoch", lines=lines, x_name="epoch")
    return curves.figure(drawn, escape(words + "Epochs of all rounds of a method are counted through."))


def _line(name: str, style: int, points: Sequence[tuple[int, float]]) -> curves.Line:
    x_N, y_N = np.array(points, dtype=np.float64).T
    return curves.Line(x_N=x_N, y_N=y_N, label=name, style=style)
