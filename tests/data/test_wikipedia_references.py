"""Addresses that articles refer to; the oracle is what a reader of the wikitext would click on."""

import bz2
import io

import pytest
from public_samples import SAMPLES, needs_samples

from puna.data.sources.wikipedia_references import addresses_in, normalised, references

ARTICLE = """'''River'''<ref>{{cite web |url=https://www.Example.org/a/?b=1&amp;c=2#top |title=A}}
</ref> runs<ref name="x">[http://news.example.com/story.html The ''story'']</ref> to the sea (see
https://example.net/wiki/Sea_(water)). {{cite news|url=http://paper.example/1|archive-url=
https://web.archive.org/web/20200101000000/http://old.example/2/}} [//cdn.example.org x] [[River]]
(http://example.edu/c). mailto:a@b.c ftp://files.example.org/d
"""


def test_each_kind_of_reference_is_found():
    assert list(addresses_in(ARTICLE)) == [
        "example.org/a?b=1&c=2",
        "news.example.com/story.html",
        "example.net/wiki/Sea_(water)",
        "paper.example/1",
        "old.example/2",
        "cdn.example.org",
        "example.edu/c",
    ]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("HTTP://WWW.Example.ORG:80/Path/", "example.org/Path"),
        ("https://user@example.org:443", "example.org"),
        ("https://example.org:8080/a#b", "example.org:8080/a"),
        ("//example.org?q", "example.org?q"),
        ("https://example.org/?", "example.org"),
        ("https://localhost/a", ""),
        ("example.org", ""),
        ("https://example.org/" + "a" * 3000, ""),
    ],
)
def test_addresses_of_one_page_are_the_same(address, expected):
    assert normalised(address) == expected


def test_only_articles_count_and_damage_is_passed_over():
    def page(namespace: int, text: str) -> str:
        return f"<page><ns>{namespace}</ns><revision><text>{text}</text></revision></page>"

    dump = "<mediawiki>" + page(0, "http://a.org") + page(1, "http://b.org") + "<page><ns>0</page>"
    dump += page(0, "http://c.org http://c.org") + "</mediawiki>"
    for data in (dump.encode(), bz2.compress(dump.encode())):
        assert list(references(io.BytesIO(data))) == ["a.org", "c.org", "c.org"]


def test_the_parts_of_a_dump_refer_to_what_the_dump_does():
    texts = [f"<text>http://a{number}.org</text>" for number in range(9)]
    pages = [f"<page><ns>0</ns><revision>{text}</revision></page>\n" for text in texts]
    data = b"".join(bz2.compress(one.encode()) for one in ["<mediawiki>\n", *pages])
    size = len(data) // 4 + 1
    parts = [range(begin, min(begin + size, len(data))) for begin in range(0, len(data), size)]
    found = [list(references(io.BytesIO(data), part)) for part in parts]
    assert len(found) == 4
    assert [one for part in found for one in part] == [f"a{n}.org" for n in range(9)]


@needs_samples
def test_a_real_dump():
    """Counts and addresses after reading the list: all are of sites outside Wikipedia."""
    path = SAMPLES / "wikipedia" / "dumpster-dive" / "smallwiki-latest-pages-articles.xml"
    found = list(references(io.BytesIO(path.read_bytes())))
    assert (len(found), len(set(found))) == (785, 496)
    assert "lsm.lv" in {one.partition("/")[0] for one in found}
