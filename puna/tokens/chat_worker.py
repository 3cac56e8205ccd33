"""The other end of a chat template: a process that renders, and can be ended at any time.

Run as a script by puna.tokens.chat_template; needs nothing of Puna. A template comes from a file
that somebody else wrote. Jinja's sandbox keeps it from the machine, not from using it up: a loop,
a product of strings, a power of numbers run in C, where no limit within the same process ends them.

Messages both ways are JSON, a line each.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

try:
    import resource
except ImportError:  # Windows: only the clock of the other end is left there
    resource = None  # type: ignore[assignment]

MEMORY_BYTES = 512 << 20  # of address space, interpreter and Jinja among it
MOST_CHARACTERS = 4 << 20  # of a prompt: beyond any model's context


class Generation(jinja2.ext.Extension):
    """{% generation %}: where a template marks what the assistant said; the text stays as it is."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's interface)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The nodes within the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Jinja as Hugging Face's chat templates expect it."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", Generation],
    )
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return made


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message: str) -> None:
    """What a template calls when it cannot take a conversation."""
    raise jinja2.TemplateError(message)


def render(template: jinja2.Template, variables: dict[str, Any]) -> dict[str, Any]:
    """The text, or why there is none. Stops as soon as the text is too long."""
    parts: list[str] = []
    length = 0
    for part in template.generate(variables):
        parts.append(part)
        length += len(part)
        if length > MOST_CHARACTERS:
            return {"error": f"its text is longer than {MOST_CHARACTERS:,} characters"}
    return {"text": "".join(parts)}


def answer(request: dict[str, Any], compiled: dict[str, jinja2.Template]) -> dict[str, Any]:
    """The response to one request; whatever a template raises is an answer too."""
    try:
        source = request["template"]
        if source not in compiled:
            compiled[source] = environment().from_string(source)
        limit_cpu(request["seconds"])
        return render(compiled[source], request["variables"])
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except jinja2.TemplateError as error:
        return {"error": str(error.message or type(error).__name__)[:500]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def limit_memory() -> None:
    """Refuse memory beyond the limit, and leave no image behind."""
    if resource is not None:
        for name, size in (("RLIMIT_AS", MEMORY_BYTES), ("RLIMIT_CORE", 0)):
            try:
                resource.setrlimit(getattr(resource, name), (size, size))
            except (AttributeError, OSError, ValueError):
                continue  # macOS has no limit of address space


def limit_cpu(seconds: int) -> None:
    """End this process after some more seconds of work, should the other end be gone."""
    if resource is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = int(usage.ru_utime + usage.ru_stime)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds + 1, hard))


def main() -> None:
    """Answer requests until there are no more."""
    limit_memory()
    compiled: dict[str, jinja2.Template] = {}
    with open(0, "rb") as requests, open(1, "wb") as answers:
        answers.write(b'{"ready": true}\n')
        answers.flush()
        for request in requests:
            answers.write(json.dumps(answer(json.loads(request), compiled)).encode() + b"\n")
            answers.flush()


if __name__ == "__main__":
    main()
