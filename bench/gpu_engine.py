"""The torch backend on a GPU: is it right, and how fast is it beside transformers.

    python bench/gpu_engine.py                        135M and 1b, batches 1, 4, 16, 64
    python bench/gpu_engine.py --shape 7b --batch 1 --batch 16
    python bench/gpu_engine.py --device cpu --small   the same path on a tiny model, not recorded

Checks come first, on random weights that bf16 holds exactly. Logits: a text read in chunks over
scattered pages, against the model on the CPU in float32, in both precisions. Graphs: the greedy ids
with CUDA graphs against those without; they may differ only where the two likeliest logits are
closer than rounding. Then the numbers: reading 512 tokens a sequence and decoding 64 more, with
graphs, with compiled ones, without, and by transformers' generate with its static cache (on a GPU
it compiles its decoding), in turns. Beside each turn stands the read bandwidth; the roofline of
decoding is the bytes of weights, keys and values of a step at that rate. Ends with 3 where there is
no GPU, with 1 where a check fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np
import record
from random_model import SHAPES

from puna import hardware
from puna.console import human_bytes, table
from puna.evaluate.bandwidth import PROBE_BYTES, ReadProbe
from puna.infer.backends.base import Chunk, pages_for
from puna.model import count
from puna.model.sizes import ModelConfig
from puna.weights.source import tensor_names

SMOLLM2 = ModelConfig(
    dim=576, layers=30, heads=9, kv_heads=3, hidden_dim=1536, vocabulary_size=49152,
    context_length=8192, tied_embeddings=True,
)  # fmt: skip
GPU_SHAPES = {**SHAPES, "135M": SMOLLM2}
EXIT_CHECK_FAILED, EXIT_NO_GPU = 1, 3
PEER = "transformers"
DEVIATION = 0.04  # of the weights: logits spread by about 1 and more

# Mean Kullback-Leibler divergence, in nats, from the CPU's float32. Sums of float32 in another
# order give about 1e-10, bf16's 8 bits in states and keys about 1e-4.
MOST_DIVERGENCE = {"fp32": 1e-6, "bf16": 2e-2}
# Two ways of adding may choose differently between logits this close, as a share of their spread.
CLOSE_LOGITS = {"fp32": 1e-4, "bf16": 0.1}


@dataclass(frozen=True)
class Lengths:
    """Tokens a sequence: of the checked text, of the timed prompt, and decoded after it."""

    text: int = 200
    prompt: int = 512
    decoded: int = 64


@dataclass(frozen=True)
class Case:
    """One model on one device; `arrays` are float32 on the host, of values that bf16 has."""

    name: str
    config: ModelConfig
    arrays: Mapping[str, Any]
    device: hardware.DeviceKind
    precision: str
    lengths: Lengths

    def backend(self, precision: str | None = None, **options: bool) -> Any:
        """A torch backend in the case's precision, or in another one."""
        from puna.infer.backends.torch_backend import TorchBackend

        wish: Any = precision or self.precision
        return TorchBackend(self.config, self.arrays, self.device, precision=wish, **options)


