"""Maps of a folder of images, written as 8-bit PNG files."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.progress import stage_bar, warn
from backdrop.saliency.binarise import binarise
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.find_maps import found_maps
from backdrop.saliency.scoring.metrics import to_8_bit
from backdrop.stores.datasets import open_index
from backdrop.stores.indexes.dataset_index import DatasetIndex

IDENTITY_FILE = "made-by.json"


def predict_folder(
    images_dir: Path | str,
    detector_name: str,
    out_dir: Path | str,
    *,
    threshold: float | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Write the map of every image of a folder: `a/b.jpg` gives `a/b.png`, 8 bit, at the image's own size.

    Maps that are there already are left alone, so that the same call finishes what an interrupted one began. Images
    that cannot be read are reported on the terminal and in the summary, and have no map.

    Args:
        images_dir: images, any tree.
        detector_name: as `open_detector` takes it.
        out_dir: where the maps go; holds made-by.json with the detector's identity besides.
        threshold: write masks instead of soft maps: 255 where saliency is greater, else 0; [0, 1).
        device: torch device of a trained detector; None = the GPU where there is one.

    Returns:
        JSON-able: num_written (by this call), num_skipped (there already), problems (key -> why it has no map).

    Raises:
        UserError: `out_dir` cannot be written or holds other maps, two images would share a map, there are no images,
            or the detector or the threshold is not one.
    """
    if threshold is not None:
        binarise(np.zeros((1, 1)), threshold)  # refuses what is no threshold before any work is done
    index, out = open_index("folder", root=Path(images_dir)), Path(out_dir)
    names = _map_names(index)
    detector = open_detector(detector_name, device=device)
    _claim(out, {"detector": detector.identity, "threshold": threshold})
    todo = [row for row in range(len(index)) if not (out / names[row]).is_file()]
    problems: dict[str, str] = {}
    title = f"maps by {detector.identity['name']}"
    for found in stage_bar(found_maps(index, todo, detector), stage=title, unit="img", total=len(todo)):
        if found.map_HW is None:
            problems[index.keys[found.row]] = found.problem
            warn(f"warning: no map of {index.keys[found.row]}: {found.problem}")
            continue
        path = out / names[found.row]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, encode_png(_as_8_bit(found.map_HW, threshold)))
    if problems:
        warn(f"warning: {len(problems)} of {len(index)} images have no map; their keys are above")
    num_skipped = len(index) - len(todo)
    return {"num_written": len(todo) - len(problems), "num_skipped": num_skipped, "problems": problems}


def _as_8_bit(saliency_HW: np.ndarray, threshold: float | None) -> np.ndarray:
    return to_8_bit(saliency_HW) if threshold is None else 255 * binarise(saliency_HW, threshold)[0]


def encode_png(grey_HW: np.ndarray) -> bytes:
    """Bytes of a greyscale PNG.

    Args:
        grey_HW: uint8.
    """
    is_encoded, data = cv2.imencode(".png", grey_HW)
    assert is_encoded, grey_HW.shape
    return data.tobytes()


def _map_names(index: DatasetIndex) -> list[str]:
    key_of: dict[str, str] = {}
    for key in index.keys:
        name = str(PurePosixPath(key).with_suffix(".png"))
        if name in key_of:
            raise UserError(f"{key_of[name]} and {key} would both have the map {name}: rename one of them")
        key_of[name] = key
    return list(key_of)


def _claim(out: Path, maker: dict[str, Any]) -> None:
    """Make the folder this detector's and threshold's, or refuse it when it is another's."""
    identity = json.loads(json.dumps(maker))
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / IDENTITY_FILE).is_file():
            write_aside(out / IDENTITY_FILE, (json.dumps(identity, indent=2) + "\n").encode())
        made_by = json.loads((out / IDENTITY_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{out} cannot take the maps ({error}): give a folder that can be written") from error
    if made_by != identity:
        raise UserError(
            f"{out} holds maps of another detector or threshold ({json.dumps(made_by)}; now {json.dumps(identity)}): "
            "give another folder, or empty this one"
        )
