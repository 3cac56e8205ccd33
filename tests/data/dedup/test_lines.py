"""CCNet's paragraph de-duplication against a plain twin of its rules, over groups of shards."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.data.dedup.lines import (
    NO_LINES_LEFT,
    LineFilter,
    Settings,
    line_keys,
    normalised,
    repeated_lines,
    shard_keys,
)
from puna.data.document import Document, Dropped


def documents(*texts: str) -> list[Document]:
    return [Document(text, "test", "none", str(number)) for number, text in enumerate(texts)]


def filtered(shards: list[list[Document]], *, keeps_first: bool = False, parts: int = 3):
    """The text of every document of every shard; None for a dropped one."""
    keys = [shard_keys(shard) for shard in shards]
    repeated = repeated_lines([lambda one=one: one for one in keys], parts=parts)
    found = []
    for number, shard in enumerate(shards):
        lines = LineFilter(repeated, number, Settings(keeps_first=keeps_first))
        found.append([None if isinstance(x, Dropped) else x.text for x in lines.apply(shard)])
    return found


def twin(shards: list[list[Document]], *, keeps_first: bool) -> list[list[str | None]]:
    """Dictionaries and loops, straight from the paper's section 3.2."""
    lines = [x for shard in shards for one in shard for x in one.text.split("\n") if x.strip()]
    counts = Counter(map(normalised, lines))
    seen: set[str] = set()

    def stays(line: str) -> bool:
        if not line.strip():
            return True
        is_first = normalised(line) not in seen
        seen.add(normalised(line))
        return counts[normalised(line)] == 1 or (keeps_first and is_first)

    def kept(text: str) -> str | None:
        lines = [line for line in text.split("\n") if stays(line)]
        return "\n".join(lines) if any(line.strip() for line in lines) else None

    return [[kept(one.text) for one in shard] for shard in shards]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("  Hello, World! ", "hello, world!"),
        ("In 1984: 12 %", "in 0000: 00 %"),
        ("«Bonjour» – dit-il…", "bonjour  dit-il"),  # noqa: RUF001
        ("tab\there\x7f\x9f", "tabhere"),
        ("Été", "été"),  # the paper says that accents go; CCNet's code keeps them
        ("１２", "00"),  # noqa: RUF001 (full-width digits)
    ],
)
def test_a_line_is_normalised_as_by_ccnet(line: str, left: str):
    assert normalised(line) == left


def test_a_key_is_the_first_eight_bytes_of_the_sha1():
    digest = hashlib.sha1(b"hello 0").digest()
    assert line_keys("Hello 7\n\n \n").tolist() == [int.from_bytes(digest[:8], "little")]


def test_no_copy_survives_and_case_and_digits_do_not_count():
    shards = [documents("Page 1\nalone", "PAGE 2"), documents("page 3\nalso alone")]
    assert filtered(shards) == [["alone", None], ["also alone"]]


def test_the_first_copy_can_stay():
    shards = [documents("alone", "twice\nmore\ntwice"), documents("twice\nend")]
    found = filtered(shards, keeps_first=True)
    assert found == [["alone", "twice\nmore"], ["end"]]


def test_paragraphs_stay_apart_and_counts_are_kept():
    (shard,) = [documents("one\n\nmenu\n\ntwo", "menu", "")]
    repeated = repeated_lines([lambda: shard_keys(shard)])
    lines = LineFilter(repeated, 0, Settings())
    first, *others = lines.apply(shard)
    assert first.text == "one\n\ntwo"
    assert [one.reason for one in others] == [NO_LINES_LEFT] * 2
    assert (lines.lines_in, lines.lines_dropped) == (4, 2)


def test_an_empty_group_repeats_nothing():
    assert filtered([[]]) == [[]]
    assert len(repeated_lines([]).keys) == 0


WORDS = st.lists(st.sampled_from("a b c d e f 1 2 A é".split()), max_size=4)  # noqa: SIM905
TEXTS = st.lists(WORDS.map("\n".join), max_size=4)


@given(st.lists(TEXTS, max_size=4), st.booleans(), st.integers(1, 5))
def test_parts_and_shards_do_not_change_what_is_repeated(texts, keeps_first, parts):
    shards = [documents(*one) for one in texts]
    expected = twin(shards, keeps_first=keeps_first)
    assert filtered(shards, keeps_first=keeps_first, parts=parts) == expected


def test_keys_come_from_memory_maps_too(tmp_path):
    np.save(tmp_path / "a.npy", shard_keys(documents("x\ny", "x")))
    repeated = repeated_lines([lambda: np.load(tmp_path / "a.npy", mmap_mode="r")])
    assert repeated.keys.tolist() == line_keys("x").tolist()
    assert repeated.first_shards.tolist() == [0]
