"""One crafted pickle for every class of attack: code, wrong types, wrong tensors, bombs.

Each is what `data.pkl` of a .pth file holds, with a part of the one error that must come of it.
"""

from __future__ import annotations

import os
import pickle
import struct

from attacks.torch_zip import (
    GOOD,
    ORDERED_DICT,
    REBUILD,
    name,
    number,
    numbers,
    pickled,
    storage,
    tensor,
    text,
    tuple_of,
)

HUGE = 2**62
BINARY = b"\x80\x02"
ECHO = tuple_of(text("echo attacked"))


class Evil:
    """Python's own pickle module calls os.system for this when it loads it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 3",)


def names() -> dict[str, tuple[bytes, str]]:
    """Programs that name something else than tensors are made of, to call it."""
    none = "which is no part of a tensor"
    attacks = {
        f"reduce os.system, protocol {protocol}": (
            pickle.dumps({"weight": Evil()}, protocol=protocol),
            f"{none}|the opcode 0x",
        )
        for protocol in range(6)
    }
    for module, attribute in (
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch._tensor", "_rebuild_from_type_v2"),
        ("torch.jit._pickle", "restore_type_tag"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "Counter"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
        ("", ""),
        ("torch", "FloatStorage\x00"),
    ):
        called = name(module, attribute) + ECHO + b"R"
        attacks[f"GLOBAL {module}.{attribute!r}"] = (pickled(called), none)
        stacked = text(module) + text(attribute) + b"\x93" + ECHO + b"R"
        attacks[f"STACK_GLOBAL {module}.{attribute!r}"] = (pickled(stacked), none)
    return attacks | {
        "STACK_GLOBAL with names from the memo": (
            pickled(text("os") + b"q\x00" + text("system") + b"q\x010h\x00h\x01\x93"),
            "0x30",  # POP
        ),
        "STACK_GLOBAL of numbers": (pickled(number(1) + number(2) + b"\x93"), "a str should be"),
        "STACK_GLOBAL of an empty stack": (BINARY + b"\x93.", "stack is empty"),
        "GLOBAL without its line ends": (BINARY + b"cos", "end with its line"),
        "GLOBAL with a name of 10 kB": (pickled(name("a" * 10_000, "b")), "end with its line"),
    }


def objects() -> dict[str, tuple[bytes, str]]:
    """Opcodes that would make or change an object, and calls of what is no function."""
    return {
        "INST": (pickled(b"(" + text("echo") + b"ios\nsystem\n"), "0x69"),
        "OBJ": (pickled(b"(" + name("collections", "OrderedDict") + b"o"), "0x6f"),
        "NEWOBJ": (pickled(name("collections", "OrderedDict") + b")\x81"), "0x81"),
        "NEWOBJ_EX": (pickled(name("collections", "OrderedDict") + b")}\x92"), "0x92"),
        "EXT1": (pickled(b"\x82\x01"), "0x82"),
        "EXT2": (pickled(b"\x83\x01\x00"), "0x83"),
        "EXT4": (pickled(b"\x84\x01\x00\x00\x00"), "0x84"),
        "BUILD of a tensor": (pickled(tensor() + b"}b"), "a dict should be"),
        "BUILD of a storage": (pickled(storage() + b"}b"), "a dict should be"),
        "BUILD of a name": (pickled(name("torch", "FloatStorage") + b"}b"), "a dict should be"),
        "BUILD with a tuple": (pickled(ORDERED_DICT + b"}}\x86b"), "a dict should be"),
        "REDUCE of a text": (pickled(text("os.system") + ECHO + b"R"), "a _Name should be"),
        "REDUCE of a storage type": (pickled(name("torch", "FloatStorage") + b")R"), "be called"),
        "REDUCE without a tuple": (pickled(REBUILD + text("x") + b"R"), "a tuple should be"),
        "REDUCE of an OrderedDict with items": (
            pickled(name("collections", "OrderedDict") + ECHO + b"R"),
            "begin empty",
        ),
        "a parameter of no tensor": (
            pickled(name("torch._utils", "_rebuild_parameter") + tuple_of(ECHO, b"\x89}") + b"R"),
            "a parameter should be",
        ),
        "a tensor's hooks": (
            pickled(tensor(hooks=b"}" + text("hook") + REBUILD + b"s")),
            "no hooks",
        ),
        "a tensor's metadata": (
            pickled(tensor(more=b"}" + text("neg") + b"\x88s")),
            "no hooks",
        ),
        "a list": (pickled(b"]"), "0x5d"),
        "bytes": (pickled(b"C\x01a"), "0x43"),
        "a float": (pickled(b"G" + struct.pack(">d", 1.0)), "0x47"),
        "a set": (pickled(b"\x8f"), "0x8f"),
        "NEXT_BUFFER": (pickled(b"\x97"), "0x97"),
        "protocol 0": (pickle.dumps({"weight": 1}, protocol=0), "0x64"),
    }


def storages() -> dict[str, tuple[bytes, str]]:
    """Persistent ids that are none."""
    shape = "a storage should be"
    parts = [text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(6)]

    def changed(index: int, value: bytes) -> bytes:
        return pickled(tuple_of(*parts[:index], value, *parts[index + 1 :]) + b"Q")

    return {
        "an id that is text": (pickled(text("storage") + b"Q"), "a tuple should be"),
        "an id as PERSID": (pickled(b"P0\n"), "0x50"),
        "an id of four parts": (pickled(tuple_of(*parts[:4]) + b"Q"), shape),
        "an id of six parts": (pickled(tuple_of(*parts, b"N") + b"Q"), shape),
        "an id of another word": (changed(0, text("module")), "a storage of 6 numbers"),
        "an id of a number": (changed(0, number(1)), shape),
        "a type as text": (changed(1, text("FloatStorage")), shape),
        "a type that is a function": (changed(1, REBUILD), "a storage of 6 numbers"),
        "a key that is a number": (changed(2, number(0)), shape),
        "a place that is a number": (changed(3, number(0)), shape),
        "a count below zero": (changed(4, number(-1)), "a storage of -1 numbers"),
        "a count of text": (changed(4, text("6")), shape),
        "a count that is true": (changed(4, b"\x88"), shape),
        "a count beyond 63 bits": (changed(4, number(2**64)), "a storage of 18446744073709551616"),
        "a storage that is missing": (pickled(tensor(of=storage(key="7"))), "is missing"),
        "a storage outside": (pickled(tensor(of=storage(key="../../etc/passwd"))), "is missing"),
        "a storage that is the pickle": (pickled(tensor(of=storage(key="../data.pkl"))), "missing"),
        "a storage too short": (pickled(tensor(of=storage(count=60))), "240 bytes, found 24"),
        "a storage too long": (pickled(tensor(of=storage(count=5))), "20 bytes, found 24"),
        "a storage of wider numbers": (
            pickled(tensor(of=storage(kind="DoubleStorage"))),
            "48 bytes, found 24",
        ),
        "one storage as two types": (
            BINARY
            + b"}"
            + text("a")
            + tensor()
            + b"s"
            + text("b")
            + tensor(of=storage(kind="HalfStorage", count=12), shape=(12,), strides=(1,))
            + b"s.",
            "as another type",
        ),
    }


def views() -> dict[str, tuple[bytes, str]]:
    """Tensors that their storage does not hold."""
    past, twice, least = "would end at number", "would read numbers twice", "numbers from 0"

    def seen(**changes: object) -> bytes:
        return pickled(tensor(**changes))  # type: ignore[arg-type]

    def arguments(*values: bytes) -> bytes:
        return pickled(REBUILD + tuple_of(*values) + b"R")

    rest = (numbers(2, 3), numbers(3, 1), b"\x89", ORDERED_DICT)
    return {
        "more rows than there are": (seen(shape=(3, 3)), past),
        "an offset past the end": (seen(offset=1), past),
        "a stride past the end": (seen(strides=(4, 1)), past),
        "an offset of 2^62": (seen(offset=HUGE), past),
        "an offset beyond 63 bits": (seen(offset=2**63), least),
        "a negative offset": (seen(offset=-1), least),
        "a negative stride": (seen(strides=(-3, 1)), least),
        "a negative dimension": (seen(shape=(-2, -3)), least),
        "a product that overflows": (seen(shape=(2**33, 2**33), strides=(2**33, 1)), past),
        "a product that overflows to six": (seen(shape=(2**63 // 3, 6), strides=(6, 1)), past),
        "a stride of zero": (seen(strides=(0, 1)), twice),
        "a number spread to 2^62": (seen(shape=(HUGE,), strides=(0,)), twice),
        "2^62 by 2^62 of one number": (seen(shape=(HUGE, HUGE), strides=(0, 0)), twice),
        "rows that overlap": (seen(strides=(2, 1)), twice),
        "an empty one of 2^62 columns": (seen(shape=(0, HUGE), strides=(1, 1)), "cannot be"),
        "an empty one past the end": (seen(shape=(0,), strides=(1,), offset=9), past),
        "more strides than dimensions": (seen(strides=(3, 1, 1)), "as many strides"),
        "nine dimensions": (seen(shape=(1,) * 9, strides=(1,) * 9), "at most 8"),
        "a dimension that is true": (
            arguments(storage(), number(0), tuple_of(b"\x88"), numbers(1), *rest[2:]),
            "numbers from 0, found a bool",
        ),
        "a dimension that is a tensor": (
            arguments(storage(), number(0), tuple_of(tensor()), numbers(1), *rest[2:]),
            "numbers from 0, found a TensorRecord",
        ),
        "a tensor of no storage": (arguments(text("x"), number(0), *rest), "a tensor should be"),
        "a tensor of a tensor": (arguments(tensor(), number(0), *rest), "a tensor should be"),
        "an offset that is text": (arguments(storage(), text("0"), *rest), "a tensor should be"),
        "too few arguments": (arguments(storage(), number(0)), "a tensor should be"),
        "too many arguments": (
            arguments(storage(), number(0), *rest, b"}", b"}" + text("a") + text("b") + b"s"),
            "a tensor should be",
        ),
    }


def machines() -> dict[str, tuple[bytes, str]]:
    """Programs that misuse the machine: its stack, its marks, its memo, its lengths."""
    return {
        "nothing": (b"", "ends within"),
        "no STOP": (GOOD[:-1], "ends within"),
        "only STOP": (b".", "one object should be left"),
        "two objects at the end": (BINARY + b"}}.", "one object should be left"),
        "a mark at the end": (BINARY + b"}(.", "one object should be left"),
        "more after STOP": (GOOD + b"}", "more follows"),
        "a second pickle": (GOOD + GOOD, "more follows"),
        "protocol 6": (b"\x80\x06}.", "protocol 2 to 5"),
        "protocol told twice": (BINARY + BINARY + b"}.", "protocol 2 to 5"),
        "POP": (BINARY + b"}0.", "0x30"),
        "POP_MARK": (BINARY + b"(1}.", "0x31"),
        "DUP": (BINARY + b"}2.", "0x32"),
        "an unknown opcode": (BINARY + b"\xff.", "0xff"),
        "a tuple without a mark": (BINARY + b"t.", "no mark"),
        "a tuple of three of nothing": (BINARY + b"\x87.", "stack is empty"),
        "taking from below a mark": (BINARY + b"}(s.", "stack is empty"),
        "items in odd number": (BINARY + b"}(" + text("a") + b"u.", "in pairs"),
        "items into a tuple": (BINARY + b")" + text("a") + b"Ns.", "a dict should be"),
        "a key that is a dict": (BINARY + b"}}Ns.", "should be a text"),
        "a key that is a number": (BINARY + b"}K\x01Ns.", "should be a text"),
        "a key twice": (BINARY + b"}" + (text("a") + tensor() + b"s") * 2 + b".", "comes twice"),
        "a memory of nothing": (BINARY + b"q\x00.", "stack is empty"),
        "a recall of nothing": (BINARY + b"h\x07.", "remembered as 7"),
        "a long recall of nothing": (BINARY + b"j\xff\xff\xff\xff.", "remembered as 4294967295"),
        "a text of 4 GB": (BINARY + b"X\xff\xff\xff\xffabc.", "a text has 4294967295 bytes"),
        "a text of 2^60 bytes": (BINARY + b"\x8d" + struct.pack("<Q", 2**60), "0x8d"),
        "bytes of 2^60 bytes": (BINARY + b"\x8e" + struct.pack("<Q", 2**60), "0x8e"),
        "a bytearray of 2^60 bytes": (BINARY + b"\x96" + struct.pack("<Q", 2**60), "0x96"),
        "a text that is not UTF-8": (BINARY + b"X\x02\x00\x00\x00\xff\xfe.", "should be UTF-8"),
        "half a surrogate pair": (BINARY + b"X\x03\x00\x00\x00\xed\xa0\x80.", "should be UTF-8"),
        "a number of 255 bytes": (BINARY + b"\x8a\xff" + b"\x7f" * 255 + b".", "at most 9"),
        "a number of 2 GB": (BINARY + b"\x8b\xff\xff\xff\x7f.", "0x8b"),
        "a number cut off": (BINARY + b"J\x00", "ends within"),
        "a frame cut off": (BINARY + b"\x95\xff\xff", "ends within"),
    }


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small programs for much memory, much time, or a deep recursion."""
    doubled = b")q\x00" + b"h\x00h\x00\x86q\x00" * 4000  # a tuple of 2^4000 leaves
    itself = b"}q\x00" + text("weight") + b"h\x00s"
    attacks = {
        "60,000 empty dicts": (BINARY + b"}" * 60_000 + b".", "one object should be left"),
        "60,000 marks": (BINARY + b"(" * 60_000 + b"t" * 60_000 + b".", "found a tuple"),
        "a tuple 60,000 deep": (pickled(b")" + b"\x85" * 60_000), "is a tuple"),
        "dicts 10,000 deep": (
            pickled((b"}" + text("a")) * 10_000 + b"N" + b"s" * 10_000),
            "is a dict",
        ),
        "a dict that holds itself": (BINARY + itself + b".", "is a dict"),
        "60,000 memories": (BINARY + b"}" + b"\x94" * 60_000 + b"N.", "one object"),
        "a memory at 2^32 - 1": (BINARY + b"Nr\xff\xff\xff\xff.", "found a NoneType"),
        "300,001 opcodes": (BINARY + b"N" * 300_001 + b".", "more than 300000 opcodes"),
        "a pickle of 5 MB": (GOOD + bytes(5 << 20), "at most 4194304 are read"),
    }
    for where, program in {
        "the value": b"",
        "an id": b"Q",
        "a function's arguments": b"",
        "a key": b"Ns",
    }.items():
        start = REBUILD if where == "a function's arguments" else b"}" if where == "a key" else b""
        end = b"R" if where == "a function's arguments" else program
        says = "is a tuple|should be"
        attacks[f"2^4000 leaves as {where}"] = (pickled(start + doubled + end), says)
    return attacks


def contents() -> dict[str, tuple[bytes, str]]:
    """Good pickles of something else than names and tensors."""
    wanted = "should hold a dict of names and tensors"
    return {
        "a tensor alone": (BINARY + tensor() + b".", wanted),
        "a text alone": (BINARY + text("weights") + b".", wanted),
        "nothing at all": (BINARY + b"N.", wanted),
        "a number among the tensors": (pickled(number(7)), wanted),
        "a dict in the dict": (pickled(b"}" + text("a") + tensor() + b"s", key="model"), wanted),
        "a storage among the tensors": (pickled(storage()), wanted),
        "a function among the tensors": (pickled(REBUILD), wanted),
        "a name of 2 kB": (pickled(tensor(), key="a" * 2000), "at most 1024"),
    }


PROGRAMS = {**names(), **objects(), **storages(), **views(), **machines(), **bombs(), **contents()}
