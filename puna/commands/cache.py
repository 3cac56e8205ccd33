"""`puna cache`: which pulled models lie on this machine, and removing them."""

from __future__ import annotations

import argparse

from puna.console import Console, human_bytes, table


def configure(parser: argparse.ArgumentParser) -> None:
    """The sub-verbs of `puna cache`."""
    parser.description = (
        "The models that `puna pull` brought. They lie in the platform's folder for caches, or\n"
        "where PUNA_CACHE says."
    )
    parser.epilog = "examples:\n  puna cache list\n  puna cache rm smollm2"
    verbs = parser.add_subparsers(dest="action", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="names, sizes, folders; unfinished downloads too")
    listing.epilog = "examples:\n  puna cache list\n  puna cache list --json"
    removing = verbs.add_parser("rm", help="remove a model, and what an unfinished pull left")
    removing.add_argument("name", metavar="NAME", help="a name from puna cache list")
    removing.epilog = "examples:\n  puna cache rm smollm2"


def run(arguments: argparse.Namespace, console: Console) -> int:
    """List or remove. Raises UsageError for a model that is not there."""
    from puna.weights.cache import Cache

    cache = Cache()
    if arguments.action == "rm":
        freed = cache.remove(arguments.name)
        record = {"removed": arguments.name, "bytes": freed}
        console.result(record, f"removed {arguments.name}, {human_bytes(freed)}")
        return 0
    models, unfinished = cache.models(), cache.unfinished()
    record = {
        "folder": str(cache.folder),
        "models": [{**model.record, "path": str(model.path)} for model in models],
        "unfinished": [{"name": name, "bytes": size} for name, size in unfinished],
    }
    rows = [
        (
            model.name,
            human_bytes(model.bytes),
            str(model.record.get("pulled_at", "")),
            str(model.path),
        )
        for model in models
    ]
    rows += [(name, human_bytes(size), "unfinished", "") for name, size in unfinished]
    told = table(("name", "size", "pulled", "path"), rows) if rows else "no model was pulled yet"
    console.result(record, f"{told}\n\ncache: {cache.folder}")
    return 0
