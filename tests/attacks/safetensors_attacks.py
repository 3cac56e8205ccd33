"""One crafted safetensors file for every rule of the format, and folders of Hugging Face's.

FILES: label -> a file's bytes and a part of the one error that must come of them.
FOLDERS: label -> what to change in a good folder (file name -> bytes), and a part of the error.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from weights.hf_folders import arrays, changed

VALUES = bytes(range(24))
GOOD_TABLE = {
    "__metadata__": {"format": "pt"},
    "w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "v": {"dtype": "F16", "shape": [4], "data_offsets": [16, 24]},
}


def file(header: bytes | str | dict[str, Any], values: bytes = VALUES) -> bytes:
    """A file with this header, whatever it says, and these bytes of tensors."""
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return len(header).to_bytes(8, "little") + header + values


GOOD_FILE = file(GOOD_TABLE)


def one(dtype: Any = "F32", shape: Any = (6,), offsets: Any = (0, 24), **more: Any) -> bytes:
    """A file of one tensor, some of its fields replaced."""
    return file({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}})


def raw_shape(text: str) -> bytes:
    """A file of one tensor whose shape is this text."""
    return file('{"w":{"dtype":"F32","shape":' + text + ',"data_offsets":[0,24]}}')


def named(text: bytes) -> bytes:
    """A file of one tensor whose quoted name is these bytes."""
    return file(b'{"' + text + b'":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}')


def two(first: tuple[int, int], second: tuple[int, int], values: bytes = VALUES) -> bytes:
    """A file of two tensors of bytes at these offsets."""
    return file(
        {
            name: {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
            for name, (start, end) in (("a", first), ("b", second))
        },
        values,
    )


def lengths() -> dict[str, tuple[bytes, str]]:
    """What the first eight bytes may claim."""
    return {
        "an empty file": (b"", "byte 0: the header's length needs 8 bytes, found 0"),
        "seven bytes": (bytes(7), "byte 0: the header's length needs 8 bytes, found 7"),
        "a header of no bytes": (bytes(8), "byte 8: .* found an empty header"),
        "no header": (b"\x10" + bytes(7), "at most 0 that follow .* found 16"),
        "one byte more than there is": (b"\x0b" + bytes(7) + b"{" + b" " * 9, "found 11"),
        "2^63": (b"\0" * 7 + b"\x80" + b"{}", "found 9223372036854775808"),
        "2^64 - 1": (b"\xff" * 8 + b"{}", "found 18446744073709551615"),
        "big-endian": (b"\0" * 7 + b"\x02{}", "found 144115188075855872"),
        "a zip file": (b"PK\3\4" + bytes(100), "that follow .* found 67324752"),
        "a GGUF file": (b"GGUF\3\0\0\0" + bytes(100), "that follow .* found 14"),
    }


def forms() -> dict[str, tuple[bytes, str]]:
    """Headers that are no JSON, or JSON of another form."""
    begin, empty = "byte 8: the header should begin with '{', found ", file("{}", b"")
    entry = '{"dtype":"F32","shape":[6],"data_offsets":[0,24]}'
    return {
        "a space first": (file(b" " + GOOD_FILE[8:-24]), begin + "' '"),
        "a byte order mark": (file(b"\xef\xbb\xbf{}", b""), begin),
        "a list": (file("[]", b""), begin),
        "a string": (file('"{}"', b""), begin),
        "NUL": (file(b"\0{}", b""), begin),
        "UTF-16": (file("{}".encode("utf-16-le"), b""), "byte 9: in the header, a string"),
        "nothing closed": (file("{", b""), "byte 9: in the header, a string should be here"),
        "cut in a name": (file('{"w', b""), "a string should be here"),
        "cut behind a name": (file('{"w"', b""), ": should be here"),
        "cut in a tensor": (file('{"w":{"dtype":"F3', b""), "a string should be here"),
        "cut in a list": (file('{"w":{"shape":[1,', b""), "a whole number"),
        "more behind it": (file("{} {}", b""), "byte 11: .* should end here"),
        "NUL behind it": (file("{}\0\0", b""), "byte 10: .* should end here"),
        "a comma at the end": (file('{"w":' + entry + ",}"), "a string should be here"),
        "no comma": (file('{"v":' + entry + '"w":' + entry + "}"), ", should be here"),
        "single quotes": (file("{'w':" + entry + "}"), "a string should be here"),
        "a comment": (file("{/**/}", b""), "a string should be here"),
        "a bare name": (file("{w:" + entry + "}"), "a string should be here"),
        "a tensor that is null": (file('{"w":null}'), "{ should be here"),
        "a tensor that is a list": (file('{"w":[]}'), "{ should be here"),
        "a tensor that is a string": (file('{"w":"x"}'), "{ should be here"),
        "values without tensors": (empty + VALUES, "tensors end at byte 10, the file at 34"),
    }


def names() -> dict[str, tuple[bytes, str]]:
    """Keys that come twice, in one spelling or two, and strings that are none."""
    entry = '{"dtype":"F32","shape":[6],"data_offsets":[0,24]}'
    meta, text, here = '"__metadata__":', "valid Unicode", "a string should be here"
    return {
        "a tensor twice": (file('{"w":' + entry + ',"w":' + entry + "}"), "'w' comes twice"),
        "a tensor twice, escaped": (
            file('{"w":' + entry + ',"\\u0077":' + entry + "}"),
            "'w' comes twice",
        ),
        "metadata twice": (file("{" + meta + "{}," + meta + "{}}", b""), "comes twice"),
        "a key of the metadata twice": (
            file("{" + meta + '{"a":"1","a":"2"}}', b""),
            "'a' comes twice",
        ),
        "a field twice": (
            file('{"w":{"dtype":"F32","dtype":"F16"}}'),
            "'dtype' comes twice|has 'dtype'",
        ),
        "no UTF-8": (named(b"\xff"), text),
        "an overlong zero": (named(b"\xc0\x80"), text),
        "a surrogate in UTF-8": (named(b"\xed\xa0\x80"), text),
        "half a character": (named(b"\xf0\x9f"), text),
        "a lone surrogate, escaped": (named(b"\\ud83d"), text),
        "a surrogate before a letter": (named(b"\\ud83dx"), text),
        "an unknown escape": (named(b"\\x41"), text),
        "a short escape": (named(b"\\u00"), text),
        "a raw line end": (named(b"a\nb"), here),
        "a raw NUL": (named(b"a\0b"), here),
        "an escaped line end": (named(b"a\\\nb"), here),
        "never closed": (file(b'{"' + b"a" * 60_000), here),
        "never closed, all escapes": (file(b'{"' + b"\\\\" * 30_000), here),
        "a long name": (named(b"a" * 513), "at most 512 bytes"),
        "metadata that is null": (file("{" + meta + "null}", b""), "{ should be here"),
        "metadata that is a list": (file("{" + meta + "[]}", b""), "{ should be here"),
        "a number in the metadata": (file("{" + meta + '{"a":1}}', b""), here),
        "null in the metadata": (file("{" + meta + '{"a":null}}', b""), here),
        "an object in the metadata": (file("{" + meta + '{"a":{}}}', b""), here),
    }


def fields() -> dict[str, tuple[bytes, str]]:
    """A tensor's own fields: missing, unknown, of another kind, or impossible."""
    number = "a whole number from 0 to 2.63 - 1 should be here"
    impossible = "impossible shape"
    result = {
        "no dtype": (file('{"w":{"shape":[6],"data_offsets":[0,24]}}'), "'w' lacks dtype"),
        "no shape": (file('{"w":{"dtype":"F32","data_offsets":[0,24]}}'), "'w' lacks shape"),
        "no offsets": (file('{"w":{"dtype":"F32","shape":[6]}}'), "'w' lacks data_offsets"),
        "nothing of a tensor": (file('{"w":{}}'), "'w' lacks data_offsets, dtype, shape"),
        "a field more": (one(stride=[1]), "has 'stride', which no tensor has"),
        "an unknown type": (one("F33"), "unknown type 'F33'"),
        "a type in small letters": (one("f32"), "unknown type 'f32'"),
        "a type that is a number": (one(32), "a string should be here"),
        "a type that is null": (one(None), "a string should be here"),
        "a shape that is null": (one(shape=None), r"\[ should be here"),
        "a shape that is a number": (one(shape=6), r"\[ should be here"),
        "a shape that is an object": (one(shape={}), r"\[ should be here"),
        "a hexadecimal size": (raw_shape("[0x6]"), ", should be here"),
        "a shape with a gap": (raw_shape("[2,,3]"), number),
        "a shape with a comma at the end": (raw_shape("[6,]"), number),
        "2^32 by 2^32": (one(shape=(2**32, 2**32)), impossible),
        "2^61 numbers": (one(shape=(2**61,)), impossible),
        "0 by 2^62 by 2^62": (one(shape=(0, 2**62, 2**62), offsets=(0, 0)), impossible),
        "2^62 by 2^62 by 0": (one(shape=(2**62, 2**62, 0), offsets=(0, 0)), impossible),
        "33 dimensions": (one(shape=(1,) * 33), "at most 32 numbers"),
        "20,000 dimensions": (one(shape=(1,) * 20_000), "at most 32 numbers"),
        "half a byte": (one("F4", (5,), (0, 2)), "needs 2.5 bytes"),
        "three quarters of a byte": (one("F6_E2M3", (1,), (0, 1)), "needs 0.75 bytes"),
        "the shape needs more": (one(shape=(7,)), r"needs 28 bytes, .* \[0, 24\]"),
        "the shape needs less": (one(shape=(5,)), r"needs 20 bytes, .* \[0, 24\]"),
        "the shape needs nothing": (one(shape=(0,)), r"needs 0 bytes, .* \[0, 24\]"),
        "a scalar": (one(shape=()), r"needs 4 bytes, .* \[0, 24\]"),
        "the type needs more": (one("F64"), "needs 48 bytes"),
        "one offset": (one(offsets=(24,)), r"its data_offsets are \[24\]"),
        "three offsets": (one(offsets=(0, 24, 24)), r"data_offsets are \[0, 24, 24\]"),
        "no offsets at all": (one(offsets=()), r"data_offsets are \[\]"),
        "offsets that end before they begin": (one(offsets=(24, 0)), r"are \[24, 0\]"),
        "offsets of 2^63": (one(offsets=(2**63 - 24, 2**63)), number),
    }
    texts = ["-6", "6.0", "6e0", "true", "null", '"6"', "[6]", "{}", "06", "+6", "NaN", "\u0666"]
    huge = ["9" * 19, "9" * 20, "1" + "0" * 30, "9" * 60_000, str(2**63)]
    for text in texts + huge:
        result[f"a size of {text[:20]}, {len(text)} long"] = (raw_shape(f"[{text}]"), number)
    return result


