"""Pages in a real browser: what went wrong in the console, and what a reader with a keyboard, a screen reader, a phone
or weak eyes would trip over.

    def test_page(browser: Browser, tmp_path: Path) -> None:
        browser.check(write_my_page(tmp_path))      # everything below, in light and dark, wide and narrow
        browser.open(tmp_path / "page.html")
        browser.run("return document.title")
        browser.press("j", Keys.ENTER)

Needs Debian's `chromium` and `chromium-driver`; where they are absent the tests skip. The browser resolves no name but
this machine's, so that a page that asks the network for anything shows an error.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "no chromium here: apt-get install chromium chromium-driver"
WIDE_PX, PHONE_PX = 1400, 390
MAX_PAGE_BYTES = 15 * 10**6
MIN_CONTRAST = 4.5  # WCAG 2.2, 1.4.3 (AA), for text of any size
_SCRIPT = Path(__file__).with_suffix(".js").read_text()
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root, where Chromium refuses its sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
# Roles of the accessibility tree that mean nothing to a listener without a name.
_NAMED_ROLES = {
    "button", "link", "textbox", "searchbox", "combobox", "listbox", "option", "checkbox", "radio", "slider",
    "spinbutton", "switch", "tab", "menuitem", "image", "img", "dialog", "graphics-document", "progressbar",
}  # fmt: skip


class Browser:
    """Headless Chromium with one page open at a time. Made by the fixture `browser`, once for a module."""

    def __init__(self) -> None:
        options = ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in _FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = Chrome(
            options=options, service=ChromeService(DRIVER, env={**os.environ, "no_proxy": "127.0.0.1"})
        )
        self.driver.set_script_timeout(20)

    def close(self) -> None:
        """End the browser and its driver."""
        self.driver.quit()

    def open(self, page: Path | str, *, width_px: int = WIDE_PX, dark: bool = False) -> None:
        """Open a file, or a URL of this machine, as on a screen of that width; forgets earlier console messages."""
        phone = width_px < 600
        self._cdp("Emulation.setDeviceMetricsOverride", width=width_px, height=900, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._cdp("Emulation.setEmulatedMedia", features=[scheme])
        self.driver.get("about:blank")
        self.console_errors()
        self.driver.get(page.absolute().as_uri() if isinstance(page, Path) else page)

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """The first element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def wait(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Wait until something holds, and fail if it does not within `seconds`."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"still waiting after {seconds} s; console: {self.console_errors()}"
            time.sleep(0.02)

    def screenshot(self, path: Path) -> None:
        """Write what is on the screen as a PNG, to look at."""
        self.driver.save_screenshot(str(path))

    def check(self, page: Path | str) -> None:
        """Open a page wide and narrow, light and dark, and fail with all that is wrong with it as it first appears."""
        for width_px, dark in ((WIDE_PX, False), (PHONE_PX, True), (PHONE_PX, False), (WIDE_PX, True)):
            self.open(page, width_px=width_px, dark=dark)
            faults = self.faults()
            assert not faults, f"{page} at {width_px} px, {'dark' if dark else 'light'}:\n" + "\n".join(faults)

    def faults(self) -> list[str]:
        """All that is wrong with the open page in the state it is in."""
        faults = [f"console: {message}" for message in self.console_errors()]
        faults += [f"no accessible name: {what}" for what in self.unnamed()]
        faults += [f"contrast: {what}" for what in self.faint()]
        faults += [f"wider than the screen: {what}" for what in self.too_wide()]
        faults += [f"focus not to be seen: {what}" for what in self.focus_unseen()]
        if self.bytes_loaded() > MAX_PAGE_BYTES:
            faults.append(f"{self.bytes_loaded()} bytes loaded")
        if not self.run("return document.title && document.documentElement.lang"):
            faults.append("no title or no language")
        return faults

    def console_errors(self) -> list[str]:
        """Errors and warnings in the console since the last call or `open`: exceptions, failed loads."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def unnamed(self) -> list[str]:
        """Controls, pictures and dialogs that a screen reader could not name, from the browser's accessibility tree."""
        self._cdp("Accessibility.enable")
        nodes = self._cdp("Accessibility.getFullAXTree")["nodes"]
        self._cdp("Accessibility.disable")
        named = [node for node in nodes if not node["ignored"] and node["role"]["value"].lower() in _NAMED_ROLES]
        bad = [node for node in named if not str(node.get("name", {}).get("value", "")).strip()]
        return [self._html_of(node["backendDOMNodeId"]) for node in bad] + self.run(f"{_SCRIPT}; return withoutAlt();")

    def faint(self, minimum: float = MIN_CONTRAST) -> list[str]:
        """Visible text whose contrast with what is behind it, by the computed styles, is below `minimum`."""
        return self.run(f"{_SCRIPT}; return faintTexts(arguments[0]);", minimum)

    def too_wide(self) -> list[str]:
        """Elements that reach beyond the right edge where the page scrolls sideways; empty where it does not."""
        return self.run(f"{_SCRIPT}; return beyondTheEdge();")

    def focus_unseen(self) -> list[str]:
        """Controls that look the same with and without the keyboard's focus."""
        return self.run(f"{_SCRIPT}; return focusUnseen();")

    def bytes_loaded(self) -> int:
        """Bytes of the page and of what it has loaded so far: files by their size, else what came over HTTP."""
        frame = self._cdp("Page.getResourceTree")["frameTree"]
        urls = [frame["frame"]["url"], *(resource["url"] for resource in frame["resources"])]
        files = {unquote(urlsplit(url).path) for url in urls if url.startswith("file:")}
        transferred = "return performance.getEntries().reduce((sum, entry) => sum + (entry.encodedBodySize || 0), 0)"
        return sum(Path(file).stat().st_size for file in files if Path(file).exists()) or self.run(transferred)

    def _html_of(self, backend_node: int) -> str:
        return self._cdp("DOM.getOuterHTML", backendNodeId=backend_node)["outerHTML"][:200]

    def _cdp(self, command: str, **arguments: object) -> dict:
        """A command of the Chrome DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, arguments)
