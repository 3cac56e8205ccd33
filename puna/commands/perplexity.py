"""`puna perplexity`: a model's perplexity as llama-perplexity measures it, and its divergence."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.commands.load import load
from puna.commands.model_arguments import BACKENDS, add_model
from puna.console import Console, human_duration
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.infer.backends.base import IdArray
    from puna.infer.engine import Engine

CONTEXT = ROWS = 512
SHORTEST_CONTEXT = 4  # below it the second half predicts nothing


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna perplexity`."""
    parser.description = (
        "Perplexity by llama-perplexity's protocol: the text in windows of --context tokens, BOS\n"
        "first where the tokenizer puts one, only the second half of each scored. It compares\n"
        "models of one tokenizer; for bits per byte of whole documents: puna evaluate perplexity.\n"
        "--kl-against tells how far the predictions lie from another model's, token by token."
    )
    parser.epilog = """examples:
  puna perplexity smollm2 --text wiki.test.raw
  puna perplexity smollm2 --text wiki.test.raw --chunks 20
  puna perplexity small.gguf --text wiki.test.raw --kl-against full.gguf
  puna perplexity smollm2 --text letters.txt --kl-against smollm2 --kl-backend cpu-float
"""
    add_model(parser)
    parser.add_argument(
        "--text", type=Path, required=True, metavar="FILE", help="UTF-8 text, plain or .gz"
    )
    parser.add_argument(
        "--context", type=int, default=CONTEXT, metavar="N", help="tokens in a window"
    )
    parser.add_argument(
        "--chunks", type=int, metavar="N", help="score the first N windows; without it all"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=ROWS,
        metavar="N",
        help="tokens that make a step; 1 computes each as decoding does",
    )
    parser.add_argument(
        "--kl-against", metavar="MODEL", help="the reference that MODEL is compared with"
    )
    parser.add_argument(
        "--kl-backend", choices=BACKENDS, default="auto", help="what runs the reference"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Score the text and print. Raises UsageError, DataError, CheckpointError, TokenizerError."""
    for name in ("chunks", "rows"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    from puna.evaluate.window_perplexity import read_text, text_windows
    from puna.infer.backends.base import pages_for

    text = read_text(arguments.text)
    engine = load(arguments.model, arguments, console, batched=True)
    require_context(arguments.context, engine)
    windows = text_windows(engine.tokenizer, text, arguments.context)
    reference = None
    if arguments.kl_against is not None:
        from puna.evaluate.divergence import require_comparable

        reference = load_reference(arguments, console)
        require_context(arguments.context, reference)
        others = text_windows(reference.tokenizer, text, arguments.context)
        require_comparable(engine.backend, reference.backend, windows, others)
        reference.lend_backend().reserve(pages_for(arguments.context))
    engine.lend_backend().reserve(pages_for(arguments.context))
    began = time.perf_counter()
    windows = windows[: arguments.chunks]
    scores = (
        perplexity(engine, windows, arguments.rows, console)
        if reference is None
        else divergence((engine, reference), windows, arguments.rows, console)
    )
    record = {
        "model": str(engine.checkpoint),
        "backend": engine.backend.name,
        "text": str(arguments.text),
        "context_length": arguments.context,
        "rows": arguments.rows,
        "windows": len(windows),
        **scores,
        "seconds": time.perf_counter() - began,
    }
    console.result(record, shown(record))
    return 0


def load_reference(arguments: argparse.Namespace, console: Console) -> Engine:
    """The engine of the model that is compared with."""
    is_same = arguments.kl_against == arguments.model
    theirs = {
        "backend": arguments.kl_backend,
        "kv": "bf16",
        "which": arguments.which if is_same else "latest",
    }
    wanted = argparse.Namespace(**{**vars(arguments), **theirs})
    return load(arguments.kl_against, wanted, console, batched=True)


def require_context(context_length: int, engine: Engine) -> None:
    """Raise UsageError unless windows of this length fit the model and have a second half."""
    longest = engine.config.context_length
    if not SHORTEST_CONTEXT <= context_length <= longest:
        raise UsageError(
            f"--context must be {SHORTEST_CONTEXT} to the model's {longest}, got {context_length}"
        )


def perplexity(engine: Engine, windows: IdArray, rows: int, console: Console) -> dict[str, Any]:
    """The estimate over all windows, as plain values; the running one beside the bar."""
    import numpy as np

    from puna.evaluate.window_perplexity import estimate, scored_nats

    nats = []
    with console.progress(windows.size, "perplexity", "tokens") as bar:
        for window in windows:
            nats.append(scored_nats(engine.backend, window, rows))
            bar.set_postfix_str(f"{estimate(np.concatenate(nats)).perplexity:.4f}", refresh=False)
            bar.update(len(window))
    return asdict(estimate(np.concatenate(nats)))


def divergence(
    engines: tuple[Engine, Engine], windows: IdArray, rows: int, console: Console
) -> dict[str, Any]:
    """The model's estimate and its divergence from the reference, as plain values."""
    from puna.evaluate.divergence import compare, joined, summarised

    engine, reference = engines
    parts = []
    with console.progress(windows.size, "divergence", "tokens") as bar:
        for window in windows:
            parts.append(compare(engine.backend, reference.backend, window, rows))
            bar.set_postfix_str(f"{summarised(joined(parts)).mean:.2e}", refresh=False)
            bar.update(len(window))
    record = asdict(summarised(joined(parts)))
    return {
        **record.pop("perplexity"),
        "reference": {
            "model": str(reference.checkpoint),
            "backend": reference.backend.name,
            **record.pop("reference_perplexity"),
        },
        "divergence": record,
    }


def shown(record: dict[str, Any]) -> str:
    """The record for people."""
    lines = [
        f"text       {record['text']}",
        f"           {record['windows']:,} windows of {record['context_length']} tokens, "
        f"{record['tokens']:,} tokens scored in {human_duration(record['seconds'])}",
        f"model      {record['model']}",
        f"           {record['backend']}",
    ]
    reference, found = record.get("reference"), record.get("divergence")
    if reference and found:
        lines += [f"reference  {reference['model']}", f"           {reference['backend']}"]
    lines += ["", f"perplexity            {with_error(record)}"]
    if reference and found:
        lines += [
            f"  of the reference    {with_error(reference)}",
            f"  log of their ratio  {found['log_ratio']:.6f} ± {found['log_ratio_error']:.6f}",
            f"KL divergence, mean   {found['mean']:.3g} ± {found['mean_error']:.2g} nats",
            f"  median              {found['median']:.3g}",
            f"  99th percentile     {found['percentile_99']:.3g}",
            f"  maximum             {found['maximum']:.3g}",
            f"same likeliest token  {found['same_top']:.2%}",
        ]
    return "\n".join(lines)


def with_error(estimate: dict[str, Any]) -> str:
    """A perplexity and its standard error."""
    return f"{estimate['perplexity']:.4f} ± {estimate['standard_error']:.4f}"
