"""What a finished run of `saliency train` holds and how it is named; also for those who look without torch."""

import json
from pathlib import Path

DETECTOR_FILE = "detector.json"
WEIGHTS_FILE = "detector.safetensors"
# What may stand after RUN: in a detector's name, and whether its maps then end in the dense CRF.
CRF_ENDINGS = {"crf": True, "no-crf": False}


def run_and_ending(name: str) -> tuple[Path, bool | None]:
    """Split a detector's name into the run folder and what it says of the CRF.

    Args: name: RUN, RUN:crf or RUN:no-crf; nothing on the disk is looked at.
    Returns: the folder; whether maps end in the dense CRF, None = as the training's settings say.
    """
    folder, colon, ending = name.rpartition(":")
    if colon and ending in CRF_ENDINGS:
        return Path(folder), CRF_ENDINGS[ending]
    return Path(name), None


def name_in(run: Path) -> str:
    """Return which training made a run's detector, "" where detector.json does not say. Args: run: with that file."""
    try:
        content = json.loads((run / DETECTOR_FILE).read_bytes())
    except (OSError, ValueError):
        return ""  # whoever reads the rest of it says what is wrong
    return str(content.get("name", "")) if isinstance(content, dict) else ""
