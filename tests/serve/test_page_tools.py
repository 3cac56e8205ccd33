"""Complete, Compare, Look inside and Train in a browser."""

import json
from pathlib import Path
from typing import Any

import pytest
from serve.browser_page import Open, wait_for
from serve.fake_pool import FakeClient, FakePool

from puna.serve.errors import ServeError

pytestmark = pytest.mark.browser

# In the fake's log-probabilities: each token e^-0.5, the alternative "!" e^-1.5.
TAKEN, OTHER = "61 %", "22 %"


def pool_of(**fields: Any) -> FakePool:
    return FakePool(fake=FakeClient(**fields))


def prompts(pool: FakePool) -> list[str]:
    return [asked["prompt"]["text"] for asked in pool.client.generated()]


def complete(page: Any, text: str) -> None:
    """Let the model go on with `text` and wait for its end."""
    page.get_by_label("The text to go on with").fill(text)
    page.get_by_role("button", name="Continue").click()
    page.locator("#complete .stats", has_text="token").wait_for()


def token(page: Any, number: int) -> Any:
    return page.locator("#complete .shades .token").nth(number)


def press(page: Any, number: int) -> None:
    box = token(page, number).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def text_of(page: Any) -> str:
    return page.get_by_label("The text to go on with").input_value()


def test_a_text_goes_on_shaded_and_an_alternative_is_a_branch(open_page: Open):
    pool = pool_of(says=(" upon", " a", " time"))
    page = open_page(pool, "#complete")
    complete(page, "Once")
    assert text_of(page) == "Once upon a time"
    assert page.locator("#complete .shades .token").all_text_contents() == [" upon", " a", " time"]
    assert token(page, 0).get_attribute("class") == "token shade-3"  # below 70 %
    token(page, 1).wait_for()
    box = token(page, 1).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 8)  # it opens under the pointer
    alternatives = page.get_by_role("dialog", name="Alternatives")
    alternatives.wait_for()
    assert alternatives.get_by_role("button").all_inner_texts() == [f"␣a\n{TAKEN}", f"!\n{OTHER}"]
    alternatives.get_by_role("button", name="!").click()
    wait_for(page, lambda: prompts(pool)[1:] == ["Once upon!"])
    wait_for(page, lambda: text_of(page) == "Once upon! upon a time")
    page.get_by_label("Previous version").click()
    assert text_of(page) == "Once upon a time"
    wait_for(page, lambda: page.locator("#complete .shades .token").count() == 3)


def test_an_edit_keeps_the_shades_before_it(open_page: Open):
    page = open_page(pool_of(says=(" upon", " a", " time")), "#complete")
    complete(page, "Once")
    box = page.get_by_label("The text to go on with")
    box.press("End")
    for _ in range(3):
        box.press("Backspace")
    page.wait_for_timeout(100)
    assert page.locator("#complete .shades .token").all_text_contents() == [" upon", " a"]


def test_the_alternatives_are_reached_by_keyboard_and_by_touch(open_page: Open):
    pool = pool_of(says=(" one", " two"))
    page = open_page(pool, "#complete")
    complete(page, "Zero")
    page.get_by_label("The text to go on with").press("End")
    page.keyboard.press("Alt+ArrowDown")
    wait_for(page, lambda: page.evaluate("document.activeElement.innerText") == f"␣two\n{TAKEN}")
    page.keyboard.press("Escape")
    page.get_by_role("dialog", name="Alternatives").wait_for(state="hidden")
    press(page, 0)
    page.get_by_role("dialog", name="Alternatives").get_by_text("␣one").first.wait_for()


def test_the_whole_text_is_shaded_by_echo(open_page: Open):
    pool = pool_of()
    page = open_page(pool, "#complete")
    page.get_by_label("The text to go on with").fill("Llama ä")
    page.get_by_role("button", name="Shade the text").click()
    # of the fake's 7 tokens the first has no probability, each other one e^-0.25
    page.locator("#complete .stats", has_text="6 tokens · perplexity 1.28").wait_for()
    tokens = page.locator("#complete .shades .token")
    assert tokens.all_text_contents() == list("Llama ä")
    assert tokens.first.get_attribute("class") == "token"
    assert tokens.last.get_attribute("class") == "token"  # 78 %: likely


def test_stop_keeps_what_came_and_a_beginning_can_be_chosen(open_page: Open):
    pool = pool_of(says=(" la",), never_ends=True, wait_seconds=0.02)
    page = open_page(pool, "#complete")
    page.get_by_role("button", name="Translate").click()
    page.get_by_role("button", name="Continue").click()
    wait_for(page, lambda: text_of(page).endswith(" la la la"))
    page.keyboard.press("Escape")
    wait_for(page, lambda: pool.client.left)
    page.locator("#complete .stats", has_text="stopped").wait_for()
    assert text_of(page).startswith("English: The train leaves")
    (asked,) = pool.client.generated()
    assert asked["params"]["stop"] == ["\n"]
    assert asked["params"]["temperature"] == 0


