"""Where to cut a detector's maps: masks at every threshold against true masks, and the best one.

Shapes: N images, T thresholds, from 0 to 0.99 by hundredths. A pixel is foreground where its map is greater, as in a
store.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.errors import UserError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.scoring.metrics import ImageScores, counts_from_level, f_beta, scored_images, to_8_bit
from backdrop.stores.datasets import open_index

THRESHOLDS_T = np.arange(100) / 100
# Of maps of 8 bits: the lowest level that is greater than the threshold.
_LEVEL_T = (np.arange(256)[:, None] / 255 > THRESHOLDS_T).argmax(axis=0)
# Thresholds whose IoU is as good as the best for what anyone does with masks.
_TOLERANCE = 0.01
# Of the curve as text: a line every so many thresholds, and the length of the bar of IoU 1.
_LINE_EVERY, _BAR_LENGTH = 5, 50


def calibrate(
    images_dir: Path | str, masks_dir: Path | str, detector_name: str, *, device: str | None = None
) -> dict[str, Any]:
    """Find the threshold of the best masks: that of the greatest IoU with the true ones, mean over the images.

    Do not report scores at the threshold on the same images. Maps are rounded to 8 bits; images whose true mask is
    empty count for nothing, for there every mask has IoU 0.

    Args:
        images_dir: images, any tree.
        masks_dir: true masks as 8-bit PNG under the same keys or stems; foreground is what is greater than 127.
        detector_name: as `open_detector` takes it.
        device: torch device of a trained detector; None = the GPU where there is one.

    Returns:
        JSON-able: detector (its identity), num_images, num_empty_masks; curve (per threshold: threshold, iou, f of mean
        precision and recall, foreground: median fraction of the image); best (a line of the curve), good_from and
        good_to (the thresholds around it whose IoU is within 0.01), max_f (a line of the curve); stated (threshold,
        source and iou of the detector's own).

    Raises:
        UserError: as `evaluate_folder`, or every true mask is empty.
    """
    index, detector = open_index("folder", root=Path(images_dir)), open_detector(detector_name, device=device)
    curves, foregrounds, num_images = [], [], 0
    for scored in scored_images(index, masks_dir, detector):
        num_images += 1
        if scored.scores.curve is not None:
            curves.append([values[_LEVEL_T] for values in scored.scores.curve])
            foregrounds.append(counts_from_level(to_8_bit(scored.map_HW).ravel())[_LEVEL_T] / scored.map_HW.size)
    if not curves:
        raise UserError(f"every true mask of {masks_dir} is empty: give images with a foreground to calibrate on")
    lines = _lines(np.array(curves), np.array(foregrounds))
    own = detector.threshold
    return {
        "detector": detector.identity,
        "num_images": num_images,
        "num_empty_masks": num_images - len(curves),
        "curve": lines,
        **_choice(lines),
        "stated": {"threshold": own.value, "source": own.source, "iou": _nearest(lines, own.value)["iou"]},
    }


def iou_by_threshold(scores: Sequence[ImageScores]) -> np.ndarray:
    """Mean IoU of the masks at each of `THRESHOLDS_T`; float64 (T,).

    Args: scores: at least one of an image with foreground; the others count for nothing.
    """
    curves = [[values[_LEVEL_T] for values in score.curve] for score in scores if score.curve is not None]
    return _ious(np.array(curves)).mean(axis=0)


def middle_of_best(iou_T: np.ndarray) -> float:
    """Return the middle of the thresholds whose IoU is as good as the best, to a twentieth, 0.05 to 0.95.

    The best alone means nothing of maps that are nearly binary, as those of a CRF are: any threshold gives their masks.

    Args: iou_T: of `iou_by_threshold`.
    """
    first, last = _good(iou_T)
    return float(np.clip(round(float(THRESHOLDS_T[first] + THRESHOLDS_T[last]) * 10) / 20, 0.05, 0.95))


def _ious(curves_N2T: np.ndarray) -> np.ndarray:
    precision_NT, recall_NT = curves_N2T[:, 0], curves_N2T[:, 1]
    product_NT = precision_NT * recall_NT
    union_NT = precision_NT + recall_NT - product_NT  # as a multiple of |prediction| |truth| / |both|
    return np.divide(product_NT, union_NT, out=np.zeros_like(product_NT), where=product_NT > 0)


def _good(ious_T: Sequence[float] | np.ndarray) -> tuple[int, int]:
    """Places of the first and the last threshold around the best one that are as good."""
    first = last = at = int(np.argmax(ious_T))
    while first > 0 and ious_T[first - 1] >= ious_T[at] - _TOLERANCE:
        first -= 1
    while last + 1 < len(ious_T) and ious_T[last + 1] >= ious_T[at] - _TOLERANCE:
        last += 1
    return first, last


def _lines(curves_N2T: np.ndarray, foregrounds_NT: np.ndarray) -> list[dict[str, float]]:
    f_T = f_beta(*curves_N2T.mean(axis=0))
    columns = (THRESHOLDS_T, _ious(curves_N2T).mean(axis=0), f_T, np.median(foregrounds_NT, axis=0))
    names = ("threshold", "iou", "f", "foreground")
    return [dict(zip(names, map(float, values), strict=True)) for values in zip(*columns, strict=True)]


def _choice(lines: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The best line, the thresholds around it that are as good, and the line of the greatest F."""
    first, last = _good([line["iou"] for line in lines])
    return {
        "best": max(lines, key=lambda line: line["iou"]),
        "good_from": lines[first]["threshold"],
        "good_to": lines[last]["threshold"],
        "max_f": max(lines, key=lambda line: line["f"]),
    }


def _nearest(lines: Sequence[Mapping[str, float]], threshold: float) -> Mapping[str, float]:
    return min(lines, key=lambda line: abs(line["threshold"] - threshold))


def table(result: Mapping[str, Any]) -> str:
    """The curve and the choice, for people.

    Args: result: of `calibrate`.
    """
    best, max_f, stated = result["best"], result["max_f"], result["stated"]
    shown = [line for at, line in enumerate(result["curve"]) if at % _LINE_EVERY == 0 or line == best]
    rows = [
        f"{line['threshold']:9.2f}  {line['iou']:.3f}  {line['f']:.3f}  {line['foreground']:10.1%}  "
        + "#" * round(line["iou"] * _BAR_LENGTH)
        + (" best" if line == best else "")
        for line in shown
    ]
    return "\n".join(
        [
            "threshold    IoU      F  foreground",
            *rows,
            f"best masks at {best['threshold']:.2f}: IoU {best['iou']:.3f} with {result['num_images']} true masks "
            f"(within {_TOLERANCE} from {result['good_from']:.2f} to {result['good_to']:.2f}); "
            f"max F {max_f['f']:.3f} at {max_f['threshold']:.2f}",
            f"the detector's own is {stated['threshold']:.2f}: IoU {stated['iou']:.3f} ({stated['source']})",
        ]
    )
