"""A tiny LLaMA in GGUF, put together byte by byte, and one broken copy for every way to break it.

The names in capitals are the classes of llama.cpp's own tests of its GGUF reader.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

F32, Q8_0 = 0, 8
UINT8, INT32, UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 5, 4, 6, 7, 8, 9, 10
DIM, HEADS, KV_HEADS, HIDDEN, PIECES = 8, 2, 1, 6, 5
TWO_63 = 1 << 63
TWO_64 = 1 << 64


def string(content: bytes | str, length: int | None = None) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def text(content: bytes | str, length: int | None = None) -> bytes:
    return struct.pack("<I", STRING) + string(content, length)


def u32(value: int) -> bytes:
    return struct.pack("<II", UINT32, value)


def f32(value: float) -> bytes:
    return struct.pack("<If", FLOAT32, value)


def strings(items: list[str], count: int | None = None) -> bytes:
    head = struct.pack("<IIQ", ARRAY, STRING, len(items) if count is None else count)
    return head + b"".join(map(string, items))


def numbers(kind: int, code: str, items: list, count: int | None = None) -> bytes:
    head = struct.pack("<IIQ", ARRAY, kind, len(items) if count is None else count)
    return head + struct.pack(f"<{len(items)}{code}", *items)


KEYS: dict[str, bytes] = {
    "general.architecture": text("llama"),
    "llama.block_count": u32(1),
    "llama.context_length": u32(16),
    "llama.embedding_length": u32(DIM),
    "llama.feed_forward_length": u32(HIDDEN),
    "llama.attention.head_count": u32(HEADS),
    "llama.attention.head_count_kv": u32(KV_HEADS),
    "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
    "llama.rope.dimension_count": u32(DIM // HEADS),
    "llama.vocab_size": u32(PIECES),
    "tokenizer.ggml.model": text("llama"),
    "tokenizer.ggml.tokens": strings(["<unk>", "<s>", "</s>", "a", "b"]),
    "tokenizer.ggml.scores": numbers(FLOAT32, "f", [0, 0, 0, -1, -2]),
    "tokenizer.ggml.token_type": numbers(INT32, "i", [2, 3, 3, 1, 1]),
    "tokenizer.ggml.bos_token_id": u32(1),
    "tokenizer.ggml.eos_token_id": u32(2),
}


@dataclass(frozen=True)
class Entry:
    """One tensor; None is what a good file says there."""

    name: bytes
    shape: tuple[int, ...]  # columns first
    kind: int = F32
    name_length: int | None = None
    dimensions: int | None = None
    offset: int | None = None
    data: bytes | None = None

    def content(self) -> bytes:
        if self.data is not None:
            return self.data
        count = 1
        for size in self.shape:
            count *= size
        return struct.pack(f"<{count}f", *((index % 7 - 3) / 8 for index in range(count)))


KV_DIM = DIM // HEADS * KV_HEADS
ENTRIES = [
    Entry(b"token_embd.weight", (DIM, PIECES)),
    Entry(b"blk.0.attn_q.weight", (DIM, DIM)),
    Entry(b"blk.0.attn_k.weight", (DIM, KV_DIM)),
    Entry(b"blk.0.attn_v.weight", (DIM, KV_DIM)),
    Entry(b"blk.0.attn_output.weight", (DIM, DIM)),
    Entry(b"blk.0.ffn_gate.weight", (DIM, HIDDEN)),
    Entry(b"blk.0.ffn_down.weight", (HIDDEN, DIM)),
    Entry(b"blk.0.ffn_up.weight", (DIM, HIDDEN)),
    Entry(b"blk.0.attn_norm.weight", (DIM,)),
    Entry(b"blk.0.ffn_norm.weight", (DIM,)),
    Entry(b"output_norm.weight", (DIM,)),
]


def padding(length: int, alignment: int) -> bytes:
    return b"\0" * (-length % alignment)


def header(keys: list[bytes], entries: list[Entry], *, alignment: int = 32, **wrong: int) -> bytes:
    """Everything before the data; `wrong` overrides version, tensor_count, key_count."""
    parts = [struct.pack("<I", wrong.get("version", 3))]
    parts.append(struct.pack("<Q", wrong.get("tensor_count", len(entries))))
    parts += [struct.pack("<Q", wrong.get("key_count", len(keys))), *keys]
    offset = 0
    for entry in entries:
        parts.append(string(entry.name, entry.name_length))
        dimensions = len(entry.shape) if entry.dimensions is None else entry.dimensions
        parts.append(struct.pack(f"<I{len(entry.shape)}Q", dimensions, *entry.shape))
        parts.append(
            struct.pack("<IQ", entry.kind, offset if entry.offset is None else entry.offset)
        )
        size = len(entry.data) if entry.data is not None else 0
        if entry.data is None and max(entry.shape, default=0) < 1000:
            size = len(entry.content())
        offset += size + len(padding(size, alignment))
    content = b"GGUF" + b"".join(parts)
    return content + padding(len(content), alignment)


def encoded(keys: dict[str, bytes]) -> list[bytes]:
    return [string(name) + value for name, value in keys.items()]


def gguf(
    keys: dict[str, bytes] | list[bytes] | None = None,
    entries: list[Entry] | None = None,
    *,
    alignment: int = 32,
    **wrong: int,
) -> bytes:
    """A whole file, good unless something is given that is not."""
    keys = KEYS if keys is None else keys
    entries = ENTRIES if entries is None else entries
    keys = encoded(keys) if isinstance(keys, dict) else keys
    content = header(keys, entries, alignment=alignment, **wrong)
    for entry in entries:
        if max(entry.shape, default=0) < 1000:
            content += entry.content() + padding(len(entry.content()), alignment)
    return content


GOOD = gguf()
HEADER_BYTES = len(header(encoded(KEYS), ENTRIES))
UNPADDED_BYTES = len(header(encoded(KEYS), ENTRIES, alignment=1))


# A file with more to go wrong in: values of every type, rotary factors, blocks of several kinds.
WIDE = 32
RICH_KEYS = KEYS | {
    "llama.embedding_length": u32(WIDE),
    "llama.feed_forward_length": u32(WIDE),
    "llama.rope.dimension_count": u32(WIDE // HEADS),
    "llama.rope.freq_base": f32(500000.0),
    "llama.attention.sliding_window": u32(12),
    "general.type": text("model"),
    "general.languages": strings(["en", "es"]),
    "a.flag": struct.pack("<IB", BOOL, 1),
    "a.large": struct.pack("<IQ", UINT64, TWO_63),
    "a.flags": numbers(BOOL, "?", [True, False]),
    "a.bytes": numbers(UINT8, "B", [1, 2, 3]),
    "tokenizer.ggml.eog_token_ids": numbers(INT32, "i", [2]),
}
FACTORS = (1.0, 1.0, 1.0, 1.0, 2.6945300102233887, 8.0, 8.0, 8.0)  # LLaMA 3.1, heads of 16


def blocks(kind: int, block_bytes: int, rows: int) -> dict:
    """Rows of one block each, with a scale of 0.5 and counting codes."""
    one = struct.pack("<e", 0.5) + bytes(range(block_bytes - 2))
    return {"kind": kind, "data": one * rows}


def halves(count: int) -> dict:
    return {"kind": 1, "data": struct.pack("<e", 0.5) * count}


RICH_ENTRIES = [
    Entry(b"token_embd.weight", (WIDE, PIECES), **blocks(Q8_0, 34, PIECES)),
    Entry(b"blk.0.attn_q.weight", (WIDE, WIDE), **blocks(2, 18, WIDE)),
    Entry(b"blk.0.attn_k.weight", (WIDE, WIDE // 2), **blocks(6, 22, WIDE // 2)),
    Entry(b"blk.0.attn_v.weight", (WIDE, WIDE // 2), **halves(WIDE * WIDE // 2)),
    Entry(b"blk.0.attn_output.weight", (WIDE, WIDE), **blocks(20, 18, WIDE)),
    Entry(b"blk.0.ffn_gate.weight", (WIDE, WIDE), **blocks(2, 18, WIDE)),
    Entry(b"blk.0.ffn_down.weight", (WIDE, WIDE), **blocks(2, 18, WIDE)),
    Entry(b"blk.0.ffn_up.weight", (WIDE, WIDE), **blocks(2, 18, WIDE)),
    *(Entry(name, (WIDE,)) for name in (b"blk.0.attn_norm.weight", b"blk.0.ffn_norm.weight")),
    Entry(b"output_norm.weight", (WIDE,)),
    Entry(b"rope_freqs.weight", (8,), data=struct.pack("<8f", *FACTORS)),
]
RICH = gguf(RICH_KEYS, RICH_ENTRIES)
RICH_HEADER_BYTES = len(header(encoded(RICH_KEYS), RICH_ENTRIES))


def with_keys(**changed: bytes) -> bytes:
    """GOOD with keys added or changed; `__` in a name stands for a dot."""
    return gguf(KEYS | {name.replace("__", "."): value for name, value in changed.items()})


def without_key(name: str) -> bytes:
    return gguf({key: value for key, value in KEYS.items() if key != name})


def with_entry(index: int, **changed) -> bytes:
    """GOOD with one entry of the list of tensors changed."""
    entries = list(ENTRIES)
    entries[index] = replace(entries[index], **changed)
    return gguf(entries=entries)


def with_raw_key(content: bytes) -> bytes:
    return gguf([*encoded(KEYS), content])


def bit_flipped_at_end(content: bytes) -> bytes:
    return content[:-4] + struct.pack("<f", float("inf"))


CONTAINER: dict[str, tuple[bytes, str]] = {
    "HEADER_BAD_MAGIC": (b"GGML" + GOOD[4:], "byte 0: .*begin with b'GGUF', found b'GGML'"),
    "HEADER_BAD_VERSION_0": (gguf(version=0), "byte 4: .*version should be 2 or 3, found 0"),
    "HEADER_BAD_VERSION_1": (gguf(version=1), "version should be 2 or 3, found 1"),
    "HEADER_BAD_VERSION_FUTURE": (gguf(version=4), "version should be 2 or 3, found 4"),
    "header: big-endian": (b"GGUF\0\0\0\3" + GOOD[8:], "byte 4: .*big-endian"),
    "HEADER_BAD_N_TENSORS": (
        gguf(tensor_count=TWO_64 - 1),
        "byte 8: 18,446.* tensors cannot be in",
    ),
    "HEADER_BAD_N_KV": (gguf(key_count=TWO_63), "byte 16: 9,223.* keys cannot be in a file of"),
    "header: one key more": (gguf(key_count=len(KEYS) + 1), "byte"),
    "header: one tensor more": (gguf(tensor_count=len(ENTRIES) + 1), "byte"),
    "header: one tensor fewer": (
        gguf(tensor_count=len(ENTRIES) - 1),
        "output_norm.weight should have",
    ),
    "KV_BAD_KEY_SIZE": (with_raw_key(string(b"x", TWO_64 - 1) + u32(1)), "key 16 should be 1 to"),
    "KV_EMPTY_KEY": (with_raw_key(string(b"") + u32(1)), "key 16 should be 1 to 65,535 bytes"),
    "key: beyond the file": (
        with_raw_key(string(b"x", 60000) + u32(1)),
        "key 16 should take 60,000",
    ),
    "KV_BAD_TYPE": (
        with_keys(x=struct.pack("<I", 13)),
        "value of 'x' should be of .*found type 13",
    ),
    "KV_BAD_TYPE negative": (with_keys(x=b"\xff" * 4), "found type 4294967295"),
    "KV_DUPLICATE_KEY": (with_raw_key(encoded(KEYS)[1]), "'llama.block_count' is there twice"),
    "KV_BAD_ALIGN": (with_keys(general__alignment=u32(33)), "power of two as uint32, found 33"),
    "alignment: zero": (with_keys(general__alignment=u32(0)), "power of two as uint32, found 0"),
    "KV_WRONG_TYPE_ALIGN": (
        with_keys(general__alignment=struct.pack("<IQ", UINT64, 32)),
        "power of two as uint32, found type 10",
    ),
    "alignment: an array": (
        with_keys(general__alignment=numbers(UINT32, "I", [32])),
        "power of two as uint32, found type 9",
    ),
    "alignment: beyond the file": (
        with_keys(general__alignment=u32(1 << 31)),
        "token_embd.weight' should (begin|take)|blk.0.attn_q.weight' should begin",
    ),
    "string: beyond the file": (with_keys(x=text(b"", TWO_63)), "value of 'x' should take 9,223"),
    "string: length near 2^64": (with_keys(x=text(b"", TWO_64 - 8)), "value of 'x' should take"),
    "string: no UTF-8": (with_keys(x=text(b"\xff\xfe")), "value of 'x' should be UTF-8, .*0xff"),
    "array: too many elements": (
        with_keys(x=numbers(FLOAT32, "f", [], 1 << 62)),
        "4,611.* elements of the value of 'x' cannot be in",
    ),
    "array: too many strings": (with_keys(x=strings([], 1 << 61)), "elements of the value of 'x'"),
    "array: of arrays": (
        with_keys(x=struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", UINT8, 0)),
        "found an array of arrays",
    ),
    "array: of a type that is none": (with_keys(x=struct.pack("<IIQ", ARRAY, 99, 0)), "type 99"),
    "bool: neither true nor false": (with_keys(x=struct.pack("<IB", BOOL, 2)), "true .1. or false"),
    "TENSORS_BAD_NAME_SIZE": (
        with_entry(0, name_length=TWO_64 - 1),
        "name of a tensor should be 1 to 63 bytes long",
    ),
    "TENSORS_BAD_NAME_SIZE 64": (with_entry(0, name=b"n" * 64), "1 to 63 bytes long, found 64"),
    "TENSORS_BAD_N_DIMS": (with_entry(0, dimensions=5), "1 to 4 dimensions, found 5"),
    "tensor: no dimensions": (with_entry(0, dimensions=0), "1 to 4 dimensions, found 0"),
    "TENSORS_BAD_SHAPE": (with_entry(0, shape=(TWO_64 - 1, 5)), "shape of 'token_embd.* cannot be"),
    "TENSORS_ZERO_DIM": (with_entry(0, shape=(DIM, 0)), "'token_embd.weight' cannot be .8, 0."),
    "TENSORS_NE_TOO_BIG": (with_entry(0, shape=(1 << 32, 1 << 32)), "cannot be .4294967296, 4294"),
    "TENSORS_NBYTES_TOO_BIG": (with_entry(10, shape=(1 << 61,)), "output_norm.weight' should take"),
    "TENSORS_NBYTES_PAD_WRAP": (
        with_entry(10, shape=((1 << 62) - 1,)),
        "output_norm.weight' should take 18,446,744,073,709,551,612 bytes",
    ),
    "TENSORS_BAD_TYPE": (with_entry(0, kind=4), "type that GGUF knows, found type 4"),
    "TENSORS_BAD_TYPE negative": (with_entry(0, kind=TWO_63 >> 32), "found type 2147483648"),
    "tensor: rows of no whole blocks": (with_entry(0, kind=Q8_0), "whole blocks of 32 values"),
    "TENSORS_BAD_OFFSET": (with_entry(1, offset=1), "attn_q.weight' should begin 160 bytes into"),
    "tensor: offset near 2^64": (with_entry(0, offset=TWO_64 - 32), "should begin 0 bytes into"),
    "tensor: two at one place": (with_entry(1, offset=0), "should begin 160 bytes .*found 0"),
    "TENSORS_DUPLICATE_NAME": (
        with_entry(1, name=b"token_embd.weight"),
        "tensor 'token_embd.weight' is there twice",
    ),
    "TENSORS_BAD_ALIGN": (with_keys(general__alignment=u32(64)), "should begin 192 bytes into"),
    "TENSORS_INCONSISTENT_ALIGN": (gguf(alignment=128), "should begin 160 .* found 256"),
    "DATA_NOT_ENOUGH_DATA": (GOOD[:-1], "output_norm.weight' should take 32 bytes"),
    "data: none at all": (GOOD[:HEADER_BYTES], "'token_embd.weight' should take 160 bytes"),
    "DATA_BAD_ALIGN": (
        GOOD[:UNPADDED_BYTES] + GOOD[HEADER_BYTES:],
        "output_norm.weight' should take",
    ),
    "DATA_MEM_SIZE_OVERFLOW": (with_entry(10, shape=(1 << 60, 3)), "cannot be|should take"),
}

MODEL: dict[str, tuple[bytes, str]] = {
    "architecture: another": (
        with_keys(general__architecture=text("gpt2")),
        "'llama', found 'gpt2'",
    ),
    "architecture: absent": (without_key("general.architecture"), "general.architecture should be"),
    "architecture: a list": (
        with_keys(general__architecture=strings(["llama"])),
        "general.architecture should be 'llama'",
    ),
    "type: an adapter": (
        with_keys(general__type=text("adapter")),
        "general.type should be 'model'",
    ),
    "block_count: absent": (without_key("llama.block_count"), "block_count should be a whole"),
    "block_count: zero": (with_keys(llama__block_count=u32(0)), "block_count should be a whole"),
    "block_count: huge": (
        with_keys(llama__block_count=u32((1 << 32) - 1)),
        "block_count should be at most 2147483647",
    ),
    "block_count: one more": (with_keys(llama__block_count=u32(2)), "blk.1.attn_q.weight should"),
    "block_count: a float": (
        with_keys(llama__block_count=f32(1.0)),
        "a whole number from 1",
    ),
    "block_count: true": (
        with_keys(llama__block_count=struct.pack("<IB", BOOL, 1)),
        "a whole number from 1",
    ),
    "heads: do not divide": (
        with_keys(llama__attention__head_count=u32(3)),
        "dim must be heads times",
    ),
    "heads: zero": (with_keys(llama__attention__head_count=u32(0)), "head_count should be"),
    "heads: different by layer": (
        with_keys(llama__attention__head_count=numbers(UINT32, "I", [2, 4])),
        "a whole number from 1, found list",
    ),
    "kv heads: do not divide": (
        with_keys(llama__attention__head_count_kv=u32(4)),
        "kv_heads must divide heads 2, got 4",
    ),
    "embedding_length: another": (
        with_keys(llama__embedding_length=u32(16), llama__rope__dimension_count=u32(8)),
        "token_embd.weight should have the shape .5, 16.*, found the shape .5, 8.",
    ),
    "feed_forward_length: another": (
        with_keys(llama__feed_forward_length=u32(7)),
        "ffn_gate.weight should have the shape .7, 8.*, found the shape .6, 8.",
    ),
    "rope dimensions: part of a head": (
        with_keys(llama__rope__dimension_count=u32(2)),
        "dimension_count should be 4",
    ),
    "head size: another": (
        with_keys(llama__attention__key_length=u32(8)),
        "key_length should be 4",
    ),
    "epsilon: NaN": (
        with_keys(llama__attention__layer_norm_rms_epsilon=f32(float("nan"))),
        "epsilon should be a number above 0",
    ),
    "epsilon: zero": (
        with_keys(llama__attention__layer_norm_rms_epsilon=f32(0.0)),
        "epsilon should be a number above 0",
    ),
    "rope base: infinite": (
        with_keys(llama__rope__freq_base=f32(float("inf"))),
        "base should be a number",
    ),
    "rope base: a string": (
        with_keys(llama__rope__freq_base=text("1e4")),
        "base should be a number",
    ),
    "rope scaling: yarn": (with_keys(llama__rope__scaling__type=text("yarn")), "none or linear"),
    "rope scaling: a list": (
        with_keys(llama__rope__scaling__type=strings(["linear", "none"])),
        "type should be none or linear",
    ),
    "rope scaling: negative": (
        with_keys(llama__rope__scaling__factor=f32(-2.0)),
        "factor should be",
    ),
    "context: huge": (with_keys(llama__context_length=u32(1 << 30)), "at most 16777216"),
    "context: absent": (without_key("llama.context_length"), "context_length should be a whole"),
    "experts": (with_keys(llama__expert_count=u32(8)), "expert_count should be absent or 0"),
    "experts: a list": (
        with_keys(llama__expert_count=numbers(UINT32, "I", [0, 8])),
        "expert_count should be absent",
    ),
    "attention: not causal": (
        with_keys(llama__attention__causal=struct.pack("<IB", BOOL, 0)),
        "attention.causal should be absent or True",
    ),
    "vocabulary: not the embedding's": (
        with_keys(llama__vocab_size=u32(6)),
        "vocab_size should be 5",
    ),
    "pieces: one fewer": (
        with_keys(tokenizer__ggml__tokens=strings(["a", "b", "c", "d"])),
        "should hold the 5 pieces .* found 4 pieces",
    ),
    "pieces: numbers": (
        with_keys(tokenizer__ggml__tokens=numbers(INT32, "i", [1, 2, 3, 4, 5])),
        "found no list of strings",
    ),
    "tensor: absent": (
        gguf(entries=ENTRIES[:-1]),
        "output_norm.weight should have the shape .* found nothing",
    ),
    "tensor: of another model": (
        gguf(entries=[*ENTRIES, Entry(b"blk.0.attn_q.bias", (DIM,))]),
        "holds 'blk.0.attn_q.bias', which a LLaMA of Puna's lacks",
    ),
    "tensor: transposed": (
        with_entry(5, shape=(HIDDEN, DIM)),
        "ffn_gate.weight should have the shape",
    ),
    "tensor: three dimensions": (with_entry(1, shape=(DIM, DIM, 1)), "attn_q.weight should have"),
    "embedding: a list": (with_entry(0, shape=(DIM * PIECES,)), "the matrix token_embd.weight"),
    "tensor: whole numbers": (with_entry(10, kind=26), "should hold weights, found I32"),
    "rope factors: too few": (
        gguf(entries=[*ENTRIES, Entry(b"rope_freqs.weight", (1,))]),
        "2 finite factors >= 1",
    ),
    "rope factors: infinite": (
        gguf(
            entries=[
                *ENTRIES,
                Entry(b"rope_freqs.weight", (2,), data=struct.pack("<2f", 1, float("inf"))),
            ]
        ),
        "2 finite factors >= 1",
    ),
    "rope factors: of no LLaMA": (
        gguf(entries=[*ENTRIES, Entry(b"rope_freqs.weight", (2,), data=struct.pack("<2f", 8, 1))]),
        "found others",
    ),
    "rope factors: a matrix": (
        gguf(entries=[*ENTRIES, Entry(b"rope_freqs.weight", (1, 2))]),
        "should be a list of F32",
    ),
    "values: infinite": (
        bit_flipped_at_end(GOOD),
        "output_norm.weight: its values should be finite",
    ),
    "split: a part under another name": (
        with_keys(split__count=u32(3), split__no=u32(1)),
        "is part 2 of 3 and should be called NAME-00002-of-00003.gguf",
    ),
    "split: no count": (with_keys(split__count=u32(0)), "split.count should be a whole number"),
    "split: a count of text": (with_keys(split__count=text("2")), "split.count should be a whole"),
}
ATTACKS = CONTAINER | MODEL
