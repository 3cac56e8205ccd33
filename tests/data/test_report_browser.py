"""The page in Chromium, from its file: it asks and runs nothing, fits a phone, opens by key."""

import json
from pathlib import Path

import pytest
from serve.browser_page import PHONE, Watch, started_browser

from puna.data.build.funnel import Funnel
from puna.data.document import Document, Dropped
from puna.data.report import gather, render

pytestmark = pytest.mark.browser
ATTACK = "</blockquote><script>document.title='run'</script><img src=//a.b/c onerror=alert(1)>"


@pytest.fixture
def address(tmp_path: Path) -> str:
    """The page of one source whose documents attack it."""
    funnel = Funnel("read", 0)
    funnel.keep(Document(ATTACK + "x" * 300, "web", "CC0", ATTACK, "javascript:alert(1)"), 9)
    funnel.drop(Dropped(ATTACK, "web", ATTACK, ATTACK, 9, ATTACK))
    counts = {"documents": 1, "text_bytes": 9, "tokens": 3}
    source = {"inputs": {"files": 1, "bytes": 9}, "stages": [funnel.record()], **counts}
    source |= {"languages": {ATTACK: counts}, "licences": {ATTACK: counts}, "heldout": counts}
    source |= {"core_seconds": 1.0, "work_bytes": 9}
    record = {"schema": "puna.build", "version": 1, "recipe": {}, "sources": {ATTACK: source}}
    (tmp_path / "report.json").write_text(json.dumps(record))
    (tmp_path / "report.html").write_text(render(gather(str(tmp_path))), "utf-8")
    return (tmp_path / "report.html").as_uri()


def test_the_page_is_read_by_keyboard_and_nothing_on_it_runs(address):
    with started_browser() as browser:
        page = browser.new_page()
        watch = Watch(page, address)
        page.goto(address)
        reasons = page.locator("summary.reason")
        assert reasons.count() == 2
        reasons.nth(1).focus()
        page.keyboard.press("Enter")
        quoted = page.locator("details[open] blockquote")
        assert quoted.inner_text() == ATTACK
        assert "run" not in page.title().split()
        assert [request.url for request in watch.requests] == [address]
        watch.forgive(r"foreign request: file:")  # the page itself
        assert watch.troubles == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_either_colour(address, scheme):
    with started_browser() as browser:
        page = browser.new_context(**PHONE, color_scheme=scheme).new_page()
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= room
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == {"light": "rgb(252, 251, 248)", "dark": "rgb(20, 21, 23)"}[scheme]
