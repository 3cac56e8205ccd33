"""A machine for the few pickle opcodes that name tensors; it has none that could run anything.

torch.save writes a program for a stack machine: "put a string, make a dict, call this function".
Python's own machine imports and calls whatever the file names. This one knows dicts, tuples,
strings, numbers, and four names, which it does not call either: it notes down what they describe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.errors import CheckpointError
from puna.weights.untrusted import shown

PICKLE_BYTES = 4 << 20  # about 100 bytes a tensor
OPCODES = 300_000  # about 50 a tensor
DIMENSIONS = 8
NAME_BYTES = 1024
BIGGEST = 2**63 - 1

# The storages of torch and the dtypes as GGUF spells them.
DTYPES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
ORDERED_DICT = "collections.OrderedDict"
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
NAMES = {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *(f"torch.{name}" for name in DTYPES)}


@dataclass(frozen=True, slots=True)
class StorageRecord:
    """A run of `count` numbers, which lies in the zip member `data/<key>`."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """Something outside the file that the file names: one of NAMES."""

    text: str


class _Refused(Exception):
    """What is wrong with the opcode at hand; `run` adds where it stands."""


def run(program: bytes, path: Path) -> Any:
    """The object that a pickle describes: dicts, tuples, text, numbers and tensor records.

    Raises CheckpointError with `path` and the offset in data.pkl of the opcode that names anything
    but tensors, is not needed for them, or asks for too much.
    """
    machine = _Machine(program)
    try:
        if len(program) > PICKLE_BYTES:
            raise _Refused(f"it has {len(program)} bytes, at most {PICKLE_BYTES} are read")
        return machine.run()
    except _Refused as error:
        raise CheckpointError(
            f"{path}: data.pkl, byte {machine.started}: {error}",
            hint="only a dict of names and tensors is read, and no code ever run; to read a file "
            "that you trust: load it with torch, and torch.save its state_dict() alone",
        ) from None


class _Machine:
    """The state of one run: the stack, its marks, and the memo of objects named again."""

    def __init__(self, program: bytes) -> None:
        self.program = program
        self.position = 0
        self.started = 0  # where the opcode at hand stands
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(OPCODES):
            self.started = self.position
            opcode = self.take(1)[0]
            if opcode == _STOP:
                return self.finish()
            act = _ACTIONS.get(opcode)
            if act is None:
                raise _Refused(f"the opcode 0x{opcode:02x} is none that describes tensors")
            act(self)
        raise _Refused(f"it has more than {OPCODES} opcodes")

    def finish(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise _Refused(f"one object should be left at the end, found {len(self.stack)}")
        if self.position != len(self.program):
            raise _Refused("the pickle should end here, more follows")
        return self.stack[0]

    def take(self, count: int) -> bytes:
        """The next `count` bytes of the program."""
        found = self.program[self.position : self.position + count]
        if len(found) != count:
            raise _Refused("the pickle ends within an opcode")
        self.position += count
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        """Text up to the next newline."""
        end = self.program.find(b"\n", self.position, self.position + NAME_BYTES)
        if end < 0:
            raise _Refused("a name should end with its line")
        text = self.text(end - self.position)
        self.position += 1
        return text

    def text(self, size: int) -> str:
        if size > NAME_BYTES:
            raise _Refused(f"a text has {size} bytes, at most {NAME_BYTES} are read")
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise _Refused("a text should be UTF-8") from None

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, kind: type | None = None) -> Any:
        """The top of the stack, which must be of the exact type `kind`; never below a mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _Refused("the stack is empty")
        value = self.stack.pop()
        if kind is not None and type(value) is not kind:
            raise _Refused(f"a {kind.__name__} should be on the stack, found {_kind(value)}")
        return value

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise _Refused("there is no mark on the stack")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def name(self, module: str, name: str) -> None:
        """Push one of the four names that are known; nothing is imported."""
        full = f"{module}.{name}"
        if full not in NAMES:
            raise _Refused(f"it asks for {shown(full)}, which is no part of a tensor")
        self.push(_Name(full))

    def remember(self, index: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[index] = value

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise _Refused(f"nothing was remembered as {index}")
        self.push(self.memo[index])

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def protocol(self) -> None:
        version = self.number(1)
        if self.started or not 2 <= version <= 5:
            raise _Refused(f"protocol 2 to 5 should be told once, at the start, found {version}")

    def frame(self) -> None:
        """How many bytes follow: a hint for readers of streams, which this is not."""
        self.take(8)

    def integer(self) -> None:
        size = self.number(1)
        if size > 9:
            raise _Refused(f"a number has {size} bytes, at most 9 are read")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def stack_name(self) -> None:
        name, module = self.pop(str), self.pop(str)
        self.name(module, name)

    def set_items(self, items: list[Any]) -> None:
        table = self.pop(dict)
        if len(items) % 2:
            raise _Refused("a dict's keys and values should come in pairs")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise _Refused(f"a dict's key should be a text, found {_kind(key)}")
            if key in table:
                raise _Refused(f"the key {shown(key)} comes twice")
            table[key] = value
        self.push(table)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def build(self) -> None:
        """Attributes of an OrderedDict (the versions of its modules), which describe no tensor."""
        self.pop(dict)
        self.push(self.pop(dict))

    def call(self) -> None:
        arguments, name = self.pop(tuple), self.pop(_Name)
        known = _CALLS.get(name.text)
        if known is None:
            raise _Refused(f"{name.text} cannot be called")
        self.push(known(arguments))

    def storage(self) -> None:
        """A persistent id: ("storage", type, key, where it lay, how many numbers)."""
        identity = self.pop(tuple)
        if len(identity) != 5 or _kinds(identity) != (str, _Name, str, str, int):
            raise _Refused('a storage should be ("storage", type, key, place, count), it is not')
        word, kind, key, _, count = identity
        dtype = DTYPES.get(kind.text.removeprefix("torch."))
        if word != "storage" or dtype is None or not 0 <= count <= BIGGEST:
            raise _Refused(f"a storage of {count} numbers of type {kind.text} cannot be")
        self.push(StorageRecord(dtype, key, count))


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise _Refused("an OrderedDict should begin empty")
    return {}


def _tensor(arguments: tuple[Any, ...]) -> TensorRecord:
    """(storage, offset, shape, strides, requires_grad, hooks), and no metadata."""
    wanted = (StorageRecord, int, tuple, tuple, bool, dict)
    if _kinds(arguments[:6]) != wanted or any(arguments[5:]):
        raise _Refused("a tensor should be (storage, offset, shape, strides, False, no hooks)")
    storage, offset, shape, strides = arguments[:4]
    if len(shape) != len(strides) or len(shape) > DIMENSIONS:
        raise _Refused(
            f"a tensor should have as many strides as dimensions, at most {DIMENSIONS}, "
            f"found {len(strides)} and {len(shape)}"
        )
    for value in (offset, *shape, *strides):
        if type(value) is not int or not 0 <= value <= BIGGEST:
            raise _Refused(
                f"offset, shape and strides should be numbers from 0, found {_brief(value)}"
            )
    return TensorRecord(storage, offset, shape, strides)


def _parameter(arguments: tuple[Any, ...]) -> TensorRecord:
    """(tensor, requires_grad, hooks)."""
    if _kinds(arguments) != (TensorRecord, bool, dict) or arguments[2]:
        raise _Refused("a parameter should be (tensor, requires_grad, no hooks)")
    found: TensorRecord = arguments[0]
    return found


def _kinds(values: tuple[Any, ...]) -> tuple[type, ...]:
    return tuple(type(value) for value in values)


def _kind(value: Any) -> str:
    return value.text if isinstance(value, _Name) else type(value).__name__


def _brief(value: Any) -> str:
    """A number as it is, of anything else its type: what is nested deep is never written out."""
    return str(value) if type(value) is int else f"a {_kind(value)}"


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    ORDERED_DICT: _ordered_dict,
    REBUILD_TENSOR: _tensor,
    REBUILD_PARAMETER: _parameter,
}
_STOP = ord(".")
# Every opcode that is understood. The bytes are those of Python's pickletools.
_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: _Machine.stack_name,
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("}"): lambda m: m.push({}),
    ord("s"): _Machine.set_item,
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    ord("b"): _Machine.build,
    ord("R"): _Machine.call,
    ord("Q"): _Machine.storage,
    ord("q"): lambda m: m.remember(m.number(1)),
    ord("r"): lambda m: m.remember(m.number(4)),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.recall(m.number(1)),
    ord("j"): lambda m: m.recall(m.number(4)),
    ord("X"): lambda m: m.push(m.text(m.number(4))),
    0x8C: lambda m: m.push(m.text(m.number(1))),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    ord("J"): lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    0x8A: _Machine.integer,
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("N"): lambda m: m.push(None),
}
