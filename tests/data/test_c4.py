"""C4 as published and as made from WET: rows, damage, and the rules on real samples."""

import gzip
import io
import json

import pytest
from public_samples import SAMPLES, needs_samples
from warc_records import members, record

from puna.data.document import DAMAGED, Document
from puna.data.quality.rules_c4 import C4Rules
from puna.data.sources import c4
from puna.data.sources.c4 import Settings

pytest.importorskip("fastwarc", reason="the extra `data` is not installed")

FREE = Settings(rules=C4Rules(bad_words=""))
ROW = {"text": "Some text.", "url": "http://a.b/c", "timestamp": "2019-04-25T12:57:54Z"}
LINES = "\n".join(
    ["A title", "This line is kept as it is.", "menu", "So is this one, I think.", "And the last!!"]
)
KEPT = "This line is kept as it is.\nSo is this one, I think."


def read(data: bytes, name: str, settings: Settings = FREE) -> list:
    return list(c4.read(io.BytesIO(data), f"/folder/{name}", settings))


@pytest.mark.parametrize(
    ("name", "pack", "language"),
    [
        ("c4-train.00000-of-01024.json.gz", gzip.compress, "en"),
        ("c4-validation.00003-of-00008.json.gz", gzip.compress, "en"),
        ("c4-de.tfrecord-00000-of-02048.json.gz", gzip.compress, "de"),
        ("c4-zh-Latn-validation.jsonl", bytes, ""),
        ("c4.jsonl", bytes, ""),
    ],
)
def test_a_published_row_is_a_document(name: str, pack, language: str):
    (document,) = read(pack(json.dumps(ROW).encode()), name)
    identifier, url = "http://a.b/c 2019-04-25T12:57:54Z", "http://a.b/c"
    assert document == Document("Some text.", "c4", c4.LICENCE, identifier, url, language)


def test_the_language_of_rows_may_be_told():
    (document,) = read(json.dumps(ROW).encode(), "c4.jsonl", Settings(language="en"))
    assert document.language == "en"


def test_bad_rows_are_damaged_and_the_others_stay():
    rows = [json.dumps(ROW), "{", '{"url": "x"}', '{"text": 1}', '{"text": "x", "url": 1}', "[]"]
    found = read("\n".join([*rows, '{"text": "end"}']).encode(), "a.json")
    assert [getattr(one, "reason", "kept") for one in found] == ["kept", *[DAMAGED] * 5, "kept"]
    assert [one.id for one in found[1:]] == [f"a.json#{number}" for number in range(2, 8)]
    assert "line 3 has no text" in found[2].detail


def test_rows_go_through_the_rules_when_asked_for():
    row = json.dumps({**ROW, "text": LINES}).encode()
    (as_published,) = read(row, "a.json")
    assert as_published.text == LINES
    settings = Settings(C4Rules(bad_words="", min_sentences=2), filters_rows=True)
    (cleaned,) = read(row, "a.json", settings)
    assert cleaned.text == KEPT


def test_wet_becomes_c4_by_its_rules():
    wet = members(*(record("conversion", text.encode()) for text in (LINES, "menu", "")))
    cleaned, few, empty = read(
        wet, "a.warc.wet.gz", Settings(C4Rules(bad_words="", min_sentences=2))
    )
    assert (cleaned.text, cleaned.source, cleaned.url) == (KEPT, "c4", "http://example.org/1")
    assert (few.reason, few.source, empty.reason) == ("few sentences", "c4", "no text")


@needs_samples
@pytest.mark.parametrize(
    ("name", "count", "damaged"),
    [("llama-factory/c4_demo.jsonl", 300, 0), ("dolma/cc_en_head-0091.jsonl.gz", 10, 0)],
)
def test_real_rows_are_read(name: str, count: int, damaged: int):
    found = read((SAMPLES / "c4" / name).read_bytes(), name, Settings())
    assert sum(isinstance(one, Document) for one in found) == count
    assert sum(not isinstance(one, Document) for one in found) == damaged
    assert len({one.id for one in found}) == len(found)