def main() -> int:
    """Check and measure each shape; append a row for each. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", action="append", choices=list(GPU_SHAPES))
    parser.add_argument("--batch", action="append", type=int, help="sequences at once")
    parser.add_argument("--rounds", type=int, default=5, help="turns each (5, and at least)")
    parser.add_argument("--small", action="store_true", help="a tiny model, one turn, no record")
    arguments = parser.parse_args()
    missing = why_not(arguments.device)
    if missing:
        print(f"nothing was measured: {missing}; --device cpu --small runs the same path")
        return EXIT_NO_GPU
    names = ["tiny"] if arguments.small else arguments.shape or ["135M", "1b"]
    batches = [1, 3] if arguments.small else arguments.batch or [1, 4, 16, 64]
    rounds = 1 if arguments.small else max(5, arguments.rounds)
    lengths = Lengths(70, 40, 6) if arguments.small else Lengths()
    for name in names:
        case = make_case(name, arguments.device, lengths)
        row = {"shape": name, **facts(case), "checks": checks(case)}
        show_checks(row)
        if not all(check["passed"] for check in row["checks"]):
            return EXIT_CHECK_FAILED
        contestants = make_contestants(case)
        row["batches"] = [race(case, contestants, batch, rounds) for batch in batches]
        show_numbers(row)
        if not arguments.small:
            record.append("gpu_engine", row)
    return 0


def why_not(device: str) -> str | None:
    """What is missing here to measure on that device."""
    for package in ("torch", "transformers"):
        if not hardware.has_package(package):
            return f"{package} is not installed"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    return None


def make_case(name: str, device: Any, lengths: Lengths) -> Case:
    """Random weights of the shape, rounded to bf16."""
    import torch

    config = replace(GPU_SHAPES[name], context_length=2048)
    generator = torch.Generator(device).manual_seed(1)
    arrays = {}
    for weight, size in tensor_names(config).items():
        values = torch.empty(size, device=device, dtype=torch.bfloat16)
        spread = values.normal_(0, DEVIATION, generator=generator)
        arrays[weight] = (spread + (len(size) == 1)).float().cpu().numpy()
    precision = hardware.choose_precision(device, "auto" if device == "cuda" else "fp32").dtype
    return Case(name, config, arrays, device, precision, lengths)


def facts(case: Case) -> dict[str, Any]:
    """What ran where."""
    import torch

    on_gpu = case.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else hardware.cpu_name(),
        "device_memory_bytes": hardware.choose_device(case.device).memory_bytes,
        "cuda": torch.version.cuda if on_gpu else None,
        "precision": case.precision,
        "parameters": count.parameters(case.config),
        "prompt_tokens": case.lengths.prompt,
        "decoded_tokens": case.lengths.decoded,
        "peer": f"transformers {metadata.version('transformers')}, static cache",
    }


# Is it right


def checks(case: Case) -> list[dict[str, Any]]:
    """Logits in both precisions, and greedy ids with graphs and without."""
    ids = np.random.default_rng(2).integers(0, case.config.vocabulary_size, case.lengths.text)
    wanted = exact_logits(case, ids)
    found = []
    for precision in sorted({"fp32", case.precision}):
        divergence, largest = distance(chunked_logits(case, precision, ids), wanted)
        passed = divergence <= MOST_DIVERGENCE[precision]
        told = f"mean KL {divergence:.1e}, largest difference {largest:.1e}"
        found.append({"check": f"logits in {precision}", "passed": passed, "told": told})
    found += [greedy_check(case, batch) for batch in (1, 3, 8)]
    return [*found, greedy_check(case, 8, compiled=True)]


def exact_logits(case: Case, ids: Any) -> Any:
    """The model's own logits on the CPU in float32, the whole text at once."""
    import torch

    from puna.infer.backends.torch_backend import llama_from_arrays

    model = llama_from_arrays(case.config, case.arrays, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        return model(torch.from_numpy(ids[None]))[0].numpy()


def chunked_logits(case: Case, precision: str, ids: Any) -> Any:
    """The backend's after each id, read in chunks beside the same text in other chunks."""
    backend = case.backend(precision)
    both = tables(backend, 2, len(ids))
    third = len(ids) // 3
    cuts = ([0, third, third + 1, 2 * third, len(ids)], [0, 1, 2, len(ids) - 1, len(ids)])
    found = []
    for k in range(4):
        chunks = [
            chunk(pages, cut[k], ids[cut[k] : cut[k + 1]], every_row=True)
            for pages, cut in zip(both, cuts, strict=True)
        ]
        found.append(backend.step(chunks)[: len(chunks[0].ids)])
    return np.concatenate(found)


def distance(found: Any, wanted: Any) -> tuple[float, float]:
    """Mean divergence of the distributions in nats, and the largest difference of logits."""
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    log_wanted, log_found = (
        logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)) for logits in (wanted, found)
    )
    divergence = (np.exp(log_wanted) * (log_wanted - log_found)).sum(axis=-1).mean()
    return float(divergence), float(abs(found - wanted).max())


