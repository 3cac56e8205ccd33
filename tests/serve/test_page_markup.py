"""A model's words become marked text and never markup: hostile ones do nothing, and long ones cost
time in proportion to their length. The oracle of what Markdown means is markdown-it."""

import re
import time
from html.parser import HTMLParser
from typing import Any, ClassVar

import pytest
from serve.browser_page import Open
from serve.fake_pool import FakeClient, FakePool

pytestmark = pytest.mark.browser

HOSTILE = [
    '<img src=x onerror="window.hacked = 1">',
    "<script>window.hacked = 1</script>",
    "[a](javascript:window.hacked=1) [b](JaVaScRiPt:alert(1)) [c](data:text/html,x)",
    "[d](vbscript:x) [e](  javascript:x) [f](java\tscript:x) [g](//evil.example) [h](/v1/models)",
    "![picture](https://evil.example/pixel.png) ![](https://evil.example/?q=secret)",
    '<javascript:alert(1)> <https://evil.example/"onclick=window.hacked=1>',
    '[x](https://evil.example/"onmouseover="window.hacked=1)',
    "**<svg onload=window.hacked=1>** `<b>` ~~<iframe src=https://evil.example>~~",
    "```html\n<script>window.hacked = 1</script>\n```",
    '```"><img src=x onerror=window.hacked=1>\nx\n```',
    "| <img src=x onerror=window.hacked=1> | b |\n|-|-|\n| <style>*{display:none}</style> | d |",
    "> - > 1. > # <base href=https://evil.example>\n\n&lt;img src=x&gt; &#60;b&#62;",
    "- [x] <input autofocus onfocus=window.hacked=1>\n\n<form action=https://evil.example>",
    "</div></article><h1>out</h1> <!-- --> ]]> <![CDATA[ ${window.hacked=1} {{7*7}}",
    "\x00\x01\u202e\ufeff\u2028 \ud7ff",
]
DANGEROUS = (
    "img, script, iframe, object, embed, style, link, base, form, svg:not(.icon), math, video, "
    "audio, [style], [onerror], [onload], [onclick], [onmouseover], [onfocus], [srcdoc], h1, h2"
)

