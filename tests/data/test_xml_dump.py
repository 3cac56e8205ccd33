"""Elements of XML dumps: packed, broken, hostile, and always in bounded memory."""

import bz2
import gzip
import io
import sys

import pytest
from peak_memory import peak_of

from puna.data.sources import xml_dump
from puna.data.sources.xml_dump import Damage, Dump, parse

PAGES = [f"<page><id>{number}</id><a>{'x' * number}</a></page>".encode() for number in range(300)]
XML = b"<m>\n <head/>\n" + b"\n".join(PAGES) + b"\n</m>\n"


def found(data: bytes) -> list[bytes | Damage]:
    return [item for _offset, item in Dump(io.BytesIO(data), b"<page>", b"</page>")]


def streams(data: bytes, size: int = 1000) -> list[bytes]:
    return [bz2.compress(data[at : at + size]) for at in range(0, len(data), size)]


@pytest.mark.parametrize(
    "data",
    [
        XML,
        gzip.compress(XML),
        bz2.compress(XML),
        b"".join(streams(XML)),
        gzip.compress(XML[:5000]) + gzip.compress(XML[5000:]),
        bz2.compress(XML) + b"\0" * 100,
        XML.decode().encode("utf-16"),
    ],
    ids=["plain", "gzip", "bzip2", "multistream", "two members", "zeros after", "UTF-16"],
)
def test_every_packing_gives_the_same_elements(data: bytes):
    assert found(data) == PAGES


def test_offsets_and_the_head_are_those_of_the_unpacked_dump():
    dump = Dump(io.BytesIO(bz2.compress(XML)), b"<page>", b"</page>")
    for offset, data in dump:
        assert XML[offset : offset + len(data)] == data
    assert dump.head == b"<m>\n <head/>\n"


def of_parts(data: bytes, size: int) -> list[bytes | Damage]:
    every = []
    for begin in range(0, len(data), size):
        part = range(begin, begin + size)
        dump = Dump(io.BytesIO(data), b"<page>", b"</page>", part=part)
        every += [item for _offset, item in dump]
        assert not every or dump.head == b"<m>\n <head/>\n"
    return every


@pytest.mark.parametrize("size", [40, 997, 5000, 60_000])
@pytest.mark.parametrize(
    "data",
    [
        b"".join(streams(XML, 700)),  # pages cut wherever a stream ends
        b"".join(map(bz2.compress, [b"<m>\n <head/>\n", *PAGES])),  # as Wikipedia's own
        bz2.compress(XML),
        gzip.compress(XML),
        XML,
    ],
    ids=["cut anywhere", "multistream", "one stream", "gzip", "plain"],
)
def test_the_parts_of_a_file_hold_what_the_file_holds(data: bytes, size: int):
    assert of_parts(data, size) == found(data) == PAGES


@pytest.mark.parametrize("size", [40, 997])
def test_parts_of_a_broken_file_lose_what_the_whole_loses(size: int):
    packed = streams(XML, 700)
    for number in (5, 6, 40):
        packed[number] = packed[number][:60] + b"????" + packed[number][64:]
    data = b"".join(packed)[:-30]
    whole, parts = found(data), of_parts(data, size)
    assert [one for one in parts if one in PAGES] == [one for one in whole if one in PAGES]
    assert sum(isinstance(one, Damage) for one in whole) > 3


def test_a_broken_stream_loses_its_pages_only():
    packed = streams(XML)
    packed[5] = packed[5][:60] + b"????" + packed[5][64:]
    kept = found(b"".join(packed))
    damage = [item for item in kept if isinstance(item, Damage)]
    assert any("stream is broken" in item.what for item in damage)
    assert [item for item in kept if item in PAGES[:20]] == PAGES[:20]
    assert [item for item in kept if item in PAGES[100:]] == PAGES[100:]


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress])
def test_a_packed_file_that_ends_early_says_so(pack):
    kept = found(pack(XML)[:-20])
    assert kept[-2:][0] == Damage("the packed file ends within a stream") or kept[-1] == Damage(
        "the packed file ends within a stream"
    )


def test_what_follows_an_element_without_its_end_is_read():
    kept = found(b"<page>a\n<page>b</page>\n</page><page>c</page> <page>d")
    assert kept == [
        Damage("<page>: has no end before the next begins"),
        b"<page>b</page>",
        b"<page>c</page>",
        Damage("<page>: the file ends within it"),
    ]


def test_an_element_beyond_the_limit_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xml_dump, "LONGEST_ELEMENT_BYTES", 200_000)
    monkeypatch.setattr(xml_dump, "_READ_BYTES", 10_000)
    kept = found(b"<page>a</page><page>" + b"b" * 500_000 + b"</page><page>c</page>")
    assert kept == [
        b"<page>a</page>",
        Damage("<page>: longer than 200000 bytes"),
        b"<page>c</page>",
    ]


def test_entities_are_never_declared_so_never_expanded():
    bomb = b'<!DOCTYPE m [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><m><page>&b;</page></m>'
    (page,) = found(bomb)
    assert isinstance(page, bytes)
    assert parse(page) == Damage("not XML: undefined entity: line 1, column 6")


@pytest.mark.parametrize("page", [b"<page>\xff</page>", b"<page>\x01</page>", b"<page><a></page>"])
def test_what_is_no_xml_is_told(page: bytes):
    assert isinstance(parse(page), Damage)


def test_a_bomb_of_zeros_stays_small():
    code = (
        "import bz2, io; from puna.data.sources.xml_dump import Dump\n"
        "packed = io.BytesIO(bz2.compress(bytes(8 << 20)) * 16)\n"
        "assert list(Dump(packed, b'<page>', b'</page>')) == []\n"
        "from peak_memory import peak_bytes; print(peak_bytes())"
    )
    assert peak_of([sys.executable, "-c", code]) < 80 << 20
