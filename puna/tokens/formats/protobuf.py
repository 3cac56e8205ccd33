"""Protocol Buffers on the wire, as much as a SentencePiece model needs.

A message is a run of fields; each is a tag (field number * 8 + wire type) and a value: a varint
(0), 8 bytes (1), a length and that many bytes (2), or 4 bytes (5). Groups (3, 4) are long gone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from puna.errors import TokenizerError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_FLOAT = struct.Struct("<f")


@dataclass(frozen=True)
class Field:
    """One field: its number, wire type and value; for BYTES the value is where its bytes end."""

    number: int
    wire_type: int
    start: int  # of the value, in the file
    value: int


class WireReader:
    """Reads fields out of a file's bytes, never beyond the message they belong to."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data = data
        self.path = path

    def fail(self, offset: int, what: str) -> NoReturn:
        """Raise the TokenizerError of a broken message."""
        raise TokenizerError(
            f"{self.path}: byte {offset}: {what}",
            hint="the file is cut short or damaged: copy or download it again",
        )

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields between two offsets. Raises TokenizerError where they are broken."""
        at = start
        while at < end:
            tag, value_at = self.varint(at, end)
            number, wire_type = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                self.fail(at, f"field number {number} is none")
            if wire_type == VARINT:
                value, at = self.varint(value_at, end)
                yield Field(number, wire_type, value_at, value)
                continue
            if wire_type == BYTES:
                size, value_at = self.varint(value_at, end)
            elif wire_type in _FIXED_BYTES:
                size = _FIXED_BYTES[wire_type]
            else:
                self.fail(at, f"wire type {wire_type} is none that a model has")
            if size > end - value_at:
                self.fail(at, f"a value of {size:,} bytes, {end - value_at:,} are left")
            at = value_at + size
            yield Field(number, wire_type, value_at, at)

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The whole number at an offset, and the offset after it."""
        value = shift = 0
        for place in range(at, min(at + 10, end)):
            byte = self.data[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
            shift += 7
        self.fail(at, "a number that does not end")

    def text(self, field: Field, what: str) -> str:
        """The UTF-8 text of a BYTES field."""
        self.require(field, BYTES, what)
        try:
            return self.data[field.start : field.value].decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(field.start + error.start, f"{what} is not UTF-8")

    def number(self, field: Field, what: str) -> int:
        """The whole number of a VARINT field, read as a signed 32-bit one."""
        self.require(field, VARINT, what)
        low = field.value & 0xFFFF_FFFF
        return low - (1 << 32) if low >> 31 else low

    def float32(self, field: Field, what: str) -> float:
        """The number of a FIXED32 field."""
        self.require(field, FIXED32, what)
        value: float = _FLOAT.unpack_from(self.data, field.start)[0]
        return value

    def require(self, field: Field, wire_type: int, what: str) -> None:
        """Raise TokenizerError unless the field has this wire type."""
        if field.wire_type != wire_type:
            self.fail(field.start, f"{what} has wire type {field.wire_type}, not {wire_type}")


def varint(value: int) -> bytes:
    """A whole number on the wire; a negative one takes ten bytes, as Protocol Buffers has it."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def number_field(number: int, value: int) -> bytes:
    """A field that holds a whole number, or a bool as 0 or 1."""
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, content: bytes) -> bytes:
    """A field that holds bytes, text or another message."""
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def float_field(number: int, value: float) -> bytes:
    """A field that holds a float32."""
    return varint(number << 3 | FIXED32) + _FLOAT.pack(value)
