"""`puna data build`: a recipe's sources to a mixture of shards, or one corpus to shards."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.console import Console, harmless, human_bytes, table
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.data.build.executor import Executor


PAGE = "report.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna data build`."""
    parser.description = (
        "Of a recipe (.toml): read its sources, take each through its stages, tokenise,\n"
        "write shards of each with a mixture that `puna train --shards OUT` reads.\n"
        "Of a corpus: tokenise it into OUT/train and OUT/heldout, with --tokenizer.\n"
        "The same command goes on where a stopped one left off."
    )
    parser.epilog = """examples:
  puna data build recipes/data/llama1.toml --out corpora/llama1
  puna data build my.toml --out corpora/mine --workers 8 --strict
  puna data build my.toml --out s3://bucket/corpus --on ray://head:10001
  puna data build my_corpus --tokenizer my_tokenizer --out my_shards"""
    parser.add_argument("what", metavar="RECIPE|CORPUS", help="a .toml, or a folder of data add")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write; the recipe's own if none")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="PATH", help="of a corpus: tokenizer.model or its folder"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (all cores); 0: in this one"
    )
    parser.add_argument(
        "--on", metavar="ADDRESS", help="a Ray cluster instead: auto, or ray://host:10001"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first damaged item")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SOURCE", help="only this source"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change one value of the recipe"
    )


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Build. Raises ConfigError, DataError, MachineError or UsageError with what to do."""
    if not arguments.what.endswith(".toml"):
        _tokenise_corpus(arguments, console)
        return
    if arguments.tokenizer:
        raise UsageError(
            "--tokenizer is for a corpus; a recipe names its own",
            hint=f"--set tokenizer.path={arguments.tokenizer}",
        )
    from puna.data import files
    from puna.data.build.recipe import load
    from puna.data.build.run import build
    from puna.data.build.work import Options

    recipe = load(Path(arguments.what), arguments.set)
    out = arguments.out or recipe.out
    if not out:
        raise UsageError(f"{arguments.what} says no folder to write", hint="give --out FOLDER")
    if recipe.corpus and files.is_url(out):
        raise UsageError(f"corpus = true writes to a folder of this machine, got {out}")
    options = Options(out, arguments.strict, tuple(arguments.only))
    with _executor(arguments) as executor:
        record = build(recipe, options, executor, console)
    console.result({"out": out, **record}, f"{out}\n{_mixture_table(record)}")


def is_build(folder: str) -> bool:
    """Whether a folder, here or at a URL, is one that a recipe was built to."""
    from puna.data import files
    from puna.data.report.facts import REPORT

    return REPORT in files.in_folder(folder)


def report(arguments: argparse.Namespace, console: Console) -> None:
    """Write the page of a build; tell what each stage let through and what came of each source."""
    from puna.commands.report import show
    from puna.data import files
    from puna.data.report import gather, render

    facts = gather(arguments.corpus)
    out = arguments.out or files.join(arguments.corpus, PAGE)
    content = render(facts).encode("utf-8", "replace")
    files.require_writable(out)
    files.write_bytes(out, content)
    rows = []
    for step in facts.steps:
        reasons = [f"{name} {lost.documents:,}" for name, lost in step.dropped.items()]
        kept = [f"{step.kept.documents:,}", human_bytes(step.kept.text_bytes)]
        rows.append([f"{step.source} {step.stage}", *kept, ", ".join(reasons[:3])])
    funnel = table(["source, stage", "documents", "text", "dropped most"], rows)
    record = {"report": out, "bytes": len(content), **facts.record}
    page = f"{out} ({human_bytes(len(content))})"
    console.result(record, harmless(f"{page}\n{funnel}\n\n{_mixture_table(facts.record)}"))
    if arguments.open:
        show(out, console)


def _executor(arguments: argparse.Namespace) -> Executor:
    from puna import hardware
    from puna.data.build.executor import Here
    from puna.data.build.local import LocalProcesses

    if arguments.on:
        from puna.data.build.cluster import RayCluster

        return RayCluster(arguments.on)
    if arguments.workers == 0:
        return Here()
    if arguments.workers is not None and arguments.workers < 0:
        raise UsageError(f"--workers must be at least 0, got {arguments.workers}")
    return LocalProcesses(arguments.workers or hardware.usable_cores())


def _mixture_table(record: Mapping[str, Any]) -> str:
    mixture = record.get("mixture", {"sources": {}, "tokens": None})
    rows = []
    for name, source in record["sources"].items():
        mixed = mixture["sources"].get(name, {})
        row = [name, f"{source['stages'][0]['documents']:,}", f"{source['documents']:,}"]
        row += [f"{source['tokens']:,}", f"{mixed['share']:.1%}" if mixed else ""]
        if mixture["tokens"]:
            row.append(f"{mixed['epochs']:.2f}")
        rows.append(row)
    heading = ["source", "documents", "to train on", "tokens", "share"]
    return table([*heading, "epochs"] if mixture["tokens"] else heading, rows)


def _tokenise_corpus(arguments: argparse.Namespace, console: Console) -> None:
    from puna.data.corpus import open_corpus
    from puna.data.split import SPLITS
    from puna.tokens.shards import ShardsConfig, keep_tokenizer, write_shards
    from puna.tokens.tokenizer import Tokenizer

    _check_corpus_arguments(arguments)
    corpus, out = open_corpus(Path(arguments.what)), Path(arguments.out)
    tokenizer = Tokenizer.load(arguments.tokenizer)
    record: dict[str, Any] = {"out": str(out), "tokenizer_sha256": tokenizer.sha256}
    rows = []
    for split in SPLITS:
        console.heading(f"{split}: {corpus.count(split)[1]:,} bytes of text")
        texts = ((document.id, document.text) for document in corpus.documents(split))
        shards = write_shards(texts, tokenizer, out / split, ShardsConfig(), console)
        record[split] = {
            "documents": shards.documents,
            "tokens": shards.tokens,
            "text_bytes": shards.text_bytes,
            "fingerprint": shards.fingerprint,
        }
        per_token = f"{shards.bytes_per_token:.2f}"
        rows.append([split, f"{shards.documents:,}", f"{shards.tokens:,}", per_token])
    keep_tokenizer(out, tokenizer)
    heading = ["split", "documents", "tokens", "bytes a token"]
    console.result(record, f"{out}\n{table(heading, rows)}")


def _check_corpus_arguments(arguments: argparse.Namespace) -> None:
    for name in ("out", "tokenizer"):
        if getattr(arguments, name) is None:
            raise UsageError(
                f"a corpus needs --{name}; {arguments.what} is no recipe, which ends in .toml",
                hint="puna data build CORPUS --tokenizer TOKENIZER --out SHARDS",
            )
    for name in ("workers", "on", "strict", "only", "set"):
        if getattr(arguments, name):
            raise UsageError(f"--{name} is for a recipe, and {arguments.what} is a corpus")
