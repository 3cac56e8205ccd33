"""What a result was made from: a digest of the texts, and how two sets of inputs differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from puna.tokens.tokenizer import utf8


class TextFingerprint:
    """A stream of documents in three facts: `documents`, `bytes` (UTF-8) and `sha256`.

    Equal digests mean the same texts, with the same names, in the same order.
    """

    def __init__(self) -> None:
        self.documents = 0
        self.bytes = 0
        self._digest = hashlib.sha256()

    def add(self, text: str, name: str = "") -> bytes:
        """Count one document; returns its UTF-8. Raises TokenizerError for a lone surrogate."""
        content = utf8(text, f"{name or f'document {self.documents}'}: ")
        named = name.encode("utf-8", "surrogatepass")
        self._digest.update(f"{len(named)} {len(content)}\n".encode())
        self._digest.update(named)
        self._digest.update(content)
        self.documents += 1
        self.bytes += len(content)
        return content

    @property
    def sha256(self) -> str:
        """The digest so far as 64 hex digits."""
        return self._digest.hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each input that differs: its name, what is there, what is wanted here."""
    lines = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} is {_short(old)} there, {_short(new)} here")
    return lines


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
