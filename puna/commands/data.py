"""`puna data`: text to documents, documents to a corpus, a corpus to token shards."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from puna.commands import data_build, data_fetch
from puna.console import Console, human_bytes, table
from puna.errors import DataError, UsageError

if TYPE_CHECKING:
    from puna.data.build.source_text import SourceText
    from puna.data.corpus import Corpus
    from puna.data.document import Dropped
    from puna.data.look import Shown

Name = TypeVar("Name", bound=str)  # of a split, or of a mixture's source

NAME_COLUMNS = 34  # of a name in a table, so that it fits 80 columns
EXCERPT_CHARACTERS = 600
EXAMPLES_SHOWN = 5
KINDS_SHOWN = 8
ROWS_SHOWN = 20
READ = "read."  # what a source's settings begin with
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline
RULES = {
    "documents": "held out: every {every}th document, from number {offset} (counted from 0)",
    "hash": "held out: about one document in {every}, by its text's hash",
    "tails": "held out: about the last {share:.0%} of each document (too few for every {every}th)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """The five sub-verbs of `puna data`."""
    parser.description = "Text to documents, documents to a corpus, a corpus to token shards."
    parser.epilog = """examples:
  puna data fetch sotu --out demo/raw               public text and its licence
  puna data fetch wikipedia simple --out raw        a dump, resumed and checked
  puna data add my_folder notes.md --out corpus     your own text, split
  puna data build recipes/data/llama1.toml          public sources, all stages
  puna data build recipes/data/demo.toml            the demo's text, in seconds
  puna data report demo/data                        what came of it, as a page
  puna data look demo/data --number 3               read some of it"""
    verbs = parser.add_subparsers(dest="action", metavar="VERB", required=True)
    data_fetch.configure(verbs.add_parser("fetch", help="download a public source"))
    _configure_add(verbs.add_parser("add", help="make a corpus of files and folders"))
    data_build.configure(verbs.add_parser("build", help="a recipe or a corpus to token shards"))
    _configure_report(verbs.add_parser("report", help="count what is in a corpus"))
    _configure_look(verbs.add_parser("look", help="show documents of a corpus or of shards"))


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do one sub-verb. Raises DataError, ConfigError or UsageError as it says."""
    actions = {
        "fetch": data_fetch.run,
        "add": _add,
        "build": data_build.run,
        "report": _report,
        "look": _look,
    }
    actions[arguments.action](arguments, console)
    return 0


def _configure_add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a corpus: read text files, drop empty and equal documents, hold some out.\n"
        "Read are .txt .md .py (a file is a document), .jsonl .jsonl.gz .jsonl.zst (a\n"
        "line is one; key text or content), .parquet and .csv (a row), all of them UTF-8,\n"
        "the main content of .html pages, the text of .pdf (with puna[data]).\n"
        "Hidden files, other kinds and what Puna wrote are left alone and counted.\n"
        "After the name of a public source, PATHs are files, folders, patterns or URLs\n"
        "of its raw format: commoncrawl c4 github wikipedia books arxiv stackexchange,\n"
        "or own. A file or folder of that very name is text of your own."
    )
    parser.epilog = """examples:
  puna data add my_folder --out corpus
  puna data add my_books notes.md --out corpus --licence "my own"
  puna data add dump.jsonl.zst --out corpus --skip-bad
  puna data add wikipedia simplewiki-*.xml.bz2 --out corpus
  puna data add c4 s3://bucket/c4/en --out corpus --set read.filters_rows=true
  puna data add my_folder --out corpus --set heldout_every=100 --replace"""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="file or folder; a source's name may come first"
    )
    _add_out(parser, "folder to write the corpus to")
    parser.add_argument(
        "--source", metavar="NAME", help="source of what does not say its own (else the folder)"
    )
    parser.add_argument(
        "--licence", metavar="NAME", help='licence of what does not say its own (else "unknown")'
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out and count what cannot be read"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="of a public source, whose damaged items are left out and counted: stop at the first",
    )
    parser.add_argument("--replace", action="store_true", help="rebuild the corpus in --out")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="heldout_every (20) and heldout_offset (10): which documents are held out; "
        "read.NAME: a setting of the source",
    )


