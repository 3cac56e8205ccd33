"""Frames: whole messages however the bytes are cut, and one error for everything else."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.serve import wire
from puna.serve.errors import ServeError
from puna.serve.wire import LONGEST_FRAME_BYTES, FrameReader, error_message, frame_of

MESSAGES = st.lists(
    st.dictionaries(
        st.text(), st.none() | st.integers() | st.text() | st.lists(st.floats(allow_nan=False))
    ),
    max_size=4,
)


@given(MESSAGES, st.integers(1, 50))
def test_messages_come_back_however_they_are_cut(messages, size):
    content = b"".join(frame_of(one) for one in messages)
    frames = FrameReader()
    found = []
    for start in range(0, len(content), size):
        found += frames.feed(content[start : start + size])
    assert found == messages


def test_half_a_surrogate_pair_goes_through():
    assert list(FrameReader().feed(frame_of({"text": "\ud800"}))) == [{"text": "\ud800"}]


@given(st.binary(max_size=200))
def test_random_bytes_are_messages_or_one_error(content):
    with contextlib.suppress(ServeError):
        assert all(isinstance(one, dict) for one in FrameReader().feed(content))


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


@pytest.mark.parametrize(
    "content",
    [b"[]", b"7", b"", b"{", b'{"a": \xff}', b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000],
    ids=["list", "number", "nothing", "half", "latin", "deep lists", "deep objects", "long number"],
)
def test_what_is_no_json_object_is_one_error(content):
    with pytest.raises(ServeError) as caught:
        list(FrameReader().feed(framed(content)))
    assert caught.value.kind == "failed"
    assert len(caught.value.message) < 300


def test_a_frame_that_is_too_long_is_refused_before_it_is_there():
    with pytest.raises(ServeError, match="announced"):
        list(FrameReader().feed((LONGEST_FRAME_BYTES + 1).to_bytes(4, "big")))


def test_a_message_that_is_too_long_is_not_sent(monkeypatch):
    monkeypatch.setattr(wire, "LONGEST_FRAME_BYTES", 100)
    with pytest.raises(ServeError) as caught:
        frame_of({"text": "a" * 100})
    assert caught.value.status == 413


@pytest.mark.parametrize("kind", ["invalid", "busy", "failed", "unavailable"])
def test_an_error_arrives_as_it_was_sent(kind):
    sent = ServeError(kind, "it is so", hint="do this", param="prompt")
    found = ServeError.from_wire(json.loads(json.dumps(error_message(sent))))
    assert (found.kind, found.status, found.openai_body()) == (
        kind,
        sent.status,
        sent.openai_body(),
    )


def test_a_prompt_that_is_too_long_keeps_its_numbers():
    details = {"n_prompt_tokens": 9, "n_ctx": 8}
    sent = ServeError("context", "too long", details=details)
    assert ServeError.from_wire(error_message(sent)).details == details