def places() -> dict[str, tuple[bytes, str]]:
    """Tensors that overlap, leave holes, or end elsewhere than the file."""
    end = "the tensors end at byte .*, the file at"
    return {
        "a hole": (two((0, 8), (12, 24)), "'b' should begin at byte .*leaves a hole"),
        "a hole in front": (two((4, 8), (8, 24)), "'a' should begin at byte .*leaves a hole"),
        "an overlap": (two((0, 12), (8, 24)), "'b' should begin .* overlaps"),
        "the same bytes twice": (two((0, 24), (0, 24)), "should begin .* overlaps"),
        "one within the other": (two((0, 24), (4, 8)), "'b' should begin .* overlaps"),
        "the file goes on": (two((0, 8), (8, 24), VALUES + b"x"), end),
        "the file ends before": (two((0, 8), (8, 24), VALUES[:-1]), end),
        "no values at all": (two((0, 8), (8, 24), b""), end),
        "a terabyte that is not there": (two((0, 8), (8, 2**40)), end),
        "an exabyte that is not there": (two((0, 2**59), (2**59, 2**60 - 1), b""), end),
    }


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that make a careless parser recurse, or count, or allocate."""
    return {
        "lists in lists": (raw_shape("[" * 30_000), "a whole number"),
        "objects in objects": (file('{"w":' * 10_000, b""), "'w' has 'w', which no tensor has"),
        "objects in the metadata": (file('{"__metadata__":' + '{"a":' * 10_000), "a string"),
        "5,001 tensors": (
            file(
                "{"
                + ",".join(
                    f'"{number}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
                    for number in range(5_001)
                )
                + "}",
                b"",
            ),
            "at most 5000 tensors",
        ),
        "a text of 2 MB": (
            file('{"__metadata__":{"a":"' + "\U0001f999" * (1 << 19) + '"}}', b""),
            "at most 1048576 bytes",
        ),
    }


FILES = lengths() | forms() | names() | fields() | places() | bombs()


def weights(**changes: Any) -> bytes:
    """A good folder's model.safetensors, with a tensor replaced."""
    from safetensors.numpy import save

    return save({**arrays(), **changes}, {"format": "pt"})


