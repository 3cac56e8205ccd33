"""A browser for the tests of the page."""

from collections.abc import Iterator
from typing import Any

import pytest
from serve.browser_page import Open, opened_pages, started_browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, started once."""
    with started_browser() as started:
        yield started


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens the page on a pool; fails the test for errors and foreign requests in it."""
    with opened_pages(browser) as open_one:
        yield open_one
