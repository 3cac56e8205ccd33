"""`puna cache`: which pulled models and packed weights lie on this machine, and removing them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from puna.console import Console, human_bytes, table

if TYPE_CHECKING:
    from puna.weights.cache import Cache
    from puna.weights.packed_cache import PackedCache

ALL_PACKED = "all-packed"


def configure(parser: argparse.ArgumentParser) -> None:
    """The sub-verbs of `puna cache`."""
    parser.description = (
        "The models that `puna pull` brought, and weights packed for the C++ engine, which makes\n"
        "them when it first loads a model of 32 MiB and more. They lie in the platform's folder\n"
        "for caches, or where PUNA_CACHE says; PUNA_PACKED_CACHE bounds what is packed."
    )
    parser.epilog = "examples:\n  puna cache list\n  puna cache rm smollm2"
    verbs = parser.add_subparsers(dest="action", metavar="VERB", required=True)
    listing = verbs.add_parser(
        "list", help="names, sizes, folders; unfinished downloads, packed weights"
    )
    listing.epilog = "examples:\n  puna cache list\n  puna cache list --json"
    removing = verbs.add_parser("rm", help="remove a model with its packed weights, or these alone")
    removing.add_argument(
        "name", metavar="NAME", help="a name from puna cache list; all-packed: all packed weights"
    )
    removing.epilog = "examples:\n  puna cache rm smollm2\n  puna cache rm all-packed"


def run(arguments: argparse.Namespace, console: Console) -> int:
    """List or remove. Raises UsageError for a model that is not there."""
    from puna.weights.cache import Cache
    from puna.weights.packed_cache import PackedCache

    cache, packed = Cache(), PackedCache()
    if arguments.action == "rm":
        freed = _remove(arguments.name, cache, packed)
        record = {"removed": arguments.name, "bytes": freed}
        console.result(record, f"removed {arguments.name}, {human_bytes(freed)}")
        return 0
    models, unfinished, files = cache.models(), cache.unfinished(), packed.files()
    record = {
        "folder": str(cache.folder),
        "models": [{**model.record, "path": str(model.path)} for model in models],
        "unfinished": [{"name": name, "bytes": size} for name, size in unfinished],
        "packed": [
            {"source": file.source, "bytes": file.nbytes, "path": str(file.path)} for file in files
        ],
        "packed_limit_bytes": packed.limit_bytes,
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
    if files:
        size = human_bytes(sum(file.nbytes for file in files))
        packed_rows = [(file.source, human_bytes(file.nbytes)) for file in files]
        told += "\n\n" + table(("weights packed from", "size"), packed_rows)
        told += f"\n\npacked: {size} of at most {human_bytes(packed.limit_bytes)}"
    console.result(record, f"{told}\n\ncache: {cache.folder}")
    return 0


def _remove(name: str, cache: Cache, packed: PackedCache) -> int:
    """Remove a model and what was packed from it, or what was packed from the file `name`."""
    if name == ALL_PACKED:
        return sum(packed.remove(file.path) for file in packed.files())
    from puna.weights.registry import canonical

    model = next((one for one in cache.models() if one.name == canonical(name)), None)
    source = str((model.path if model else Path(name)).resolve())
    files = [file for file in packed.files() if file.source in (source, name)]
    freed = sum(packed.remove(file.path) for file in files)
    return freed if freed and model is None else freed + cache.remove(name)
