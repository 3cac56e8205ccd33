"""Pages of MediaWiki dumps as documents: hand-written dumps, and real ones of the 20 languages."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import pytest
from public_samples import SAMPLES, needs_samples

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources.wikipedia import LANGUAGES, Settings, read

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de">
  <siteinfo><sitename>Wikipedia</sitename><dbname>dewiki</dbname>
    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
    <namespaces><namespace key="0" /><namespace key="1">Diskussion</namespace>
      <namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces>
  </siteinfo>
"""


def page(title: str, text: str, *, before: str = "<ns>0</ns><id>7</id>", date: str = "2022-06-20"):
    return (
        f"<page><title>{title}</title>{before}<revision><id>9</id><timestamp>{date}T00:00:00Z"
        f"</timestamp><text>{text}</text></revision></page>\n"
    )


def documents(*pages: str, head: str = HEAD, settings: Settings | None = None):
    data = (head + "".join(pages) + "</mediawiki>").encode()
    return list(read(io.BytesIO(data), "dump.xml", settings or Settings()))


def test_an_article_says_where_it_is_and_under_which_licence():
    (found,) = documents(page("Groß &amp; Klein", "Das ''Lama''. [[Datei:a.jpg|mini|b]]"))
    assert found == Document(
        text="Groß & Klein\n\nDas Lama.",
        source="wikipedia",
        licence="CC BY-SA 3.0",
        id="dewiki:7",
        url="https://de.wikipedia.org/wiki/Gro%C3%9F_%26_Klein",
        language="de",
    )


@pytest.mark.parametrize(
    ("date", "licence"),
    [
        ("2023-06-06", "CC BY-SA 3.0"),
        ("2023-06-07", "CC BY-SA 4.0"),
        ("2005-01-01", "CC BY-SA 3.0"),
    ],
)
def test_the_licence_goes_by_the_last_revisions_day(date: str, licence: str):
    (found,) = documents(page("Lama", "Ein Tier.", date=date))
    assert found.licence == licence


def test_elsewhere_the_licence_is_not_known():
    (found,) = documents(page("Lama", "Ein Tier."), head=HEAD.replace("wikipedia.org", "lama.org"))
    assert found.licence == "unknown"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (page("A", "x", before='<ns>0</ns><id>7</id><redirect title="B" />'), "redirect"),
        (page("A", "#WEITERLEITUNG [[B]]"), "redirect"),
        (page("A", "#перенаправление [[B]]"), "redirect"),
        (page("Datei:A", "x", before="<ns>6</ns><id>7</id>"), "not an article"),
        (page("Diskussion:A", "x", before="<id>7</id>"), "not an article"),
        (page("A", "{{Infobox|a=b}}"), "empty"),
        ("<page><title>A</title><ns>0</ns></page>", "empty"),
    ],
)
def test_what_is_no_article_is_dropped_with_a_reason(given: str, reason: str):
    (found,) = documents(given)
    assert isinstance(found, Dropped)
    assert found.reason == reason


@pytest.mark.parametrize("template", ["{{Begriffsklärung}}", "{{disambiguation|geo}}", "{{gren}}"])
def test_disambiguation_pages_are_kept_unless_unwanted(template: str):
    text = f"'''A''' is:\n* [[B]]\n{template}"
    (found,) = documents(page("A", text))
    assert found.text == "A\n\nA is:\n\n- B"
    (found,) = documents(page("A", text), settings=Settings(has_disambiguation=False))
    assert found.reason == "disambiguation"


def test_settings_change_title_formulas_and_language():
    settings = Settings(has_title=False, has_formulas=False, language="ltg")
    (found,) = documents(page("A", "b &lt;math&gt;c&lt;/math&gt; d"), settings=settings)
    assert (found.text, found.language) == ("b d", "ltg")


def test_the_last_revision_counts():
    two = page("A", "old").replace("</page>", "<revision><text>new</text></revision></page>")
    (found,) = documents(two)
    assert (found.text, found.licence) == ("A\n\nnew", "CC BY-SA")


def test_what_follows_a_broken_page_is_read():
    broken = page("B", "x").replace("</text>", "")
    found = documents(page("A", "a"), broken, page("C", "c").replace("</page>", ""), page("D", "d"))
    assert [item.reason if isinstance(item, Dropped) else item.text for item in found] == [
        "A\n\na",
        DAMAGED,
        DAMAGED,
        "D\n\nd",
    ]
    assert found[1].id == f"dump.xml@{len((HEAD + page('A', 'a')).encode())}"
    assert "mismatched tag" in found[1].detail


def test_declared_entities_are_refused_and_the_rest_is_read():
    head = '<!DOCTYPE mediawiki [<!ENTITY lol "lol"><!ENTITY l2 "&lol;&lol;">]>' + HEAD
    found = documents(page("A", "&l2;"), page("B", "b"), head=head)
    assert [item.reason if isinstance(item, Dropped) else item.text for item in found] == [
        DAMAGED,
        DAMAGED,
        "B\n\nb",
    ]
    assert "entities" in found[0].detail


@pytest.mark.parametrize("data", [b"", b"no dump", b"\x1f\x8b\x08broken", b"BZh91AY&SYbroken"])
def test_a_file_without_pages_is_damaged(data: bytes):
    found = list(read(io.BytesIO(data), "dump.xml", Settings()))
    assert {item.reason for item in found} == {DAMAGED}


# Each real dump, its language where the dump names another wiki's, what became of its pages, the
# beginning of the SHA-256 over ids and texts, and words of one page: made by this test's own sums
# after many pages of each language had been read by eye.
GOLDEN = Path(__file__).with_name("wikipedia_samples.tsv")
REAL = [line.split("\t") for line in GOLDEN.read_text(encoding="utf-8").splitlines()[1:]]


@needs_samples
@pytest.mark.parametrize(
    ("name", "language", "counts", "digest", "words"), REAL, ids=[row[0] for row in REAL]
)
def test_real_dumps(name: str, language: str, counts: str, digest: str, words: str):
    path = SAMPLES / "wikipedia" / name
    with path.open("rb") as file:
        settings = Settings(language=language.strip("-"))
        found = list(read(file, path.name, settings))
    kept = [item for item in found if isinstance(item, Document)]
    reasons = Counter(item.reason if isinstance(item, Dropped) else "kept" for item in found)
    text = "".join(f"{item.id}\t{item.text}\n" for item in kept)
    assert ",".join(f"{reason}={reasons[reason]}" for reason in sorted(reasons)) == counts
    assert any(words in " ".join(item.text.split()) for item in kept)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_the_golden_dumps_cover_the_papers_languages():
    assert {row[1] for row in REAL} >= set(LANGUAGES.split())
