"""`puna evaluate`: measure a model on text it has not seen."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from puna.commands.load import load
from puna.commands.model_arguments import add_model
from puna.console import Console, human_duration, table
from puna.errors import UsageError

WINDOWS_AT_ONCE = 16
LONGEST_WINDOW = 2048  # the paper's context; attention over 128k tokens would fill any memory


def configure(parser: argparse.ArgumentParser) -> None:
    """The sub-verbs of `puna evaluate`."""
    parser.description = "Measure a model on text it has not seen."
    parser.epilog = "examples:\n  puna evaluate perplexity demo/run --data demo/data/corpus"
    verbs = parser.add_subparsers(dest="action", metavar="VERB", required=True)
    perplexity = verbs.add_parser("perplexity", help="bits per byte, beside xz and frequencies")
    perplexity.description = (
        "Bits per byte: document by document, BOS first, in disjoint windows of the training\n"
        "context (of 2,048 tokens where it is longer), every byte counted once.\n"
        "Beside it: xz -9e after the training text and alone, and token frequencies. On a corpus,\n"
        "the held-out part is measured, and a run folder gets the record as evaluation.json."
    )
    perplexity.epilog = """examples:
  puna evaluate perplexity demo/run --data demo/data/corpus
  puna evaluate perplexity demo/run --data letters.txt --no-baselines
  puna evaluate perplexity demo/run --data demo/data/corpus --which best --documents"""
    add_model(perplexity)
    perplexity.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="CORPUS|FILE|FOLDER",
        help="a corpus, of which the held-out part, or text of your own",
    )
    perplexity.add_argument(
        "--batch", type=int, default=WINDOWS_AT_ONCE, metavar="N", help="windows scored at once"
    )
    perplexity.add_argument(
        "--no-baselines", action="store_true", help="only the model, without xz and frequencies"
    )
    perplexity.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="tokens in a window; without it the model's context, at most 2048",
    )
    perplexity.add_argument("--documents", action="store_true", help="a line for each document")
    perplexity.add_argument("--out", type=Path, metavar="FILE", help="write the record here too")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Evaluate, print, and keep the record. Raises DataError, CheckpointError or UsageError."""
    if arguments.batch < 1:
        raise UsageError(f"--batch must be at least 1, got {arguments.batch}")
    from puna.evaluate import heldout

    text = heldout.open_text(arguments.data)
    run_folder = Path(arguments.model)
    kept = run_folder / heldout.FILE_NAME
    is_kept = text.corpus is not None and (run_folder / "checkpoints").is_dir()
    previous = heldout.read_previous(kept) if is_kept else None
    engine = load(arguments.model, arguments, console, batched=True)
    context = window(arguments.context, engine.config.context_length)
    baselines = heldout.known_baselines(previous, engine, text)
    if baselines is not None:
        console.say("baselines: those computed before for this corpus and tokenizer")
    elif not arguments.no_baselines:
        baselines = heldout.compute_baselines(engine, text, console)
    same = previous is not None and previous["context_length"] == context
    if previous and same and baselines and heldout.is_up_to_date(previous, engine, text):
        console.say("scores: those of before, for the same weights; to score again, remove")
        console.say(f"  {kept}")
        record = {**previous, "baselines": baselines}
    else:
        record = heldout.evaluate(
            engine,
            text,
            console,
            batch=arguments.batch,
            context_length=context,
            baselines=baselines,
        )
    for path in ([kept] if is_kept else []) + ([arguments.out] if arguments.out else []):
        heldout.write_evaluation(path, record)
        console.say(f"wrote {path}")
    console.result(record, shown(record, with_documents=arguments.documents))
    return 0


def window(wanted: int | None, context_length: int) -> int:
    """Tokens in a window. Raises UsageError for more than the model's context, or none."""
    if wanted is None:
        return min(context_length, LONGEST_WINDOW)
    if not 1 <= wanted <= context_length:
        raise UsageError(f"--context must be 1 to the model's {context_length}, got {wanted}")
    return wanted


def shown(record: dict[str, Any], *, with_documents: bool) -> str:
    """The record as tables for people."""
    model = f"{record['checkpoint']}, context {record['context_length']}"
    rows = [[model, f"{record['bits_per_byte']:.3f}"]]
    rows += [[name, f"{value:.3f}"] for name, value in record["baselines"].items()]
    parts = [
        f"{record['data']}: {record['documents']:,} documents, {record['bytes']:,} bytes, "
        f"{record['tokens']:,} tokens, scored in {human_duration(record['seconds'])}",
        table(["", "bits per byte"], rows),
        f"per token: {record['nats_per_token']:.3f} nats, "
        f"perplexity {record['perplexity_per_token']:.4g}",
    ]
    if with_documents:
        lines = [
            [one["id"], f"{one['bytes']:,}", f"{one['tokens']:,}", f"{one['bits_per_byte']:.3f}"]
            for one in record["per_document"]
        ]
        parts.append(table(["document", "bytes", "tokens", "bits per byte"], lines))
    return "\n\n".join(parts)
