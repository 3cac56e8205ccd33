"""What a text has to be: JSON, JSON of a schema, what a regular expression or a grammar describes.

The request alone, so that it is read without the library that texts are kept to it by (grammar.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from puna.config import nearest
from puna.errors import ConfigError

Kind = Literal["json_object", "json_schema", "regex", "grammar"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Requests come from strangers; this is a schema of 1,000 properties, which compiles in 0.1 s.
LONGEST_SOURCE = 1 << 16
DEEPEST_SCHEMA = 64
MOST_OPTIONAL = 480  # each takes 4 of the 2,000 places in a row of the library


@dataclass(frozen=True)
class Constraint:
    """What a text has to be when it ends by itself; one that is cut short is a beginning of it.

    `json_object` is any JSON object. Otherwise `source` says more: a JSON Schema as JSON text; a
    regular expression, in the syntax of Rust's regex without look-around, that matches the whole
    text; a grammar in llguidance's dialect of Lark, or in llama.cpp's GBNF (with `::=`). JSON may
    hold a space or a line feed with indentation where whitespace is allowed, no more; a schema's
    whole numbers beyond 2^53 are read as float64. After a prompt without text SentencePiece's kind
    of tokenizer takes a space off the beginning, here too.

    Raises ConfigError for another kind, a source that is too long, and a schema that is no JSON
    object, too deep, or has too many optional properties in one object; what the library thinks of
    it is known when it is compiled (Engine.grammar).
    """

    kind: Kind
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            hint = nearest(str(self.kind), KINDS)
            raise ConfigError(f"a constraint should be one of {', '.join(KINDS)}", hint=hint)
        if not isinstance(self.source, str) or bool(self.source) == (self.kind == "json_object"):
            wanted = "true" if self.kind == "json_object" else "a text that is not empty"
            raise ConfigError(f"{self.kind} should be {wanted}")
        if len(self.source) > LONGEST_SOURCE:
            raise ConfigError(
                f"{self.kind} should have at most {LONGEST_SOURCE:,} characters, "
                f"found {len(self.source):,}"
            )
        if self.kind == "json_schema":
            _check_schema(self.source)

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Constraint:
        """The constraint of a request's {kind: source}, where a schema may be an object too.

        Raises ConfigError as the class does, and where there is not one kind.
        """
        if len(asked) != 1:
            raise ConfigError(f"one constraint is wanted, found {', '.join(asked) or 'none'}")
        ((kind, source),) = asked.items()
        if kind == "json_object" and source is True:
            source = ""
        elif kind == "json_schema" and not isinstance(source, str):
            try:
                source = json.dumps(source, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise ConfigError(f"json_schema should be JSON: {error}") from None
        return cls(kind, source)  # type: ignore[arg-type]  # which it checks


def _check_schema(source: str) -> None:
    try:
        schema = json.loads(source, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"json_schema should be JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ConfigError(f"json_schema should be a JSON object, got {source[:40]}")
    layer: list[Any] = [schema]
    for _depth in range(DEEPEST_SCHEMA):
        for one in layer:
            _check_optional(one)
        inner = (one.values() if isinstance(one, dict) else one for one in layer)
        layer = [one for values in inner for one in values if isinstance(one, dict | list)]
        if not layer:
            return
    raise ConfigError(f"json_schema should be nested at most {DEEPEST_SCHEMA} deep")


def _check_optional(schema: Any) -> None:
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return
    required = schema.get("required")
    needed = [one for one in required if isinstance(one, str)] if isinstance(required, list) else []
    count = len(schema["properties"].keys() - needed)
    if count > MOST_OPTIONAL:
        raise ConfigError(
            f"an object of a json_schema should have at most {MOST_OPTIONAL} optional properties, "
            f"found {count:,}",
            hint="name those under required that each text shall have",
        )


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
