"""Books as documents: hand-made ones of each kind and generation, and real Gutenberg and ELTeC."""

import gzip
import hashlib
import io
import time
from pathlib import Path

import pytest
from archive_files import tar_gz, zip_of
from hypothesis import given
from hypothesis import strategies as st
from public_samples import SAMPLES, needs_samples

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources.books import Settings, read
from puna.data.sources.line_wrap import unwrapped

PROSE = (
    "It was a day in spring when the two of them set out for the town on the\n"
    "hill, with bread for one day and money for none, and the dog had seen to\n"
    "it that there was less of the bread."
)
VERSE = "The sun was set upon the hill,\nThe moon had not come up,\nAnd all that lived was still."
HEADER = (
    "Title: The Road\n\nAuthor: A. Writer\n\n"
    "Release Date: May, 2001 [EBook #77]\n\nLanguage: French\n"
)
BEFORE = {
    "since 2003": "The Project Gutenberg EBook of The Road, by A. Writer\n\n"
    + HEADER
    + "\n*** START OF THIS PROJECT GUTENBERG EBOOK THE ROAD ***\n\n\n"
    "Produced by One and\nTwo\n\n\n",
    "no space": "Project Gutenberg's The Road\n\n"
    + HEADER
    + "\n***START OF THE PROJECT GUTENBERG EBOOK THE ROAD***\n\nE-text prepared by One\n\n",
    "in two lines": "Project Gutenberg\n\n"
    + HEADER
    + "*** START OF THE PROJECT GUTENBERG EBOOK THE ROAD:\nA LONG ONE ***\n\n\n",
    "small print": "The Project Gutenberg Etext of The Road, by A. Writer\n\n"
    + HEADER
    + "\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nlawyers\n"
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n"
    "This etext was produced from the first edition\nby One\n\n\n",
    "small print of 2000": "Project Gutenberg Etext of The Road\n\n"
    + HEADER
    + "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.12.12.00*END*\n\n",
}
AFTER = {
    "since 2003": "\n\n\nEnd of the Project Gutenberg EBook of The Road, by A. Writer\n\n"
    "*** END OF THIS PROJECT GUTENBERG EBOOK THE ROAD ***\n\nUpdated editions\n"
    "*** START: FULL LICENSE ***\nTHE FULL PROJECT GUTENBERG LICENSE\n",
    "one line": "\n\nEnd of Project Gutenberg's The Road, by A. Writer\n\n",
    "of an etext": "\n\nEnd of The Project Gutenberg Etext of The Road by A. Writer\n",
    "small print": "\n\n*** END OF THE PROJECT GUTENBERG EBOOK THE ROAD ***\n\nlicence\n"
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n",
    "French": "\n\nFin de Project Gutenberg La Route\n",
    "none": "\n",
}
BODY = f"THE ROAD\n\n\nCHAPTER I\n\n{PROSE}\n\n{VERSE}\n" + f"\n{PROSE}\n" * 30


def books(data: bytes, name: str = "77.txt", settings: Settings | None = None):
    return list(read(io.BytesIO(data), name, settings or Settings()))


def book(text: str | bytes, name: str = "77.txt", settings: Settings | None = None) -> Document:
    (found,) = books(text if isinstance(text, bytes) else text.encode(), name, settings)
    assert isinstance(found, Document), found
    return found


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("before", BEFORE)
def test_every_generation_of_gutenberg_is_cut(before: str, after: str):
    found = book(BEFORE[before] + BODY + AFTER[after], settings=Settings(unwraps=False))
    assert found.text == BODY.strip()
    assert found.licence == "public domain in the USA"
    assert (found.url, found.language) == ("https://www.gutenberg.org/ebooks/77", "fr")
    assert found.id == "77.txt (A. Writer, The Road)"


def test_prose_is_unwrapped_and_verse_is_not():
    found = book(BEFORE["since 2003"] + BODY + AFTER["since 2003"])
    assert PROSE.replace("\n", " ") in found.text
    assert VERSE in found.text


@pytest.mark.parametrize(
    "kept",
    [
        VERSE,
        PROSE.replace("\n", "\n    "),
        "Of man's first disobedience, and the fruit of that forbidden tree,\n"
        "Whose mortal taste brought death into the world, and all our woe so\n"
        "Sing, heavenly Muse, that on the secret top of Oreb, or of Sinai didst",
        "one thing of many here   12 and another thing at the end of it\n"
        "two things of many here  14 and another thing at the end of it",
    ],
    ids=["short lines", "indented", "capitals", "columns"],
)
def test_what_is_not_wrapped_prose_keeps_its_lines(kept: str):
    text = "\n\n".join([PROSE] * 20 + [kept])
    assert unwrapped(text).endswith(f"\n\n{kept}")


