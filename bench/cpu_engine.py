"""Inference on a CPU beside llama.cpp and transformers: every claim is a case that runs alone.

    python bench/cpu_engine.py --build-peers PEERS           llama.cpp, twice; about 10 minutes
    python bench/cpu_engine.py --peers PEERS --models MODELS --case decode-135m
    python bench/cpu_engine.py --peers PEERS --models MODELS     all cases; hours

Contestants are processes of their own and run one at a time, in turns; never two engines at once.
Before each trial the memory's read bandwidth is probed. Ratios are medians over the rounds. With 5
rounds or more a row for each case is appended to history.jsonl. Missing model files are made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import bench_models
import llama_cpp
import record

from puna import hardware
from puna.console import table
from puna.errors import PunaError
from puna.native import kernels
from puna.weights.open_model import open_model

PROBE_BYTES = 2 << 30
SPARE_BYTES = 150_000_000  # memory beside weights, keys and values
OURS, PLAIN, AMX = "puna", *llama_cpp.BUILDS
MEASURES = {"decode": llama_cpp.decode, "prefill": llama_cpp.prefill,
                  "batch": llama_cpp.batch, "busy": llama_cpp.decode}  # fmt: skip
WINDOW = 512  # llama-perplexity's
BUSY_PART = 8  # of the tokens, for llama.cpp beside a busy process: a tenth of its speed, or less
AT_MOST = ("memory", "idle", "perplexity")  # kinds whose ratio must not exceed its goal


@dataclass(frozen=True)
class Case:
    """A kind of trial on a model file; `goals` are ours / theirs, None where it is only shown."""

    name: str
    kind: str
    file: str
    tokens: int
    goals: dict[str, float | None] = field(default_factory=dict)


def _decode(name: str, file: str, tokens: int, times: float | None, share: float) -> Case:
    return Case(name, "decode", file, tokens, {PLAIN: times, AMX: None, "roofline": share})


def _prefill_135m(file: str) -> Case:
    return Case("prefill-135m", "prefill", file, 512, {PLAIN: 8, AMX: None, "transformers": 3})


def _prefill(name: str, file: str) -> Case:
    return Case(name, "prefill", file, 512, {PLAIN: 5, AMX: 2, "gemm": 0.6})


def _batch(name: str, file: str) -> Case:
    return Case(name, "batch", file, 32, {PLAIN: 3, AMX: None})


CASES = (
    _decode("decode-135m", "smol-q4_1", 128, 3, 0.65),
    _decode("decode-135m", "smol-q8_0", 128, 1.7, 0.65),
    _decode("decode-1b", "1b-q4_0", 64, 2, 0.85),
    _decode("decode-1b", "1b-q8_0", 64, 1.7, 0.85),
    _decode("decode-7b", "7b-q4_0", 16, None, 0.9),
    *map(_prefill_135m, ("smol-q4_1", "smol-q8_0", "smol-q4_0")),
    _prefill("prefill-1b", "1b-q4_0"),
    _prefill("prefill-1b", "1b-q8_0"),
    _prefill("prefill-7b", "7b-q4_0"),
    *(_batch("batch-135m", file) for file in ("smol-q4_1", "smol-q8_0")),
    *(_batch("batch-1b", file) for file in ("1b-q4_0", "1b-q8_0")),
    Case("context-1b", "context", "1b-q4_0", 64, {"bytes": 1 / 1.15}),
    Case("busy-135m", "busy", "smol-q8_0", 128, {"undisturbed": 0.4}),
    Case("busy-1b", "busy", "1b-q8_0", 32, {"undisturbed": 0.4}),
    *(Case("memory", "memory", file, 512, {"allowed": 1}) for file in ("smol-q4_1", "1b-q8_0")),
    Case("memory", "memory", "7b-q4_0", 512, {"allowed": 1}),
    *(
        Case("perplexity", "perplexity", file, 40 * WINDOW, {PLAIN: 1.005})
        for file in ("smol-q8_0", "smol-q4_1")
    ),
    Case("idle", "idle", "smol-q8_0", 64, {"a core": 0.01}),
)


def main() -> int:
    """Run the cases asked for; 1 when a goal was missed."""
    names = list(dict.fromkeys(case.name for case in CASES))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build-peers", type=Path, metavar="DIR", help="build llama.cpp there")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where it was built")
    parser.add_argument("--models", type=Path, metavar="DIR", help="model files; made if missing")
    parser.add_argument("--case", action="append", choices=names, help="only this one; repeatable")
    parser.add_argument("--file", action="append", help="only this model file, such as smol-q8_0")
    parser.add_argument("--rounds", type=int, default=5, help="trials each (5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", type=Path, metavar="FILE", help="for perplexity: WikiText-2's")
    parser.add_argument(
        "--backend", choices=("cpu", "cpu-exact", "numpy"), default="cpu", help="ours"
    )
    arguments = parser.parse_args()
    if arguments.build_peers:
        llama_cpp.build(arguments.build_peers)
        return 0
    if not (arguments.peers and arguments.models):
        parser.error("--peers and --models are needed")
    cases = [
        case
        for case in CASES
        if (not arguments.case or case.name in arguments.case)
        and (not arguments.file or case.file in arguments.file)
        and (arguments.text or case.kind != "perplexity")
    ]
    course = Course(arguments.peers, arguments.models, arguments.threads, arguments.backend)
    course.text = arguments.text
    missed = [case for case in cases if not course.run(case, arguments.rounds)]
    return int(bool(missed))


class Course:
    """Where the peers and the models are, and the probe that stays between trials."""

    def __init__(self, peers: Path, models: Path, threads: int, backend: str) -> None:
        self.peers, self.models = peers, models
        self.threads, self.backend = threads, backend
        self.builds = llama_cpp.installed(peers)
        self.probe = kernels.extension().BandwidthProbe(
            kernels.inference_isa(), threads, PROBE_BYTES
        )
        self.crashed: dict[tuple[str, str], str] = {}
        self.text: Path | None = None

    def run(self, case: Case, rounds: int) -> bool:
        """All rounds of a case: its table, and its row; whether all goals were reached."""
        quantize = llama_cpp.tool(self.peers, self.builds[0], "llama-quantize")
        model = bench_models.prepared(case.file, self.models, quantize)
        facts: dict[str, Any] = {}
        found: dict[str, list[float]] = {}
        for number in range(1 if case.kind == "perplexity" else rounds):  # nothing there varies
            for name, value in self.round(case, model, number, facts).items():
                found.setdefault(name, []).append(value)
        claims = {
            name: record.spread(ratios(found[OURS], found[name]))
            for name in case.goals
            if name in found
        }
        reached = show(case, found, claims, self.crashed)
        if rounds >= 5:
            row = {
                "shape": case.file,
                "case": case.name,
                "kind": case.kind,
                "tokens": case.tokens,
                "threads": self.threads,
                "model_sha256": digest(model),
                "peers": {name: llama_cpp.build_options(name) for name in self.builds},
                "peer_versions": {
                    "llama.cpp": llama_cpp.REQUIREMENT,
                    **{name: version(name) for name in ("transformers", "torch")},
                },
                "values": {name: record.spread(values) for name, values in found.items()},
                "ratios": claims,
                "goals": case.goals,
                "crashed": {
                    key[0]: why for key, why in self.crashed.items() if key[1] == str(model)
                },
                **facts,
            }
            record.append("cpu_engine", row)
        return reached

    def round(
        self, case: Case, model: Path, number: int, facts: dict[str, Any]
    ) -> dict[str, float]:
        """One value of each contestant; none of one that crashed, now or before."""
        contestants = [OURS, *self.contestants(case)]
        first = number % len(contestants)
        values: dict[str, float] = {}
        for name in contestants[first:] + contestants[:first]:
            bandwidth = max(self.probe.measure() for _ in range(4))
            values[f"bandwidth of {name}"] = bandwidth / 1e9
            if name == OURS:
                values |= self.ours(case, model, bandwidth, facts)
            elif name in self.builds:
                values |= self.llama_cpp(case, model, name)
            else:
                values[name] = self.trial(name, model, case.tokens)["tokens_per_second"]
        return values

    def contestants(self, case: Case) -> list[str]:
        """Who runs beside us."""
        builds = [name for name in self.builds if case.kind in MEASURES]
        if case.kind in ("busy", "perplexity"):
            builds = [PLAIN]
        return builds + [name for name in ("transformers", "gemm") if name in case.goals]

    def ours(
        self, case: Case, model: Path, bandwidth: float, facts: dict[str, Any]
    ) -> dict[str, float]:
        """Our value under `puna`, and what the goals compare it with."""
        if case.kind == "perplexity":
            return {OURS: self.perplexity(case, model, facts)}
        kind = "decode" if case.kind == "busy" else case.kind
        result = self.trial(kind, model, case.tokens)
        facts |= {name: result[name] for name in ("engine", "load_seconds", "peak_bytes")}
        if case.kind == "memory":
            allowed = result["packed_bytes"] + result["kv_bytes"] + SPARE_BYTES
            return {OURS: result["peak_bytes"], "allowed": allowed}
        if case.kind == "idle":
            return {OURS: result["share"], "a core": 1.0}
        speed = result["tokens_per_second"]
        if case.kind == "busy":
            with busy_process():
                disturbed = self.trial(kind, model, case.tokens)["tokens_per_second"]
            return {OURS: disturbed, "undisturbed": speed}
        weights = weight_bytes(model)
        if case.kind == "context":  # what the bytes of both alone would make of the shorter one
            middle = case.tokens / 2
            shorter, longer = (
                weights + (length + middle) * result["position_bytes"] for length in (64, 4096)
            )
            short = result["short_tokens_per_second"]
            return {OURS: speed, "after 64": short, "bytes": short * shorter / longer}
        if case.kind == "decode":
            return {OURS: speed, "roofline": bandwidth / weights}
        return {OURS: speed}

    def llama_cpp(self, case: Case, model: Path, name: str) -> dict[str, float]:
        """A build's value under its name; under a second one undisturbed, where that is asked."""
        if (name, str(model)) in self.crashed:
            return {}
        bench = llama_cpp.tool(self.peers, name, "llama-bench")
        if case.kind == "perplexity":
            assert self.text is not None
            windows = case.tokens // WINDOW
            return {name: llama_cpp.perplexity(model, bench, self.text, windows, self.threads)}
        measure = MEASURES[case.kind]
        try:
            speed = measure(model, bench, case.tokens, self.threads)
            if case.kind != "busy":
                return {name: speed}
            with busy_process():
                disturbed = measure(model, bench, case.tokens // BUSY_PART, self.threads)
        except llama_cpp.Crashed as error:
            self.crashed[name, str(model)] = str(error)
            return {}
        return {name: disturbed, f"{name} undisturbed": speed}

    def perplexity(self, case: Case, model: Path, facts: dict[str, Any]) -> float:
        """Ours, on the first windows of the text."""
        words = ["--text", str(self.text), "--chunks", str(case.tokens // WINDOW), "--json"]
        command = [sys.executable, "-m", "puna", "perplexity", str(model), *words]
        done = subprocess.run([*command, "--backend", self.backend], stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise SystemExit(f"perplexity of {model} ended with {done.returncode}; see above")
        result = json.loads(done.stdout)
        facts["engine"] = result["backend"]
        return float(result["perplexity"])

    def trial(self, kind: str, model: Path, tokens: int) -> dict[str, Any]:
        """What one process of inference_trial.py prints. Its failure ends the benchmark."""
        script = str(Path(__file__).with_name("inference_trial.py"))
        words = ["--tokens", str(tokens), "--threads", str(self.threads)]
        command = [sys.executable, script, kind, str(model), *words, "--backend", self.backend]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{kind} of {model} ended with {done.returncode}; see above")
        result: dict[str, Any] = json.loads(done.stdout)
        return result


@contextmanager
def busy_process() -> Iterator[None]:
    """Another process that computes without end on the first core."""
    pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    process = subprocess.Popen([sys.executable, "-c", f"{pin}while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def weight_bytes(model: Path) -> int:
    """Bytes of the file's tensors that each token reads: all but an embedding of its own."""
    source = open_model(model)
    total = sum(tensor.nbytes for tensor in source.tensors.values())
    if source.config.tied_embeddings:
        return total
    return total - source.tensors["tok_embeddings.weight"].nbytes


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Ours over theirs, round by round; a contestant that crashed later has fewer."""
    return [one / other for one, other in zip(ours, theirs, strict=False)]


def show(
    case: Case,
    found: dict[str, list[float]],
    claims: dict[str, dict[str, float]],
    crashed: dict[tuple[str, str], str],
) -> bool:
    """Print the case's table; whether every goal that could be judged was reached."""
    rows, reached = [], True
    for name, goal in case.goals.items():
        if name not in claims:
            why = next((why for key, why in crashed.items() if key[0] == name), "not here")
            rows.append([name, "", "", why, "", ""])
            continue
        ratio = claims[name]["median"]
        met = goal is None or (ratio <= goal if case.kind in AT_MOST else ratio >= goal)
        reached &= met
        sign = "<=" if case.kind in AT_MOST else ">="
        shown = [f"{statistics.median(found[one]):,.4g}" for one in (OURS, name)]
        verdict = "" if goal is None else "reached" if met else "missed"
        told = f"{100 * (ratio - 1):+.3f} %" if case.kind == "perplexity" else f"{ratio:.3g}"
        rows.append([name, f"{sign} {goal:.4g}" if goal else "", *shown, told, verdict])
    others = [name for name in found if name not in (OURS, *case.goals) and "bandw" not in name]
    rows += [[name, "", "", f"{statistics.median(found[name]):,.4g}", "", ""] for name in others]
    probes = [value for name, values in found.items() if "bandwidth" in name for value in values]
    unit = {"memory": "bytes", "idle": "of a core", "perplexity": "perplexity"}.get(
        case.kind, "tokens/s"
    )
    print(f"\n{case.name}: {case.file}, {unit}; reading {min(probes):.1f}-{max(probes):.1f} GB/s")
    print(table(["beside", "goal", "ours", "theirs", "ratio", ""], rows), flush=True)
    return reached


def digest(path: Path) -> str:
    """The file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def version(package: str) -> str | None:
    """An installed package's version."""
    return metadata.version(package) if hardware.has_package(package) else None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PunaError as error:
        sys.exit(str(error))
