"""Scenes of a run as HTML: each row's pictures, and under each view what was drawn for it."""

from html import escape

import numpy as np

from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.pipeline.views.view_plan import VIEW_DTYPE
from backdrop.stores.pages import document, pictures
from backdrop.trainer.report.examples import Example, ViewPicture, box, boxed

# Every number of VIEW_DTYPE in words, with its unit.
PARAMETERS = {
    "top": "crop box: first row, px of the image",
    "left": "crop box: first column, px of the image",
    "height": "crop box: rows, px of the image",
    "width": "crop box: columns, px of the image",
    "is_flipped": "mirrored left to right (1 = yes)",
    "tries": "boxes proposed until one held enough foreground, 1 to 10",
    "is_fallback": "no proposal held enough: fallback box (1 = yes)",
    "is_jittered": "colours jittered (1 = yes)",
    "jitter_order": "order of the four colour changes, 0 to 23",
    "is_grey": "turned grey (1 = yes)",
    "is_solarised": "solarised (1 = yes)",
    "has_background": "background replaced (1 = yes)",
    "is_negative_matched": "extra negatives have this view's background (1 = yes)",
    "donor_is_flipped": "donor mirrored (1 = yes)",
    "mask_is_flipped": "mask perturbed: mirrored (1 = yes)",
    "brightness": "brightness factor, 1 = unchanged",
    "contrast": "contrast factor, 1 = unchanged",
    "saturation": "saturation factor, 1 = unchanged",
    "hue": "hue shift, turns, 0 = unchanged",
    "blur_sigma_px": "blur: sigma, px of the view, 0 = none",
    "background_grey": "grey level of a removed background, 0 = black to 1 = white",
    "foreground_fraction": "share of the image's foreground inside the box, 0 to 1",
    "donor_row": "row that lends its background, -1 = none",
    "donor_top": "donor's box: first row, px of its background",
    "donor_left": "donor's box: first column, px of its background",
    "donor_height": "donor's box: rows, px of its background",
    "donor_width": "donor's box: columns, px of its background",
    "negative_source": "which other row of the batch fills the extra negative, 0 to 1",
    "mask_rotation_degrees": "mask perturbed: rotation, degrees",
    "mask_row_shear_degrees": "mask perturbed: shear along rows, degrees",
    "mask_column_shear_degrees": "mask perturbed: shear along columns, degrees",
    "mask_shift_rows": "mask perturbed: shift down, share of the foreground's height",
    "mask_shift_columns": "mask perturbed: shift right, share of the foreground's width",
    "edge_sigma_px": "soft edge of a moved foreground: sigma, px of the view, 0 = hard",
}


def example_html(example: Example, background: str) -> str:
    """Return one example as an <article>: the row's pictures, then its views with what was drawn for them.

    Args: example: what to show. background: name of the plan's background augmentation, for the captions.
    """
    views = [(view, _view_figure(example, view, number, background)) for number, view in enumerate(example.views)]
    shown = _row_figures(example) + [figure for view, figure in views if view.is_global] + _negative_figures(example)
    return _article(example, [shown], [figure for view, figure in views if not view.is_global])


def full_example_html(example: Example, background: str) -> str:
    """Return one example with, beside each view, its mask, its donor and CAST's masked key, and every number drawn.

    Each global view has a line of its own, the local ones share one.
    """
    lines, local_figures = [_row_figures(example)], []
    for number, view in enumerate(example.views):
        figures = [_view_figure(example, view, number, background), *_beside(example, view)]
        if view.is_global:
            lines.append(figures)
        else:
            local_figures += figures
    return _article(example, [*lines, _negative_figures(example)], local_figures, numbers_table(example))


def numbers_table(example: Example) -> str:
    """Return all that was drawn for the views of a row: a line per number of VIEW_DTYPE, a column per view."""
    names = [name for name in VIEW_DTYPE.names or () if name != "padding"]
    rows = [
        [
            f"{escape(PARAMETERS[name])} <code>{name}</code>",
            *(f"{view.record[name].item():.5g}" for view in example.views),
        ]
        for name in names
    ]
    head = ["drawn", *(escape(view.name) for view in example.views)]
    return document.table(head, rows, label=f"all that was drawn for {example.key}")


def _article(example: Example, lines: list[list[str]], local_figures: list[str], numbers: str = "") -> str:
    strips = "".join(f'<div class="strip">{"".join(figures)}</div>' for figures in lines if figures)
    if local_figures:
        strips += f'<div class="strip small">{"".join(local_figures)}</div>'
    folded = document.folded(f"All numbers drawn for row {example.row}", numbers) if numbers else ""
    strips = f'<div class="strips">{strips}</div>' if numbers else strips
    return f'<article class="example"><h3>{escape(example.key)}</h3>{strips}{folded}</article>'


