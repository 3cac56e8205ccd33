"""Crawls: records written by hand, each kind of damage, and real samples read by eye."""

import gzip
import hashlib
import io
from collections import Counter
from pathlib import Path

import pytest
from public_samples import SAMPLES, needs_samples
from warc_records import members, record

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources import commoncrawl, warc
from puna.data.sources.commoncrawl import Settings, read_paths
from puna.errors import DataError

pytest.importorskip("fastwarc", reason="the extra `data` is not installed")

ALL = Settings(min_characters=0)
SENTENCE = "A sentence of the main text that is long enough to be taken for one, with a comma. "
PAGE = f"<html><body><nav>menu</nav><main><p>{SENTENCE * 5}</p></main></body></html>"


def page(
    number: int = 1,
    body: bytes | str = PAGE,
    *,
    status: str = "200 OK",
    headers: str = "Content-Type: text/html; charset=utf-8",
) -> bytes:
    body = body.encode() if isinstance(body, str) else body
    return record("response", f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body, number)


def read(data: bytes, settings: Settings = ALL, name: str = "a.warc.gz") -> list:
    return list(commoncrawl.read(io.BytesIO(data), name, settings))


def outcomes(data: bytes) -> list[str]:
    """The id of each document, the reason of all else."""
    return [item.id if isinstance(item, Document) else item.reason for item in read(data)]


def test_a_page_becomes_its_main_text_with_its_address():
    (document,) = read(members(page()))
    assert document == Document(
        (SENTENCE * 5).strip(),
        "commoncrawl",
        commoncrawl.LICENCE,
        "id-1",
        "http://example.org/1",
    )


@pytest.mark.parametrize("depth", range(5))
def test_lists_of_text_are_kept_and_menus_are_not(depth: int):
    menu = "<ul><li><a href=a>Home</a><li><a href=b>About us</a></ul>"
    facts = "<p>The facts:</p><ul><li>One fact.<ul><li>Nested.</ul><li>Two <a>facts</a>.</ul>"
    body = "<div>" * depth + f"{menu}{facts}<p>And the end.</p>" + "</div>" * depth
    (document,) = read(members(page(body=body)))
    listed = "  • One fact.\n    • Nested.\n  • Two facts."
    assert document.text.endswith(f"The facts:\n\n{listed}\n\nAnd the end.")
    assert depth == 4 or "Home" not in document.text


def test_hostile_lists_take_no_time_that_grows_with_their_square():
    body = "<ul><li>" * 450 + "text " * 100_000
    assert [one.url for one in read(members(page(body=body)))] == ["http://example.org/1"]


def test_the_whole_page_comes_when_asked_for():
    (document,) = read(members(page()), Settings(is_whole_page=True, min_characters=0))
    assert document.text.startswith("menu")


@pytest.mark.parametrize("pack", [members, lambda *records: b"".join(records)])
def test_packed_and_plain_files_say_the_same(pack):
    assert outcomes(pack(page(1), page(2))) == ["id-1", "id-2"]


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (page(status="404 Not Found"), "status"),
        (page(status="301 Moved"), "status"),
        (page(headers="Content-Type: image/png"), "content type"),
        (page(body="<html></html>"), "no text"),
        (record("revisit", b""), "revisit"),
        (record("response", b"20080430 a", content_type="text/dns"), "not http"),
        (page(body="<x>" * 3000 + "deep"), DAMAGED),
        (page(body=b"x" * (warc.LONGEST_PAGE_BYTES + 1)), DAMAGED),
    ],
)
def test_what_is_no_page_of_text_says_why(unfit: bytes, reason: str):
    assert outcomes(members(page(7), unfit, page(9))) == ["id-7", reason, "id-9"]


def test_requests_and_metadata_are_passed_over():
    assert outcomes(members(record("request", b"GET /"), record("metadata", b"x"), page())) == [
        "id-1"
    ]


def test_short_texts_are_dropped_with_an_excerpt():
    (dropped,) = read(members(page(body="<p>Too little.</p>")), Settings())
    assert (dropped.reason, dropped.excerpt, dropped.text_bytes) == ("short", "Too little.", 11)


