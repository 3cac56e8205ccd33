"""`puna serve` beside llama.cpp's llama-server: chats at once, streamed to one and the same client.

    python bench/cpu_engine.py --build-peers PEERS      once
    python bench/serve.py --peers PEERS --models MODELS --record

All servers are started once and stay; they answer in turns, never two at a time, and each round
asks them for the same new texts. Ratios are medians over the rounds. With --record a row for each
case is appended to history.jsonl. The processor time of our HTTP process is what serving costs
beyond the engine, which runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_models
import llama_cpp
import record

from puna.console import table
from puna.errors import MachineError, PunaError

OURS, PLAIN = "puna", llama_cpp.BUILDS[0]
MODEL = "smol-q8_0"
START_SECONDS = 60
CONTEXT_TOKENS = 1024  # of each chat
CASES: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
}
GOALS = {"tokens_per_second": 3.0, "first_seconds_p95": 0.5, "http_ms_per_token": 0.2}
WARM_UP_SEED = 10**6


@dataclass(frozen=True)
class Contestant:
    """A server that is up; `engine_pid` only of ours."""

    url: str
    pid: int
    engine_pid: int | None = None


def main() -> int:
    """Run the cases asked for; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers", type=Path, required=True, metavar="DIR", help="where llama.cpp was built"
    )
    parser.add_argument(
        "--models", type=Path, required=True, metavar="DIR", help="model files; made if missing"
    )
    parser.add_argument("--case", action="append", choices=CASES, help="only this; repeatable")
    parser.add_argument("--rounds", type=int, default=5, help="trials each (5)")
    parser.add_argument("--chats", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append to history.jsonl")
    arguments = parser.parse_args()
    reached = [run(case, arguments) for case in arguments.case or CASES]
    return int(not all(reached))


def run(case: str, arguments: argparse.Namespace) -> bool:
    """All rounds of a case, its table, its row; whether every goal was reached."""
    peers: Path = arguments.peers
    quantize = llama_cpp.tool(peers, PLAIN, "llama-quantize")
    model = bench_models.prepared(MODEL, arguments.models, quantize)
    spec = {"chats": arguments.chats, "max_tokens": arguments.tokens, **CASES[case]}
    found: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        servers = {OURS: stack.enter_context(puna_server(model, arguments.threads))}
        for name in llama_cpp.installed(peers):
            program = llama_cpp.tool(peers, name, "llama-server")
            server = llama_server(program, model, arguments.chats, arguments.threads)
            servers[name] = stack.enter_context(server)
        names = list(servers)
        for name in names:
            measured(servers[name], {**spec, "max_tokens": 8, "seed": WARM_UP_SEED})
        for number in range(arguments.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                values = measured(servers[name], {**spec, "seed": number})
                found.setdefault(name, []).append(values)
    ratios = {
        f"{measure} beside {name}": record.spread(
            [
                ours[measure] / theirs[measure]
                for ours, theirs in zip(found[OURS], values, strict=True)
            ]
        )
        for name, values in found.items()
        if name != OURS
        for measure in ("tokens_per_second", "first_seconds_p95")
    }
    reached = show(case, found, ratios)
    if arguments.record:
        record.append("serve", {
            "case": case,
            "shape": MODEL,
            "threads": arguments.threads,
            "request": spec,
            "peer_versions": {"llama.cpp": llama_cpp.REQUIREMENT},
            "peers": {name: llama_cpp.build_options(name) for name in found if name != OURS},
            "values": {
                name: {key: record.spread([one[key] for one in values]) for key in values[0]}
                for name, values in found.items()
            },
            "ratios": ratios,
            "goals": GOALS,
        })  # fmt: skip
    return reached


def measured(server: Contestant, spec: dict[str, Any]) -> dict[str, float]:
    """One run of the client. Its failure ends the benchmark."""
    script = str(Path(__file__).with_name("serve_client.py"))
    pids = [server.pid, server.engine_pid]
    before = [cpu_seconds(pid) for pid in pids if pid is not None]
    command = [sys.executable, script, server.url, json.dumps(spec)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the client ended with {done.returncode}; see above")
    spent = [
        after - earlier
        for after, earlier in zip(
            [cpu_seconds(pid) for pid in pids if pid is not None], before, strict=True
        )
    ]
    result = json.loads(done.stdout)
    tokens, first = result["tokens"], sorted(result["first_seconds"])
    values = {
        "tokens_per_second": tokens / result["seconds"],
        "first_seconds_p50": statistics.median(first),
        "first_seconds_p95": statistics.quantiles(first, n=20, method="inclusive")[-1],
    }
    names = (
        ["server_ms_per_token"] if len(spent) == 1 else ["http_ms_per_token", "engine_ms_per_token"]
    )
    return values | {name: 1e3 * one / tokens for name, one in zip(names, spent, strict=True)}


@contextmanager
def puna_server(model: Path, threads: int) -> Iterator[Contestant]:
    """Ours, with the model loaded."""
    command = [sys.executable, "-m", "puna", "serve", str(model), "--port", "0", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with running(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        ready = json.loads(process.stdout.readline() or "{}")
        if ready.get("event") != "ready":
            raise MachineError("puna serve did not load its model; see above")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Contestant(url, process.pid, int(children[0]))


@contextmanager
def llama_server(program: Path, model: Path, chats: int, threads: int) -> Iterator[Contestant]:
    """llama.cpp's, with room for all chats at once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["-m", model, "-t", threads, "-np", chats, "-c", chats * CONTEXT_TOKENS]
    command = [str(word) for word in [program, *words, "--host", "127.0.0.1", "--port", port]]
    url = f"http://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with running(command, **quiet) as process:
        end = time.monotonic() + START_SECONDS
        while not is_healthy(url):
            if process.poll() is not None or time.monotonic() > end:
                raise MachineError(
                    f"{program} does not serve", hint="python bench/cpu_engine.py --build-peers DIR"
                )
            time.sleep(0.1)
        yield Contestant(url, process.pid)


@contextmanager
def running(command: list[str], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process, which is ended afterwards."""
    with subprocess.Popen(command, **streams) as process:
        try:
            yield process
        finally:
            process.terminate()


def is_healthy(url: str) -> bool:
    """Whether the server says that its model is loaded."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    """Processor time of all of a process's threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(
    case: str, found: dict[str, list[dict[str, float]]], ratios: dict[str, dict[str, float]]
) -> bool:
    """Print the case's tables; whether every goal was reached."""
    measures = list(dict.fromkeys(key for values in found.values() for key in values[0]))
    rows = []
    for measure in measures:
        shown = [
            f"{statistics.median(one[measure] for one in values):,.4g}"
            if measure in values[0] else ""
            for values in found.values()
        ]  # fmt: skip
        rows.append([measure, *shown])
    print(f"\n{case}: {MODEL}")
    print(table(["", *found], rows))
    http = statistics.median(one["http_ms_per_token"] for one in found[OURS])
    speed = ratios[f"tokens_per_second beside {PLAIN}"]["median"]
    first = ratios[f"first_seconds_p95 beside {PLAIN}"]["median"]
    claims = [
        (f"tokens/s beside {PLAIN}", ">=", speed, GOALS["tokens_per_second"]),
        (f"p95 to the first token beside {PLAIN}", "<=", first, GOALS["first_seconds_p95"]),
        ("HTTP process, ms a token", "<=", http, GOALS["http_ms_per_token"]),
    ]
    reached = True
    told = []
    for name, sign, value, goal in claims:
        met = value >= goal if sign == ">=" else value <= goal
        reached &= met
        told.append([name, f"{sign} {goal:g}", f"{value:.3g}", "reached" if met else "missed"])
    print(table(["", "goal", "", ""], told), flush=True)
    return reached


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PunaError as error:
        sys.exit(str(error))
