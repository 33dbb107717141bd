"""The checks of tests/material/browser.py find what they are for; else every page would pass them."""

import re
from pathlib import Path

import pytest

from tests.material.browser import PHONE_PX, Browser

GOOD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width">
<style>:root { color-scheme: light dark } body { background: #fff; color: #111 }</style></head>
<body><h1>Heading</h1><button>Go</button><label>Name <input></label>%s</body></html>"""


def write(folder: Path, body: str) -> Path:
    page = folder / "a page.html"
    page.write_text(GOOD % body)
    return page


def test_a_good_page_passes(browser: Browser, tmp_path: Path) -> None:
    browser.check(write(tmp_path, "<p>text</p><script>console.log('all is well')</script>"))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>nothing.there()</script>", "console: .*nothing is not defined"),
        ("<script src='missing.js'></script>", "console: .*ERR_FILE_NOT_FOUND"),
        ("<script src='https://example.org/framework.js'></script>", "console: .*ERR_NAME_NOT_RESOLVED"),
        ("<button></button>", "no accessible name: <button>"),
        ("<input type='range'>", "no accessible name: <input"),
        ("<svg role='img' width='9' height='9'></svg>", "no accessible name: <svg"),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>", "no accessible name: <img"),
        ("<p style='color: #777'>grey</p>", r"contrast: 4\.48: <p"),  # WCAG's own example of a near miss
        ("<div style='opacity: .5'><p>pale</p></div>", "contrast: .*<p>pale"),
        ("<svg width='99' height='20'><text y='15' fill='#888'>grey</text></svg>", "contrast: .*<text"),
        ("<a href='#' style='outline: none'>link</a>", "focus not to be seen: <a"),
    ],
)
def test_a_fault_is_found(browser: Browser, tmp_path: Path, body: str, fault: str) -> None:
    browser.open(write(tmp_path, body))
    assert any(re.match(fault, found) for found in browser.faults())


def test_what_is_too_wide_for_a_phone_is_found(browser: Browser, tmp_path: Path) -> None:
    page = write(tmp_path, "<pre style='width: 500px'>wide</pre>")
    browser.open(page)
    assert not browser.faults()
    browser.open(page, width_px=PHONE_PX)
    assert any("<pre" in fault for fault in browser.too_wide())


def test_dark_is_dark_and_bytes_are_counted(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "data.js").write_text("const data = 1;" + " " * 50_000)
    page = write(tmp_path, "<script src='data.js'></script><p style='color: light-dark(#111, #fff)'>text</p>")
    browser.open(page)
    assert browser.faint() == []
    assert browser.bytes_loaded() == page.stat().st_size + 50_015
    browser.open(page, dark=True)
    assert len(browser.faint()) == 1  # white on the page's white
