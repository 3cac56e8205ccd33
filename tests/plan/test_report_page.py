"""The plan's page in a browser: its script says what Python says, wherever its sliders stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plan.planned_page import State
from serve.browser_page import PHONE, started_browser

from puna.console import human_count
from puna.errors import ConfigError
from puna.page import write
from puna.plan.report import PlanFacts, facts, render
from puna.plan.report.moving import moving

pytestmark = pytest.mark.browser
HALF_A_TENTH = 0.11  # both round to a tenth of a thousandth of the chart
THIRTEEN = State(model="llama-13b")
BUDGET = State(budget=1e6, used=1e11, days=30.0)
BOUNDED = State(training_budget=1e5, used=1e12)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as browser:
        yield browser


@pytest.fixture(autouse=True)
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "LAID_STEP", 120)


def opened(browser: Any, shown: PlanFacts, folder: Path, **context: Any) -> Any:
    """The page in a profile of its own; its troubles are in `page.troubles`."""
    write(render(shown), folder / "plan.html")
    page = browser.new_context(**context).new_page()
    page.troubles = []
    page.on("console", lambda message: page.troubles.append(message.text))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("request", lambda request: page.troubles.append(request.url))
    page.goto((folder / "plan.html").as_uri())
    assert page.troubles.pop(0) == page.url
    return page


def near(said: dict[str, Any], expected: dict[str, Any]) -> None:
    """The script's record is Python's: words alike, places to a rounding."""
    assert said["said"] == expected["said"]
    for kind in ("curves", "dots", "bars"):
        assert said[kind].keys() == expected[kind].keys()
        for key, values in expected[kind].items():
            assert len(said[kind][key] or ()) == len(values or ()), key
            for one, other in zip(said[kind][key] or (), values or (), strict=True):
                assert one == pytest.approx(other, abs=HALF_A_TENTH), key


@pytest.mark.parametrize(
    ("asked", "states"),
    [
        (
            THIRTEEN,
            [
                THIRTEEN,
                State(model="llama-65b", used=0.0),
                State(loss=1.9, used=1e13),
                State(loss=2.3, used=5e13),
                State(loss=1.95, used=1e9, price=0.7, share=0.3),
                State(model="chinchilla-70b", used=1e12, price=9.0, share=0.7),
            ],
        ),
        (
            State(model="llama-13b", on="RTX-4090"),
            [
                State(model="llama-13b", on="RTX-4090"),
                State(loss=2.05, on="RTX-4090", used=0.0, price=1.0),
            ],
        ),
        (
            State(model="llama-33b", serve="RTX-3090"),
            [
                State(model="llama-33b", serve="RTX-3090", price=4.0, share=0.3),
                State(model="llama3.1-405b", serve="RTX-3090", used=0.0),
            ],
        ),
        (
            State(loss=2.1, counts="without embeddings"),
            [State(loss=2.3, counts="without embeddings", used=1e13)],
        ),
        (BUDGET, [BUDGET, State(budget=2e7, used=1e13, days=30.0, share=0.4, price=1.0)]),
        (
            BOUNDED,
            [BOUNDED, State(training_budget=1e5, used=0.0, price=3.0, share=0.6)],
        ),
        (
            State(model="llama-7b", law="hoffmann"),
            [State(model="llama-7b", law="hoffmann"), State(loss=2.2, law="hoffmann", used=1e14)],
        ),
    ],
)
def test_the_script_says_what_python_says(
    asked: State, states: list[State], browser: Any, tmp_path: Path
) -> None:
    shown = asked.facts()
    page = opened(browser, shown, tmp_path)
    for state in states:
        said = page.evaluate("(state) => moving(state)", state.script())
        near(said, moving(state.moved(shown)))
    assert page.troubles == []


def test_what_nothing_keeps_to_is_said_and_the_last_answer_stays(
    browser: Any, tmp_path: Path
) -> None:
    page = opened(browser, State(model="llama-7b", days=100.0).facts(), tmp_path)
    impossible = State(model="llama3.1-405b", days=100.0)
    with pytest.raises(ConfigError):
        impossible.facts()
    assert page.evaluate("(state) => moving(state)", impossible.script()) is None
    before = page.inner_text("h1")
    page.select_option("#model", "llama3.1-405b")
    assert "No model keeps to all" in page.inner_text("#impossible")
    assert page.inner_text("h1") == before
    page.click("text=As it was asked")
    page.wait_for_function("document.getElementById('impossible').textContent === ''")
    assert page.troubles == []


def test_the_keyboard_moves_a_slider_and_the_page_follows(browser: Any, tmp_path: Path) -> None:
    shown = THIRTEEN.facts()
    page = opened(browser, shown, tmp_path)
    assert page.inner_text("#used-said") == "2T"
    before = page.get_attribute("#curve-cost-total", "d")
    page.focus("#used")
    page.keyboard.press("Home")
    assert page.inner_text("#used-said") == "0"
    assert page.get_attribute("#used", "aria-valuetext") == "0"
    least = State(model="llama-13b", used=0.0).moved(shown).answer.plan
    assert page.inner_text("[data-say=plan-size]") == human_count(least.parameters)
    assert page.get_attribute("#curve-cost-total", "d") != before
    page.keyboard.press("End")
    assert page.inner_text("#used-said") == "100T"
    page.click("text=As it was asked")
    page.wait_for_function("document.getElementById('used-said').textContent === '2T'")
    assert page.get_attribute("#curve-cost-total", "d") == before
    assert page.troubles == []


def test_a_phone_shows_all_of_it_without_scrolling_aside(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, THIRTEEN.facts(), tmp_path, **PHONE)
    for key in (None, "Home", "End"):
        if key:
            page.focus("#loss")
            page.keyboard.press(key)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["viewport"]["width"], key


def test_without_a_script_the_answer_stands_there(browser: Any, tmp_path: Path) -> None:
    shown = THIRTEEN.facts()
    page = opened(browser, shown, tmp_path, java_script_enabled=False)
    plan = shown.answer.plan
    assert human_count(plan.parameters) in page.inner_text("h1")
    assert page.locator("#controls").is_hidden()
    assert page.locator("#curve-iso").get_attribute("d")