def _configure_report(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What is in a corpus by split, source and licence, and what was dropped.\n"
        "Of a build, one HTML page that needs no network: what every stage of each\n"
        "source let through and dropped, why, with texts to read; languages, licences,\n"
        "duplicates, mixture, cost."
    )
    parser.epilog = (
        "examples:\n"
        "  puna data report my_corpus\n"
        "  puna data report corpora/llama1           writes corpora/llama1/report.html\n"
        "  puna data report corpora/llama1 --json    the same numbers"
    )
    parser.add_argument(
        "corpus", metavar="CORPUS|BUILD", help="folder of puna data add or build, or a URL"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="of a build: where the page goes (BUILD/report.html)"
    )
    parser.add_argument(
        "--open", action="store_true", help="of a build: show the page in the browser"
    )


def _configure_look(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show documents of a corpus, of a file that a build's stage left or, decoded, of\n"
        "token shards: the beginning of some chosen by a seed, or one whole.\n"
        "Control characters are shown as escapes."
    )
    parser.epilog = """examples:
  puna data look demo/data/corpus
  puna data look demo/data/corpus --split heldout --number 5 --seed 7
  puna data look demo/data/corpus --id 1799-Adams-1.txt
  puna data look demo/data --id 0
  puna data look corpora/mine --split books --number 5"""
    parser.add_argument("folder", type=Path, metavar="CORPUS|SHARDS|FILE", help="what to look into")
    parser.add_argument("--number", type=int, default=3, metavar="N", help="how many to show")
    parser.add_argument(
        "--split", metavar="NAME", help="only of train or heldout; of a build, of this source"
    )
    parser.add_argument(
        "--id", metavar="ID", help="this document, whole; in shards its number, from 0"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which are chosen")


def _add_out(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=meaning)


def _add(arguments: argparse.Namespace, console: Console) -> None:
    from puna import config as recipes
    from puna.data.corpus import CorpusConfig, build_corpus
    from puna.data.sources.own import OwnText

    overrides = [one for one in arguments.set if not one.startswith(READ)]
    config = recipes.load(CorpusConfig, None, overrides)
    text = _source_text(arguments) or OwnText(
        list(map(Path, arguments.paths)),
        source=arguments.source,
        licence=arguments.licence,
        skip_bad=arguments.skip_bad,
    )
    console.say(f"found {len(text.files):,} text files, {human_bytes(text.total_bytes)}")
    if text.not_read:
        console.say(f"left alone: {_counts(text.not_read)}")
    corpus = build_corpus(text, arguments.out, config, console, replace=arguments.replace)
    _warn_of_gaps(corpus, console, has_own_licence=isinstance(text, OwnText))
    record = {"out": str(arguments.out), **corpus.manifest}
    console.result(record, f"{arguments.out}\n{_splits_table(corpus)}")


def _source_text(arguments: argparse.Namespace) -> SourceText | None:
    """The files of a public source, where its name is the first word and no file of that name."""
    from puna import config as recipes
    from puna.data.build import stages
    from puna.data.build.source_text import SourceText

    name, *paths = arguments.paths
    settings = [one.removeprefix(READ) for one in arguments.set if one.startswith(READ)]
    if name not in stages.SOURCES or not paths or Path(name).exists():
        if settings:
            raise UsageError(f"--set {READ}...: settings of a public source, and none is named")
        if arguments.strict:
            raise UsageError(
                "--strict is for a public source; your own text stops at the first damaged item",
                hint="--skip-bad leaves it out",
            )
        return None
    if arguments.source or arguments.licence:
        raise UsageError("--source and --licence are for files of your own")
    table = recipes.overridden({}, settings)
    source = stages.source(name, table, "--set read")
    return SourceText(source, paths, is_strict=arguments.strict)


def _warn_of_gaps(corpus: Corpus, console: Console, has_own_licence: bool) -> None:
    """What the owner of the text should know before training on it."""
    from puna.data.document import DAMAGED, UNKNOWN_LICENCE
    from puna.data.sources.own import UNREADABLE

    for reason, facts in corpus.manifest["dropped"].items():
        if reason in (UNREADABLE, DAMAGED):
            lines = [f"left out {facts['documents']:,} {reason} files or lines, the first being"]
            lines += [f"  {_shown_safely(item.detail)}" for item in _first_dropped(corpus, reason)]
            console.warn("\n".join(lines))
        else:
            console.say(f"dropped {facts['documents']:,}: {reason}")
    if UNKNOWN_LICENCE in corpus.manifest["licences"]:
        hint = "; --licence gives it one" if has_own_licence else ""
        console.say(f"some text has no known licence{hint}")


def _report(arguments: argparse.Namespace, console: Console) -> None:
    from puna.data.corpus import open_corpus

    if data_build.is_build(arguments.corpus):
        data_build.report(arguments, console)
        return
    if arguments.out or arguments.open:
        raise UsageError("--out and --open are for a build; a corpus is told here")
    corpus = open_corpus(Path(arguments.corpus))
    manifest = corpus.manifest
    examples = _first_dropped(corpus)
    record = {**manifest, "dropped_examples": [dataclasses.asdict(item) for item in examples]}
    config = manifest["config"]
    every, offset = config["heldout_every"], config["heldout_offset"]
    rule = RULES[manifest["heldout_rule"]].format(every=every, offset=offset, share=1 / every)
    parts = [
        f"{arguments.corpus}\n{rule}",
        _splits_table(corpus),
        _groups_table("source", manifest["sources"]),
        _groups_table("licence", manifest["licences"]),
    ]
    if manifest["dropped"]:
        rows = [
            [reason, f"{facts['documents']:,}", f"{facts['bytes']:,}"]
            for reason, facts in manifest["dropped"].items()
        ]
        parts.append(table(["dropped", "documents", "bytes"], rows))
        parts.append("\n".join(_dropped_line(item) for item in examples))
    if manifest["not_read"]:
        parts.append(f"left alone: {_counts(manifest['not_read'])}")
    console.result(record, "\n\n".join(parts))


def _look(arguments: argparse.Namespace, console: Console) -> None:
    from puna.data.corpus import MANIFEST, open_corpus
    from puna.data.split import SPLITS

    if arguments.number < 1:
        raise UsageError(f"--number must be at least 1, got {arguments.number}")
    shown: Iterable[Shown]
    if arguments.folder.is_file():
        from puna.data.look import find_in_file, sample_file

        if arguments.id is not None:
            shown = [find_in_file(arguments.folder, arguments.id)]
        else:
            shown = sample_file(arguments.folder, arguments.number, arguments.seed)
    elif _is_corpus(arguments.folder / MANIFEST):
        from puna.data.look import find_in_corpus, sample_corpus

        corpus = open_corpus(arguments.folder)
        splits = _chosen_split(arguments.split, SPLITS)
        if arguments.id is not None:
            shown = [find_in_corpus(corpus, splits, arguments.id)]
        else:
            shown = sample_corpus(corpus, splits, arguments.number, arguments.seed)
    else:
        shown = _look_at_shards(arguments)
    is_whole = arguments.id is not None
    for item in shown:
        console.result(dataclasses.asdict(item), _page(item, console, is_whole))


def _is_corpus(manifest: Path) -> bool:
    """Whether a manifest is a corpus's; shards have one, too."""
    from puna.data.corpus import KIND

    return manifest.is_file() and f'"{KIND}"' in manifest.read_text("utf-8", "replace")[:200]


def _chosen_split(wanted: str | None, known: Sequence[Name]) -> tuple[Name, ...]:
    if wanted is None:
        return tuple(known)
    if wanted not in known:
        raise UsageError(f"--split {wanted}: there is none", hint=f"known: {', '.join(known)}")
    return tuple(one for one in known if one == wanted)


def _look_at_shards(arguments: argparse.Namespace) -> Iterable[Shown]:
    from puna.data.look import from_shards, open_shards, sample_shards, tokenizer_of

    every = open_shards(arguments.folder)
    splits = _chosen_split(arguments.split, list(every))
    shards = {split: every[split] for split in splits}
    tokenizer = tokenizer_of(arguments.folder)
    if arguments.id is None:
        return sample_shards(shards, tokenizer, arguments.number, arguments.seed)
    if not arguments.id.isdecimal():
        raise DataError(
            f"a document in shards is named by its number, from 0; got {arguments.id!r}",
            hint="the corpus that the shards were made from knows the names",
        )
    return [from_shards(shards[splits[0]], splits[0], tokenizer, int(arguments.id))]


def _page(item: Shown, console: Console, is_whole: bool) -> str:
    """A line about the document, its text or its beginning, an empty line."""
    size = f"{len(item.text.encode('utf-8')):,} bytes"
    tokens = f"{item.tokens:,} tokens" if item.tokens is not None else None
    facts = [item.id, item.split, item.source, item.licence, size, tokens]
    head = _shown_safely(" | ".join(fact for fact in facts if fact))
    text = item.text if is_whole else item.text[:EXCERPT_CHARACTERS]
    rest = len(item.text) - len(text)
    more = f"\n[{rest:,} more characters: --id shows it whole]" if rest else ""
    return f"{console.paint(f'--- {head}', '1')}\n{_shown_safely(text)}{more}\n"


def _shown_safely(text: str) -> str:
    """Text that cannot move the cursor or change the colours of a terminal."""
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _splits_table(corpus: Corpus) -> str:
    rows = [
        [split, f"{facts['documents']:,}", f"{facts['bytes']:,}"]
        for split, facts in corpus.manifest["splits"].items()
    ]
    return table(["split", "documents", "bytes"], rows)


def _groups_table(name: str, groups: Mapping[str, Mapping[str, int]]) -> str:
    """Documents and bytes of each source or licence, the largest first."""
    sizes = {
        group: facts.get("train_bytes", 0) + facts.get("heldout_bytes", 0)
        for group, facts in groups.items()
    }
    total = sum(sizes.values())
    rows = []
    ordered = sorted(groups, key=lambda group: -sizes[group])
    for group in ordered[:ROWS_SHOWN]:
        facts = groups[group]
        documents = facts.get("train_documents", 0) + facts.get("heldout_documents", 0)
        heldout = facts.get("heldout_bytes", 0)
        share = f"{sizes[group] / total:.1%}"
        row = [_cut(group), f"{documents:,}", f"{sizes[group]:,}", share, f"{heldout:,}"]
        rows.append(row)
    others = ordered[ROWS_SHOWN:]
    more = f"\nand {len(others):,} others, {sum(sizes[group] for group in others):,} bytes"
    return table([name, "documents", "bytes", "share", "held out"], rows) + more * bool(others)


def _first_dropped(corpus: Corpus, reason: str | None = None) -> list[Dropped]:
    wanted = (item for item in corpus.dropped() if reason in (None, item.reason))
    return list(itertools.islice(wanted, EXAMPLES_SHOWN))


def _dropped_line(item: Dropped) -> str:
    detail = f": {item.detail}" if item.detail else ""
    return _shown_safely(f"  {item.id}: {item.reason}{detail}")


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    shown = [f"{count:,} {kind}" for kind, count in ordered[:KINDS_SHOWN]]
    others = sum(count for _, count in ordered[KINDS_SHOWN:])
    return ", ".join([*shown, f"{others:,} of other kinds"] if others else shown)


def _cut(name: str) -> str:
    return name if len(name) <= NAME_COLUMNS else f"{name[: NAME_COLUMNS - 1]}…"
