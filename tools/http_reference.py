"""Write docs/reference/http.md from the server's OpenAPI document (`make docs`); a test compares
them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "http.md"
INTRODUCTION = """# The server's routes

Written by `make docs` from the OpenAPI document, which a running server has at `/openapi.json`; do
not edit.

Requests are strict: a value of another type, out of range, or a field that is not listed is a 400
that names it. `puna serve --accept-unknown-fields` makes the last a warning in the log. A number
that is NaN or infinite, and a body that nests deeper than 64, are refused, too. Errors have
OpenAI's body, `{"error": {"message", "type", "param", "code"}}`, and below `/api/` Ollama's,
`{"error": "..."}`.

Where one model is served, any `model` means it; where several are, an unknown one is a 404. What a
request does not say is as `puna generate` has it: temperature 0.8, top_p 0.95.

`/v1/completions` with `echo` and `logprobs` gives the prompt with its tokens first, in a stream,
too. `text_offset` counts characters of the returned text; a token that is not whole characters, or
is a control token, has the place where the next one begins or the one it is a part of.

A stream of chat begins with a chunk that has the role, and ends with one that has the reason and
llama.cpp's `timings`, one with the usage where `stream_options.include_usage` asks for it, and
`data: [DONE]`. While nothing comes, `: ping` comes every 15 seconds. What fails on the way is a
chunk with `error`.
"""
IGNORED = """## Fields that are taken and left alone

They cannot change the answer:
"""
UNSUPPORTED_FIELDS = """
## Fields that are refused

They would change the answer, and Puna does not have what they ask for. null is as if they were not
there.
"""
TOOLS = """
## Tools

A chat template that takes tools gets them. For another the system message is extended by

```
{prompt}
```

and calls and results of before are written into the texts in the same form. Calls are read in the
forms that models are trained to write: `<tool_call>{{...}}</tool_call>`, `[TOOL_CALLS] [...]`, and
`{{"name": ..., "parameters": ...}}` alone or after `<|python_tag|>`. With the `tool_choice`
`required` or a named tool the text is constrained to calls that follow the tools' schemas; with
`auto` a call is what the model makes of it, and with `auto` beside a `response_format` the text is
constrained to that format, or to calls in the form above. In a stream a call begins with its name,
and its arguments follow as they come. `parallel_tool_calls: false` reads one call; more are text.
"""


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def page() -> str:
    """The whole page: each route with its fields, then what is left alone and what is refused."""
    from puna.serve.openai.schemas import UNSUPPORTED, Ignored, Tool
    from puna.serve.openai.tools import tool_prompt

    document = openapi_document()
    ignored = set(Ignored.model_fields)
    parts = [INTRODUCTION]
    parts += [
        section(f"{verb.upper()} {path}", operation, document, ignored)
        for path, operations in document["paths"].items()
        for verb, operation in operations.items()
        if verb != "head"
    ]
    parts.append(IGNORED + "\n" + ", ".join(f"`{name}`" for name in Ignored.model_fields) + ".\n")
    rows = [f"- `{name}`: {instead}" for name, instead in UNSUPPORTED.items()]
    parts.append(UNSUPPORTED_FIELDS + "\n" + "\n".join(rows) + "\n")
    parameters = {"type": "object", "properties": {"place": {"type": "string"}}}
    function = {"name": "weather", "description": "Of a place", "parameters": parameters}
    tool = Tool.model_validate({"type": "function", "function": function})
    parts.append(TOOLS.format(prompt=tool_prompt([tool])))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def openapi_document() -> dict[str, Any]:
    """That of a server; it needs no model to tell of its routes."""
    from puna.serve.app import build_app
    from puna.serve.model_pool import ModelPool
    from puna.serve.settings import ServeSettings

    models = {"any": "any"}
    return build_app(ServeSettings(models=models), ModelPool(models)).openapi()


def section(
    title: str, operation: dict[str, Any], document: dict[str, Any], ignored: set[str]
) -> str:
    """One route: what it does, the fields of its body, its query."""
    lines = [f"## {title}\n", operation.get("description", operation["summary"]) + "\n"]
    for one in operation.get("parameters", ()):
        what = one.get("description", "")
        lines.append(f"- `{one['name']}` ({one['in']}): {meaning(one['schema'], document, what)}")
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        schema = resolved(content["schema"], document)
        required = schema.get("required", ())
        for name, field in schema["properties"].items():
            if name not in ignored:
                text = meaning(field, document, field.get("description", ""))
                lines.append(f"- `{name}`{' (required)' if name in required else ''}: {text}")
    return "\n".join(lines) + "\n"


def meaning(schema: dict[str, Any], document: dict[str, Any], description: str) -> str:
    """The type in words, and what the field is for."""
    return ". ".join(part for part in (kind(schema, document), description.rstrip(".")) if part)


def kind(schema: dict[str, Any], document: dict[str, Any]) -> str:
    """The type of a value in words: `number, 0 to 1`, `one of a, b`, `list of Message`."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    forms = [one for key in ("anyOf", "oneOf") for one in schema.get(key, ())]
    if forms:
        names = [kind(one, document) for one in forms if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(names)) or "any value"
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'], document).split(',')[0]}" + bounds(schema, "Items")
    return schema.get("type", "any value") + bounds(schema, "")


def bounds(schema: dict[str, Any], what: str) -> str:
    """The least and the most of a value or a length."""
    least = schema.get(f"min{what}", schema.get("minimum", schema.get("exclusiveMinimum")))
    most = schema.get(f"max{what}", schema.get("maximum", schema.get("exclusiveMaximum")))
    if least is None and most is None:
        return ""
    if most is None or most >= 2**31:
        return f", at least {least:g}" if least else ""
    return f", {least or 0:g} to {most:g}"


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference means."""
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