def greedy_check(case: Case, batch: int, **options: bool) -> dict[str, Any]:
    """Whether graphs choose the ids that are chosen without, fed the same ones."""
    logits = greedy_logits(case.backend(graphs=False), case, batch)
    plain = logits.argmax(axis=-1)
    with_graphs = greedy_logits(case.backend(**options), case, batch, fed=plain).argmax(axis=-1)
    top = np.sort(logits, axis=-1)
    gaps = (top[..., -1] - top[..., -2]) / logits.std()
    differing = gaps[plain != with_graphs]
    told = f"{differing.size} of {plain.size} ids differ, at gaps of {differing.max(initial=0):.1e}"
    passed = bool((differing <= CLOSE_LOGITS[case.precision]).all())
    name = f"greedy ids with {'compiled ' if options else ''}graphs, batch {batch}"
    return {"check": name, "passed": passed, "told": told}


def greedy_logits(backend: Any, case: Case, batch: int, fed: Any = None) -> Any:
    """Logits [steps, batch, vocabulary] from prompts of several lengths on.

    `fed` [steps, batch] are the ids to go on with instead of the likeliest.
    """
    random = np.random.default_rng(3)
    starts = random.integers(1, case.lengths.text, batch)
    prompts = [random.integers(0, case.config.vocabulary_size, start) for start in starts]
    places = tables(backend, batch, case.lengths.text + case.lengths.decoded)
    pairs = zip(places, prompts, strict=True)
    found = [backend.step([chunk(pages, 0, prompt) for pages, prompt in pairs])]
    for step in range(case.lengths.decoded):
        ids = found[-1].argmax(axis=-1) if fed is None else fed[step]
        found.append(backend.step(decode_chunks(places, starts + step, ids)))
    return np.stack(found)


# How fast is it


Turn = Callable[[int], tuple[float, float]]  # sequences -> seconds of reading and of decoding


def race(case: Case, contestants: Mapping[str, Turn], batch: int, rounds: int) -> dict[str, Any]:
    """All contestants with `batch` sequences, in turns, after one turn that does not count."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    rates = []
    for turn in contestants.values():
        turn(batch)
    for _ in range(rounds):
        rates.append(read_bytes_per_second(case))
        names = list(contestants)
        first = len(rates) % len(names)  # nobody always follows the same one
        for name in names[first:] + names[:first]:
            seconds[name].append(contestants[name](batch))
    results = {name: speeds(case, batch, turns) for name, turns in seconds.items()}
    rate, step_bytes = record.spread(rates), bytes_a_step(case, batch)
    roofline = batch * rate["median"] / step_bytes
    ours, peer = (results[name]["decode_tokens_per_second"]["median"] for name in ("graphs", PEER))
    return {
        "batch": batch,
        "results": results,
        "read_bytes_per_second": rate,
        "bytes_a_step": step_bytes,
        "roofline_tokens_per_second": roofline,
        "share_of_roofline": ours / roofline,
        "decode_ratio": ours / peer,
    }


def speeds(case: Case, batch: int, turns: list[tuple[float, float]]) -> dict[str, Any]:
    """Tokens a second of all sequences together, over the turns."""
    read, decoded = batch * case.lengths.prompt, batch * case.lengths.decoded
    return {
        "prefill_tokens_per_second": record.spread([read / seconds for seconds, _ in turns]),
        "decode_tokens_per_second": record.spread([decoded / seconds for _, seconds in turns]),
    }


def bytes_a_step(case: Case, batch: int) -> int:
    """What a decode step has to read: the weights in use, and on average that many keys."""
    config, lengths = case.config, case.lengths
    width = 2 if case.precision == "bf16" else 4
    idle = 0 if config.tied_embeddings else config.vocabulary_size * config.dim
    kept = count.kv_cache_bytes(config, batch, lengths.prompt + lengths.decoded // 2, width)
    return (count.parameters(config) - idle) * width + kept


def make_contestants(case: Case) -> dict[str, Turn]:
    """Name -> what reads and decodes with so many sequences: seconds of either."""
    return {
        "graphs": our_turns(case),
        "compiled graphs": our_turns(case, compiled=True),
        "no graphs": our_turns(case, graphs=False),
        PEER: peer_turns(case),
    }


def our_turns(case: Case, **options: bool) -> Turn:
    """Puna's torch backend, through the protocol as the engine calls it."""
    backend, lengths = case.backend(**options), case.lengths
    places: dict[int, Any] = {}  # sequences -> their pages

    def turn(batch: int) -> tuple[float, float]:
        if batch not in places:
            places.clear()
            places[batch] = tables(backend, batch, lengths.prompt + lengths.decoded)
        began = time.perf_counter()
        rows = zip(places[batch], prompts_of(case, batch), strict=True)
        ids = backend.likeliest([chunk(pages, 0, row) for pages, row in rows])
        read = time.perf_counter()
        for step in range(lengths.decoded):
            starts = np.full(batch, lengths.prompt + step)
            ids = backend.likeliest(decode_chunks(places[batch], starts, ids))
        return read - began, time.perf_counter() - read

    return turn


