"""sanity.json beside detector.json: what a trained detector scored on images with true masks, and its threshold.

No part of the detector's identity: it changes no map. Imports no torch, for those who look before they begin.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE

SANITY_FILE = "sanity.json"


@dataclass(frozen=True, kw_only=True)
class DetectorScore:
    """Of one detector on the images that its threshold was not chosen on.

    mae: mean absolute error of the maps. f_fixed, f_max: F at 0.5 and at the best threshold. iou: of the masks cut at
    `threshold`. All in [0, 1].
    """

    mae: float
    f_fixed: float
    f_max: float
    iou: float
    threshold: float


@dataclass(frozen=True, kw_only=True)
class SanityScore:
    """What a finished training measured."""

    set_name: str
    # what it was measured on, for people
    set_digest: str
    # of the images; "" = the drawn ones
    num_images: int
    # that the scores are of; as many again chose the threshold
    weights_sha256: str
    # of the detector
    own: DetectorScore
    classical: DetectorScore
    # what needs no training, on the same images
    classical_name: str
    threshold_source: str
    # of own.threshold
    best_threshold: float
    # the one that gave the best masks, also where another one is kept
    best_threshold_iou: float

    @property
    def is_on_photographs(self) -> bool:
        """Whether it was measured on a user's own images; else on drawn ones, where classical detectors shine."""
        return bool(self.set_digest)

    @property
    def is_worse_than_classical(self) -> bool:
        """Whether the masks of the detector that needs no training are better there."""
        return self.own.iou < self.classical.iou

    def why_not(self, detector: str) -> str:
        """Why the masks of the detector that needs no training are the better choice, and what to do.

        Args: detector: the trained one's name.
        """
        own, other, doubt = self.own, self.classical, ""
        if not self.is_on_photographs:
            doubt = (
                ". Drawn pictures are easy for it; to see what photographs say, give the same `saliency train` "
                "--validation DIR (images/ and true masks/), which only measures what is trained already"
            )
        return (
            f"{detector} finds worse masks than {self.classical_name} on {self.set_name} (IoU {own.iou:.3f} against "
            f"{other.iou:.3f}): take --detector {self.classical_name}, or train longer or on more images{doubt}"
        )

    def text(self) -> str:
        """The scores in a line."""
        own, other = self.own, self.classical
        return (
            f"MAE {own.mae:.3f}, F {own.f_fixed:.3f}, IoU {own.iou:.3f} on {self.set_name}, threshold {own.threshold}; "
            f"{self.classical_name} there: MAE {other.mae:.3f}, F {other.f_fixed:.3f}, IoU {other.iou:.3f}"
        )


def write_score(run: Path, score: SanityScore) -> None:
    """Write sanity.json. Args: run: the folder of a finished training."""
    write_aside(run / SANITY_FILE, (json.dumps(asdict(score), indent=2) + "\n").encode())


def read_score(run: Path) -> SanityScore | None:
    """Read what the detector of a run scored.

    Args: run: the folder of a finished training.
    Returns: None where nothing was measured, or another detector than the one that lies there now.
    Raises: UserError: a file is damaged.
    """
    if not (run / SANITY_FILE).is_file():
        return None
    try:
        content: dict[str, Any] = json.loads((run / SANITY_FILE).read_bytes())
        score = SanityScore(**{**content, "own": _of(content["own"]), "classical": _of(content["classical"])})
        expected_sha256 = weights_of(run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run / SANITY_FILE} or {DETECTOR_FILE} beside it cannot be read ({error}): remove {SANITY_FILE} and run "
            "the same `saliency train` again, which only measures"
        ) from error
    return score if score.weights_sha256 == expected_sha256 else None


def weights_of(run: Path) -> str:
    """Return the digest of a detector's weights, of detector.json. Args: run: the folder of a finished training."""
    return json.loads((run / DETECTOR_FILE).read_bytes())["weights_sha256"]


def _of(values: Mapping[str, float]) -> DetectorScore:
    return DetectorScore(**{field.name: float(values[field.name]) for field in fields(DetectorScore)})