def _row_figures(example: Example) -> list[str]:
    figures = [
        _figure(boxed(example), f"{example.key} with the boxes of its views", "image and boxes"),
        _saliency_figure(example),
        _figure(
            pictures.with_contour(example.image_HWC, example.mask_HW),
            f"foreground of {example.key} outlined, the rest darkened",
            f"mask, {example.foreground_fraction:.0%} foreground",
        ),
    ]
    if example.background_HWC is None:
        figures.append("<figure><figcaption>no tiled background to show</figcaption></figure>")
    else:
        picture = pictures.thumbnail(example.background_HWC)
        figures.append(_figure(picture, f"tiled background of {example.key}", "tiled background"))
    return figures


def _view_figure(example: Example, view: ViewPicture, number: int, background: str) -> str:
    text = f"<b>{escape(view.name)}</b><br>{'<br>'.join(_view_facts(view, background))}"
    kind = f"view v{number % len(pictures.VIEW_COLOURS)}" if view.is_global else "view local"
    return _figure(pictures.thumbnail(view.image_HWC), f"{view.name} of {example.key}", text, kind)


def _beside(example: Example, view: ViewPicture) -> list[str]:
    """What belongs to a view: its mask, the donor of its background, what CAST's key network sees."""
    name = escape(view.name)
    figures = [
        _figure(
            pictures.with_contour(view.image_HWC, view.mask_HW),
            f"foreground of the {view.name} of {example.key} outlined, the rest darkened",
            f"its mask, {float(view.mask_HW.mean()):.0%} foreground",
        )
    ]
    if view.donor is not None:
        donor_HWC = pictures.with_boxes(
            view.donor.background_HWC, [box(view.record, "donor_")], [pictures.VIEW_COLOURS[0]]
        )
        caption = f"its donor <code>{escape(view.donor.key)}</code>, the part taken"
        figures.append(_figure(donor_HWC, f"tiled background of {view.donor.key} with the part that is taken", caption))
    if view.masked_HWC is not None:
        caption = f"masked {name}: what CAST compares the query with"
        alternative = f"{view.name} of {example.key} with its background at the mean colour"
        figures.append(_figure(pictures.thumbnail(view.masked_HWC), alternative, caption))
    return figures


def _negative_figures(example: Example) -> list[str]:
    return [
        _figure(
            pictures.thumbnail(negative.image_HWC),
            f"extra negative of {example.key}",
            f"<b>extra negative</b><br>from <code>{escape(negative.key)}</code>, "
            + (f"with the background of the {escape(negative.matches)}" if negative.matches else "a plain other image"),
            "view local",
        )
        for negative in example.negatives
    ]


def _figure(image_HWC: np.ndarray, alternative: str, caption_html: str, kind: str = "") -> str:
    return document.picture(pictures.img(image_HWC, alternative), caption_html, kind)


def _saliency_figure(example: Example) -> str:
    if example.saliency_HW is None:
        return ""
    picture = pictures.grey_to_rgb(pictures.thumbnail(example.saliency_HW))
    return _figure(picture, f"saliency map of {example.key}, white is foreground", "saliency map")


def _view_facts(view: ViewPicture, background: str) -> list[str]:
    """Say in words what was drawn for a view."""
    record = view.record
    facts = [f"holds {float(record['foreground_fraction']):.0%} of the foreground"]
    tries = int(record["tries"])
    if record["is_fallback"]:
        facts.append(f"fallback box after {tries} tries")
    elif tries > 1:
        facts.append(f"{tries} tries")
    if record["has_background"] and view.donor is not None:
        moved = ", the foreground moved on it" if BACKGROUNDS.load(background).MOVES_FOREGROUND else ""
        facts.append(f"background of <code>{escape(view.donor.key)}</code>{moved}")
    elif record["has_background"] and background == "rm":
        facts.append(f"background grey {float(record['background_grey']):.2f}")
    drawn = [
        word
        for word, name in (("flipped", "is_flipped"), ("grey", "is_grey"), ("solarised", "is_solarised"))
        if record[name]
    ]
    if record["blur_sigma_px"] >= 0.05:  # less rounds to none
        drawn.append(f"blur {float(record['blur_sigma_px']):.1f} px")
    if record["edge_sigma_px"] > 0:
        drawn.append(f"edge soft by {float(record['edge_sigma_px']):.1f} px")
    return facts + ([", ".join(drawn)] if drawn else [])
