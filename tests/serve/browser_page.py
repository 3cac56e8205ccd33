"""The page in a real browser: Chromium under Playwright, which sees whatever goes wrong there."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from serve.live_server import serving

NEEDED = "needs playwright and Chromium: make test-browser"
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
OPTIONS = ["--no-sandbox"]  # containers have no user namespaces for it
WAIT_MS = 10_000
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}

Open = Callable[..., Any]


@contextmanager
def started_browser() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason=NEEDED)
    with sync_api.sync_playwright() as playwright:
        # Playwright's own Chromium, where it was installed, knows its driver best.
        own = Path(playwright.chromium.executable_path)
        if not own.exists() and CHROMIUM is None:
            pytest.skip(NEEDED)
        path = None if own.exists() else CHROMIUM
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


class Watch:
    """Notes what a page must not do: errors, and requests to anyone but its server."""

    def __init__(self, page: Any, base: str) -> None:
        self.base = base
        self.troubles: list[str] = []
        self.requests: list[Any] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("request", self._request)

    def forgive(self, pattern: str) -> None:
        """Take out of the troubles what a test caused on purpose; it must have happened."""
        found = [one for one in self.troubles if re.search(pattern, one)]
        assert found, f"nothing like {pattern} happened: {self.troubles}"
        self.troubles = [one for one in self.troubles if one not in found]

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"console: {message.text} {message.location.get('url', '')}")

    def _request(self, request: Any) -> None:
        self.requests.append(request)
        if not request.url.startswith((f"{self.base}/", f"blob:{self.base}/")):
            self.troubles.append(f"foreign request: {request.url}")


@contextmanager
def opened_pages(browser: Any) -> Iterator[Open]:
    """A function that serves a pool and opens the page on it in a browser profile of its own; a
    server that runs is given by its base URL.

    Its other keywords are the server's settings, `context` what the browser is. At the end no page
    may have had an error or asked a foreign server.
    """
    closing: list[Callable[[], object]] = []
    watches: list[Watch] = []

    def open_page(pool: Any, view: str = "", *, context: Any = None, **settings: Any) -> Any:
        server = nullcontext(pool) if isinstance(pool, str) else serving(pool, **settings)
        base = server.__enter__()
        closing.append(lambda: server.__exit__(None, None, None))
        profile = browser.new_context(**(context or {}))
        closing.append(profile.close)
        profile.set_default_timeout(WAIT_MS)
        page = profile.new_page()
        page.watch = Watch(page, base)
        watches.append(page.watch)
        page.goto(f"{base}/{view}")
        return page

    try:
        yield open_page
    finally:
        for close in reversed(closing):
            close()
    troubles = [trouble for watch in watches for trouble in watch.troubles]
    assert not troubles, "\n".join(troubles)


def wait_for(page: Any, condition: Callable[[], Any]) -> Any:
    """The first true value of `condition`, tried while the page goes on."""
    for _ in range(WAIT_MS // 50):
        value = condition()
        if value:
            return value
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")
