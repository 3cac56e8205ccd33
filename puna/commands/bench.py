"""`puna bench`: how fast a model reads and writes here, and how near that is to the limit."""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from puna import hardware
from puna.commands.model_arguments import add_model
from puna.console import Console, human_bytes, human_count, table
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.evaluate.bandwidth import ReadProbe
    from puna.evaluate.speed import SpeedTest
    from puna.weights.source import ModelSource

REPEATS = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna bench`."""
    parser.description = (
        "Tokens a second as llama-bench measures them: ppN reads a prompt of N random tokens, tgN\n"
        "writes N tokens one by one. Lists (512,2048) give a line for each combination.\n"
        "Before each trial memory's bandwidth is probed: the roofline is the rate at which that\n"
        "reads the file's tensors once a step; keys and values come on top and do not count."
    )
    parser.epilog = """examples:
  puna bench smollm2
  puna bench smollm2 --prompt 0 --tokens 128 --depth 0,4096
  puna bench model.gguf --prompt 0 --sequences 1,4,16 --json
"""
    add_model(parser)
    for flag, default, help_text in (
        ("-p/--prompt", "512", "lengths of prompts to read; 0 for none"),
        ("-n/--tokens", "128", "numbers of tokens to write; 0 for none"),
        ("-d/--depth", "0", "positions that lie in the cache before"),
        ("-s/--sequences", "1", "sequences at once"),
    ):
        names = flag.split("/")
        parser.add_argument(*names, default=default, metavar="LIST", help=help_text)
    parser.add_argument(
        "-r", "--repeats", type=int, default=REPEATS, metavar="N", help="trials of each test"
    )
    parser.add_argument(
        "-t", "--threads", type=int, metavar="N", help="of the C++ kernels; without it one a core"
    )
    parser.add_argument("--no-probe", action="store_true", help="leave the roofline out")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure and print. Raises UsageError, CheckpointError or MachineError."""
    wishes = tests_of(arguments)
    from puna.evaluate.speed import SpeedTest, bytes_a_step, measure
    from puna.infer.engine import choose_backend, make_backend
    from puna.weights.open_model import open_model

    source = open_model(arguments.model, which=arguments.which)
    tests = [SpeedTest(*wish) for wish in wishes]
    require_fit(tests, source.config.context_length)
    name, reason = choose_backend(arguments.backend, batched=True)
    require_threads(arguments.threads, name)
    with console.stages("B") as progress:
        backend = make_backend(name, source, arguments.threads, kv=arguments.kv, progress=progress)
    console.say(f"engine: {backend.name} ({reason})")
    probe = make_probe(name, arguments)
    results = []
    with console.progress(len(tests) * arguments.repeats, "trials", "trial") as bar:
        for test in tests:
            bar.set_postfix_str(test.label)
            results.append(measure(backend, test, arguments.repeats, probe, progress=bar.update))
    record = {
        **facts(source, backend.name),
        "probe": probe.source if probe else None,
        "results": [result.record(bytes_a_step(source)) for result in results],
    }
    console.result(record, shown(record))
    return 0


def tests_of(arguments: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Kind, tokens, sequences and depth of each test. Raises UsageError for what is no number."""
    depths = numbers("--depth", arguments.depth, least=0)
    sequences = numbers("--sequences", arguments.sequences, least=1)
    wishes = [
        (kind, tokens, count, depth)
        for kind, flag in (("prompt", "--prompt"), ("decode", "--tokens"))
        for tokens in numbers(flag, getattr(arguments, flag[2:]), least=0)
        for depth, count in itertools.product(depths, sequences)
        if tokens
    ]
    if not wishes or arguments.repeats < 1:
        raise UsageError(
            "puna bench wants something to measure, --prompt or --tokens above 0, "
            "and --repeats of at least 1"
        )
    return wishes


def numbers(flag: str, text: str, *, least: int) -> list[int]:
    """The numbers of a list such as 128,512. Raises UsageError for any other text."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) >= least for word in words):
        raise UsageError(f"{flag} must be whole numbers from {least} on, as 128,512, got {text!r}")
    return [int(word) for word in words]


def require_fit(tests: Sequence[SpeedTest], context_length: int) -> None:
    """Raise UsageError unless each test's positions fit the model's context."""
    longest = max(tests, key=lambda test: test.depth + test.tokens)
    if longest.depth + longest.tokens > context_length:
        raise UsageError(
            f"{longest.label} takes {longest.depth + longest.tokens} positions, "
            f"the model's context has {context_length}"
        )


def require_threads(threads: int | None, backend: str) -> None:
    """Raise UsageError for a number of threads that the backend cannot be given."""
    if threads is None:
        return
    if not backend.startswith("cpu"):
        raise UsageError(
            f"--threads is for the C++ kernels, {backend} takes one for each core",
            hint="leave Puna fewer cores: taskset -c 0,1 puna bench ...",
        )
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, got {threads}")


def make_probe(backend: str, arguments: argparse.Namespace) -> ReadProbe | None:
    """What reads memory beside each trial; None where weights do not lie in the CPU's memory."""
    is_elsewhere = backend == "torch" and hardware.choose_device().kind != "cpu"
    if arguments.no_probe or is_elsewhere:
        return None
    from puna.evaluate import bandwidth

    return bandwidth.ReadProbe(bandwidth.PROBE_BYTES)


def facts(source: ModelSource, backend: str) -> dict[str, Any]:
    """The model, the machine and what runs, as plain values."""
    from puna.evaluate.speed import bytes_a_step
    from puna.native import kernels
    from puna.weights.inspect import describe

    about = describe(source, None)
    return {
        "model": about["path"],
        "parameters": about["parameters"],
        "bytes": about["bytes"],
        "dtypes": list(about["dtypes"]),
        "bytes_a_token": bytes_a_step(source),
        "backend": backend,
        "isas": list(kernels.inference_isas()),
        "cpu": hardware.cpu_name(),
        "cores": hardware.usable_cores(),
    }


def shown(record: dict[str, Any]) -> str:
    """The record for people, in 80 columns."""
    model = (
        f"{human_count(record['parameters'])} parameters, {human_bytes(record['bytes'])} of "
        f"{', '.join(record['dtypes'])}; {human_bytes(record['bytes_a_token'])} read a token"
    )
    lines = [
        f"model     {record['model']}",
        f"          {model}",
        f"backend   {record['backend']}",
        f"machine   {record['cpu']}, {record['cores']} cores",
        f"          kernels that run here: {', '.join(record['isas']) or 'none'}",
        *([f"memory    {record['probe']}"] if record["probe"] else []),
        "",
    ]
    rows = []
    for one in record["results"]:
        rate = one["tokens_per_second"]
        probes = [value for value in one["read_bytes_per_second"] if value]
        share = one["roofline_share"]
        rows.append(
            [
                one["test"],
                f"{rate['median']:,.1f}",
                f"{rate['mean']:,.1f} ± {rate['deviation']:,.1f}",
                f"{statistics.median(probes) / 1e9:.1f} GB/s" if probes else "-",
                "-" if share is None else f"{share:.0%}",
            ]
        )
    headers = ["test", "tokens/s", "mean", "memory reads", "of roofline"]
    return "\n".join([*lines, table(headers, rows)])
