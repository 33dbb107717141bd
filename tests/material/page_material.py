"""What pages are made of in tests: examples from made-up pixels, keys that want escaping; and a check of their HTML."""

from html.parser import HTMLParser

import numpy as np

from backdrop.pipeline.views.view_plan import VIEW_DTYPE
from backdrop.trainer.report.attention import Attention
from backdrop.trainer.report.examples import Donor, Example, Negative, ViewPicture
from backdrop.trainer.report.shown import Shown


class Checker(HTMLParser):
    """Counts what a page holds and insists that tags are closed in order and pictures have a text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        attributes = dict(attrs)
        self.sources += [attributes[name] or "" for name in ("src", "href") if name in attributes]
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-label") or attributes["aria-hidden"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag not in ("img", "meta", "link", "br", "line", "polyline", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def example(row: int = 3) -> Example:
    rng = np.random.default_rng(row)
    record = np.zeros(1, VIEW_DTYPE)[0]
    for name, value in {"top": 4, "left": 5, "height": 20, "width": 30, "tries": 3, "donor_row": 7}.items():
        record[name] = value
    record["has_background"], record["foreground_fraction"], record["is_grey"] = 1, 0.5, 1
    views = tuple(
        ViewPicture(
            name=name,
            image_HWC=rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
            record=record,
            is_global=name != "view 3",
            mask_HW=np.eye(16, dtype=np.uint8),
            donor=Donor(key="donors/<7>.jpg", background_HWC=rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)),
            masked_HWC=rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) if name == "key" else None,
        )
        for name in ("query", "key", "view 3")
    )
    mask_HW = np.zeros((40, 60), np.uint8)
    mask_HW[10:30, 15:40] = 1
    return Example(
        row=row,
        key=f"n01440764/<{row}>.JPEG",
        foreground_fraction=0.21,
        image_HWC=rng.integers(0, 256, (40, 60, 3), dtype=np.uint8),
        mask_HW=mask_HW,
        saliency_HW=mask_HW * 200,
        background_HWC=rng.integers(0, 256, (40, 60, 3), dtype=np.uint8),
        views=views,
        negatives=(Negative(image_HWC=rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), key="<n>", matches="query"),),
    )


def seen(*examples: Example, **why: str) -> Shown:
    return Shown(examples=list(examples), why=why or {"attention": "no <checkpoint>", "spectra": "no <checkpoint>"})


def attention() -> Attention:
    image_HWC = np.full((16, 16, 3), 90, np.uint8)
    ramp_HW = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    return Attention(
        key="<a>.jpg", query_HWC=image_HWC, view_HWC=image_HWC, masked_key_HWC=image_HWC, key_map_HW=ramp_HW,
        map_HW=ramp_HW, mask_HW=np.eye(16, dtype=np.uint8), iou=0.25,
    )  # fmt: skip