def config(**changes: Any) -> bytes:
    """A good folder's config.json, with keys changed."""
    return json.dumps(changed(**changes)).encode()


def index(places: Any) -> bytes:
    """An index of shards."""
    return json.dumps({"metadata": {}, "weight_map": places}).encode()


def sharded(places: Any, **shards: bytes) -> dict[str, bytes | None]:
    """The changes that turn the good folder into one of shards."""
    files = {name.replace("_", "."): content for name, content in shards.items()}
    return {"model.safetensors": None, "model.safetensors.index.json": index(places), **files}


WEIGHTS = dict.fromkeys(arrays(), "a.safetensors")
FOLDERS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "layers by the billion": ({"config.json": config(num_hidden_layers=2**31 - 1)}, "layers, the"),
    "a vocabulary by the billion": (
        {"config.json": config(vocab_size=2**31 - 1)},
        r"should have the shape \[2147483647, 16\]",
    ),
    "a hidden size by the billion": (
        {"config.json": config(hidden_size=2**30)},
        r"should have the shape \[11, 1073741824\]",
    ),
    "a context by the billion": (
        {"config.json": config(max_position_embeddings=2**31 - 1)},
        "at most 16777216",
    ),
    "config.json, deep": ({"config.json": b'{"a":' * 20_000}, "nests too deep"),
    "config.json, deep and closed": (
        {"config.json": b'{"rope_scaling":' + b"[" * 900 + b"]" * 900 + b"}"},
        "model_type should be|nests too deep|rope_scaling should be",
    ),
    "config.json, empty lists": ({"config.json": b"[" + b"[]," * 340_000 + b"[]]"}, "JSON object"),
    "config.json, a key twice": ({"config.json": b'{"a":1,"a":1}'}, "comes twice"),
    "config.json, a long number": ({"config.json": b'{"a":' + b"9" * 60_000 + b"}"}, "JSON"),
    "config.json, an endless number": ({"config.json": config(rope_theta=1e400)}, "Infinity"),
    "config.json, bytes": ({"config.json": bytes(range(256))}, "should be JSON"),
    "config.json, empty": ({"config.json": b""}, "should be JSON"),
    "config.json, gone": ({"config.json": None}, "found nothing there"),
    "weights, gone": ({"model.safetensors": None}, "found no weights"),
    "weights, empty": ({"model.safetensors": b""}, "needs 8 bytes"),
    "weights, a pickle": ({"model.safetensors": b"\x80\x02}."}, "header's length|at most"),
    "an infinite norm": (
        {"model.safetensors": weights(**{"model.norm.weight": np.full(16, np.inf, np.float32)})},
        "should be finite, 16 of 16",
    ),
    "index, no object": ({**sharded({}), "model.safetensors.index.json": b"[]"}, "JSON object"),
    "index, empty": (sharded({}), "weight_map should be an object"),
    "index, outside": (sharded({"w": "../../etc/passwd"}), "in the same folder"),
    "index, absolute": (sharded({"w": "/dev/zero"}), "in the same folder"),
    "index, itself": (
        sharded({"w": "model.safetensors.index.json"}),
        "model.safetensors.index.json: byte 0",
    ),
    "index, the config": (sharded({"w": "config.json"}), "config.json: byte 0"),
    "index, no shards": (sharded(WEIGHTS), "a.safetensors should hold weights, found nothing"),
    "index, 20,000 shards": (
        sharded({f"w{number}": f"{number}.safetensors" for number in range(20_000)}),
        "0.safetensors should hold weights, found nothing",
    ),
    "index, tensors that are not there": (
        sharded({**WEIGHTS, "more": "a.safetensors"}, a_safetensors=weights()),
        "'more' should be in a.safetensors, they are not",
    ),
    "index, tensors in two files": (
        sharded(
            {**WEIGHTS, "lm_head.weight": "b.safetensors"},
            a_safetensors=weights(),
            b_safetensors=weights(),
        ),
        "'lm_head.weight' are in a.safetensors, of which the index does not tell",
    ),
    "index, 2 MB": (
        {**sharded({}), "model.safetensors.index.json": b"{" + b" " * (2 << 20)},
        "at most 1048576 bytes",
    ),
}
