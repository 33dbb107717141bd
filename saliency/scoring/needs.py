"""What a detector needs before it finds anything: nothing, downloaded weights, a training on so many images."""

import json
from pathlib import Path

from backdrop.saliency.classical import NAMES as CLASSICAL_NAMES
from backdrop.saliency.trained_detector.run_claim import SETTINGS_FILE
from backdrop.saliency.trained_detector.run_layout import run_and_ending

NOTHING = "nothing"
PUBLIC_VIT = "a ViT with public self-supervised weights"
PUBLIC_SEVERAL = "two ResNet-50 and a ViT with public self-supervised weights"
FOUND_HEAD = f"{PUBLIC_VIT}; a head trained in minutes"
_MADE_ELSEWHERE = "maps made elsewhere"
_TRAINING = "its training"
_MASKS = "masks"
_SEVERAL = "selfmask"


def needs_of(detector: str) -> str:
    """Return what a detector needs, in words.

    Args: detector: as `open_detector` takes it.
    Returns: of a run of `saliency train` what it was trained on; "" where the name says nothing, as a plug-in's.
    """
    if detector in CLASSICAL_NAMES:
        return NOTHING
    family, colon, rest = detector.partition(":")
    if family == _MASKS and colon:
        return _MADE_ELSEWHERE
    named = Path(rest.partition(":")[0]) if colon else Path(detector)
    for run in (run_and_ending(detector)[0], named):
        if run.is_dir():
            return _training(run)
    weights = Path(str(named).partition(",")[0])
    if not colon or not weights.is_file():
        return ""
    return PUBLIC_SEVERAL if family == _SEVERAL else PUBLIC_VIT


def _training(run: Path) -> str:
    """What a run's own file says of its images and of where its network began."""
    try:
        claimed = json.loads((run / SETTINGS_FILE).read_bytes())
        images = f"{claimed['dataset']['num_images']:,} unlabelled images of {claimed['dataset']['name']}"
        if "backbone" in claimed:
            return f"{images}; {PUBLIC_VIT}"
        begins = "pretrained" if claimed["backbone_weights_sha256"] else "random"
        return f"{images}; {claimed['settings']['architecture']} from {begins} weights"
    except (OSError, ValueError, KeyError, TypeError):
        return _TRAINING
