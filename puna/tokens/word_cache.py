"""Words and their ids, remembered: most of a text is words that came before."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import islice

import numpy as np

from puna import hardware
from puna.tokens.encoders import Encoder, Ids
from puna.tokens.vocabulary import SPACE_MARK

# 131,072 words took 17 MB by their sizes in Python (103 bytes a word, 30 of the table); the
# longest that are kept bound it at 60 MB.
MOST_WORDS = 1 << 17
LONGEST_WORD = 32  # characters; longer ones hardly come twice

# A remembered word costs a sixth of encoding it, on one core: from here on the libraries, which
# use all cores, are ahead.
_CORES_FOR_LIBRARIES = 8


class WordCache:
    """An encoder with a memory. The ids are those of the encoder, whatever was remembered.

    Safe to use from several threads.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._words = encoder.words
        self._ids_of: dict[str, bytes] = {}  # int32 in the machine's order
        self._lock = threading.Lock()

    def encode(self, text: str) -> bytes:
        """The ids of a text without markup, as bytes of int32. Raises as `encode_many` does."""
        if self._words is None:
            return self._encoder.encode_batch([text])[0].tobytes()
        words = self._words.findall(text.replace(SPACE_MARK, " ") if SPACE_MARK in text else text)
        try:
            return b"".join(map(self._ids_of.__getitem__, words))
        except KeyError:
            return self._learn([words])[0]

    def encode_many(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text, as bytes of int32; new words of all texts are encoded at once.

        Raises ValueError for a lone surrogate.
        """
        if self._words is None or hardware.usable_cores() >= _CORES_FOR_LIBRARIES:
            return [ids.tobytes() for ids in self._encoder.encode_batch(texts)]
        result: list[bytes] = [b""] * len(texts)
        new: dict[int, list[str]] = {}
        for index, text in enumerate(texts):
            plain = text.replace(SPACE_MARK, " ") if SPACE_MARK in text else text
            words = self._words.findall(plain)
            try:
                result[index] = b"".join(map(self._ids_of.__getitem__, words))
            except KeyError:
                new[index] = words
        for index, ids in zip(new, self._learn(list(new.values())), strict=True):
            result[index] = ids
        return result

    def _learn(self, texts: list[list[str]]) -> list[bytes]:
        """The ids of texts given as their words, after encoding those words that are new."""
        known = {word: self._ids_of.get(word) for words in texts for word in words}
        missing = [word for word, ids in known.items() if ids is None]
        found = dict(zip(missing, map(_as_bytes, self._encoder.encode_batch(missing)), strict=True))
        ids_of = {word: ids if ids is not None else found[word] for word, ids in known.items()}
        self._remember({word: ids for word, ids in found.items() if len(word) <= LONGEST_WORD})
        return [b"".join(map(ids_of.__getitem__, words)) for words in texts]

    def _remember(self, found: dict[str, bytes]) -> None:
        with self._lock:
            room = MOST_WORDS - len(self._ids_of)
            if len(found) > room:
                for word in list(islice(self._ids_of, MOST_WORDS // 2)):
                    del self._ids_of[word]
            self._ids_of.update(islice(found.items(), MOST_WORDS // 2))


def _as_bytes(ids: Ids) -> bytes:
    return np.asarray(ids, dtype=np.int32).tobytes()
