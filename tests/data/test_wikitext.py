# ruff: noqa: RUF001
"""Each rule of wikitext to text, by hand; and that hostile markup costs linear time."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.data.sources.wikitext import DEEPEST, Wiki, wiki_of, wikitext_to_text

ENGLISH = Wiki(title="Alpaca", language="en")


def cleaned(wikitext: str, wiki: Wiki = ENGLISH) -> str:
    return wikitext_to_text(wikitext, wiki)


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        # links
        ("[[llama]]s and [[Vicugna|the vicuña]]", "llamas and the vicuña"),
        ("[[wool|soft]]ness [[:Category:Camels]]", "softness Category:Camels"),
        ("[[wikt:wool]] [[:fr:Lama|lama]] [[s:Poem|a poem]]", "wool lama a poem"),
        ("wool[[de:Alpaka]][[simple:Alpaca]][[zh-min-nan:Alpaca]]", "wool"),
        ("[[File:A.jpg|thumb|200px|An [[alpaca]] [http://a.org here]]]wool", "wool"),
        ("[[Bild:A.jpg|mini|Ein Lama]][[Файл:Б.jpg|мини]]wool[[Catégorie:Animal]]", "wool"),
        ("see [http://a.org/b the herd], [http://a.org] and //x", "see the herd, and //x"),
        ("see https://a.org/b?c=d for more", "see for more"),
        ("* [http://a.org Official site]\n* wool", "- wool"),
        # formatting
        ("'''Alpaca''' is ''soft'' and '''''warm'''''", "Alpaca is soft and warm"),
        ("L'''Encyclopédie'' de '''Diderot'''", "L'Encyclopédie de Diderot"),
        ("the '''dog''''s wool", "the dog's wool"),
        ("a<br/>b<br>c <small>d</small> <span style='x'>e</span>", "a\nb\nc d e"),
        ("10 km<sup>2</sup>, H<sub>2</sub>O, 4<sup>th</sup>", "10 km², H₂O, 4th"),
        ("a < b and b > c, #include <stdio.h>", "a < b and b > c, #include <stdio.h>"),
        ("a&nbsp;b &amp; c &lt;i&gt; &eacute; &#8211; &unknown;", "a b & c <i> é – &unknown;"),
        ("wool__NOTOC__ __KEIN_INHALT__ __init__", "wool __init__"),
        ("a\n----\nb", "a\nb"),
        # what is no wikitext
        ("a<!-- b -->c<!-- d", "ac"),
        ("a<ref>b [[c]]</ref>d<ref name=x />e<references/>", "ade"),
        ("<nowiki>[[a]] ''b'' {{c}}</nowiki>", "[[a]] ''b'' {{c}}"),
        ("use\n<pre>\n  if a:\n    b[[0]]\n</pre>\nok", "use\n\n  if a:\n    b[[0]]\n\nok"),
        ('<syntaxhighlight lang="c">\nint a;\n</syntaxhighlight>', "int a;"),
        ("where <math>E = m\nc^{2}</math> is", "where $E = m c^{2}$ is"),
        ("<gallery>\nA.jpg|b\n</gallery>wool", "wool"),
        ("<poem>\nred\nwool\n</poem>", "red\nwool"),
        ("call <code>printf()</code> ( )", "call printf() ( )"),
        # headings and lists
        ("== Wool ==\n'''a'''\n=== Empty ===\n== Food ==\n* grass\n** hay\n# one\n# two\n;x: y\n:z",
         "Wool\n\na\n\nFood\n\n- grass\n  - hay\n1. one\n2. two\n\nx: y\nz"),
        ("a\n== See also ==\n{{portal}}\n== References ==\n<references/>", "a"),
        ("== A ==\n=== B ===\nwool", "A\n\nB\n\nwool"),
        ("* \n* {{flag icon}}\n* wool", "- wool"),
        # tables
        ("a\n{| class=x\n! h\n|-\n| b || c\n{|\n| d\n|}\n|}\ne", "a\n\ne"),
        ("a<table><tr><td>b</td></tr></table>c", "ac"),
        ("a\n{| never\n|-\n| ended\nb", "a\nb"),
        # templates
        ("{{Infobox animal\n| a = [[b|c]]\n| d = {{e|f}}\n}}\nwool", "wool"),
        ("wool ({{IPAc-en|æ|l|ˈ|p|æ}}; {{audio icon|x}})", "wool (/ælˈpæ/)"),
        ("wool ({{box}}; {{y}}) is warm {{z}}, soft{{citation needed}}.", "wool is warm, soft."),
        ("wool ({{box}}, or ''fleece'') and (fur, {{y}})", "wool (or fleece) and (fur)"),
        ("{{box}}, [[wool]]\n{{y}} ; warm", "wool\nwarm"),
        ("{{convert|5|km|mi}} {{convert|5|to|10|km|0}} {{cvt|2|sqmi}}", "5 km 5 to 10 km 2 sq mi"),
        ("{{lang|fr|mot}} {{lang-es|lana}} {{lang|ru|text=шерсть}}", "mot lana шерсть"),
        ("{{nowrap|[[a|b]] c}}{{ndash}}{{as of|2010|5|lc=y}}", "b c–as of May 2010"),
        ("{{circa|1500}} {{nihongo|Alpaca|アルパカ|a}}", "c. 1500 Alpaca (アルパカ, a)"),
        ("{{formatnum:12345}} {{PAGENAME}} {{lc:Wool}} {{#if:a|b}}x", "12345 Alpaca Wool x"),
        ("{{frac|1|2}} {{sic}} {{HMS|Victory}} {{USS|Enterprise|CVN-65}}",
         "1/2 [sic] HMS Victory USS Enterprise (CVN-65)"),
        ("{{quote|2=Herder|1=It is warm.}}", "It is warm."),
        ("{{a|{{b|[[c}} d", "d"),
        ("wool [[File:a.jpg|thumb|never ended\nb", "wool\nb"),
        ("a ]] b }} c |} d", "a b c |} d"),
    ],
)  # fmt: skip
def test_a_rule(wikitext: str, text: str):
    assert cleaned(wikitext) == text


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("fr", "au {{s|XX|e}}, le {{date|1|janvier|2000}}, {{unité|5|km}}",
         "au XXe siècle, le 1 janvier 2000, 5 km"),
        ("fr", "né au {{XIXe siècle}} ({{Ier siècle}})", "né au XIXe siècle (Ier siècle)"),
        ("ca", "al {{segle|XIII|s}}", "al segle XIII"),
        ("pt", "no {{séc|XIII}}, {{Fmtn|891.82}} km²", "no século XIII, 891.82 km²"),
        ("it", "a {{TA|70&nbsp;km}} ({{lang|de|Wolle}})", "a 70 km (Wolle)"),
        ("ru", "({{lang-de|Wolle}}), {{iw|Альпака|альпаку|en}}", "(Wolle), альпаку"),
        ("sr", "({{јез-нем|Wolle}}; {{јез-длс}}) -{Wolle}-", "(Wolle) Wolle"),
        ("ro", "temperaturi de {{conversie|22|–|25|C|F}}", "temperaturi de 22–25 °C"),
    ],
)  # fmt: skip
def test_a_template_of_a_language(language: str, wikitext: str, text: str):
    assert cleaned(wikitext, Wiki(language=language)) == text


def test_names_of_a_wiki_count_beside_the_known_ones():
    wiki = wiki_of({6: "ファイル", 14: "カテゴリ", -2: "メディア"}, "ja")
    assert cleaned("a[[ファイル:a.jpg|thumb|b]][[カテゴリ:c]][[File:d]]", wiki) == "a"


def test_formulas_can_go():
    text = wikitext_to_text("so (<math>x</math>) holds", ENGLISH, has_formulas=False)
    assert text == "so holds"


@pytest.mark.parametrize("depth", [10, DEEPEST - 1])
def test_brackets_nest_a_hundred_deep(depth: int):
    assert cleaned("{{nowrap|" * depth + "wool" + "}}" * depth + " end") == "wool end"
    assert cleaned("{{box|" * depth + "wool" + "}}" * depth + "end") == "end"
    assert cleaned("\n{|\n|" * depth + "wool" + "\n|}" * depth + "\nend") == "end"


HOSTILE = """{{ [[ {| <ref> <!-- <math> {{a| [[File:a| {{nowrap| ''' [http://a <sup> -{ __a ( ,
    &amp | }} ]] |} <nowiki> <table> ({{a}} {{a}}, x{{ [[[ ]]] {{a|[[ l''' < == http:// {{{"""


@pytest.mark.parametrize(
    "unit", [*HOSTILE.split(), "\n{|\n", "\n* ", "\n==a==", "{{a}} , ", " ", "\n:#"]
)
def test_hostile_markup_takes_linear_time(unit: str):
    def seconds(length: int) -> float:
        began = time.process_time()
        cleaned((unit * (length // len(unit) + 1))[:length])
        return time.process_time() - began

    # Quadratic work would need 256 times as long; 40 and a floor leave room for a busy machine.
    assert seconds(400_000) < 40 * max(seconds(25_000), 0.02)


MARKUP = """{{ }} [[ ]] {| |} | || |- <ref> </ref> <!-- --> ''' '' == === * # : ; <b> </b>
    <nowiki> </nowiki> <math> </math> <table> </table> lang convert File: Category: http://a [ ]
    = & &amp; __TOC__ -{ }- ( ) , . wool \x02 \x7f \x000"""
PIECES = st.sampled_from([*MARKUP.split(" "), " ", "\n", "\n\n", "\n{|", "\n|}"])


@settings(max_examples=200)
@given(st.lists(PIECES | st.text(max_size=4), max_size=60).map("".join))
def test_no_markup_makes_it_fail(wikitext: str):
    text = cleaned(wikitext)
    assert text == text.strip()
    assert "\x02" not in text
    assert "\x7f" not in text


WORDS = st.lists(st.sampled_from(["wool", "llama", "Ñandú", "5"]), min_size=1, max_size=4).map(
    " ".join
)
WELL_FORMED = st.recursive(
    WORDS,
    lambda inner: st.one_of(
        st.tuples(WORDS, inner).map(lambda p: f"[[{p[0]}|{p[1]}]]"),
        inner.map(lambda x: f"'''{x}'''"),
        inner.map(lambda x: f"{{{{box|{x}|a={x}}}}}"),
        inner.map(lambda x: f"{{{{nowrap|{x}}}}}"),
        inner.map(lambda x: f"<ref name='a'>{x}</ref>"),
        inner.map(lambda x: f"\n{{| class=a\n! {x}\n|-\n| {x} || {x}\n|}}\n"),
        inner.map(lambda x: f"[[File:a.jpg|thumb|{x}]]"),
        inner.map(lambda x: f"\n== {x} ==\n* {x}\n"),
        st.lists(inner, min_size=2, max_size=3).map(" ".join),
    ),
    max_leaves=12,
)
LEFT_OVER = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|''|<|\||thumb|box")


@settings(max_examples=150)
@given(WELL_FORMED)
def test_nothing_is_left_of_well_formed_markup(wikitext: str):
    assert LEFT_OVER.search(cleaned(wikitext)) is None
