"""How good soft maps are: mean absolute error, F-beta in the protocols of the literature, IoU.

Published F-measures differ by up to 0.07 on the same maps by protocol alone, so all are reported:

- `f_fixed`: maps cut at 0.5, F per image, mean over images (DeepUSPS; Ryali et al. 2021, appendix A);
- `f_adaptive`: cut at twice the map's mean, at most 1; F per image, mean over images;
- `f_adaptive_of_means`: the same cut; mean precision and mean recall first, then F (Achanta et al. 2009);
- `f_max`: the best F of mean precision and mean recall over 256 thresholds (Borji et al. 2015).

Detectors on self-supervised features are published in others, at the images' own size whatever else is asked for:

- `tokencut_max_f`: F per image at 255 thresholds, mean over images, the best threshold (Wang et al. 2022);
- `found_max_f`: the best F of every image, mean over images, beta^2 = 0.09 (SelfMask, Shin et al. 2022; FOUND, Simeoni
  et al. 2023, whose "single" is the same of binary maps); `found_max_f_one_threshold`: one threshold for all;
- `native_iou`, `accuracy`, `mae_of_binary`: of the maps cut at 0.5 (all of them; the last is FOUND's MAE);
- `a2s_f`, `a2s_mae`: maps stretched to [0, 1]; F at twice the mean, and error (A2S, Zhou et al. 2023).

Shapes: H rows, W columns. Maps are 8 bit, 255 = foreground; true masks are bool. beta^2 = 0.3 but where said.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backdrop.errors import UserError
from backdrop.progress import stage_bar
from backdrop.saliency.detector import Detector, MaskError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.find_maps import found_maps
from backdrop.saliency.mask_folder import open_mask_folder
from backdrop.stores.datasets import open_index
from backdrop.stores.indexes.dataset_index import DatasetIndex

BETA_SQUARED = 0.3
# SelfMask and FOUND square 0.3 once more.
FOUND_BETA_SQUARED = 0.09
NUM_THRESHOLDS = 256


def to_8_bit(saliency_HW: np.ndarray) -> np.ndarray:
    """Round a soft map in [0, 1] to uint8 (H, W), 255 = foreground.

    Args:
        saliency_HW: float, [0, 1].
    """
    return np.round(saliency_HW * 255).astype(np.uint8)


def f_beta(precision: np.ndarray | float, recall: np.ndarray | float, beta_squared: float = BETA_SQUARED) -> np.ndarray:
    """(1 + beta^2) P R / (beta^2 P + R), 0 where both are 0; float64 of the inputs' shape.

    Args:
        precision: any shape, [0, 1].
        recall: the same shape, [0, 1].
        beta_squared: what recall is worth against precision.

    Source: Achanta et al., "Frequency-tuned Salient Region Detection", CVPR 2009, Eq. 6.
    """
    precision, recall = np.asarray(precision, np.float64), np.asarray(recall, np.float64)
    weighted_sum = beta_squared * precision + recall
    product = (1 + beta_squared) * precision * recall
    return np.divide(product, weighted_sum, out=np.zeros_like(product), where=weighted_sum > 0)


def mean_absolute_error(map_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """Mean |map / 255 - truth|, the map as it is (no stretching).

    Args:
        map_HW: uint8.
        truth_HW: bool.
    """
    return float(np.abs(map_HW / 255 - truth_HW).mean())


def precision_recall_curve(map_HW: np.ndarray, truth_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of `map >= t` for t = 0..255; precision is 0 where nothing is predicted.

    Args:
        map_HW: uint8.
        truth_HW: bool, not empty.

    Returns:
        precision, recall: float64 (256,).
    """
    hits = counts_from_level(map_HW[truth_HW])
    predicted = counts_from_level(map_HW.ravel())
    return hits / np.maximum(predicted, 1), hits / truth_HW.sum()


def counts_from_level(values: np.ndarray) -> np.ndarray:
    """How many values, uint8 (N,), are >= t, for t = 0..255; int64 (256,)."""
    return np.bincount(values, minlength=NUM_THRESHOLDS)[::-1].cumsum()[::-1]


def fixed_precision_recall(map_HW: np.ndarray, truth_HW: np.ndarray) -> tuple[float, float]:
    """Precision and recall of `map > 0.5`; precision is 1 where nothing is predicted (DeepUSPS).

    Args:
        map_HW: uint8.
        truth_HW: bool, not empty.
    """
    predicted_HW = map_HW > 127
    hits = int((predicted_HW & truth_HW).sum())
    return (hits / predicted_HW.sum() if predicted_HW.any() else 1.0), hits / truth_HW.sum()


