"""ImageNet-9: its folders, and painted scenes with masks from which its variants are drawn."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.material.evaluation_fixtures import WNIDS, colour, paint, save_image

# A class of each group, and the folders in the archive; some have spaces.
CLASS_OF_FOLDER = {
    "00_dog": 207,
    "01_bird": 10,
    "02_wheeled vehicle": 407,
    "03_reptile": 35,
    "04_carnivore": 270,
    "05_insect": 301,
    "06_musical instrument": 402,
    "07_primate": 370,
    "08_fish": 391,
}
# A square of foreground in the middle; its share of the crop is (56 / 112)^2 = 1/4.
SQUARE = (slice(36, 92), slice(36, 92))
# Of each image: its class's colour in the foreground, another group's in the background.
SCENES = {f"{WNIDS[207]}/a.png": (207, 10), f"{WNIDS[207]}/b.png": (207, 35), f"{WNIDS[10]}/a.png": (10, 407)} | {
    f"{WNIDS[35]}/a.png": (35, 207),
    f"{WNIDS[171]}/none.png": (171, 207),
}


def save_mask(path: Path, square: np.ndarray, shape: tuple[int, int] = (128, 128)) -> None:
    """Write a mask whose SQUARE is 255 where `square` is 1, and that is 0 elsewhere."""
    mask_HW = np.zeros(shape, dtype=np.uint8)
    mask_HW[SQUARE] = 255 * square
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask_HW).save(path)


def write_scenes(folder: Path) -> Path:
    """Write SCENES below scenes/ and their masks below masks/ of a folder, and return it."""
    for key, (foreground, background) in SCENES.items():
        image_HWC = paint(background, (128, 128))
        image_HWC[SQUARE] = colour(foreground)
        save_image(folder / "scenes" / key, image_HWC)
        save_mask(folder / "masks" / key, np.ones((56, 56)))
    return folder
