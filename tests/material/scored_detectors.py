"""A set of images with true masks and maps of a known quality, and the logs of a detector's training."""

import json
from pathlib import Path

import numpy as np

from backdrop.saliency.inference import encode_png
from backdrop.stores.images.image_codec import encode_jpeg

NUM_IMAGES = 8


def draw_set(folder: Path) -> Path:
    """Images with a box, their true masks, and maps that find the first n of its 16 columns in image n."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "maps"):
        (folder / name).mkdir(parents=True)
    for number in range(NUM_IMAGES):
        truth_HW = np.zeros((48, 64), np.uint8)
        truth_HW[10:30, 20:36] = 255
        map_HW = np.zeros_like(truth_HW)
        map_HW[10:30, 20 : 21 + 2 * number] = 200
        image_HWC = rng.integers(0, 90, (48, 64, 3)).astype(np.uint8) + truth_HW[:, :, None] // 2
        (folder / "images" / f"<{number}>.jpg").write_bytes(encode_jpeg(image_HWC))
        (folder / "masks" / f"<{number}>.png").write_bytes(encode_png(truth_HW))
        (folder / "maps" / f"<{number}>.png").write_bytes(encode_png(map_HW))
    return folder


def write_run(run: Path) -> Path:
    """A training as `saliency train` leaves it, with two rounds of two methods and stage 2."""
    run.mkdir(parents=True)
    scores = dict.fromkeys(("mae", "f_fixed", "f_adaptive", "f_adaptive_of_means", "f_max", "iou"), 0.5)
    phases = [(1, method, number) for method in ("rbd", "hs") for number in (1, 2)] + [(2, None, 1)]
    epochs, validations = [], []
    for place, (stage, method, number) in enumerate(phases):
        title = f"stage 1 {method} round {number}" if stage == 1 else "stage 2"
        epochs += [
            {"stage": stage, "method": method, "round": number, "epoch": epoch, "loss": 0.5 - 0.1 * epoch}
            for epoch in range(3)
        ]
        validations.append({"phase": title, **scores, "f_fixed": 0.5 + 0.1 * place})
    (run / "training.jsonl").write_text("".join(json.dumps(record) + "\n" for record in epochs))
    (run / "validation.jsonl").write_text("".join(json.dumps(record) + "\n" for record in validations))
    return run
