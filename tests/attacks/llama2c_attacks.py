"""One crafted llama2.c file for every lie a header of seven numbers can tell, with its error."""

from __future__ import annotations

import struct

FIELDS = ("dim", "hidden_dim", "layers", "heads", "kv_heads", "vocabulary", "context")
GOOD = {
    "dim": 8,
    "hidden_dim": 6,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "vocabulary": 10,
    "context": 3,
}
MOST, LEAST = 2**31 - 1, -(2**31)


def header(**changes: int) -> bytes:
    """The 28 bytes of a header with some fields changed."""
    return struct.pack("<7i", *({**GOOD, **changes}[field] for field in FIELDS))


def body(vocabulary: int = 10) -> bytes:
    """The weights that `GOOD` asks for: numbers from 0 to 1."""
    dim, hidden, layers, kv = 8, 6, 2, 4
    per_layer = 2 * dim * dim + 2 * dim * kv + 3 * dim * hidden + 2 * dim
    values = abs(vocabulary) * dim + layers * per_layer + dim + 3 * 4
    if vocabulary < 0:
        values += abs(vocabulary) * dim
    return struct.pack(f"<{values}f", *(index / values for index in range(values)))


GOOD_FILE = header() + body()
SIZE = "by its header it should have"

ATTACKS: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "a header of 28 bytes should begin, found 0"),
    "half a header": (header()[:27], "a header of 28 bytes should begin, found 27"),
    "a header alone": (header(), SIZE),
    "one byte too few": (GOOD_FILE[:-1], SIZE),
    "one byte too many": (GOOD_FILE + b"\0", SIZE),
    "version 1 of the format": (struct.pack("<Ii", 0x616B3432, 1) + bytes(300), "found version 1"),
    "version 2 of the format": (struct.pack("<Ii", 0x616B3432, 2) + bytes(300), "found version 2"),
    "big-endian numbers": (struct.pack(">7i", *GOOD.values()) + body(), SIZE + "|should be"),
    "an output of its own that is not there": (header(vocabulary=-10) + body(), SIZE),
    "an output that is not told": (header() + body(-10), SIZE),
    "zeros": (bytes(len(GOOD_FILE)), "byte 0: dim should be at least 1"),
    "ones": (b"\xff" * len(GOOD_FILE), "byte 0: dim should be at least 1, found -1"),
    "text": (b"the weights of a very small llama" * 9, "an even head size"),
    "a dim that heads do not divide": (header(dim=9) + body(), "an even head size"),
    "heads of odd size": (header(dim=6) + body(), "an even head size"),
    "kv heads that do not divide": (header(kv_heads=3) + body(), "kv_heads must divide"),
    "more kv heads than heads": (header(kv_heads=4) + body(), "kv_heads must divide"),
    "the least vocabulary": (header(vocabulary=LEAST) + body(), SIZE),
    "all of the most": (struct.pack("<7i", *[MOST - 7] * 7) + body(), "an even head size"),
    "layers of the most with the least": (
        header(dim=2, hidden_dim=1, heads=1, vocabulary=1, context=1, layers=MOST) + body(),
        SIZE,
    ),
    "a value that is not finite": (
        GOOD_FILE[:28] + struct.pack("<f", float("nan")) + GOOD_FILE[32:],
        r"tok_embeddings\.weight: its values should be finite",
    ),
    "an infinite value at the end": (
        header(vocabulary=-10) + body(-10)[:-4] + struct.pack("<f", float("-inf")),
        r"output\.weight: its values should be finite",
    ),
}
for _field in FIELDS:
    ATTACKS[f"{_field} of 0"] = (header(**{_field: 0}) + body(), f"{_field}.* should be at least 1")
    ATTACKS[f"{_field} of the most"] = (
        header(**{_field: MOST}) + body(),
        SIZE + "|an even head size|must divide",
    )
    if _field != "vocabulary":  # where the sign says something
        ATTACKS[f"{_field} below 0"] = (
            header(**{_field: LEAST}) + body(),
            f"{_field}.* should be at least 1",
        )