@pytest.mark.parametrize(
    ("headers", "meta", "encoding"),
    [
        ("Content-Type: text/html; charset=ISO-8859-2", "", "iso-8859-2"),
        ('Content-Type: text/html;charset="utf-8"', "", "utf-8"),
        ("Content-Type: text/html", '<meta charset="iso-8859-2">', "iso-8859-2"),
        ("Content-Type: text/html; charset=no-such", "<meta charset=utf-8>", "utf-8"),
        ("Content-Type: text/html", "", "utf-8-sig"),
        ("Content-Type: text/html", "", "utf-16"),
        ("Content-Type: text/plain; charset=windows-1250", "", "cp1250"),
    ],
)
def test_the_charset_is_found_wherever_it_is_said(headers: str, meta: str, encoding: str):
    text = "Příliš žluťoučký kůň úpěl ďábelské ódy."
    body = text if "plain" in headers else f"<html><head>{meta}</head><body><p>{text}</p></body>"
    (document,) = read(members(page(body=body.encode(encoding), headers=headers)))
    assert document.text == text


def test_chunks_and_compression_are_undone_where_they_are_there():
    packed = gzip.compress(PAGE.encode())
    chunked = b"%x\r\n%s\r\n%x;x=y\r\n%s\r\n0\r\n\r\n" % (
        9,
        packed[:9],
        len(packed) - 9,
        packed[9:],
    )
    both = "Content-Type: text/html\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked"
    pages = read(members(page(1, chunked, headers=both), page(2, PAGE, headers=both)))
    assert [one.text for one in pages] == [(SENTENCE * 5).strip()] * 2


def test_a_wet_text_loses_its_title_line():
    wet = members(record("conversion", b"Title\nFirst line.\nSecond.", content_type="text/plain"))
    assert [one.text for one in read(wet)] == ["First line.\nSecond."]
    (kept,) = read(wet, Settings(drops_title=False, min_characters=0))
    assert kept.text.startswith("Title\n")


BIG = page(2, PAGE.replace("menu", "".join(f"{n:x}" for n in range(30000))))
PLAIN = page(1) + BIG + page(3)


def spoiled(where: float) -> bytes:
    """Three members, one byte of the second spoiled at a share of its length."""
    first, second = len(members(page(1))), len(members(BIG))
    data = bytearray(members(page(1), BIG, page(3)))
    data[first + int(where * (second - 1))] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (spoiled(0), ["id-1", DAMAGED, "id-3"]),
        (spoiled(0.5), ["id-1", DAMAGED, "id-3"]),
        (spoiled(1), ["id-1", DAMAGED, "id-3"]),
        (members(page(1)) + b"no gzip" * 9 + members(page(3)), ["id-1", DAMAGED, "id-3"]),
        (members(page(1), BIG)[:-30], ["id-1", DAMAGED]),
        (PLAIN[: len(page(1)) + 900], ["id-1", DAMAGED]),
        (page(1) + b"junk\r\n" + page(3), ["id-1", DAMAGED, "id-3"]),
        (PLAIN.replace(b"Length: ", b"Length: 99999", 1), [DAMAGED, "id-2", "id-3"]),
        (b"", []),
        (b"no crawl", [DAMAGED]),
        (gzip.compress(b"\0" * 10_000_000), [DAMAGED]),
    ],
)
def test_damage_is_told_with_its_place_and_the_rest_is_read(data: bytes, expected: list[str]):
    assert outcomes(data) == expected
    assert all("at byte" in one.detail for one in read(data) if isinstance(one, Dropped))


@pytest.mark.parametrize("packed", [gzip.compress, bytes])
def test_an_arc_file_is_damage_that_says_what_makes_a_warc_of_it(packed):
    old = b"filedesc://a.arc 0.0.0.0 20080430204825 text/plain 75\n1 0 InternetArchive\n" * 9
    (dropped,) = read(packed(old), name="a.arc.gz")
    assert dropped.reason == DAMAGED
    assert "at byte 0: an ARC file, which `warcio recompress OLD.arc.gz" in dropped.detail


def test_a_list_of_paths_stands_for_addresses():
    listed = gzip.compress(b"crawl-data/CC-MAIN-2019-30/wet.paths\ncc-index/a.gz\n")
    assert read_paths(io.BytesIO(listed), "wet.paths.gz") == [
        "https://data.commoncrawl.org/crawl-data/CC-MAIN-2019-30/wet.paths",
        "https://data.commoncrawl.org/cc-index/a.gz",
    ]


