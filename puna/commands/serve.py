"""`puna serve`: models behind HTTP, for OpenAI's and Ollama's clients, and a page for people."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from puna.commands.convert import parsed_bytes
from puna.commands.model_arguments import add_engine
from puna.console import Console
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.serve.server import Event
    from puna.serve.settings import ServeSettings

_SUFFIXES = (".gguf", ".bin", ".safetensors", ".pth")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna serve`."""
    parser.description = (
        "Serve models to OpenAI's and Ollama's clients, and to people on a page at the address it\n"
        "prints. Several models are loaded when they are asked for, and unloaded when others need\n"
        "the memory. Ctrl-C or SIGTERM lets what is under way end, a second one does not."
    )
    parser.epilog = """examples:
  puna serve smollm2                            then open http://127.0.0.1:8000
  puna serve demo/run --port 8080 --runs demo
  puna serve smollm2 llama-3-8b.gguf --memory-budget 12G
  puna serve smollm2 --host 0.0.0.0 --api-key-file keys.txt --allowed-host box.lan
"""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a model's folder, file or name")
    parser.add_argument(
        "--name",
        "--alias",
        action="append",
        default=[],
        metavar="NAME",
        help="what clients call it, in the order of MODELs; without it, the file's or folder's",
    )
    add_engine(parser)
    _add_engine(parser)
    _add_address(parser)
    _add_access(parser)
    _add_limits(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Serve until a signal; 1 where the only model cannot be loaded. Raises UsageError."""
    settings = settings_of(arguments)
    if settings.host not in _LOOPBACK and not settings.api_keys:
        console.warn(
            f"anyone who reaches {settings.host} may use the models; --api-key asks for a key"
        )
    handler = logging.StreamHandler(console.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for name in ("puna.serve", "uvicorn"):
        logging.getLogger(name).addHandler(handler)
    from puna.serve.server import serve

    def announce(event: Event) -> None:
        if console.json_output:
            console.result(event, "")
        else:
            console.say(told(event, settings))

    return 0 if serve(settings, announce) else 1


def settings_of(arguments: argparse.Namespace) -> ServeSettings:
    """The arguments as settings. Raises UsageError, and ConfigError as ServeSettings does."""
    from puna.serve.settings import RequestLimits, ServeSettings

    budget = parsed_bytes(arguments.memory_budget, "--memory-budget")
    body_bytes = parsed_bytes(arguments.max_body, "--max-body")
    assert body_bytes is not None  # it has a default
    return ServeSettings(
        models=named_models(arguments.models, arguments.name),
        host=arguments.host,
        port=arguments.port,
        api_keys=(*arguments.api_key, *read_keys(arguments.api_key_file)),
        allowed_hosts=tuple(arguments.allowed_host),
        cors_origins=tuple(arguments.cors_origin),
        tls_certificate=arguments.tls_cert,
        tls_key=arguments.tls_key,
        memory_budget_bytes=budget,
        backend=arguments.backend,
        kv=arguments.kv,
        which=arguments.which,
        tokenizer_path=arguments.tokenizer_path,
        context_tokens=arguments.context_tokens,
        running=arguments.running,
        queue_limit=arguments.queue,
        load_seconds=arguments.load_seconds,
        drain_seconds=arguments.drain_seconds,
        runs=arguments.runs,
        access_log=arguments.access_log,
        log_prompts=arguments.log_prompts,
        accept_unknown_fields=arguments.accept_unknown_fields,
        limits=RequestLimits(body_bytes=body_bytes),
    )


def named_models(models: list[str], names: list[str]) -> dict[str, str]:
    """Names and what they stand for. Raises UsageError for too many names, or one used twice."""
    if len(names) > len(models):
        raise UsageError(f"--name is given {len(names)} times for {len(models)} models")
    named: dict[str, str] = {}
    for number, model in enumerate(models):
        name = names[number] if number < len(names) else _own_name(model)
        if not name or name in named:
            raise UsageError(
                f"each model needs a name of its own, found {name!r} for {model}",
                hint="--name NAME for each, in the order of MODELs",
            )
        named[name] = model
    return named


def read_keys(path: Path | None) -> list[str]:
    """A key a line; lines that are empty or begin with # do not count. Raises UsageError."""
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the file of API keys cannot be read: {error}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"{path} should have an API key a line, found none")
    return keys


def _own_name(model: str) -> str:
    path = Path(model.removeprefix("hf:"))
    name = path.resolve().name if path.exists() else path.name
    return Path(name).stem if name.lower().endswith(_SUFFIXES) else name


def told(event: Event, settings: ServeSettings) -> str:
    """An event of the server in words, with what to try."""
    if event["event"] == "ready":
        seconds, context = event["load_seconds"], event["context_tokens"]
        text = f"{event['model']}: {event['backend']}; {context:,} tokens of context"
        if not event["has_chat_template"]:
            text += "; a base model, for /v1/completions"
        return f"{text}; loaded in {seconds:.1f} s"
    url, names = event["url"], event["models"]
    key = " -H 'Authorization: Bearer KEY'" if settings.api_keys else ""
    asked = json.dumps({"model": names[0], "prompt": "The llama is"})
    return "\n".join(
        [
            f"serving {', '.join(names)} at {url}, the page for people",
            f"  OpenAI's clients: base_url {url}/v1, model {names[0]}",
            f"  curl {url}/v1/completions{key} -H 'Content-Type: application/json' -d '{asked}'",
            "Ctrl-C ends it",
        ]
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument(
        "--memory-budget",
        metavar="BYTES",
        help="what all loaded models may take, as 500M or 12G; without it, what is free",
    )
    group.add_argument(
        "--context-tokens",
        type=int,
        metavar="N",
        help="tokens of all texts together whose keys and values are kept; without it, by memory",
    )
    group.add_argument(
        "--load-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="what has not loaded by then has failed",
    )
    group.add_argument(
        "--running", type=int, default=64, metavar="N", help="texts under way at once, of a model"
    )
    group.add_argument(
        "--queue", type=int, default=256, metavar="N", help="texts that may wait; beyond them, 429"
    )


def _add_address(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("address")
    group.add_argument("--host", default="127.0.0.1", help="where to listen; 0.0.0.0 is everywhere")
    group.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate, PEM")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    group.add_argument("--runs", type=Path, metavar="DIR", help="training runs for the page")


def _add_access(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("access")
    for option, metavar, help_text in (
        ("--api-key", "KEY", "ask for it; may be given several times; others see it in `ps`"),
        ("--allowed-host", "NAME", "a name in Host headers beside loopback's; may be repeated"),
        ("--cors-origin", "URL", "pages of this origin may call; may be repeated"),
    ):
        group.add_argument(option, action="append", default=[], metavar=metavar, help=help_text)
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="a key a line")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("requests")
    group.add_argument("--max-body", default="8M", metavar="BYTES", help="of a request")
    group.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="what is under way has so long after SIGTERM",
    )
    group.add_argument(
        "--accept-unknown-fields",
        action="store_true",
        help="log a warning where a request has fields that Puna does not know, instead of a 400",
    )
    group.add_argument("--access-log", type=Path, metavar="FILE", help="a JSON line a request")
    group.add_argument("--log-prompts", action="store_true", help="prompts, too, in the access log")
