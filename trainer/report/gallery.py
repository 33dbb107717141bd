"""Scenes of a run as HTML: each row's pictures, and under each view what was drawn for it."""

from html import escape

import numpy as np

from trainer.report import pictures
from trainer.report.exhibits import Exhibit, ViewPicture, boxed


def exhibit_html(exhibit: Exhibit, background: str) -> str:
    """Return one exhibit as an <article>: the row's pictures, then its views with what was drawn for them.

    Args: exhibit: what to show. background: name of the plan's background augmentation, for the captions.
    """
    key = escape(exhibit.key)
    figures = [
        _figure(boxed(exhibit), f"{exhibit.key} with the boxes of its views", "image and boxes"),
        _saliency_figure(exhibit),
        _figure(
            pictures.with_contour(exhibit.image_HWC, exhibit.mask_HW),
            f"foreground of {exhibit.key} outlined, the rest darkened",
            f"mask, {exhibit.foreground_fraction:.0%} foreground",
        ),
    ]
    if exhibit.background_HWC is None:
        figures.append("<figure><figcaption>no background left to tile</figcaption></figure>")
    else:
        picture = pictures.thumbnail(exhibit.background_HWC)
        figures.append(_figure(picture, f"tiled background of {exhibit.key}", "tiled background"))
    local_figures: list[str] = []
    for number, view in enumerate(exhibit.views):
        kind = f"view v{number % len(pictures.VIEW_COLOURS)}" if view.is_global else "view local"
        text = f"<b>{escape(view.name)}</b><br>{'<br>'.join(_view_facts(view, background))}"
        alternative = f"{view.name} of {exhibit.key}"
        strip = figures if view.is_global else local_figures
        strip.append(_figure(pictures.thumbnail(view.image_HWC), alternative, text, kind))
    if exhibit.negative_HWC is not None:
        picture = pictures.thumbnail(exhibit.negative_HWC)
        is_matched = exhibit.views[0].record["is_negative_matched"]
        text = f"<b>extra negative</b><br>{'with the background of the query' if is_matched else 'a plain other image'}"
        figures.append(_figure(picture, f"extra negative of {exhibit.key}", text, "view local"))
    strips = f'<div class="strip">{"".join(figures)}</div>'
    if local_figures:
        strips += f'<div class="strip small">{"".join(local_figures)}</div>'
    return f'<article class="exhibit"><h3>{key}</h3>{strips}</article>'


def _figure(image_HWC: np.ndarray, alternative: str, caption_html: str, kind: str = "") -> str:
    image = pictures.img(image_HWC, alternative)
    return f'<figure class="{kind}">{image}<figcaption>{caption_html}</figcaption></figure>'


def _saliency_figure(exhibit: Exhibit) -> str:
    if exhibit.saliency_HW is None:
        return ""
    picture = pictures.grey_to_rgb(pictures.thumbnail(exhibit.saliency_HW))
    return _figure(picture, f"saliency map of {exhibit.key}, white is foreground", "saliency map")


def _view_facts(view: ViewPicture, background: str) -> list[str]:
    """Say in words what was drawn for a view."""
    record = view.record
    facts = [f"holds {float(record['foreground_fraction']):.0%} of the foreground"]
    tries = int(record["tries"])
    if record["is_fallback"]:
        facts.append(f"fallback box after {tries} tries")
    elif tries > 1:
        facts.append(f"{tries} tries")
    if record["has_background"] and view.donor_key is not None:
        facts.append(f"background of <code>{escape(view.donor_key)}</code>")
    elif record["has_background"] and background == "rm":
        facts.append(f"background grey {float(record['background_grey']):.2f}")
    drawn = [
        word
        for word, name in (("flipped", "is_flipped"), ("grey", "is_grey"), ("solarised", "is_solarised"))
        if record[name]
    ]
    if record["blur_sigma_px"] > 0:
        drawn.append(f"blur {float(record['blur_sigma_px']):.1f} px")
    return facts + ([", ".join(drawn)] if drawn else [])
