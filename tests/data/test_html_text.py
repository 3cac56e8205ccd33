"""HTML of posts to text: each rule by hand, and that hostile tags cost linear time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.data.sources.html_text import html_to_text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>Wool &amp; milk,\nwarm</p>\n\n<p>2</p>", "Wool & milk, warm\n\n2"),
        ("<p>a<br>b <strong>c</strong><em>d</em></p>", "a\nb cd"),
        ('<p>see <a href="http://a.org" rel="x">the herd</a>.</p>', "see the herd."),
        ('<p>a <img src="b.png" alt="enter image description here"></p>', "a"),
        ("<p>use <code>a  &lt; b</code></p>", "use a < b"),
        (
            "<p>run</p>\n\n<pre><code>def a():\n    if b:\n\n        return &lt;c&gt;\n</code>"
            "</pre>\n<p>ok</p>",
            "run\n\ndef a():\n    if b:\n\n        return <c>\n\nok",
        ),
        ("<pre>  first</pre>", "  first"),
        ("<ul>\n<li>a</li>\n<li>b\n<ul><li>c</li></ul></li>\n</ul>\n<p>d</p>",
         "- a\n- b\n  - c\n\nd"),
        ('<ol start="3"><li>a</li><li>b</li></ol>', "3. a\n4. b"),
        ("<ol><li><p>a</p><pre><code>x\n y</code></pre></li><li><p>b</p></li></ol>",
         "1. a\n\nx\n y\n\n2. b"),
        ("<blockquote>\n<p>a</p>\n<p>b</p>\n</blockquote>\n<p>c</p>", "> a\n\n> b\n\nc"),
        ("<h2>Wool</h2><hr><p>10 m<sup>2</sup>, H<sub>2</sub>O, x<sup>abc</sup></p>",
         "Wool\n\n10 m², H₂O, xabc"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>",
         "a b\n1 2"),
        ("a<script>b <i>c</i></script>d<!-- language: c --><style>e</style>", "ad"),
        ("a < b > c, <3, 1 <2", "a < b > c, <3, 1 <2"),
        ("</ul></li></blockquote>a<li>b", "a\n- b"),
        ("&nbsp; ", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_a_rule(source: str, text: str):
    assert html_to_text(source) == text


PIECES = """<p> </p> <ul> </ul> <ol> <li> </li> <pre> </pre> <code> <blockquote> </blockquote>
    <script> </script> <!-- --> <br> <sup> <table> <td> <tr> <a < > & &amp; &#55296; &#0; a 1"""


@given(st.lists(st.sampled_from(PIECES.split()) | st.text(max_size=3)).map("".join))
def test_no_markup_makes_it_fail(source: str):
    html_to_text(source).encode()


@pytest.mark.parametrize("unit", [*PIECES.split(), "<ul><li>", "<blockquote><p>", "<!-- a", " "])
def test_hostile_markup_takes_linear_time(unit: str):
    def seconds(length: int) -> float:
        began = time.process_time()
        html_to_text(unit * (length // len(unit)))
        return time.process_time() - began

    # Quadratic work would need 256 times as long.
    assert seconds(400_000) < 40 * max(seconds(25_000), 0.02)
