"""`puna report RUN`: one self-contained page about a training run."""

from __future__ import annotations

import argparse
from pathlib import Path

from puna.console import Console, human_bytes

EXAMPLES = """examples:
  puna report demo/run                       writes demo/run/report.html
  puna report demo/run --open                and shows it in the browser
  puna report demo/run --out today.html

The page needs no network and nothing beside it: mail it, print it, keep it. It can be made while
the run is still going.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `puna report`."""
    parser.description = "Write one self-contained HTML page about a training run."
    parser.epilog = EXAMPLES
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that puna train wrote")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where the page goes (default: RUN/report.html)"
    )
    parser.add_argument("--open", action="store_true", help="show the page in the browser")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the page and say where it is."""
    from puna import page
    from puna.train.report import gather, render

    facts = gather(arguments.run)
    out = arguments.out or arguments.run / "report.html"
    size_bytes = page.write(render(facts), out)
    evaluation = facts.evaluation
    record = {
        "report": str(out),
        "bytes": size_bytes,
        "step": facts.last_step,
        "bits_per_byte": evaluation.bits_per_byte if evaluation else None,
    }
    console.result(record, f"{out} ({human_bytes(size_bytes)})")
    if evaluation is None:
        console.say(
            "no held-out evaluation yet; for the headline figure: "
            f"puna evaluate perplexity {arguments.run} --data CORPUS"
        )
    if arguments.open:
        show(str(out), console)
    return 0


def show(page: str, console: Console) -> None:
    """Open a page, a file here or a URL, in the browser; warn where there is none."""
    import webbrowser

    if not webbrowser.open(page if "://" in page else Path(page).resolve().as_uri()):
        console.warn(f"found no browser to open {page} with")
