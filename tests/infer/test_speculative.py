"""N-gram drafts against a plain search through the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.infer.speculative import NgramDrafts


def plain_proposal(ids: list[int], count: int, shortest: int, longest: int) -> list[int]:
    """The last n-gram searched for backwards, the longest first."""
    for size in range(longest, shortest - 1, -1):
        for begin in range(len(ids) - size - 1, -1, -1):
            if ids[begin : begin + size] == ids[len(ids) - size :]:
                text = list(ids)
                for place in range(begin + size, begin + size + count):
                    text.append(text[place])
                return text[len(ids) :]
    return []


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(0, 8),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 40),
)
def test_a_proposal_is_what_a_plain_search_finds(ids, count, shortest, more, cut):
    drafts = NgramDrafts(ids[:cut], shortest, shortest + more)
    drafts.extend(ids[cut:])
    assert drafts.propose(count) == plain_proposal(ids, count, shortest, shortest + more)


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        ([], []),
        ([1, 2, 3], []),
        ([1, 2, 3, 4, 5, 1, 2], [3, 4, 5, 1]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2, 4]),  # the latest of two
        ([9, 1, 2, 3, 1, 2, 4, 9, 1, 2], [3, 1, 2, 4]),  # the longest match before the latest
        ([7, 7, 7], [7, 7, 7, 7]),
    ],
)
def test_drafts_follow_the_longest_and_latest_match(ids, wanted):
    assert NgramDrafts(ids, 2, 3).propose(4) == wanted
