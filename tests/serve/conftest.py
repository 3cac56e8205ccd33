"""A browser for the tests of the page, and a real chat model for those of the clients."""

from collections.abc import Iterator
from typing import Any

import pytest
from serve.browser_page import Open, opened_pages, started_browser
from serve.offline import Offline, served
from small_vocabulary import smollm2_gguf


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


@pytest.fixture(scope="session")
def smollm2() -> Iterator[Offline]:
    """SmolLM2-135M-Instruct, served once for all tests and offline."""
    with served(smollm2_gguf(), "smollm2") as both:
        yield both
