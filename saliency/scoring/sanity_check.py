"""What a trained detector is worth where true masks are at hand: scores beside a classical detector's, a threshold.

Half of the images choose the threshold, the other half give the scores. Where the user has no images with true masks,
pictures of the drawn sample stand in: they tell whether a detector has learnt to see objects at all, but objects
are easier to find there than in photographs, most of all for classical detectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from backdrop.errors import UserError
from backdrop.progress import note, stage_bar, warn
from backdrop.saliency.default_detector import CLASSICAL
from backdrop.saliency.detector import Detector, Threshold
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.scoring.metrics import ImageScores, score_image, scored_images, summarise, to_8_bit
from backdrop.saliency.scoring.threshold_calibration import THRESHOLDS_T, iou_by_threshold, middle_of_best
from backdrop.saliency.trained_detector.sanity_score import (
    DetectorScore,
    SanityScore,
    read_score,
    weights_of,
    write_score,
)
from backdrop.stores.datasets import open_index
from backdrop.stores.drawn_sample.sample_dataset import SampleSettings, draw_picture

# Pictures of the drawn sample's val split, which a training on its train split has not seen.
NUM_DRAWN = 60


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Two detectors, image by image, on one set."""

    images: str
    # for people
    digest: str
    own: Sequence[ImageScores]
    classical: Sequence[ImageScores]


def measure(run: Path, *, validation: Path | None, kept: Threshold | None) -> SanityScore:
    """Score a trained detector, choose its threshold and write both beside it; what was measured before stays.

    Args:
        run: the folder of a finished training.
        validation: a folder with `images` and true `masks`; None = the drawn pictures, unless it was measured on a
            folder before.
        kept: the threshold that it has whatever is measured; None = the best one.

    Raises:
        UserError: as `evaluate_folder`, or nearly all true masks are empty.
    """
    there = read_score(run)
    index = None if validation is None else open_index("folder", root=validation / "images")
    if there is not None and (index is None or there.set_digest == index.digest):
        return there
    detector = open_detector(str(run))
    if index is None or validation is None:
        measured = _Measured(
            images="drawn pictures", digest="", own=_scores_on_drawn(detector), classical=_classical_on_drawn()
        )
    else:
        own, classical = (
            [scored.scores for scored in scored_images(index, validation / "masks", each)]
            for each in (detector, open_detector(CLASSICAL))
        )
        measured = _Measured(images=f"images of {validation}", digest=index.digest, own=own, classical=classical)
    score = _score(run, measured, kept)
    write_score(run, score)
    note(f"sanity: {score.text()}")
    if score.is_worse_than_classical:
        warn(f"warning: {score.why_not(str(run))}")
    return score


def _score(run: Path, measured: _Measured, kept: Threshold | None) -> SanityScore:
    """Choose the threshold on every other image, score on the rest."""
    choosing, rest = measured.own[::2], measured.own[1::2]
    if not all(any(score.curve is not None for score in half) for half in (choosing, rest)):
        raise UserError(
            f"the {len(measured.own)} {measured.images} are too few with a foreground to choose a threshold on half of "
            "them and to score on the other: give --validation with more"
        )
    iou_T = iou_by_threshold(choosing)
    best = middle_of_best(iou_T)
    chosen = kept or Threshold(value=best, source=f"best IoU on {len(choosing)} other {measured.images}")
    return SanityScore(
        set_name=f"{len(rest)} {measured.images}",
        set_digest=measured.digest,
        num_images=len(rest),
        weights_sha256=weights_of(run),
        own=_detector_score(rest, chosen.value),
        classical=_detector_score(measured.classical[1::2], open_detector(CLASSICAL).threshold.value),
        classical_name=CLASSICAL,
        threshold_source=chosen.source,
        best_threshold=best,
        best_threshold_iou=_at(iou_by_threshold(rest), best),
    )


def _detector_score(scores: Sequence[ImageScores], threshold: float) -> DetectorScore:
    summary = summarise(list(scores))
    return DetectorScore(
        mae=summary["mae"],
        f_fixed=summary["f_fixed"],
        f_max=summary["f_max"],
        iou=_at(iou_by_threshold(scores), threshold),
        threshold=threshold,
    )


def _at(iou_T: np.ndarray, threshold: float) -> float:
    return float(iou_T[np.abs(THRESHOLDS_T - threshold).argmin()])


@cache
def _drawn() -> list[tuple[np.ndarray, np.ndarray]]:
    """The drawn pictures and their true masks, classes mixed alike in both halves."""
    settings = SampleSettings()
    # by class, then by number: one of two neighbours falls to either half
    numbers = sorted(range(NUM_DRAWN), key=lambda number: (number % 10, number))
    return [draw_picture(settings, "val", number) for number in numbers]


def _scores_on_drawn(detector: Detector) -> list[ImageScores]:
    scores = []
    with stage_bar(stage="sanity check on drawn pictures", unit="img", total=NUM_DRAWN) as bar:
        for start in range(0, NUM_DRAWN, detector.batch_size):
            batch = _drawn()[start : start + detector.batch_size]
            maps = detector.maps([image_HWC for image_HWC, _ in batch], [""] * len(batch))
            for map_HW, (_, mask_HW) in zip(maps, batch, strict=True):
                assert isinstance(map_HW, np.ndarray), map_HW
                scores.append(score_image(to_8_bit(map_HW), mask_HW > 0))
            bar.update(len(batch))
    return scores


@cache
def _classical_on_drawn() -> list[ImageScores]:
    return _scores_on_drawn(open_detector(CLASSICAL))