def peer_turns(case: Case) -> Turn:
    """transformers' generate; decoding is what the call takes beyond one that reads alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = case.config
    shape = LlamaConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.dim,
        intermediate_size=config.ffn_dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_head_count,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=config.tied_embeddings,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    with torch.device(case.device):
        model = LlamaForCausalLM(shape).to(dtype).eval()

    def seconds(ids: Any, tokens: int) -> float:
        began = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            cache_implementation="static",
        ).cpu()
        return time.perf_counter() - began

    def turn(batch: int) -> tuple[float, float]:
        ids = torch.from_numpy(prompts_of(case, batch)).to(case.device)
        whole = seconds(ids, case.lengths.decoded + 1)
        read = seconds(ids, 1)
        return read, max(whole - read, 1e-9)

    return turn


def read_bytes_per_second(case: Case) -> float:
    """How fast the device reads its memory now, the best of some sums over much of it."""
    if case.device == "cpu":
        return ReadProbe(PROBE_BYTES)()
    import torch

    values = torch.ones(1 << 29, device="cuda")  # 2 GiB
    seconds = []
    for _ in range(6):
        torch.cuda.synchronize()
        began = time.perf_counter()
        values.sum()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return values.nbytes / min(seconds)


# Sequences


def tables(backend: Any, batch: int, length: int) -> Any:
    """Freshly reserved pages for so many sequences, in any order: [batch, pages]."""
    each = pages_for(length)
    backend.reserve(batch * each)
    pages = np.random.default_rng(4).permutation(batch * each).astype(np.int32)
    return pages.reshape(batch, each)


def chunk(pages: Any, start: int, ids: Any, *, every_row: bool = False) -> Chunk:
    """The next ids of a sequence."""
    used = pages[: pages_for(start + len(ids))]
    return Chunk(used, int(start), ids, len(ids) if every_row else 1)


def decode_chunks(places: Any, starts: Any, ids: Any) -> list[Chunk]:
    """One id for each sequence."""
    rows = zip(places, starts, ids[:, None], strict=True)
    return [chunk(pages, start, row) for pages, start, row in rows]


def prompts_of(case: Case, batch: int) -> Any:
    """Random prompts [batch, prompt], the same ones each time."""
    size = (batch, case.lengths.prompt)
    return np.random.default_rng(5).integers(0, case.config.vocabulary_size, size)


# For people


def show_checks(row: dict[str, Any]) -> None:
    """The model, the device, and what the checks found."""
    print(f"{row['shape']}, {row['precision']} on {row['device']}; peer: {row['peer']}")
    for check in row["checks"]:
        print(f"  {'passed' if check['passed'] else 'FAILED'}: {check['check']}: {check['told']}")


def show_numbers(row: dict[str, Any]) -> None:
    """Tokens a second of every contestant, and how far from the roofline decoding is."""
    rows = []
    for one in row["batches"]:
        for name, found in one["results"].items():
            prefill, decode = (
                found[f"{what}_tokens_per_second"]["median"] for what in ("prefill", "decode")
            )
            share = decode / one["roofline_tokens_per_second"]
            cells = [f"{prefill:,.0f}", f"{decode:,.0f}", f"{share:.0%}"]
            rows.append([f"{name}, batch {one['batch']}", *cells])
    print(table(["", "prefill tokens/s", "decode tokens/s", "of roofline"], rows))
    for one in row["batches"]:
        rate = human_bytes(one["read_bytes_per_second"]["median"])
        print(f"batch {one['batch']}: graphs / {PEER} {one['decode_ratio']:.2f}, reads {rate}/s")


if __name__ == "__main__":
    sys.exit(main())
