"""Arguments that the verbs which train share: the text as it is, or as shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from puna.errors import UsageError


def add_text(parser: argparse.ArgumentParser) -> None:
    """--data and --shards, of which `require_text` wants one."""
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="folders or files of .txt .md .py .html .pdf .jsonl(.gz|.zst) .csv .parquet",
    )
    parser.add_argument("--shards", type=Path, metavar="DIR", help="shards of `puna data build`")


def require_text(arguments: argparse.Namespace, example: str) -> None:
    """Raise UsageError unless one of the two is given; `example` is a command that does."""
    if bool(arguments.data) == bool(arguments.shards):
        raise UsageError(
            "give the text as --data PATH or as --shards DIR, one of the two", hint=example
        )
