"""JSON files that come with weights: one object, small, read without trust."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from puna.errors import CheckpointError

# Parsed JSON takes up to 25 times its text: `[],` is three bytes and an empty list 56 and 8.
LIMIT_BYTES = 1 << 20


def read_json_object(path: Path, *, wanted: str) -> dict[str, Any]:
    """The object in a JSON file, whose keys come once each; `wanted` says what it should tell.

    Raises CheckpointError when the file is missing, has more than 1 MiB, is no JSON (NaN and
    Infinity are none), holds a key twice, or anything but an object.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} should {wanted}, found no regular file")
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} should {wanted}, found nothing there",
            hint="bring it from where the weights came",
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > LIMIT_BYTES:
        raise CheckpointError(f"{path} should have at most {LIMIT_BYTES} bytes, it has more")
    try:
        found = json.loads(
            content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except UnicodeDecodeError as error:
        raise _no_json(path, f"byte {error.start} is no UTF-8") from None
    except json.JSONDecodeError as error:
        raise _no_json(path, f"byte {_bytes_before(error)}: {error.msg}") from None
    except RecursionError:
        raise _no_json(path, "it nests too deep") from None
    except ValueError as error:  # a key twice, a number of thousands of digits
        raise _no_json(path, str(error)[:200]) from None
    if not isinstance(found, dict):
        raise _no_json(path, f"an object is wanted, found a {type(found).__name__}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {ascii(key)[:80]} comes twice")
        found[key] = value
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON's")


def _bytes_before(error: json.JSONDecodeError) -> int:
    return len(error.doc[: error.pos].encode("utf-8"))


def _no_json(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} should be JSON: {what}", hint="the file is damaged; copy or download it again"
    )