LONG = 100_000
LONG_LINES = {
    "stars": "*" * LONG,
    "open emphasis": "*a " * (LONG // 3),
    "nested emphasis": "**a *b " * (LONG // 7),
    "brackets": "[" * LONG,
    "links that are none": "[a](" * (LONG // 4),
    "closed brackets": "](" * (LONG // 2),
    "backticks of many lengths": " ".join("`" * n for n in range(1, 440)),
    "quotes": ">" * LONG,
    "hashes": "# " + " " * LONG + "#x",
    "a rule that is none": "- " * (LONG // 2) + "x",
    "list marks": "- " * (LONG // 2),
    "pipes": "|" * LONG + "\n|" + "-|" * 500,
    "addresses": "http://" * (LONG // 7),
    "one word": "x" * LONG,
    "lines": "a\n" * (LONG // 2),
    "items": "- a\n" * (LONG // 8),
    "code": "```python\n" + "f('" * (LONG // 3),
    "deep quotes": "\n".join("> " * n + "x" for n in range(400)),
    "deep lists": "\n".join("  " * n + "- x" for n in range(400)),
}
LONGEST_SECONDS = 3.0  # for a whole message, parsed and laid out; most take a tenth of it

ALIKE = [
    "plain *em* **strong** ***both*** ~~gone~~ `code` and \\*escaped\\*",
    "a_b_c and _em_ and __strong__ and 2 * 3 * 4 and snake_case_name",
    "`` a ` b `` and `unclosed",
    "# One\n\n## Two\n\ntext\n\n---\n\nmore",
    "- a\n- b\n  - c\n  - d\n- e",
    "1. a\n2. b\n   - c\n\n   more\n3. d",
    "3. three\n4. four",
    "> quoted\n> *still*\n\nafter",
    "```python\nprint(1 < 2)\n```\n\n~~~\n*raw*\n~~~",
    "| a | b |\n|:--|--:|\n| `1` | **2** |\n| 3 | 4 |",
    "[name](https://example.com/a_(b)?c=d&e) and <https://example.com>",
    'with [a *title*](https://example.com "hover") here',
    "un**finished *emphasis and [a bracket",
    "- one\n\n- two\n\ntext",
    "a < b && c > d &amp;",
    "a | b | c\n|-|-|\nno table",
    "| a \\| b | c |\n|-|-|\n| `x\\|y` | z |",
]

# Pieces that mean something, in any order: none may throw, and what comes piece by piece must
# look as if it had come at once.
FUZZ = r"""async (seed) => {
  const { showMarkdown } = await import("/static/markdown.js");
  const pieces = [..."*_~`\\|[]()<>!#-+.:'\" \t\n\u202e\u0000\ud800", "**", "***", "__", "```",
    "```py\n", "~~~\n", "\n\n", "    ", "- ", "1. ", "> ", "## ", "](http://x.y)",
    "](javascript:alert(1))", "](data:text/html,x)", "<http://a.b>", "<img src=x onerror=alert(1)>",
    "&lt;", "&#0;", "a | b", "|-|-|\n", "| a | b |\n|-|-|\n", "\n---\n", "[x] ",
    "https://e/(a)(b)", "word", "é", "😀"];
  const random = (most) => {
    seed = (seed * 1664525 + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * most);
  };
  for (let round = 0; round < 1500; round += 1) {
    const parts = Array.from({ length: 1 + random(60) }, () => pieces[random(pieces.length)]);
    const [whole, grown] = [document.createElement("div"), document.createElement("div")];
    try {
      showMarkdown(whole, parts.join(""));
      parts.forEach((_, end) => showMarkdown(grown, parts.slice(0, end + 1).join("")));
    } catch (error) {
      return [parts.join(""), error.stack];
    }
    const links = [...whole.querySelectorAll("a")].every((one) => /^(https?|mailto):/.test(one));
    const isSafe = links && !whole.querySelector("DANGEROUS");
    if (!isSafe || whole.innerHTML !== grown.innerHTML) return [parts.join(""), whole.innerHTML];
  }
  return null;
}"""


def said(open_page: Open, text: str) -> Any:
    """The page with a model's answer `text`."""
    # in pieces, as a model says it: what is half a mark must do no harm either
    size = max(1, len(text) // 40)
    pieces = tuple(text[at : at + size] for at in range(0, len(text), size))
    page = open_page(FakePool(fake=FakeClient(says=pieces)))
    page.get_by_label("Message", exact=True).fill("Hi")
    page.keyboard.press("Enter")
    page.locator(".message.assistant:not([aria-busy])").wait_for()
    return page


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_stay_words(open_page: Open, text: str):
    page = said(open_page, text)
    body = page.locator(".message.assistant .message-body")
    assert body.locator(DANGEROUS).count() == 0
    assert page.evaluate("window.hacked") is None
    for link in body.locator("a").all():
        assert re.match(r"https?://|mailto:", link.get_attribute("href"))
        assert link.get_attribute("rel") == "noopener noreferrer"
        link.hover()
    assert page.evaluate("window.hacked") is None
    page.get_by_label("The text as it is").click()
    raw = body.locator("pre.raw").text_content()
    assert raw == text


@pytest.mark.parametrize("seed", range(3))
def test_marks_in_any_order_are_shown_and_the_same_as_they_stream(open_page: Open, seed: int):
    page = open_page(FakePool())
    assert page.evaluate(FUZZ.replace("DANGEROUS", DANGEROUS), seed) is None


def test_code_shows_what_turns_its_direction(open_page: Open):
    page = said(open_page, "`a\u202eb`\n\n```\nif x: \u2066end\n```")
    shown = page.locator(".message.assistant code").all_inner_texts()
    assert shown == ["a⟨U+202E⟩b", "if x: ⟨U+2066⟩end"]


def test_hostile_names_stay_words_everywhere_else_too(open_page: Open):
    text = HOSTILE[0]
    pool = FakePool(**{text: FakeClient(says=(text, HOSTILE[1]))})
    page = open_page(pool)
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    page.locator(".message.assistant:not([aria-busy])").wait_for()
    assert page.locator(".message.user .message-body").text_content() == text
    assert page.locator(".conversation").text_content() == text
    for view, start in (("complete", "Continue"), ("compare", "Run both"), ("inside", None)):
        page.goto(f"{page.watch.base}/#{view}")
        page.locator(f"#{view} textarea[data-main-field]").fill(text)
        if start:
            page.get_by_role("button", name=start).click()
        page.wait_for_timeout(400)
        assert page.locator(f"#{view}").locator("img, script, iframe").count() == 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("name", LONG_LINES)
def test_a_long_answer_costs_time_in_proportion(open_page: Open, name: str):
    begin = time.monotonic()
    page = open_page(FakePool(fake=FakeClient(says=(LONG_LINES[name],))))
    page.get_by_label("Message", exact=True).fill("Hi")
    ready = time.monotonic()
    page.keyboard.press("Enter")
    page.locator(".message.assistant:not([aria-busy])").wait_for()
    page.evaluate("document.body.offsetHeight")
    took = time.monotonic() - ready
    assert took < LONGEST_SECONDS + (ready - begin), f"{took:.1f} s"


class Outline(HTMLParser):
    """Tags, links and texts of some HTML in order, without what only serves the looks."""

    LEFT_OUT = ("div", "span", "thead", "tbody", "svg", "path", "button")
    NAMES: ClassVar = {"s": "del", "h1": "h3", "h2": "h4"}  # the page's own headings are h1 and h2

    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[tuple[str, ...]] = []
        self.feed(re.sub(r'<div class="code-bar">.*?</div>', "", html))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.LEFT_OUT:
            kept = [f"{name}={value}" for name, value in attributes if name in ("href", "start")]
            self.parts.append((self.NAMES.get(tag, tag), *(one.rstrip("/") for one in kept)))

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.LEFT_OUT:
            self.parts.append((f"/{self.NAMES.get(tag, tag)}",))

    def handle_data(self, data: str) -> None:
        text = re.sub(r"\s+", " ", data)
        if self.parts and self.parts[-1][0] == "text":
            text = self.parts.pop()[1] + text
        self.parts.append(("text", text))

    def outline(self) -> list[tuple[str, ...]]:
        """The parts, with the white space around texts left out."""
        stripped = [tuple(one.strip() for one in part) for part in self.parts]
        return [part for part in stripped if part != ("text", "")]


@pytest.mark.parametrize("text", ALIKE)
def test_markdown_means_what_it_means_to_markdown_it(open_page: Open, text: str):
    markdown_it = pytest.importorskip("markdown_it", reason="needs markdown-it-py")
    wanted = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    shown = said(open_page, text).locator(".message.assistant .message-body").inner_html()
    assert Outline(shown).outline() == Outline(wanted).outline()
