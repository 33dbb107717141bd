"""Scenes of a run as one picture, for a README or a talk."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backdrop.stores.pages import pictures
from backdrop.trainer.report.examples import Example, boxed

_NUM_ROWS = 6


def contact_sheet(examples: list[Example], *, tile_px: int = 168) -> Image.Image:
    """Draw examples as one picture: a row each, a column for image, saliency map, mask, tiled background, global views.

    Args: examples: the first six are taken, those with a replaced background before others. tile_px: side of a tile.
    """
    examples = sorted(examples, key=lambda example: not any(view.record["has_background"] for view in example.views))
    examples = sorted(examples[:_NUM_ROWS], key=lambda example: example.row)
    columns = _columns(examples)
    gap, head = 6, 26
    width = len(columns) * (tile_px + gap) + gap
    height = head + len(examples) * (tile_px + gap) + gap
    sheet = Image.new("RGB", (width, height), (250, 250, 250))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for column, (title, tiles) in enumerate(columns):
        left = gap + column * (tile_px + gap)
        draw.text((left + tile_px / 2, head / 2 + 1), title, fill=(40, 40, 40), font=font, anchor="mm")
        for place, tile_HWC in enumerate(tiles):
            sheet.paste(Image.fromarray(_square(tile_HWC, tile_px)), (left, head + place * (tile_px + gap)))
    return sheet


def _columns(examples: list[Example]) -> list[tuple[str, list[np.ndarray]]]:
    columns = [("image", [boxed(example) for example in examples])]
    maps = [example.saliency_HW for example in examples if example.saliency_HW is not None]
    if len(maps) == len(examples):
        columns.append(("saliency map", [pictures.grey_to_rgb(saliency_HW) for saliency_HW in maps]))
    columns.append(("mask", [pictures.with_contour(example.image_HWC, example.mask_HW) for example in examples]))
    empty = np.full((8, 8, 3), 235, np.uint8)
    columns.append(
        (
            "tiled background",
            [empty if example.background_HWC is None else example.background_HWC for example in examples],
        )
    )
    for number, view in enumerate(examples[0].views if examples else ()):
        if view.is_global:
            columns.append((view.name, [example.views[number].image_HWC for example in examples]))
    return columns


def _square(image_HWC: np.ndarray, side_px: int) -> np.ndarray:
    """Fit a picture into a square on a light ground; small ones are enlarged."""
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    scale = side_px / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    square = Image.new("RGB", (side_px, side_px), (235, 235, 235))
    square.paste(image, ((side_px - image.width) // 2, (side_px - image.height) // 2))
    return np.asarray(square)
