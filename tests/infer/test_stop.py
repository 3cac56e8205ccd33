"""Stop strings found in text that arrives in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.infer.stop import StopStrings


def passed(pieces, stops) -> tuple[str, str | None]:
    """What comes out of the pieces, and the stop that was found."""
    watcher = StopStrings(stops)
    text = "".join([watcher.push(piece) for piece in pieces]) + watcher.flush()
    return text, watcher.found


@pytest.mark.parametrize(
    ("pieces", "stops", "wanted"),
    [
        (["one two"], (), ("one two", None)),
        (["one two three"], ("two",), ("one ", "two")),
        (["one t", "w", "o three"], ("two",), ("one ", "two")),
        (["one t", "wx"], ("two",), ("one twx", None)),
        (["ends in tw"], ("two",), ("ends in tw", None)),
        (["aab"], ("ab",), ("a", "ab")),
        (["xabcd"], ("abcd", "c"), ("xab", "c")),
        (["xabc"], ("bc", "abc"), ("x", "abc")),
        (["two", "two"], ("two",), ("", "two")),
        (["🦙 ends"], ("🦙",), ("", "🦙")),
    ],
)
def test_text_ends_before_the_stop_that_is_complete_first(pieces, stops, wanted):
    assert passed(pieces, stops) == wanted


@given(
    st.text("ab", max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.data(),
)
def test_the_cut_does_not_hang_on_how_the_text_arrives(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert passed(pieces, stops) == passed(list(text), stops) == passed([text], stops)


def test_only_what_may_start_a_stop_is_held_back():
    watcher = StopStrings(("END",))
    assert [watcher.push(piece) for piece in ("aE", "N", "b", "E")] == ["a", "", "ENb", ""]


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4),
)
def test_stops_are_found_as_by_a_plain_search_after_each_character(text, stops):
    going, found = text, None
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            found = max(ending, key=len)
            going = text[: end - len(found)]
            break
    assert passed(list(text), stops) == (going, found)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=6), max_size=4))
def test_nothing_is_held_back_that_cannot_become_a_stop(text, stops):
    watcher = StopStrings(stops)
    going = "".join(watcher.push(character) for character in text)
    if watcher.found is None:
        held = [n for n in range(len(text) + 1) for stop in stops if text.endswith(stop[:n])]
        assert len(text) - len(going) == max((n for n in held if n), default=0)
