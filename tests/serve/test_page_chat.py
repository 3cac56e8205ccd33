"""The chat in a browser: stream, stop, retry, edit and branch, history, the key, the keyboard."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from serve.browser_page import PHONE, Open, wait_for
from serve.fake_pool import CONTEXT_TOKENS, FakeClient, FakePool

from puna.serve.errors import ServeError

pytestmark = pytest.mark.browser

VIEWS = ["chat", "complete", "compare", "inside", "train"]


def pool_of(**fields: Any) -> FakePool:
    return FakePool(fake=FakeClient(**fields))


def send(page: Any, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def answers(page: Any) -> list[str]:
    """The finished answers that are shown."""
    return page.locator(".message.assistant:not([aria-busy]) .message-body").all_inner_texts()


def send_and_wait(page: Any, text: str) -> None:
    before = page.locator(".message.assistant:not([aria-busy])").count()
    send(page, text)
    page.locator(".message.assistant:not([aria-busy])").nth(before).wait_for()


def messages_of(request: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in request["prompt"]["messages"]]


def test_an_answer_streams_and_says_how_fast_it_came(open_page: Open):
    pool = pool_of(says=("The sky", " is **blue**", ".\n\n", "- a", "\n- b"), wait_seconds=0.25)
    page = open_page(pool)
    send(page, "Why?")
    page.locator(".message.assistant[aria-busy=true]", has_text="The sky").wait_for()
    assert "b" not in page.locator(".message.assistant li").all_inner_texts()
    page.locator(".message.assistant .stats").wait_for()
    assert page.locator(".message.user .message-body").inner_text() == "Why?"
    assert page.locator(".message.assistant strong").inner_text() == "blue"
    assert page.locator(".message.assistant li").all_inner_texts() == ["a", "b"]
    # 5 tokens of which the fake says that they took 0.5 s
    stats = page.locator(".message.assistant .stats").inner_text()
    assert re.match(r"5 tokens · \d+(\.\d)? tokens/s · first after \d\.\d\d s", stats), stats
    assert f"of {CONTEXT_TOKENS:,} tokens" in page.locator(".gauge").inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Message"
    (asked,) = pool.client.generated()
    assert messages_of(asked) == [("user", "Why?")]
    assert asked["params"]["temperature"] == 0.7
    assert asked["params"]["max_tokens"] == 1024


def test_stop_ends_the_answer_at_the_engine_too_and_it_can_go_on(open_page: Open):
    pool = pool_of(says=("one ",), never_ends=True, wait_seconds=0.02)
    page = open_page(pool)
    send(page, "Count")
    page.locator(".message.assistant", has_text="one one one").wait_for()
    page.keyboard.press("Escape")
    page.locator(".stats", has_text="stopped").wait_for()
    wait_for(page, lambda: pool.client.left)
    kept = answers(page)[0]
    # Of an answer that was stopped the server counts no tokens: "user: Count\n" has 12.
    said = len(kept.split())
    page.locator(".gauge", has_text=f"{12 + said} of").wait_for()
    pool.client.never_ends, pool.client.says = False, ("two",)
    page.get_by_label("Let the model go on").click()
    page.locator(".message.assistant:not([aria-busy])", has_text="two").wait_for()
    assert answers(page) == [f"{kept}two"]
    asked = pool.client.generated()[-1]
    assert messages_of(asked)[-1] == ("assistant", f"{kept}".rstrip() + " ")
    assert page.get_by_role("group", name="Branch 2 of 2").is_visible()


def test_a_retry_is_a_branch_beside_the_first_answer_and_both_outlast_a_reload(open_page: Open):
    pool = pool_of(says=("first",))
    page = open_page(pool)
    send_and_wait(page, "Hi")
    pool.client.says = ("second",)
    page.get_by_label("Another answer").click()
    page.locator(".message.assistant:not([aria-busy])", has_text="second").wait_for()
    assert messages_of(pool.client.generated()[-1]) == [("user", "Hi")]
    page.get_by_label("Previous branch").click()
    assert answers(page) == ["first"]
    page.wait_for_timeout(100)  # it is kept without the page waiting for that
    page.reload()
    page.get_by_role("button", name="Hi", exact=True).click()
    assert answers(page) == ["first"]
    page.get_by_label("Next branch").click()
    assert answers(page) == ["second"]


def test_an_edited_message_begins_a_branch_of_its_own(open_page: Open):
    pool = pool_of(says=("answer",))
    page = open_page(pool)
    send_and_wait(page, "one")
    send_and_wait(page, "two")
    assert [role for role, _ in messages_of(pool.client.generated()[-1])] == [
        "user", "assistant", "user",
    ]  # fmt: skip
    page.locator(".message.user").first.hover()
    page.locator(".message.user").first.get_by_label("Edit, as a new branch").click()
    page.get_by_label("Edit the message").fill("three")
    page.locator(".edit-form").get_by_role("button", name="Send").click()
    page.locator(".message.assistant .stats").wait_for()
    assert messages_of(pool.client.generated()[-1]) == [("user", "three")]
    assert page.locator(".message.user .message-body").all_inner_texts() == ["three"]
    page.get_by_label("Previous branch").click()
    assert page.locator(".message.user .message-body").all_inner_texts() == ["one", "two"]


def test_the_system_prompt_and_the_sampling_go_along(open_page: Open):
    pool = pool_of()
    page = open_page(pool)
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_role("spinbutton", name="Temperature").fill("0.2")
    page.get_by_text("More", exact=True).click()
    page.get_by_role("spinbutton", name="Top k").fill("40")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Stop at").fill("END\n\\n\\n")
    send_and_wait(page, "Hi")
    (asked,) = pool.client.generated()
    assert messages_of(asked) == [("system", "Be brief."), ("user", "Hi")]
    params = {name: asked["params"].get(name) for name in ("temperature", "top_k", "seed", "stop")}
    assert params == {"temperature": 0.2, "top_k": 40, "seed": 7, "stop": ["END", "\n\n"]}
    assert "min_p" not in asked["params"]
    page.reload()  # the sampling is kept
    assert page.get_by_role("spinbutton", name="Temperature").input_value() == "0.2"


def test_a_full_context_says_what_to_do(open_page: Open):
    page = open_page(pool_of())
    send(page, "x" * CONTEXT_TOKENS)
    said = page.locator(".message.assistant").get_by_role("alert")
    said.filter(has_text="Begin a new one, or edit an earlier message").wait_for()
    page.watch.forgive("400")


def test_conversations_are_exported_and_imported_searched_and_deleted(
    open_page: Open, tmp_path: Path
):
    pool = pool_of(says=("first",))
    page = open_page(pool)
    send_and_wait(page, "A question of llamas")
    pool.client.says = ("second",)
    page.get_by_label("Another answer").click()
    page.locator(".message.assistant:not([aria-busy])", has_text="second").wait_for()
    page.keyboard.press("Alt+n")
    send_and_wait(page, "Something else")
    with page.expect_download() as download:
        page.get_by_label("Export all conversations").click()
    file = tmp_path / "all.json"
    download.value.save_as(file)

    other = open_page(pool_of())
    other.locator("input[type=file]").set_input_files(file)
    title = other.locator(".conversation", has_text="A question of llamas")
    title.click()
    assert answers(other) == ["second"]
    other.get_by_label("Previous branch").click()
    assert answers(other) == ["first"]
    other.get_by_label("Search the conversations").fill("LLAMAS")
    assert other.locator(".conversation").all_inner_texts() == ["A question of llamas"]
    title.hover()
    other.get_by_label("Delete: A question of llamas").click()
    other.get_by_role("button", name="Undo").click()
    assert other.locator(".conversation").count() == 1
    title.hover()
    other.get_by_label("Delete: A question of llamas").click()
    other.get_by_text("What shall we talk about?").wait_for()
    other.reload()
    other.locator(".conversation", has_text="Something else").wait_for()
    assert other.locator(".conversation").count() == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "should be JSON"),
        ('{"kind": "other"}', "should be an export of this page"),
        ('[{"role": "user"}]', "Message 1 has no text"),
        (
            json.dumps({
                "kind": "puna.conversations", "version": 1,
                "conversations": [{"messages": {"a": {"id": "a", "parent": "a", "role": "user",
                                                      "text": ""}}, "chosen": {}}],
            }),
            "a message that cannot be read",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_export_is_refused(open_page: Open, tmp_path: Path, text: str, says: str):
    (tmp_path / "bad.json").write_text(text)
    page = open_page(pool_of())
    page.locator("input[type=file]").set_input_files(tmp_path / "bad.json")
    page.get_by_role("alert").filter(has_text=says).wait_for()
    assert page.locator(".conversation").count() == 0


def test_a_list_of_messages_as_the_api_takes_them_is_imported_too(open_page: Open, tmp_path: Path):
    roles = [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi!")]
    listed = [{"role": role, "content": content} for role, content in roles]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    page = open_page(pool_of())
    page.locator("input[type=file]").set_input_files(tmp_path / "list.json")
    page.locator(".message.assistant", has_text="Hi!").wait_for()
    assert page.get_by_label("System prompt").input_value() == "Be kind."


def test_a_damaged_export_becomes_a_conversation_that_works(open_page: Open, tmp_path: Path):
    odd = {"id": "m1", "parent": "", "role": "user", "text": "Hi", "stats": {"tokens": 1, "x": []}}
    # Their ids are the ones that new messages would have had; `firstSeconds` is missing.
    answer = {**odd, "id": "__proto__", "parent": "m1", "role": "assistant", "model": {}}
    one = {"messages": {"a": odd, "b": answer}, "chosen": {"": "m1"}, "updated": "never"}
    text = json.dumps({"kind": "puna.conversations", "version": 1, "conversations": [one]})
    (tmp_path / "odd.json").write_text(text)
    pool = pool_of(says=("answer",))
    page = open_page(pool)
    page.locator("input[type=file]").set_input_files(tmp_path / "odd.json")
    page.locator(".message.assistant", has_text="Hi").wait_for()
    send_and_wait(page, "two")
    assert messages_of(pool.client.generated()[0]) == [
        ("user", "Hi"), ("assistant", "Hi"), ("user", "two"),
    ]  # fmt: skip


def test_what_goes_wrong_is_said_beside_what_came(open_page: Open):
    pool = pool_of(says=("So far", ServeError("failed", "the engine ended")))
    page = open_page(pool)
    send(page, "Hi")
    page.locator(".failure", has_text="the engine ended").wait_for()
    assert answers(page) == ["So far"]
    pool.client.fails["generate"] = ServeError("busy", "64 requests wait")
    send(page, "Again")
    page.locator(".failure", has_text="64 requests wait").wait_for()
    page.watch.forgive("429")
    pool.client.fails.clear()
    send_and_wait(page, "And again")  # what was not answered goes along, and no empty answer
    assert messages_of(pool.client.generated()[-1]) == [
        ("user", "Hi"), ("assistant", "So far"), ("user", "Again\n\nAnd again"),
    ]  # fmt: skip


def test_a_server_that_loads_or_is_gone_is_asked_again(open_page: Open):
    pool = pool_of()
    pool.states["fake"] = "loading"
    page = open_page(pool)
    page.locator("#notice", has_text="Loading model").wait_for()
    page.watch.forgive("503")
    pool.states["fake"] = "ready"
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("#notice").wait_for(state="hidden")


def test_a_browser_that_keeps_nothing_can_talk_all_the_same(open_page: Open):
    page = open_page(pool_of(says=("Yes",)))
    page.add_init_script("""for (const name of ["localStorage", "indexedDB"])
        Object.defineProperty(window, name, {get() { throw new DOMException("refused"); }})""")
    page.reload()
    page.locator("#notice", has_text="keeps no history").wait_for()
    page.get_by_role("spinbutton", name="Temperature").fill("0.2")
    send_and_wait(page, "Hi")
    assert answers(page) == ["Yes"]


def test_a_server_with_a_key_asks_for_it_and_gets_it_in_the_header_alone(open_page: Open):
    pool = pool_of(says=("Welcome",))
    page = open_page(pool, api_keys=("secret-key",))
    dialog = page.get_by_role("dialog", name="API key")
    dialog.wait_for()
    page.watch.forgive("401")
    key = dialog.get_by_label("Key", exact=True)
    key.fill("ключ")  # a header has no place for it
    key.press("Enter")
    assert dialog.is_visible()
    key.fill("another-key")
    key.press("Enter")
    dialog.get_by_text("key").first.wait_for()
    page.watch.forgive("401")
    key.fill("secret-key")
    dialog.get_by_role("button", name="Keep").click()
    page.locator("#model option").first.wait_for(state="attached")
    send_and_wait(page, "Hi")
    assert answers(page) == ["Welcome"]
    requests = page.watch.requests
    assert not [one.url for one in requests if "secret" in one.url]
    asked = [one for one in requests if "/v1/chat" in one.url]
    assert asked[-1].headers["authorization"] == "Bearer secret-key"
    page.reload()
    page.locator("#model option").first.wait_for(state="attached")


def test_everything_works_from_the_keyboard(open_page: Open):
    pool = pool_of(says=("Yes",))
    page = open_page(pool)
    page.locator("#model option").first.wait_for(state="attached")
    for number, view in enumerate(VIEWS, start=1):
        page.keyboard.press(f"Alt+{number}")
        page.locator(f"#{view}").wait_for(state="visible")
        assert page.locator(f".tabs a[href='#{view}']").get_attribute("aria-current") == "page"
    page.keyboard.press("Alt+1")
    page.keyboard.press("Control+Alt+2")  # AltGr: a character of many keyboards
    page.locator("#chat").wait_for(state="visible")
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    page.locator(".message.assistant .stats").wait_for()
    page.keyboard.press("ArrowUp")
    assert page.get_by_label("Edit the message").input_value() == "Hello"
    page.keyboard.press("Escape")
    page.locator(".edit-form").wait_for(state="detached")
    page.locator("body").click(position={"x": 700, "y": 100})
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Message"
    listing = page.get_by_role("button", name="Conversations", exact=True)
    assert listing.get_attribute("aria-expanded") == "true"
    listing.click()
    assert listing.get_attribute("aria-expanded") == "false"
    assert page.get_by_label("Search the conversations").is_hidden()


def test_the_stream_is_read_aloud_sentence_by_sentence(open_page: Open):
    pool = pool_of(says=("One sentence. ", "And an", "other"), wait_seconds=0.3)
    page = open_page(pool)
    send(page, "Hi")
    spoken = page.locator("#spoken[aria-live=polite] p")
    spoken.first.wait_for(state="attached")
    assert spoken.all_text_contents() == ["One sentence."]
    page.locator(".message.assistant .stats").wait_for()
    assert spoken.all_text_contents() == ["One sentence.", "And another"]


def test_every_button_and_field_has_a_name(open_page: Open):
    page = open_page(pool_of())
    send_and_wait(page, "Hi")
    nameless = """() => [...document.querySelectorAll("button, input, select, textarea, a")]
        .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim()
            || one.labels?.length || one.hidden)).map((one) => one.outerHTML)"""
    for view in VIEWS:
        page.goto(f"{page.watch.base}/#{view}")
        page.locator(f"#{view}").wait_for(state="visible")
        assert page.evaluate(nameless) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_follow_the_system_until_one_is_chosen(open_page: Open, scheme: str):
    page = open_page(pool_of(), context={"color_scheme": scheme})
    brightness = "parseInt(getComputedStyle(document.body).backgroundColor.slice(4))"
    assert (page.evaluate(brightness) < 128) == (scheme == "dark")
    button = page.locator("#theme-button")
    button.click()
    assert button.get_attribute("aria-label") == "Colours: light"
    assert page.evaluate(brightness) > 128
    button.click()
    page.reload()
    assert page.evaluate(brightness) < 128


def test_a_phone_shows_every_view_without_scrolling_sideways(open_page: Open):
    says = ("A long word: ", "x" * 300, "\n\n```\n", "y" * 300, "\n```\n\n| a | b |\n|-|-|\n")
    page = open_page(pool_of(says=(*says, f"| {'z' * 99} | 2 |")), context=PHONE)
    send_and_wait(page, "w" * 300)
    for view in VIEWS:
        page.goto(f"{page.watch.base}/#{view}")
        page.locator(f"#{view}").wait_for(state="visible")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        box = page.locator(".tabs").bounding_box()
        assert (box["width"], box["y"] + box["height"]) == (360, 740)
    page.goto(f"{page.watch.base}/#chat")
    listing = page.get_by_role("button", name="Conversations", exact=True)
    assert listing.get_attribute("aria-expanded") == "false"
    listing.click()
    assert page.evaluate("document.activeElement.innerText") == "New conversation"
    page.keyboard.press("Escape")
    assert listing.evaluate("button => button === document.activeElement")
    listing.click()
    page.get_by_role("button", name="New conversation").click()
    page.get_by_text("What shall we talk about?").wait_for()
    page.get_by_label("Message", exact=True).type("one\ntwo")  # Enter sends nothing there
    assert page.get_by_label("Message", exact=True).input_value() == "one\ntwo"


def test_a_model_without_a_template_is_led_to_complete(open_page: Open):
    pool = pool_of()
    pool.client.described["chat_template"] = None
    page = open_page(pool)
    page.locator(".hint a").click()
    page.locator("#complete").wait_for(state="visible")
