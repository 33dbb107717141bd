"""The gallery in a browser, opened from its files: what a reader does, with the mouse and with the keyboard."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from backdrop.pipeline.gallery import content
from backdrop.pipeline.gallery.content import _column
from backdrop.pipeline.gallery.doubt import Doubts, facts_of
from backdrop.pipeline.gallery.folder import write_gallery
from backdrop.pipeline.gallery.selection import choose_rows
from backdrop.pipeline.gallery.server import GalleryServer
from backdrop.pipeline.gallery.source_images import SourceImages, find_images
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.indexes.named_rows import named_rows
from tests.material.browser import PHONE_PX, Browser
from tests.material.gallery_store import HOSTILE, KEYS, MESSAGE, mask_of, status_of, write_images, write_store

PAGE_ROWS = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(write_store(tmp_path_factory.mktemp("store") / "toy.zarr"))


@pytest.fixture(scope="module")
def images(store: Store, tmp_path_factory: pytest.TempPathFactory) -> SourceImages:
    write_images(root := tmp_path_factory.mktemp("data") / "folder")
    return find_images(store, root)


@pytest.fixture(scope="module")
def page(store: Store, images: SourceImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written in one place, moved to another whose name needs care in a URL."""
    folder = tmp_path_factory.mktemp("out")
    write_gallery(store, images, choose_rows(store, None), folder / "g")
    return Path(shutil.move(folder / "g", folder / "a gallery, \u00e4 & #1%")) / "index.html"


def keys_shown(browser: Browser) -> list[str]:
    return browser.run("return [...document.querySelectorAll('.row .key')].map(key => key.textContent)")


def acts(browser: Browser, action: Callable[[], object]) -> None:
    """Do something that has the page show rows anew, and wait for them."""
    ready = "return document.documentElement.dataset.ready"
    before = browser.run(ready)
    action()
    browser.wait(lambda: browser.run(ready) not in (before, None))


def opened(browser: Browser, page: Path | str, **how: object) -> None:
    """Open the page, in the order of rows unless its address says another."""
    address = page.as_uri() if isinstance(page, Path) else page
    browser.open(address if "#" in address else f"{address}#sort=row", **how)  # type: ignore[arg-type]
    browser.wait(lambda: browser.run("return document.documentElement.dataset.ready"))


def in_row_order(browser: Browser) -> None:
    acts(browser, browser.find("#reset").click)
    acts(browser, lambda: Select(browser.find("#sort")).select_by_value("row"))


def by_foreground() -> list[int]:
    fraction = [mask_of(row).mean() * status_of(row).has_mask for row in range(len(KEYS))]
    return sorted(range(len(KEYS)), key=lambda row: (fraction[row], row))


def test_all_is_well_as_it_first_appears_and_with_a_row_open(browser: Browser, page: Path) -> None:
    browser.check(page)
    browser.wait(lambda: browser.run("return [...document.images].some(image => image.naturalWidth > 0)"))
    for width_px in (1400, PHONE_PX):
        browser.open(page.as_uri() + f"#row={KEYS.index(HOSTILE)}", width_px=width_px, dark=True)
        browser.wait(lambda: browser.run("return document.querySelector('dialog').open"))
        assert browser.faults() == []


