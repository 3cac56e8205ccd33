"""GPT-2's printable bytes: how byte-level BPE spells any byte as one visible character.

Printable Latin-1 characters stand for themselves; the 68 others get the characters from U+0100 on,
so that the space is U+0120 and the line feed U+010A.
"""

from __future__ import annotations

_THEMSELVES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _THEMSELVES)

CHARACTER_OF_BYTE: tuple[str, ...] = tuple(
    chr(byte) if byte in _THEMSELVES else chr(0x100 + _OTHERS.index(byte)) for byte in range(256)
)
BYTE_OF_CHARACTER: dict[str, int] = {letter: byte for byte, letter in enumerate(CHARACTER_OF_BYTE)}

_SPELL = dict(enumerate(CHARACTER_OF_BYTE))


def spelled(content: bytes) -> str:
    """Bytes as GPT-2's printable characters, one for each byte."""
    return content.decode("latin-1").translate(_SPELL)


def read_spelling(piece: str) -> bytes | None:
    """The bytes that a piece spells; None where a character of it stands for no byte."""
    try:
        return bytes(map(BYTE_OF_CHARACTER.__getitem__, piece))
    except KeyError:
        return None
