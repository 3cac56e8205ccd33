"""Files that come from elsewhere: opened, read as JSON, their values checked and told.

Nothing in them is believed: whatever is wrong becomes one CheckpointError that names the file.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError, ConfigError
from puna.tokens.formats.json_text import read_object

# Parsed JSON takes up to 25 times its text: `[],` is three bytes and an empty list 56 and 8.
JSON_LIMIT_BYTES = 1 << 20
BIGGEST = 2**31 - 1
NUMBER_LIMIT = 1e30  # float32 still holds its like


@contextmanager
def opened(path: Path, wanted: str) -> Iterator[BinaryIO]:
    """A regular file to read; `wanted` says what it should be or do.

    Raises CheckpointError where there is none, or the block cannot read it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise CheckpointError(f"{path} should {wanted}, found no regular file")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} should {wanted}, found nothing there",
            hint="bring it from where the weights came",
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that the system does not let us read."""
    return CheckpointError(f"{path} cannot be read: {error.strerror or error}")


def mapped(path: Path, offset: int, nbytes: int, name: str) -> npt.NDArray[np.uint8]:
    """The bytes of the tensor `name`, where writing changes the memory and never the file.

    Raises CheckpointError when the file became shorter since it was opened, or is gone.
    """
    if not nbytes:
        return np.empty(0, dtype=np.uint8)
    try:
        # A map of its own, which goes with the array: through that of the whole file, a
        # conversion held all of the file's pages in memory (2.9 GB at 2 GB of Q8_0).
        return np.asarray(np.memmap(path, np.uint8, "c", offset, (nbytes,)))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {shown(name)} should have {nbytes} bytes from byte {offset}, they cannot be "
            f"read: {error}",
            hint="the file changed since it was opened; open it again",
        ) from None


def shown(text: str) -> str:
    """A name from a file as a message may carry it: quoted, escaped, and not a flood."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def listed(names: Sequence[str]) -> str:
    """The first four names, and how many more there are."""
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(map(shown, names[:4])) + rest


@contextmanager
def shape_of(path: Path) -> Iterator[None]:
    """A block that makes a model's shape of a file's values: impossible ones name the file."""
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from None


def read_json_object(path: Path, *, wanted: str) -> dict[str, Any]:
    """The object in a JSON file, whose keys come once each; `wanted` says what it should tell.

    Raises CheckpointError when the file is missing, has more than 1 MiB, is no JSON (NaN and
    Infinity are none), holds a key twice, or anything but an object.
    """
    with opened(path, wanted) as file:
        content = file.read(JSON_LIMIT_BYTES + 1)
    if len(content) > JSON_LIMIT_BYTES:
        raise CheckpointError(f"{path} should have at most {JSON_LIMIT_BYTES} bytes, it has more")
    return read_object(content, path, CheckpointError)


class Table:
    """Values of a JSON object by their names; each getter checks what it gives."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self.values = values
        self.path = path
        self.prefix = prefix

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number from 1; `default` where the key is missing, and none where that is."""
        value = self.values.get(name, default)
        if value is None and name not in self.values:
            raise self.wrong(name, "a whole number from 1", hint="the file is cut, or another's")
        if type(value) is not int or value < 1:
            raise self.wrong(name, "a whole number from 1")
        if value > BIGGEST:
            raise self.wrong(name, f"at most {BIGGEST}")
        return value

    def optional_whole(self, name: str, default: int | None) -> int | None:
        """A whole number from 1, or None for null; `default` where the key is missing."""
        value = self.values.get(name, default)
        return None if value is None else self.whole(name, default)

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0; `default` where the key is missing or null."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number above 0")
        if not 0 < value < NUMBER_LIMIT:
            raise self.wrong(name, "a number above 0")
        return float(value)

    def flag(self, name: str) -> bool:
        """true or false; false where the key is missing or null."""
        value = self.values.get(name)
        if value is not None and type(value) is not bool:
            raise self.wrong(name, "true or false")
        return bool(value)

    def require(self, name: str, accepted: tuple[Any, ...], hint: str) -> None:
        """Refuse a value that would change what the model computes."""
        value = self.values.get(name)
        if any(value == one and type(value) in (type(one), float) for one in accepted):
            return
        wanted = " or ".join(json.dumps(one) for one in accepted if one is not None)
        raise self.wrong(name, wanted or "absent", hint)

    def wrong(self, name: str, wanted: str, hint: str | None = None) -> CheckpointError:
        """The error for a value that is not as `wanted`."""
        found = _told(self.values[name]) if name in self.values else "nothing"
        where = f"{self.path}: {self.prefix}{name}"
        return CheckpointError(f"{where} should be {wanted}, found {found}", hint=hint)


def _told(value: Any) -> str:
    """A value for a message: plain ones as they are, cut; others by what they are."""
    if type(value) is list and all(type(one) is str for one in value):
        return ascii(value)[:80]
    return type(value).__name__ if isinstance(value, dict | list | tuple) else ascii(value)[:80]