def adaptive_precision_recall(map_HW: np.ndarray, truth_HW: np.ndarray) -> tuple[float, float]:
    """Precision and recall of `map >= min(1, 2 * mean(map))`.

    A map that is 0 everywhere has threshold 0 and predicts everything, as in the published evaluators. A bright one
    without a white pixel has threshold 1 and predicts nothing; its precision is 0.

    Args:
        map_HW: uint8, or float in [0, 255].
        truth_HW: bool, not empty.
    """
    predicted_HW = map_HW >= min(255.0, 2 * map_HW.mean())
    hits = int((predicted_HW & truth_HW).sum())
    return float(hits / max(int(predicted_HW.sum()), 1)), float(hits / truth_HW.sum())


def intersection_over_union(predicted_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """|A and B| / |A or B|; 1 where both are empty.

    Args:
        predicted_HW: bool.
        truth_HW: bool.
    """
    union = (predicted_HW | truth_HW).sum()
    return float((predicted_HW & truth_HW).sum() / union) if union else 1.0


def accuracy(predicted_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """Share of the pixels that are on the right side.

    Args:
        predicted_HW: bool.
        truth_HW: bool.
    """
    return float((predicted_HW == truth_HW).mean())


def stretched(map_HW: np.ndarray) -> np.ndarray:
    """Stretch a map so that it holds 0 and 255, float64; a map of one value stays as it is.

    Args:
        map_HW: uint8.
    """
    low, high = int(map_HW.min()), int(map_HW.max())
    # the difference first: 255 * x / x is exactly 255, at which a cut may lie
    return map_HW.astype(np.float64) if low == high else 255 * (map_HW - float(low)) / (high - low)


@dataclass(frozen=True, kw_only=True)
class NativeScores:
    """What one image adds in the protocols of detectors on features, at its own size; as `ImageScores`."""

    accuracy: float
    # of map > 0.5
    stretched_error: float
    # mean |stretched map - truth|
    stretched_adaptive: tuple[float, float] | None = None
    # precision, recall of the stretched map at twice its mean
    curve: tuple[np.ndarray, np.ndarray] | None = None
    # precision, recall at 256 thresholds
    iou: float | None = None
    # at 0.5


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """What one image adds to the scores of its set; without its foreground all but errors and accuracy are None."""

    absolute_error: float
    # mean |map - truth|
    native: NativeScores
    fixed: tuple[float, float] | None = None
    # precision, recall at 0.5
    adaptive: tuple[float, float] | None = None
    # precision, recall at twice the mean
    curve: tuple[np.ndarray, np.ndarray] | None = None
    # precision, recall at 256 thresholds
    iou: float | None = None
    # at 0.5


def score_image(map_HW: np.ndarray, truth_HW: np.ndarray, *, native: NativeScores | None = None) -> ImageScores:
    """Score one map.

    Args:
        map_HW: uint8, 255 = foreground.
        truth_HW: bool, the same size.
        native: of `score_native`, where these are not of the image's own size.
    """
    error = mean_absolute_error(map_HW, truth_HW)
    is_own_size = native is None
    native = native or score_native(map_HW, truth_HW)
    if not truth_HW.any():
        return ImageScores(absolute_error=error, native=native)
    return ImageScores(
        absolute_error=error,
        native=native,
        fixed=fixed_precision_recall(map_HW, truth_HW),
        adaptive=adaptive_precision_recall(map_HW, truth_HW),
        curve=native.curve if is_own_size else precision_recall_curve(map_HW, truth_HW),
        iou=native.iou if is_own_size else intersection_over_union(map_HW > 127, truth_HW),
    )


def score_native(map_HW: np.ndarray, truth_HW: np.ndarray) -> NativeScores:
    """Score one map in the protocols of detectors on features.

    Args:
        map_HW: uint8, 255 = foreground, of the image's own size.
        truth_HW: bool, the same size.
    """
    stretched_HW = stretched(map_HW)
    right = accuracy(map_HW > 127, truth_HW)
    error = mean_absolute_error(stretched_HW, truth_HW)
    if not truth_HW.any():
        return NativeScores(accuracy=right, stretched_error=error)
    return NativeScores(
        accuracy=right,
        stretched_error=error,
        stretched_adaptive=adaptive_precision_recall(stretched_HW, truth_HW),
        curve=precision_recall_curve(map_HW, truth_HW),
        iou=intersection_over_union(map_HW > 127, truth_HW),
    )


def mean_curve(scores: list[ImageScores]) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at 256 thresholds, means over the images with foreground; float64 (256,) each.

    Args:
        scores: one per image, at least one of them with foreground.
    """
    mean_precision, mean_recall = np.mean([score.curve for score in scores if score.curve is not None], axis=0)
    return mean_precision, mean_recall


def summarise(scores: list[ImageScores]) -> dict[str, Any]:
    """Scores of a set from the scores of its images; images with an empty true mask count for the error only.

    Args:
        scores: one per image, at least one.

    Returns:
        JSON-able: num_images, num_empty_masks, mae, f_fixed, f_adaptive, f_adaptive_of_means, f_max, f_max_threshold
        (of 255), iou, and what `summarise_native` returns. The F-measures and IoU are None where every true mask is
        empty.
    """
    result: dict[str, Any] = {
        "num_images": len(scores),
        "num_empty_masks": sum(score.curve is None for score in scores),
        "mae": float(np.mean([score.absolute_error for score in scores])),
        **dict.fromkeys(("f_fixed", "f_adaptive", "f_adaptive_of_means", "f_max", "f_max_threshold", "iou")),
        **summarise_native([score.native for score in scores]),
    }
    if result["num_empty_masks"] == len(scores):
        return result
    fixed = np.array([score.fixed for score in scores if score.fixed is not None])
    adaptive = np.array([score.adaptive for score in scores if score.adaptive is not None])
    mean_precision, mean_recall = mean_curve(scores)
    f_by_threshold = f_beta(mean_precision, mean_recall)
    result["f_fixed"] = float(f_beta(fixed[:, 0], fixed[:, 1]).mean())
    result["f_adaptive"] = float(f_beta(adaptive[:, 0], adaptive[:, 1]).mean())
    result["f_adaptive_of_means"] = float(f_beta(*adaptive.mean(axis=0)))
    result["f_max"] = float(f_by_threshold.max())
    result["f_max_threshold"] = int(f_by_threshold.argmax())
    result["iou"] = float(np.mean([score.iou for score in scores if score.iou is not None]))
    return result


def summarise_native(scores: Sequence[NativeScores]) -> dict[str, float | None]:
    """Scores of a set in the protocols of detectors on features; images with an empty true mask as in `summarise`.

    Args:
        scores: one per image, at least one.

    Returns:
        JSON-able: accuracy, mae_of_binary, native_iou, tokencut_max_f, found_max_f, found_max_f_one_threshold, a2s_f,
        a2s_mae; the F-measures and IoU are None where every true mask is empty.
    """
    right = float(np.mean([score.accuracy for score in scores]))
    result: dict[str, float | None] = {
        "accuracy": right,
        "mae_of_binary": 1 - right,
        "a2s_mae": float(np.mean([score.stretched_error for score in scores])),
        **dict.fromkeys(("native_iou", "tokencut_max_f", "found_max_f", "found_max_f_one_threshold", "a2s_f")),
    }
    curves_N2T = np.array([score.curve for score in scores if score.curve is not None])
    if not len(curves_N2T):
        return result
    # "map > k / 255" for k = 0..254 is "map >= 1..255"; where nothing is found, F is 0 whatever the precision.
    precision_NT, recall_NT = curves_N2T[:, 0, 1:], curves_N2T[:, 1, 1:]
    found_NT = f_beta(precision_NT, recall_NT, FOUND_BETA_SQUARED)
    adaptive_N2 = np.array([score.stretched_adaptive for score in scores if score.stretched_adaptive is not None])
    result["native_iou"] = float(np.mean([score.iou for score in scores if score.iou is not None]))
    result["tokencut_max_f"] = float(f_beta(precision_NT, recall_NT).mean(axis=0).max())
    result["found_max_f"] = float(found_NT.max(axis=1).mean())
    result["found_max_f_one_threshold"] = float(found_NT.mean(axis=0).max())
    result["a2s_f"] = float(f_beta(adaptive_N2[:, 0], adaptive_N2[:, 1]).mean())
    return result


# Columns of the tables and the scores they show.
COLUMNS = {
    "MAE": "mae",
    "F(.5)": "f_fixed",
    "F(adaptive)": "f_adaptive",
    "F(adaptive, of means)": "f_adaptive_of_means",
    "max F": "f_max",
    "IoU": "iou",
}
NATIVE_COLUMNS = {
    "max F (TokenCut)": "tokencut_max_f",
    "max F (SelfMask, FOUND)": "found_max_f",
    "the same, one cut": "found_max_f_one_threshold",
    "IoU": "native_iou",
    "accuracy": "accuracy",
    "MAE of masks": "mae_of_binary",
    "F (A2S)": "a2s_f",
    "MAE (A2S)": "a2s_mae",
}


def tables(scores_by_detector: Mapping[str, Mapping[str, Any]], *, size_px: int | None = None) -> str:
    """Scores of several detectors in both kinds of protocols, as text: a named table each.

    Args:
        scores_by_detector: name -> scores of `summarise`.
        size_px: that they were scored at, as `evaluate_folder` takes it.
    """
    size = "native size" if size_px is None else f"squares of {size_px} px"
    return (
        f"protocol of DeepUSPS and Ryali et al. (beta^2 = 0.3; here at {size}, theirs at squares of 432 px, after a "
        f"CRF):\n{table(scores_by_detector)}\n\n"
        "protocols of detectors on features, TokenCut (beta^2 = 0.3), SelfMask and FOUND (beta^2 = 0.09), A2S (maps "
        f"stretched), at native size; masks cut at 0.5:\n{table(scores_by_detector, NATIVE_COLUMNS)}"
    )


def table(scores_by_detector: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str] = COLUMNS) -> str:
    """Scores of several detectors as a text table, one row each.

    Args:
        scores_by_detector: name -> scores of `summarise`.
        columns: head -> score.
    """
    rows = [["detector", *columns]]
    for name, scores in scores_by_detector.items():
        rows.append([name, *("-" if scores[key] is None else f"{scores[key]:.4f}" for key in columns.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def evaluate_folder(
    images_dir: Path | str,
    masks_dir: Path | str,
    detector: str | Detector,
    *,
    size_px: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Score a detector against true masks, on maps rounded to 8 bits.

    Args:
        images_dir: images, any tree.
        masks_dir: true masks as 8-bit PNG under the same keys or stems; foreground is what is greater than 127. What of
            masks:DIR may stand behind a folder may stand behind this one.
        detector: as `open_detector` takes it ("masks:DIR" scores maps made elsewhere), or a detector itself.
        size_px: score at squares of this side, maps resized bilinearly and masks to the nearest pixel; DeepUSPS and
            Ryali et al. do so at 432. None = at native resolution, as the scores of `summarise_native` always are.
        device: torch device of a trained detector; None = the GPU where there is one.

    Returns:
        JSON-able: the scores of `summarise`, size_px and the detector's identity.

    Raises:
        UserError: an image, a true mask or a map is missing, unreadable or of another size (a score over part of a
            set would not be comparable), or there are no images.
    """
    index = open_index("folder", root=Path(images_dir))
    if isinstance(detector, str):
        detector = open_detector(detector, device=device)
    scores = [scored.scores for scored in scored_images(index, masks_dir, detector, size_px=size_px)]
    return {**summarise(scores), "size_px": size_px, "detector": detector.identity}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One image of a set with its scores."""

    row: int
    # of the index
    map_HW: np.ndarray
    # float32, [0, 1], at the image's own size
    truth_HW: np.ndarray
    # bool, the same size
    scores: ImageScores


def scored_images(
    index: DatasetIndex, masks_dir: Path | str, detector: Detector, *, size_px: int | None = None
) -> Iterator[Scored]:
    """Score a detector's map of every image, in the order of the index; arguments and errors as `evaluate_folder`."""
    truths = open_mask_folder(str(masks_dir))
    found_of_all = found_maps(index, range(len(index)), detector)
    for found in stage_bar(found_of_all, stage="evaluate", unit="img", total=len(index)):
        key = index.keys[found.row]
        if found.map_HW is None:
            raise UserError(f"{found.problem} ({key}); every image of {index.root} must have a map to be scored")
        truth_HW = truths.grey(key) > 127
        if truth_HW.shape != found.map_HW.shape:
            raise MaskError(f"{key}: its true mask is {truth_HW.shape}, the image {found.map_HW.shape} (rows, columns)")
        scores = _score_at(found.map_HW, truth_HW, size_px)
        yield Scored(row=found.row, map_HW=found.map_HW, truth_HW=truth_HW, scores=scores)


def _score_at(map_HW: np.ndarray, truth_HW: np.ndarray, size_px: int | None) -> ImageScores:
    if size_px is None:
        return score_image(to_8_bit(map_HW), truth_HW)
    native, size = score_native(to_8_bit(map_HW), truth_HW), (size_px, size_px)
    map_HW = cv2.resize(map_HW, size, interpolation=cv2.INTER_LINEAR)
    truth_HW = cv2.resize(truth_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return score_image(to_8_bit(map_HW), truth_HW, native=native)
