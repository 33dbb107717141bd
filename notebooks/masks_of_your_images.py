# %% [markdown]
# # Masks of your images
#
# Finds the foreground of every image of a folder, without labels and without training, and looks at what was found.
# Open this file in Jupyter (with jupytext), VS Code or PyCharm as a notebook, or run it as a program.
# It wants images in `photos/<class>/*.jpg` beside it.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import backdrop

PHOTOS, STORE = Path("photos"), Path("photos.zarr")

# %% [markdown]
# One detector on one image: a soft map in [0, 1], and where its authors, or we, cut it.

# %%
detector = backdrop.open_detector("rbd")
image_HWC = np.asarray(Image.open(min(PHOTOS.rglob("*.jpg"))).convert("RGB"))
map_HW = detector(image_HWC)
Image.fromarray(np.hstack([image_HWC, np.repeat(np.uint8(255 * map_HW)[..., None], 3, axis=2)]))

# %% [markdown]
# All of them, into a store: masks, and backgrounds whose foregrounds are filled. The same call goes on after a stop.

# %%
images = backdrop.open_index("folder", root=PHOTOS)
summary = backdrop.build_store(images, "rbd", STORE, backdrop.BuildSettings(keeps_soft_maps=True), num_workers=0)
print(summary["num_rows"], "rows:", summary["status"])

# %% [markdown]
# Each row by its key: image, soft map, mask, background.

# %%
store = backdrop.open_store(STORE)
for row in range(min(4, store.num_rows)):
    mask_HW, saliency_HW = store.mask(row), store.saliency(row)
    if mask_HW is None or saliency_HW is None:
        continue
    image = Image.open(PHOTOS / store.key(row)).convert("RGB")
    panels = [image, Image.fromarray(saliency_HW), Image.fromarray(mask_HW * np.uint8(255))]
    sheet = np.hstack([np.asarray(panel.convert("RGB").resize((128, 128))) for panel in panels])
    Image.fromarray(sheet).save(f"row-{row}.png")

# %% [markdown]
# How much of each image is foreground? Masks that are tiny, or nearly all of the image, are most often wrong.

# %%
counts, edges = np.histogram(store.foreground_fraction, bins=5, range=(0, 1))
for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
    print(f"{low:.1f} to {high:.1f}: {'#' * count}")
