"""Words and their ids, remembered: most of a text is words that came before."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from puna import hardware
from puna.tokens.encoders import LONG_TEXT, Encoder

# 186,000 words of 27 MB of English took 25 MB: 103 bytes each, and 30 of the table. Full of words
# of the greatest length the memory would take about 75 MB. A third more words make 220 MB of
# English no faster, a third less take 8 % more time.
MOST_WORDS = 3 << 16
LONGEST_WORD = 32  # characters; longer ones hardly come twice

# Remembering is several times as fast as encoding, but on one core: from here on the libraries,
# which use all cores, are ahead.
_CORES_FOR_LIBRARIES = 8


class WordCache:
    """An encoder with a memory. The ids are those of the encoder, whatever was remembered.

    Safe to use from several threads.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._words = encoder.words
        self._memory = _Memory(encoder.encode)

    def encode(self, text: str) -> bytes:
        """The ids of a text without markup, as bytes of int32.

        Raises ValueError for a lone surrogate.
        """
        if self._words is None:
            return _as_bytes(self._encoder.encode(text))
        ids = self._memory.__getitem__
        return b"".join([b"".join(map(ids, some)) for some in self._cut(text)])

    def _cut(self, text: str) -> Iterator[list[str]]:
        """The words of LONG_TEXT characters at a time: between these other threads go on."""
        assert self._words
        begin, size = 0, LONG_TEXT
        while begin < len(text):
            some = self._words.findall(text, begin, begin + size)
            if begin + size < len(text):
                some.pop()  # it may be longer
            size = LONG_TEXT if some else 2 * size
            begin += sum(map(len, some))  # words leave nothing out
            yield some

    def encode_many(self, texts: Sequence[str], cores: int | None = None) -> list[bytes]:
        """The ids of each text; without a memory, and on many cores, by the library at once."""
        cores = hardware.usable_cores() if cores is None else cores
        if self._words is None or cores >= _CORES_FOR_LIBRARIES:
            return [ids.tobytes() for ids in self._encoder.encode_batch(texts)]
        return [self.encode(text) for text in texts]

    def __len__(self) -> int:
        return len(self._memory)


class _Memory(dict[str, bytes]):
    """Word -> ids as bytes; a word that is not there is encoded, and kept."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._encode = encode
        self._lock = threading.Lock()

    def __missing__(self, word: str) -> bytes:
        ids = _as_bytes(self._encode(word))
        if len(word) <= LONGEST_WORD:
            if len(self) >= MOST_WORDS:
                self._make_room()
            self[word] = ids
        return ids

    def _make_room(self) -> None:
        """Forget the older half; frequent words come back at once."""
        with self._lock:
            if len(self) >= MOST_WORDS:
                for oldest in list(islice(self, MOST_WORDS // 2)):
                    self.pop(oldest, None)


def _as_bytes(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()
