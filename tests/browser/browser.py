"""A real browser that nobody sees: Debian's Chromium, driven by its own driver."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

_QUIET: Final = (
    "--headless",
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE: Final = (320, 480)
DESK: Final = (1280, 900)

_PATIENCE: Final = 30
_WANTS_A_NAME: Final = frozenset(
    {
        *("button", "combobox", "image", "link", "meter", "searchbox"),
        *("spinbutton", "textbox"),
    }
)


class Browser:
    """The browser and the one page it shows.

    Args:
        driver: What drives it.
        pictures: Directory for pictures of what was seen.
    """

    def __init__(self, driver: webdriver.Chrome, pictures: Path) -> None:
        self._driver, self._pictures = driver, pictures

    def forget(self) -> None:
        """Be as new: no cookies, a desk's size, in English."""
        self.command("Network.clearBrowserCookies")
        self._driver.get("about:blank")
        self.become(DESK, "en")
        self.requests()

    def become(self, size: tuple[int, int], language: str) -> None:
        """Be a browser of another size, that asks for another language."""
        width, height = size
        is_phone = size == PHONE
        metrics = {"width": width, "height": height, "mobile": is_phone}
        self.command(
            "Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, **metrics
        )
        self.command(
            "Emulation.setUserAgentOverride",
            userAgent="Mozilla/5.0 (test)",
            acceptLanguage=language,
        )

    def command(self, name: str, **arguments: object) -> dict[str, Any]:
        """Tell the browser what no page could."""
        found = self._driver.execute_cdp_cmd(name, arguments)
        return dict(found or {})

    # --- acting -------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Go to a page."""
        self._driver.get(url)

    def find(self, selector: str) -> WebElement:
        """Return the first element for a CSS selector."""
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def has(self, selector: str) -> bool:
        """Tell whether there is such an element."""
        return bool(self._driver.find_elements(By.CSS_SELECTOR, selector))

    def button(self, words: str) -> WebElement:
        """Return the button that is called so."""
        path = f'//button[normalize-space()="{words}"]'
        return self._driver.find_element(By.XPATH, path)

    def press(self, words: str) -> None:
        """Press the button that is called so, and wait for the page it leads to."""
        self.follow(self.button(words))

    def wait_for(self, words: str) -> None:
        """Wait until a page says something."""
        self._wait_until(lambda: words in self.text)

    def _wait_until(self, is_so: Callable[[], object]) -> None:
        # between two pages the driver may find neither
        wait = WebDriverWait(self._driver, _PATIENCE, 0.05, [WebDriverException])
        wait.until(lambda _: is_so())

    def follow(self, element: WebElement) -> None:
        """Press a button or a link, and wait for the page it leads to."""
        self.run("window.isBefore = true")
        element.click()
        self._wait_until(
            lambda: self.run(
                "return !window.isBefore && document.readyState === 'complete'"
            )
        )

    def fill(self, label: str, text: str) -> None:
        """Write into the field, or choose from the list, that is called so."""
        path = f'//label[normalize-space(text())="{label}"]/*'
        field = self._driver.find_element(By.XPATH, path)
        if field.tag_name == "input":
            field.clear()
        field.send_keys(text)

    # --- seeing -------------------------------------------------------------------

    @property
    def text(self) -> str:
        """What a person reads."""
        return self.find("body").text

    @property
    def path(self) -> str:
        """Where the page is."""
        return urlsplit(self._driver.current_url).path

    def run(self, script: str, *arguments: WebElement) -> Any:
        """Run a script in the page and return what it returns."""
        return self._driver.execute_script(script, *arguments)

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return int(
            self.run(
                "const page = document.documentElement;"
                "return page.scrollWidth - page.clientWidth"
            )
        )

    def nameless(self) -> list[str]:
        """Return what a screen reader could not call by a name."""
        tree = self.command("Accessibility.getFullAXTree")["nodes"]
        return [
            node["role"]["value"]
            for node in tree
            if not node["ignored"]
            and node["role"]["value"] in _WANTS_A_NAME
            and not node.get("name", {}).get("value", "").strip()
        ]

    def is_in_sight(self, element: WebElement) -> bool:
        """Tell whether a person sees it without scrolling."""
        height = int(self.run("return window.innerHeight"))
        seen = element.is_displayed() and element.rect["height"] > 0
        top = int(self.run("return arguments[0].getBoundingClientRect().top", element))
        return seen and 0 <= top < height

    def requests(self) -> list[str]:
        """Return the URLs that were asked for since the last call."""
        found = []
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(str(message["params"]["request"]["url"]))
        return found

    def complaints(self) -> list[str]:
        """Return what the browser wrote into its console since the last call."""
        return [str(entry["message"]) for entry in self._log("browser")]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._driver.get_log(kind)  # type: ignore[no-untyped-call]
        return found

    def keep_picture(self, name: str) -> None:
        """Keep a picture of what is seen, for people."""
        plain = re.sub(r"\W+", "-", name).strip("-")
        self._driver.save_screenshot(str(self._pictures / f"{plain}.png"))


@contextmanager
def browse(pictures: Path) -> Iterator[Browser]:
    """Run a browser until the block ends.

    Args:
        pictures: Directory for pictures of what was seen; made if need be.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = "/usr/bin/chromium"
        for word in (*_QUIET, f"--user-data-dir={profile}"):
            options.add_argument(word)
        wanted = {"performance": "ALL", "browser": "ALL"}
        options.set_capability("goog:loggingPrefs", wanted)
        env = {**os.environ, "HOME": profile, "SE_OFFLINE": "true"}
        service = Service("/usr/bin/chromedriver", env=env)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield Browser(driver, pictures)
        finally:
            driver.quit()
