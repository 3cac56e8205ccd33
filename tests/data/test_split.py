"""What is held out: the rule over documents, and the ends of documents where there are few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.data.dedup.exact import EXACT_DUPLICATE
from puna.data.document import Document, Dropped
from puna.data.split import EQUALS_HELDOUT, HoldOut, cut_tails, split_of, tail_start

prose = st.text(st.sampled_from("ab. \n。é"), max_size=300)


def document(text: str, name: str = "a") -> Document:
    return Document(text, "source", "licence", name)


def test_every_20th_document_from_number_10_is_held_out():
    heldout = [number for number in range(249) if split_of(number, 20, 10) == "heldout"]
    assert heldout == [10, 30, 50, 70, 90, 110, 130, 150, 170, 190, 210, 230]


@given(text=prose, share=st.sampled_from([0.01, 0.05, 0.5]))
def test_a_cut_leaves_text_on_both_sides_or_none(text, share):
    cut = tail_start(text, share)
    assert 0 <= cut <= len(text)
    if cut < len(text):
        assert text[:cut].strip()
        assert text[cut:].strip()


@given(lines=st.lists(st.text("abc ", max_size=60), min_size=100, max_size=200))
def test_a_long_text_is_cut_at_the_line_nearest_to_the_share(lines):
    text = "first\n" + "\n".join(lines) + "\nlast"
    cut = tail_start(text, 0.05)
    ends = [place + 1 for place, character in enumerate(text) if character == "\n"]
    wanted = len(text) - round(len(text) * 0.05)
    nearest = min(abs(end - wanted) for end in ends)
    assert cut == len(text) or abs(cut - wanted) == nearest


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("x" * 1000 + "\n" + "y" * 50, "y" * 50),
        ("One thing. " * 20 + "The last. Words here", "Words here"),
        ("word " * 40 + "end", "word end"),
        ("一二三。" * 30, "一二三。" * 2),
        ("x" * 100, "x" * 5),
        ("hello there", "there"),
        ("one\r\ntwo\r\n" * 30, "two\r\n" + "one\r\ntwo\r\n"),
        ("short", ""),
        ("", ""),
        ("x" * 100 + " " * 60, ""),
    ],
)
def test_a_cut_is_at_a_line_else_a_sentence_else_a_word(text, tail):
    assert text[tail_start(text, 0.05) :] == tail


@given(texts=st.lists(prose, max_size=6))
def test_beginnings_and_ends_are_all_of_the_text_and_none_is_in_both(texts):
    given_documents = [document(text, str(number)) for number, text in enumerate(texts)]
    items = list(cut_tails(lambda: given_documents, 0.05))
    dropped = [item for item in items if isinstance(item, Dropped)]
    kept = [item for item in items if not isinstance(item, Dropped)]
    train = {one.id: one.text for split, one in kept if split == "train"}
    heldout = {one.id.removesuffix("#tail"): one.text for split, one in kept if split == "heldout"}
    assert not set(train.values()) & set(heldout.values())
    assert len(set(heldout.values())) == len(heldout)
    gone = {item.id.removesuffix("#tail") for item in dropped}
    for one in given_documents:
        if one.id not in gone:
            assert train[one.id] + heldout.get(one.id, "") == one.text


def test_a_text_equal_to_a_held_out_end_is_not_trained_on():
    long = document("x" * 99 + "\n" + "y" * 5, "long")
    items = list(cut_tails(lambda: [long, document("y" * 5, "same")], 0.05))
    assert [item[1].id for item in items if not isinstance(item, Dropped)] == ["long#tail", "long"]
    assert items[2] == Dropped("same", "source", EQUALS_HELDOUT, "long#tail", 5)


def test_equal_ends_are_held_out_once():
    first, second = document("a" * 99 + "\nend of it"), document("b" * 99 + "\nend of it", "b")
    items = list(cut_tails(lambda: [first, second], 0.05))
    assert Dropped("b#tail", "source", EXACT_DUPLICATE, "a#tail", 9) in items
    assert [item[0] for item in items if not isinstance(item, Dropped)] == [
        "heldout", "train", "train",
    ]  # fmt: skip


def test_a_build_holds_out_by_hash_or_by_number():
    texts = [f"text {number}" for number in range(2000)]
    by_hash = [HoldOut(20).split(0, text) for text in texts]
    assert by_hash == [HoldOut(20).split(number, text) for number, text in enumerate(texts)]
    assert 70 < by_hash.count("heldout") < 130
    by_number = HoldOut(20, 10)
    assert [by_number.split(number, "") for number in (9, 10, 30)] == [
        "train",
        "heldout",
        "heldout",
    ]