@pytest.mark.parametrize("listed", [b"part-0.parquet\n", gzip.compress(b"crawl-data/a")[:9]])
def test_what_is_no_list_of_paths_is_one_error(listed: bytes):
    with pytest.raises(DataError, match=r"x\.paths\.gz should"):
        read_paths(io.BytesIO(listed), "x.paths.gz")


def facts(path: Path) -> tuple[int, Counter[str], str]:
    """Documents, reasons of the others, and a hash over the texts."""
    with path.open("rb") as file:
        items = list(commoncrawl.read(file, str(path), ALL))
    texts = [item.text for item in items if isinstance(item, Document)]
    dropped = Counter(item.reason for item in items if isinstance(item, Dropped))
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    return len(texts), dropped, digest


NOTHING = "e3b0c44298fc1c14"
EXAMPLE_ORG = "bd2d5174c3f57d06"
# Read by eye: texts begin and end where the page's own text does, in the right charset.
REAL = [
    ("dolma/sample-0000.warc.gz", 22, {}, "d952cd0601849104"),
    ("resiliparse/warcfile.warc", 16, {}, "9f76f7221505f50e"),
    ("resiliparse/warcfile.warc.gz", 16, {}, "9f76f7221505f50e"),
    ("resiliparse/warcfile.warc.lz4", 16, {}, "9f76f7221505f50e"),
    ("resiliparse/clueweb-quirk.warc.gz", 29, {}, "d82e4f29f89a8e7d"),  # EUC-JP, bare line feeds
    ("resiliparse/clipped.warc.gz", 0, {DAMAGED: 1}, NOTHING),
    ("whirlwind/whirlwind.warc.gz", 1, {}, "fba1d5c721552b7c"),
    ("whirlwind/whirlwind.warc.wet", 1, {}, "1be24044feebe34d"),
    (
        "pywb/iana.warc.gz",  # says that it is chunked, and is not
        16,
        {"content type": 28, "revisit": 123, "status": 4},
        "efcc271327529c11",
    ),
    ("warcio/example-trunc.warc", 1, {DAMAGED: 1}, EXAMPLE_ORG),
    ("warcio/example-wrong-chunks.warc.gz", 1, {}, EXAMPLE_ORG),
    ("warcio/example-bad-non-chunked.warc.gz", 1, {"revisit": 1}, EXAMPLE_ORG),
    ("pywb/missing-status-text.warc", 0, {DAMAGED: 1}, NOTHING),
    ("warcio/example.arc.gz", 0, {DAMAGED: 1}, NOTHING),
    (
        "warc2zim/single-page-test.warc",  # packed, whatever its name says
        1,
        {"status": 1, "content type": 47, "no text": 3, "revisit": 1},
        "b0694dfe15bd9a62",
    ),
]


@needs_samples
@pytest.mark.parametrize(("name", "kept", "dropped", "digest"), REAL)
def test_real_crawls_give_the_texts_that_were_read(
    name: str, kept: int, dropped: dict[str, int], digest: str
):
    assert facts(SAMPLES / "commoncrawl" / name) == (kept, Counter(dropped), digest)


@needs_samples
def test_the_two_forms_of_a_page_of_common_crawl_say_the_same():
    """Its WET text is the whole page; ours of the WARC is the article within it."""
    names = [f"commoncrawl/whirlwind/whirlwind.{kind}.gz" for kind in ("warc", "warc.wet")]
    (article,), (whole,) = (read((SAMPLES / name).read_bytes()) for name in names)
    assert article.url == whole.url == "https://an.wikipedia.org/wiki/Escopete"
    assert "Menú principal" in whole.text
    assert "Menú principal" not in article.text
    words = article.text.split()
    assert sum(word in whole.text for word in words) > 0.95 * len(words)


@needs_samples
def test_a_real_file_that_is_no_list_of_paths_is_refused():
    path = SAMPLES / "commoncrawl/whirlwind/CC-MAIN-2024-22.warc.paths.gz"
    with path.open("rb") as file, pytest.raises(DataError, match=r"found 'part-00000-"):
        read_paths(file, path.name)
