"""JSON objects from files that may be broken or hostile: one error of ours, whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from puna.errors import PunaError, TokenizerError
from puna.tokens.vocabulary import shown


def read_object(
    content: bytes, path: Path, error_type: type[PunaError] = TokenizerError
) -> dict[str, Any]:
    """The object in a file's bytes.

    Raises `error_type`, with line and column, for text that is no JSON object, a key that comes
    twice, and numbers that JSON does not have.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise error_type(f"{path}: the key {shown(twice)} comes twice")
        return result

    def refuse(constant: str) -> NoReturn:
        raise error_type(f"{path}: {constant} is no number that JSON has")

    try:
        record = json.loads(content, object_pairs_hook=unique, parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise error_type(f"{path} should be JSON: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise error_type(
            f"{path} should be JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            hint="the file is cut short or damaged: copy or download it again",
        ) from None
    except RecursionError:
        raise error_type(f"{path} should be JSON: it nests too deep") from None
    except ValueError as error:  # a number of thousands of digits
        raise error_type(f"{path} should be JSON: {error}") from None
    if not isinstance(record, dict):
        raise error_type(f"{path} should hold a JSON object, found {type(record).__name__}")
    return record