def test_pictures_that_lie_in_scripts_are_shown(
    browser: Browser, store: Store, images: SourceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a million rows do: with few scripts kept, each page loads anew what it shows."""
    monkeypatch.setattr(content, "PACKED_FROM", 2)
    monkeypatch.setattr(content, "PACKED_CHUNK_ROWS", 1)
    page = write_gallery(store, images, choose_rows(store, None), tmp_path / "g")
    opened(browser, page)
    for first in (0, PAGE_ROWS, 2 * PAGE_ROWS):
        assert keys_shown(browser) == KEYS[first : first + PAGE_ROWS]
        browser.wait(lambda: browser.run("return [...document.images].some(image => image.naturalWidth > 0)"))
        if first < 2 * PAGE_ROWS:
            acts(browser, browser.find("#next").click)
    for _ in range(2):
        acts(browser, browser.find("#previous").click)
    assert keys_shown(browser) == KEYS[:PAGE_ROWS]
    assert browser.run("return [...document.images].every(image => image.getAttribute('src').startsWith('data:'))")
    assert browser.console_errors() == []
    assert browser.run("return document.querySelectorAll('head script').length") == 0


@pytest.mark.slow
def test_all_is_well_where_pictures_lie_in_scripts(
    browser: Browser, store: Store, images: SourceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "PACKED_FROM", 2)
    browser.check(write_gallery(store, images, choose_rows(store, None), tmp_path / "g"))


def test_keys_and_messages_are_text(browser: Browser, page: Path) -> None:
    opened(browser, page.as_uri() + "#sort=row&page=3")
    assert keys_shown(browser) == KEYS[2 * PAGE_ROWS :]
    assert browser.run("return [...document.images].every(image => image.getAttribute('src').startsWith('pictures/'))")
    opened(browser, page.as_uri() + "#row=41")
    browser.wait(lambda: browser.find("#row-title").text == KEYS[41])
    assert MESSAGE in browser.run("return document.querySelector('#row-facts').textContent")
    assert browser.run("return document.querySelectorAll('script:not([src])').length") == 0
    assert browser.console_errors() == []


def test_filters(browser: Browser, page: Path) -> None:
    opened(browser, page)
    assert "1 to 24 of 60 rows, page 1 of 3" in browser.find("#count").text
    ok = browser.find("#statuses input[value='0']")
    acts(browser, ok.click)
    assert keys_shown(browser) == [KEYS[row] for row in (5, 6, 40, 41)]
    in_row_order(browser)
    acts(browser, lambda: Select(browser.find("#class")).select_by_visible_text("weird"))
    assert keys_shown(browser) == [key for key in KEYS if key.startswith("weird/")]
    in_row_order(browser)
    least = browser.find("#from")
    least.clear()
    acts(browser, lambda: least.send_keys("40", Keys.TAB))
    wanted = [KEYS[row] for row in range(len(KEYS)) if status_of(row).has_mask and mask_of(row).mean() >= 0.4]
    assert keys_shown(browser) == wanted
    # The histogram's bars are all rows with a mask; a click on one shows its rows.
    acts(browser, browser.find("#reset").click)
    fractions = [mask_of(row).mean() for row in range(len(KEYS)) if status_of(row).has_mask]
    counts, _ = np.histogram(fractions, bins=20, range=(0, 1))
    titles = browser.run("return [...document.querySelectorAll('#histogram title')].map(title => title.textContent)")
    assert [int(title.split(" of ")[1].split()[0]) for title in titles] == counts.tolist()
    acts(browser, browser.find("#histogram g:nth-of-type(3) rect.hit").click)
    assert len(keys_shown(browser)) == counts[2]
    acts(browser, browser.find("#histogram g:nth-of-type(20) rect.hit").click)
    assert keys_shown(browser) == [KEYS[6]]
    acts(browser, browser.find("#statuses input[value='2']").click)
    assert "No row passes these filters" in browser.find("#rows").text
    assert browser.console_errors() == []


def test_sorting_paging_and_an_address_that_brings_it_back(browser: Browser, page: Path) -> None:
    opened(browser, page)
    order = by_foreground()
    acts(browser, lambda: Select(browser.find("#sort")).select_by_value("small"))
    assert keys_shown(browser) == [KEYS[row] for row in order[:PAGE_ROWS]]
    acts(browser, browser.find("#next").click)
    acts(browser, browser.find("#next-below").click)
    assert keys_shown(browser) == [KEYS[row] for row in order[2 * PAGE_ROWS :]]
    assert not browser.find("#next").is_enabled()
    address = browser.run("return location.href")
    opened(browser, address)
    assert keys_shown(browser) == [KEYS[row] for row in order[2 * PAGE_ROWS :]]
    acts(browser, lambda: Select(browser.find("#sort")).select_by_value("shuffled"))
    seen = keys_shown(browser)
    acts(browser, browser.find("#next").click)
    seen += keys_shown(browser)
    acts(browser, browser.find("#next").click)
    seen += keys_shown(browser)
    assert sorted(seen) == KEYS
    assert seen != KEYS


def test_what_is_most_likely_wrong_comes_first(browser: Browser, page: Path, store: Store) -> None:
    browser.open(page)
    browser.wait(lambda: browser.run("return document.documentElement.dataset.ready"))
    doubts = Doubts(facts_of(store, np.arange(len(KEYS))))
    order = np.argsort(-np.round(doubts.value * 65_535), kind="stable")
    assert set(order[:2].tolist()) == {5, 6}, "nothing was found, and everything"
    assert keys_shown(browser) == [KEYS[row] for row in order[:PAGE_ROWS]]
    tiny = next(row for row in order.tolist() if doubts.reasons(row))
    said = browser.find(f".row[data-place='{tiny}'] .doubts").text
    assert said == ", ".join(doubts.reasons(tiny)) == "next to nothing is foreground"


def test_rows_are_marked_as_bad_and_listed(browser: Browser, page: Path, tmp_path: Path) -> None:
    """One key marks; the marks outlive the page, and the list is what --rows @FILE and --without @FILE read."""
    opened(browser, page)
    browser.run("localStorage.clear()")
    opened(browser, page)
    text = "return document.querySelector('#marks-text').textContent"
    assert browser.run(text) == "None is marked."
    browser.press(*[Keys.ARROW_RIGHT] * 4, "b")
    browser.wait(lambda: browser.run(text) == "1 row marked as bad.")
    assert browser.run("return document.activeElement.matches('.row.is-marked')")
    hostile = KEYS.index(HOSTILE)
    opened(browser, page.as_uri() + f"#row={hostile}")
    browser.wait(lambda: browser.run("return document.querySelector('dialog').open"))
    assert browser.find("#row-mark").get_attribute("aria-pressed") == "false"
    browser.press("b")
    browser.wait(lambda: browser.find("#row-mark").get_attribute("aria-pressed") == "true")
    assert browser.faults() == []
    browser.press(Keys.ARROW_LEFT)
    browser.wait(lambda: browser.find("#row-mark").get_attribute("aria-pressed") == "false")
    opened(browser, page.as_uri() + "#sort=row&marked=only")
    assert keys_shown(browser) == [KEYS[3], HOSTILE]
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.find("#marks-download").click()
    browser.wait(lambda: (tmp_path / "bad-rows.txt").exists())
    named = named_rows(f"@{tmp_path / 'bad-rows.txt'}", len(KEYS), KEYS.__getitem__, option="--rows")
    assert named == [3, hostile]
    browser.press(Keys.TAB)
    browser.run("document.querySelector('.row').focus()")
    browser.press("b")
    browser.wait(lambda: browser.run(text) == "1 row marked as bad.")
    assert browser.console_errors() == []


def test_the_keyboard_alone(browser: Browser, page: Path) -> None:
    opened(browser, page)
    focused = "return document.activeElement.dataset.place"
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.run(focused) == "2"
    columns = browser.run(
        "return getComputedStyle(document.querySelector('#rows')).gridTemplateColumns.split(' ').length"
    )
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    assert browser.run(focused) == str(2 + columns - 1)
    browser.press(Keys.ARROW_UP, Keys.ENTER)
    row = 2 - 1
    browser.wait(lambda: browser.find("#row-title").text == KEYS[row])
    browser.press(Keys.ARROW_RIGHT)
    browser.wait(lambda: browser.find("#row-title").text == KEYS[row + 1])
    browser.press(Keys.ESCAPE)
    browser.wait(lambda: browser.run(focused) == str(row + 1))
    assert not browser.run("return document.querySelector('dialog').open")
    acts(browser, lambda: browser.press("n"))
    assert browser.run(focused) == str(PAGE_ROWS)
    # Back over the edge of the page: to the last row of the one before.
    acts(browser, lambda: browser.press(Keys.ARROW_LEFT))
    assert browser.run(focused) == str(PAGE_ROWS - 1)
    browser.press("/", *"bees/01", Keys.ENTER)
    browser.wait(lambda: browser.find("#row-title").text == next(key for key in KEYS if key.startswith("bees/01")))
    browser.press(Keys.ESCAPE)
    # The focus is where it was when the row was opened.
    assert browser.run("return document.activeElement.id") == "find"


def test_finding_rows(browser: Browser, page: Path) -> None:
    opened(browser, page)
    find = browser.find("#find")
    find.send_keys("57", Keys.ENTER)
    browser.wait(lambda: browser.find("#row-title").text == KEYS[57])
    for missing, said in (("60", "row 60 is not on this page"), ("cats", 'no key on this page begins with "cats"')):
        browser.press(Keys.ESCAPE)
        find.clear()
        find.send_keys(missing, Keys.ENTER)
        browser.wait(lambda said=said: browser.find("#find-answer").text == said)


def test_a_key_of_digits_is_no_row_number(browser: Browser, page: Path, tmp_path: Path) -> None:
    """COCO's keys, three apart: 000000000039.jpg is row 13 here, and "39" is row 39 with another key."""
    folder = Path(shutil.copytree(page.parent, tmp_path / "coco"))
    rows = folder / "data" / "rows-00000.js"
    number, facts = json.loads(f"[{rows.read_text().removeprefix('gallery.rows(').removesuffix(');' + chr(10))}]")
    for row, fact in enumerate(facts):
        fact["key"] = f"{3 * row:012d}.jpg"
    rows.write_text(f"gallery.rows({number}, {json.dumps(facts)});\n")
    opened(browser, folder / "index.html")
    find = browser.find("#find")
    for text, row in (("000000000039", 13), ("39", 39), ("0", 0)):
        find.send_keys(text, Keys.ENTER)
        browser.wait(lambda row=row: browser.find("#row-title").text == f"{3 * row:012d}.jpg")
        browser.press(Keys.ESCAPE)
        find.clear()


def test_served_it_is_the_same(browser: Browser, store: Store, images: SourceImages) -> None:
    with GalleryServer(store, images) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            opened(browser, server.url + "#sort=row&page=2")
            assert keys_shown(browser) == KEYS[PAGE_ROWS : 2 * PAGE_ROWS]
            browser.wait(lambda: browser.run("return [...document.images].some(image => image.naturalWidth === 80)"))
            assert browser.faults() == []
        finally:
            server.shutdown()
            thread.join()


def test_what_is_missing_is_said(
    browser: Browser, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BACKDROP_DATA", raising=False)
    page = write_gallery(store, find_images(store, None), choose_rows(store, 30), tmp_path / "g")
    opened(browser, page)
    assert "The source images are not at hand" in browser.find("#notice").text
    assert "shows 30 of them" in browser.find("#summary").text
    assert browser.run("return document.querySelector('.row .none').textContent") == "its image is not at hand"
    assert browser.faults() == []
    (page.parent / "data" / "rows-00000.js").unlink()
    opened(browser, page)
    assert "data/rows-00000.js could not be loaded" in browser.find("#rows").text


@pytest.mark.slow
def test_a_million_rows_are_filtered_and_sorted_at_once(browser: Browser, page: Path, tmp_path: Path) -> None:
    """The columns of a store of ImageNet's size, made up: the page is under 15 MB and answers within a second."""
    folder = Path(shutil.copytree(page.parent, tmp_path / "large"))
    num_rows = 1_281_167
    rng = np.random.default_rng(0)
    columns = {
        "step": np.ones(num_rows, "u1"),
        "status": np.zeros(num_rows, "u1"),
        "class": rng.integers(0, 1000, num_rows).astype("<u2"),
        "fraction": rng.integers(0, 65_536, num_rows).astype("<u2"),
        "doubt": rng.integers(0, 65_536, num_rows).astype("<u2"),
    }
    script = (folder / "data" / "store.js").read_text()
    facts = json.loads(script.removeprefix("gallery.store(").removesuffix(");\n"))
    facts |= {"columns": {name: _column(values) for name, values in columns.items()}, "numBuilt": num_rows}
    facts["classes"] = [f"n{number:08}" for number in range(1000)]
    (folder / "data" / "store.js").write_text(f"gallery.store({json.dumps(facts)});\n")
    opened(browser, folder / "index.html")
    assert f"of {num_rows:,} rows" in browser.find("#count").text
    assert browser.bytes_loaded() < 15e6
    assert browser.faults() == []