def test_two_models_answer_side_by_side_each_with_its_settings(open_page: Open):
    pool = FakePool(
        small=FakeClient(says=("The sky", " is blue")), large=FakeClient(says=("The sky", "!"))
    )
    page = open_page(pool, "#compare")
    page.locator("#model option").first.wait_for(state="attached")
    page.get_by_label("Prompt", exact=True).fill("Why?")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    page.get_by_text("The same for 7 characters").wait_for()
    sides = page.locator(".side-text").all_inner_texts()
    assert sides == ["The sky is blue", "The sky!"]
    temperatures = [one.generated()[0]["params"]["temperature"] for one in pool.clients.values()]
    assert temperatures == [0, 0.8]
    page.get_by_role("radio", name="Complete").check(force=True)
    page.get_by_label("Model B").select_option("small")
    page.get_by_role("button", name="Run both").click()
    page.get_by_text("The same text", exact=True).wait_for()
    assert pool.clients["small"].generated()[-1]["prompt"] == {"text": "Why?"}
    pool.clients["small"].says = ("So far", ServeError("failed", "the engine ended"))
    page.get_by_role("button", name="Run both").click()
    for side in ("A", "B"):
        one = page.get_by_role("article", name=f"Side {side}")
        one.locator(".failure", has_text="the engine ended").wait_for()
        page.wait_for_timeout(50)  # the next frame, which draws what came
        assert one.locator(".side-text").inner_text() == "Why?So far"
        assert one.locator(".failure").is_visible()


def test_a_text_is_shown_as_pieces_with_ids_and_what_may_come_next(open_page: Open):
    pool = pool_of(says=("Z",))
    page = open_page(pool, "#inside")
    box = page.get_by_label("Text to look into")
    box.fill("a b\nä")
    page.get_by_text("6 tokens · 5 characters · 6 bytes").wait_for()
    pieces = page.locator(".piece").all_inner_texts()
    ids = [1, 97, 32, 98, 10, 228]  # the fake's BOS, then code points
    shown = ["U+0001", *"a␣b⏎ä"]
    assert pieces == [f"{text}\n{one}" for text, one in zip(shown, ids, strict=True)]
    page.get_by_label("With the beginning-of-text token").uncheck()
    page.get_by_text("5 tokens · 5 characters").wait_for()
    bars = page.get_by_role("region", name="Next token").get_by_role("button")
    assert bars.all_inner_texts() == [f"Z\n{TAKEN}", f"!\n{OTHER}"]
    bars.nth(1).click()
    assert box.input_value() == "a b\nä!"
    wait_for(page, lambda: prompts(pool)[-1] == "a b\nä!")


def step(number: int, loss: float | None) -> dict[str, Any]:
    numbers = {"tokens": number * 100, "loss": loss, "learning_rate": 1e-3, "gradient_norm": 0.5}
    speed = {"tokens_per_second": 1000.0, "elapsed_seconds": number * 2.0, "mfu": None}
    return {"event": "step", "step": number, **numbers, **speed}


def lines(*events: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(event)}\n" for event in events)


def test_a_run_is_drawn_while_it_runs_and_after_a_resume(open_page: Open, tmp_path: Path):
    metrics = tmp_path / "runs" / "first" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    start = {"event": "start", "parameters": 1234, "recipe": {"train": {"steps": 50}}}
    metrics.write_text(lines(start, *(step(n, 5 - n / 10) for n in range(1, 11))))
    page = open_page(pool_of(), "#train", runs=tmp_path / "runs")
    tile = page.locator(".tiles div", has_text="Step").locator("dd")
    tile.wait_for()
    assert tile.inner_text() == "10 of 50"
    assert page.locator(".run-state").inner_text() == "running"
    assert page.locator(".tiles div", has_text="Left").locator("dd").inner_text() == "1 min 20 s"
    assert page.locator(".plot path.line").first.get_attribute("d").count("L") == 9
    sample = {"event": "sample", "step": 8, "prompt": "The", "text": " <b>llama</b>"}
    end = {"event": "end", "step": 9, "reason": "finished"}
    resumed = lines({**start, "event": "resume", "step": 8}, step(9, None), sample, end)
    with metrics.open("a") as file:
        file.write(resumed)
    page.locator(".run-state", has_text="finished").wait_for()
    assert tile.inner_text() == "9 of 50"
    assert page.locator(".samples blockquote").inner_text() == "The <b>llama</b>"
    plot = page.get_by_label("Loss, read a step")
    assert plot.get_attribute("aria-valuetext").startswith("last · training 4.")
    assert plot.get_attribute("aria-valuenow") == "9"
    plot.focus()
    page.keyboard.press("Home")
    assert plot.get_attribute("aria-valuetext").startswith("step 1 · training 4.900")
    page.keyboard.press("End")
    assert plot.get_attribute("aria-valuetext") == "step 9 · training not finite"


def test_without_runs_the_view_says_how_to_get_one(open_page: Open):
    page = open_page(pool_of(), "#train")
    page.get_by_text("puna serve MODEL --runs DIR").wait_for()
