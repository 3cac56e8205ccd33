"""Words as arrays; the oracles are str.split, a regular expression and str's own questions."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.data import words
from puna.data.words import words_of

ODD = st.text(st.sampled_from("ab Z_-\0\n\t\x85\u2028\u3000é½²Ⅷ日本,\u0301\ud800😀"), max_size=60)


def check(text: str, parted: words.Parted) -> None:
    found = words_of(text, parted)
    expected = text.split() if parted == "spaces" else re.findall(r"\w+", text)
    assert found.characters.tolist() == [len(word) for word in expected]
    assert found.begins_with_letter.tolist() == [word[0].isalpha() for word in expected]
    number = dict(zip(expected, found.numbers.tolist(), strict=True))
    assert found.numbers.tolist() == [number[word] for word in expected]
    assert len(set(number.values())) == len(number)


@pytest.mark.parametrize("parted", ["spaces", "marks"])
@given(text=ODD | st.text(max_size=60))
def test_words_are_those_of_str(parted, text):
    check(text, parted)


@pytest.mark.parametrize("parted", ["spaces", "marks"])
@given(text=ODD)
def test_texts_are_cut_between_words(parted, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_PIECE", 8)
        check(" ".join(text[at : at + 8] for at in range(0, len(text), 8)), parted)


def test_a_number_is_the_polynomial_of_a_words_characters():
    text = "The puna, 日本 😀" + " word" * 20_000
    expected = [
        sum(ord(one) * pow(words._BASE, at, 1 << 64) for at, one in enumerate(word)) + len(word)
        for word in text.split()
    ]
    assert words_of(text).numbers.tolist() == [number % (1 << 64) for number in expected]


def test_a_word_longer_than_two_pieces_is_cut():
    found = words_of("x" * (5 * words._PIECE))
    assert found.characters.tolist() == [2 * words._PIECE, 2 * words._PIECE, words._PIECE]


@pytest.mark.parametrize("name", ["_SPACE", "_LETTER", "_PLAIN"])
def test_every_character_is_what_str_says(name):
    is_so = {
        "_SPACE": str.isspace,
        "_LETTER": str.isalpha,
        "_PLAIN": lambda one: one.isalnum() or one == "_",
    }[name]
    kinds = words._kinds() & getattr(words, name)
    assert np.flatnonzero(kinds).tolist() == [code for code in range(0x110000) if is_so(chr(code))]
