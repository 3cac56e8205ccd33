"""Exact de-duplication; the oracle is a dictionary from text to the first id."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from puna.data.dedup.exact import EXACT_DUPLICATE, SeenTexts, drop_duplicates
from puna.data.document import Document, Dropped


def document(text: str, name: object) -> Document:
    return Document(text, "source", "licence", str(name))


@given(st.lists(st.text("ab ", max_size=3), max_size=30))
def test_the_first_of_equal_texts_is_kept_and_the_others_name_it(texts):
    first: dict[str, str] = {}
    for number, text in enumerate(texts):
        first.setdefault(text, str(number))
    items = list(drop_duplicates(document(text, number) for number, text in enumerate(texts)))
    assert len(items) == len(texts)
    for number, (text, item) in enumerate(zip(texts, items, strict=True)):
        if first[text] == str(number):
            assert item == document(text, number)
        else:
            size = len(text.encode())
            assert item == Dropped(str(number), "source", EXACT_DUPLICATE, first[text], size)


def test_texts_that_differ_in_one_character_are_both_kept():
    texts = ["a", "a ", "A", "a\n", "á", "a\u0301"]
    kept = drop_duplicates(document(text, number) for number, text in enumerate(texts))
    assert [item.text for item in kept if isinstance(item, Document)] == texts


def test_the_same_document_twice_is_one():
    twice = document("text", 1)
    assert [type(item) for item in drop_duplicates([twice, twice])] == [Document, Dropped]


def test_what_was_dropped_before_passes_through():
    dropped = Dropped("1", "source", "empty")
    assert list(drop_duplicates([dropped, dropped])) == [dropped, dropped]


def test_memory_does_not_grow_with_the_length_of_texts():
    seen = SeenTexts()
    tracemalloc.start()
    for number in range(2000):
        assert (
            seen.first_equal(document(f"{number} " * 2000, f"folder/file.jsonl#{number}")) is None
        )
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(seen) == 2000
    assert held / 2000 < 300
