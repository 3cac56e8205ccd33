"""A request's body: JSON without NaN, of bounded depth, and one error where it is not as wanted."""

from __future__ import annotations

import difflib
import functools
import json
import logging
import math
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from puna.serve.errors import ServeError
from puna.serve.openai.schemas import LONGEST_NAME, UNSUPPORTED
from puna.serve.settings import ServeSettings

logger = logging.getLogger("puna.serve")

# What a chat of thousands of messages has; more would keep the others waiting for its checks.
_MOST_CONTAINERS = 50_000
_MOST_FIELDS = 200
_LONGEST_FOUND = 80  # characters of a wrong value in a message
_SUBJECT = re.compile(r"^[A-Z]\w+ should")  # of Pydantic's sentences: Input, List, String


class JsonRoute(APIRoute):
    """A route whose JSON body is read by `parsed`, and may have unknown fields where allowed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind our reading of the body."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            settings: ServeSettings = request.app.state.settings
            if self.body_field is None:
                return await handler(request)
            body = parsed(await request.body(), settings.limits.json_depth)
            request._json = body  # Starlette's own place of what request.json() found
            try:
                return await handler(request)
            except RequestValidationError as error:
                unknown = _unknown_fields(error)
                if not (settings.accept_unknown_fields and _drop(body, unknown)):
                    raise as_serve_error(error, self.body_field.field_info.annotation) from None
                names = ", ".join(".".join(map(str, path)) for path in unknown)
                logger.warning("%s: fields left alone: %s", request.url.path, names)
                return await handler(request)

        return handle


def parsed(content: bytes, most_depth: int) -> Any:
    """The value of a JSON body, without unsupported fields that are null.

    Raises ServeError for what is not JSON, for NaN and infinite numbers, for nesting beyond
    `most_depth` or of too many parts, and for strings that are not Unicode.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
        if b"\\u" in content:  # the only way to a half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep(most_depth) from None
    except UnicodeEncodeError:
        raise ServeError("invalid", "a string of the body is not Unicode text") from None
    except ValueError as error:
        message = f"the body should be JSON: {error!s:.200}"
        raise ServeError("invalid", message, code="invalid_json") from None
    if content.count(b"{") + content.count(b"[") > most_depth:
        _require_shape(value, most_depth)
    if isinstance(value, dict):
        if len(value) > _MOST_FIELDS:
            raise ServeError("invalid", f"the body should have at most {_MOST_FIELDS} fields")
        for name in UNSUPPORTED.keys() & value.keys():
            if value[name] is None:
                del value[name]
    return value


def as_serve_error(error: RequestValidationError, wanted_body: Any = None) -> ServeError:
    """One 400 that names the first field that is wrong, what was wanted and what was found.

    Of the forms that a field may have, those speak that fit furthest. For an unknown one the
    nearest of the body's class is named.
    """
    field = error.errors()[0]["loc"][1:2]
    about = [one for one in error.errors() if one["loc"][1:2] == field]
    depth = max(len(one["loc"]) for one in about)
    deepest = [one for one in about if len(one["loc"]) == depth]
    first = deepest[0]
    param = str(field[0]) if field else None
    place = _dotted(first["loc"][1:], error.body) or "the body"
    if first["type"] == "extra_forbidden":
        if place in UNSUPPORTED:
            return ServeError(
                "invalid",
                f"{place} is not supported",
                hint=UNSUPPORTED[place],
                param=place,
                code="unsupported_parameter",
            )
        name = str(first["loc"][-1])[:LONGEST_NAME]
        near = difflib.get_close_matches(name, _field_names(wanted_body), n=1)
        return ServeError(
            "invalid",
            f"there is no field {place}",
            hint=f"did you mean {near[0]}?" if near else None,
            param=place,
            code="unknown_parameter",
        )
    if first["type"] == "missing":
        message = f"{place} is missing"
        return ServeError("invalid", message, param=param, code="missing_required_parameter")
    here = [one for one in deepest if (_dotted(one["loc"][1:], error.body) or place) == place]
    fitting = [one for one in here if not one["type"].endswith("_type")] or here
    wanted = dict.fromkeys(_SUBJECT.sub("should", one["msg"]) for one in fitting)
    message = f"{place} {' or '.join(wanted)}"
    if first["input"] is None or isinstance(first["input"], str | int | float):
        message += f", found {json.dumps(first['input'], ensure_ascii=False)[:_LONGEST_FOUND]}"
    return ServeError("invalid", message, param=param, code="invalid_value")


@functools.cache
def _field_names(body: type[BaseModel] | None) -> list[str]:
    """Of a body and all that may be in it."""
    schema = body.model_json_schema() if body is not None else {}
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for part in parts for name in part.get("properties", ())})


def _unknown_fields(error: RequestValidationError) -> list[tuple[int | str, ...]]:
    """Where the unknown fields lie, none if anything else is wrong or one is unsupported."""
    paths = [tuple(one["loc"][1:]) for one in error.errors()]
    only_unknown = all(one["type"] == "extra_forbidden" for one in error.errors())
    is_refused = any(len(path) == 1 and path[0] in UNSUPPORTED for path in paths)
    return paths if only_unknown and not is_refused else []


def _drop(body: Any, paths: Sequence[tuple[int | str, ...]]) -> bool:
    """Whether all of them could be taken out of the body."""
    for path in paths:
        place = body
        for step in path[:-1]:
            # a step that leads nowhere is a union's tag
            is_key = isinstance(place, dict) and step in place
            is_index = isinstance(place, list) and isinstance(step, int)
            place = place[step] if is_key or is_index else place
        if not isinstance(place, dict) or path[-1] not in place:
            return False
        del place[path[-1]]
    return bool(paths)


def _dotted(path: Sequence[int | str], body: Any) -> str:
    """The place as a text, without the steps that are tags of unions and not in the body."""
    steps = []
    for number, step in enumerate(path):
        is_key = isinstance(body, dict) and step in body
        is_index = isinstance(body, list) and isinstance(step, int)
        if is_key or is_index:
            body = body[step]
        is_tag = "[" in str(step) or str(step) in ("str", "constrained-str")
        if is_key or is_index or number == 0 or (number == len(path) - 1 and not is_tag):
            steps.append(str(step))
    return ".".join(steps)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.30} is too large")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _require_shape(value: Any, most_depth: int) -> None:
    level, count = [value], 0
    for _ in range(most_depth + 1):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        count += len(level)
        if count > _MOST_CONTAINERS:
            message = f"the body should have at most {_MOST_CONTAINERS:,} lists and objects"
            raise ServeError("invalid", message)
        if not level:
            return
    raise _too_deep(most_depth)


def _too_deep(most_depth: int) -> ServeError:
    return ServeError("invalid", f"the body should nest at most {most_depth} deep")