def test_a_book_of_verse_keeps_its_lines():
    assert unwrapped(VERSE) == VERSE


def test_a_hyphen_at_the_end_of_a_line_joins():
    text = "\n\n".join([PROSE] * 20 + [PROSE.replace("the\nhill", "the hill-\ntop")])
    assert unwrapped(text).endswith(unwrapped(PROSE)[-20:])
    assert "hill-top, with" in unwrapped(text)


def test_transcribers_notes_go_by_option():
    note = "\n\n\nTranscriber's Note:\n\n  Page 51 was mended.\n"
    text = BEFORE["since 2003"] + BODY + note + AFTER["since 2003"]
    assert "mended" not in book(text).text
    assert "mended" in book(text, settings=Settings(removes_notes=False)).text


def test_pictures_and_page_marks_go():
    text = BEFORE["since 2003"] + "[Illustration]\n\nOne [Pg 12]two.\n\n" + BODY
    assert book(text).text.startswith("One two.\n\n")


def test_a_copyrighted_book_is_dropped():
    text = "This is a COPYRIGHTED Project Gutenberg Etext, Details Below\n" + BEFORE["since 2003"]
    (found,) = books((text + BODY).encode())
    assert found.reason == "copyrighted"
    kept = book(text + BODY, settings=Settings(keeps_copyrighted=True))
    assert kept.licence == "copyrighted; Project Gutenberg License"


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [("utf-8-sig", "UTF-8"), ("cp1252", "ISO-8859-1"), ("utf-16", ""), ("iso8859-2", "ISO-8859-2")],
)
def test_encodings(encoding: str, declared: str):
    word = "Łódź" if encoding == "iso8859-2" else "Entre Français"
    head = BEFORE["since 2003"].replace(
        "Language:", f"Character set encoding: {declared}\n\nLanguage:"
    )
    text = (head + word + "\n\n" + BODY).replace("\n", "\r\n")
    assert book(text.encode(encoding)).text.startswith(word)


def test_a_plain_text_is_all_book():
    found = book("One line.\r\n\r\n\r\n\r\n\r\nAnother.\r\n", "own.txt")
    assert (found.text, found.licence, found.id) == (
        "One line.\n\n\nAnother.",
        "unknown",
        "own.txt",
    )


def test_archives_hold_books():
    files = {"a.txt": "One", "b.pdf": "x", "c/d.txt": "Two", "../e.txt": "no", "empty.txt": " "}
    for name, data in (("all.zip", zip_of(files)), ("all.tar.gz", tar_gz(files))):
        found = books(data, name)
        assert [item.id for item in found[:2]] == [f"{name}/a.txt", f"{name}/c/d.txt"]
        assert [item.reason for item in found[2:]] == [DAMAGED, "empty"]
    assert book(gzip.compress(b"One"), "a.txt.gz").text == "One"


CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
)
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><metadata
  xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Road</dc:title>
  <dc:creator>A. Writer</dc:creator><dc:language>eng</dc:language><dc:rights>CC BY 4.0</dc:rights>
  </metadata><manifest><item id="b" href="two.xhtml"/><item id="a" href="one%20.xhtml"/>
  <item id="n" href="nav.xhtml" properties="nav"/></manifest>
  <spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/><itemref idref="x"/></spine>
  </package>"""
PAGE = "<?xml version='1.0'?><html><head><title>no</title></head><body>{}</body></html>"
EPUB = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": CONTAINER,
    "OEBPS/book.opf": PACKAGE,
    "OEBPS/two.xhtml": PAGE.format("<p>Second &amp; last</p>"),
    "OEBPS/one .xhtml": PAGE.format(
        "<h1>I</h1><script src='x'/><p>First <i>words</i><span class='pagenum'>[Pg 1]</span>.</p>"
    ),
    "OEBPS/nav.xhtml": PAGE.format("<p>Contents</p>"),
}


def test_an_epub_is_read_in_the_order_of_its_spine():
    found = book(zip_of(EPUB), "road.epub")
    assert found == Document(
        text="I\n\nFirst words.\n\nSecond & last",
        source="books",
        licence="CC BY 4.0",
        id="road.epub (A. Writer, The Road)",
        language="en",
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"META-INF/rights.xml": "<x/>"}, "locked"),
        ({"META-INF/encryption.xml": '<CipherReference URI="OEBPS/two.xhtml"/>'}, "locked"),
        ({"../evil.xhtml": "x"}, DAMAGED),
        ({"OEBPS/book.opf": "<package"}, DAMAGED),
        ({"OEBPS/book.opf": '<!DOCTYPE x [<!ENTITY a "b">]>' + PACKAGE}, DAMAGED),
        ({"OEBPS/one .xhtml": "", "OEBPS/two.xhtml": ""}, "empty"),
    ],
)
def test_an_epub_that_cannot_be_read_says_why(changes: dict[str, str], reason: str):
    (found,) = books(zip_of({**EPUB, **changes}), "road.epub")
    assert isinstance(found, Dropped)
    assert found.reason == reason


def test_fonts_that_are_obfuscated_lock_nothing():
    font = {"META-INF/encryption.xml": '<CipherReference URI="OEBPS/fonts/a.otf"/>'}
    assert book(zip_of({**EPUB, **font}), "road.epub").text.startswith("I\n\n")


TEI = """<TEI xmlns="http://www.tei-c.org/ns/1.0" xml:lang="fr"><teiHeader><fileDesc><titleStmt>
<title>La Route : édition ELTeC</title><author><surname>Plume</surname><forename>A.</forename>
</author></titleStmt><publicationStmt><availability><licence target="https://cc.org/by"/>
</availability></publicationStmt></fileDesc></teiHeader><text><front><p>title page</p></front><body>
<pb n="1"/><div><head>I</head><p>One
   <hi>two</hi><note>no</note>,<ref target="#n1">[1]</ref> open-
   <pb n="2"/>mouthed and cut¬<lb/>ting <choice><sic>teh</sic><corr>the</corr></choice>.</p>
<lg><l>A line</l><l>and another</l></lg><sp><speaker>HE</speaker><p>No.</p></sp><gap/></div>
</body></text></TEI>"""


def test_tei_is_its_body_without_notes():
    found = book(TEI, "route.xml")
    assert found.text == (
        "I\n\nOne two, open- mouthed and cutting the.\n\nA line\nand another\n\nHE\n\nNo."
    ).replace("open- mouthed", "open-mouthed")
    assert (found.id, found.language) == ("route.xml (Plume, A., La Route)", "fr")
    assert found.licence == "https://cc.org/by"


@pytest.mark.parametrize("data", ["", "<TEI", "<a/>", '<!DOCTYPE a [<!ENTITY b "c">]><a/>'])
def test_what_is_no_tei_is_damaged(data: str):
    (found,) = books(data.encode(), "a.xml")
    assert found.reason == DAMAGED


@given(st.binary(max_size=300), st.sampled_from(["a.txt", "a.epub", "a.xml", "a.zip", "a.txt.gz"]))
def test_nothing_raises(data: bytes, name: str):
    books(data, name)


@given(st.text(alphabet="ab AB\n-*", max_size=400))
def test_unwrapping_loses_only_white_space(text: str):
    assert "".join(unwrapped(text).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "piece", ["a\n", "\n", " \n", "*** START OF ", "End of Project\n", PROSE, "[", " "]
)
def test_time_is_linear(piece: str):
    def seconds(times: int) -> float:
        data = ("Project Gutenberg\n" + piece * times).encode()
        began = time.process_time()
        books(data)
        return time.process_time() - began

    seconds(10)
    assert seconds(8000) < 0.2 + 20 * seconds(1000)


# Each real book, its url's number, its language, the beginning of the SHA-256 of id and text, its
# number of lines, and words of it: made by this test's own sums after the texts were read by eye.
GOLDEN = Path(__file__).with_name("book_samples.tsv")
REAL = [line.split("\t") for line in GOLDEN.read_text(encoding="utf-8").splitlines()[1:]]


@needs_samples
@pytest.mark.parametrize(
    ("name", "number", "language", "lines", "digest", "words"), REAL, ids=[row[0] for row in REAL]
)
def test_real_books(name: str, number: str, language: str, lines: str, digest: str, words: str):
    (path,) = (SAMPLES / "books").glob(f"*/{name}")
    with path.open("rb") as file:
        (found,) = read(file, path.name, Settings())
    assert isinstance(found, Document)
    assert words in found.text
    assert "PROJECT GUTENBERG" not in found.text.upper() or name.startswith("Balzac")
    facts = (
        found.url.rpartition("/")[2] or "-",
        found.language or "-",
        str(found.text.count("\n")),
    )
    assert facts == (number, language, lines)
    assert hashlib.sha256(f"{found.id}\n{found.text}".encode()).hexdigest()[:16] == digest
