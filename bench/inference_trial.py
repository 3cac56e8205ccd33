"""One trial in a process of its own: our engine, transformers, or a bare bf16 product of matrices.

    python bench/inference_trial.py decode model.gguf --tokens 64

Prints one JSON object. Models are loaded, warmed and then timed; loading is timed apart.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puna import hardware
from puna.infer.backends.base import PAGE_POSITIONS, Backend, Chunk, IdArray, pages_for
from puna.model.sizes import ModelConfig
from puna.weights.open_model import open_model
from puna.weights.source import ModelSource

if TYPE_CHECKING:
    from puna.infer.engine import Chosen

WARM_TOKENS = 4
SEQUENCES, PROMPT_TOKENS = 16, 16  # as llama-batched-bench is called
SHORT, LONG = 64, 4096  # positions before the tokens that are timed
IDLE_SECONDS = 3.0
Result = dict[str, Any]


def main() -> None:
    """Run the trial of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=[*TRIALS, *PEERS])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", choices=("cpu", "cpu-exact", "numpy"), default="cpu")
    arguments = parser.parse_args()
    source = open_model(arguments.model)
    if arguments.kind in PEERS:
        import torch

        torch.set_num_threads(arguments.threads)
        with torch.inference_mode():
            result = PEERS[arguments.kind](source.config, arguments.tokens)
    else:
        began = time.perf_counter()
        backend = loaded(source, arguments.backend, arguments.threads)
        seconds = time.perf_counter() - began
        result = TRIALS[arguments.kind](backend, arguments.tokens)
        result |= {"engine": backend.name, "load_seconds": seconds, "peak_bytes": peak_bytes()}
        result["packed_bytes"] = packed_bytes(backend, source)
    json.dump(result, sys.stdout)


def loaded(source: ModelSource, name: Chosen, threads: int) -> Backend:
    """The backend with the model's weights."""
    from puna.infer.engine import make_backend

    return make_backend(name, source, threads)


# Our engine


class Sequence:
    """One sequence with pages of its own, given random ids and then its own likeliest ones."""

    def __init__(self, backend: Backend, first_page: int, positions: int) -> None:
        self.backend = backend
        self.pages = np.arange(first_page, first_page + pages_for(positions), dtype=np.int32)
        self.length = 0
        self.next_id = 3

    def chunk(self, ids: IdArray) -> Chunk:
        """The next ids of this sequence, as part of a step."""
        start, self.length = self.length, self.length + len(ids)
        return Chunk(self.pages[: pages_for(self.length)], start, ids)

    def read(self, count: int, at_once: int = 512) -> None:
        """Take in a prompt of random ids."""
        random = np.random.default_rng(count)
        ids = random.integers(3, self.backend.vocabulary_size, count)
        for first in range(0, count, at_once):
            part = self.chunk(ids[first : first + at_once])
            self.next_id = int(self.backend.likeliest([part])[0])

    def write(self, count: int) -> float:
        """Generate so many tokens; the seconds that took."""
        began = time.perf_counter()
        for _ in range(count):
            part = self.chunk(np.array([self.next_id]))
            self.next_id = int(self.backend.likeliest([part])[0])
        return time.perf_counter() - began


def decode(backend: Backend, tokens: int) -> Result:
    """One sequence from an empty context, as llama-bench does it."""
    positions = WARM_TOKENS + tokens
    backend.reserve(pages_for(positions))
    sequence = Sequence(backend, 0, positions)
    sequence.write(WARM_TOKENS)
    return {"tokens_per_second": tokens / sequence.write(tokens)}


def prefill(backend: Backend, tokens: int) -> Result:
    """A prompt in one step, after one like it."""
    backend.reserve(pages_for(tokens))
    Sequence(backend, 0, tokens).read(tokens, tokens)
    began = time.perf_counter()
    Sequence(backend, 0, tokens).read(tokens, tokens)
    return {"tokens_per_second": tokens / (time.perf_counter() - began)}


def batch(backend: Backend, tokens: int) -> Result:
    """Sequences decoded together, each after a prompt of its own."""
    positions = PROMPT_TOKENS + WARM_TOKENS + tokens
    pages = pages_for(positions)
    backend.reserve(SEQUENCES * pages)
    sequences = [Sequence(backend, pages * number, positions) for number in range(SEQUENCES)]
    for sequence in sequences:
        sequence.read(PROMPT_TOKENS)
    ids = np.array([sequence.next_id for sequence in sequences])
    began = 0.0
    for step in range(WARM_TOKENS + tokens):
        if step == WARM_TOKENS:
            began = time.perf_counter()
        parts = [one.chunk(ids[row : row + 1]) for row, one in enumerate(sequences)]
        ids = backend.likeliest(parts)
    return {"tokens_per_second": SEQUENCES * tokens / (time.perf_counter() - began)}


def context(backend: Backend, tokens: int) -> Result:
    """A sequence after a few positions and one after many, in turns of 8 tokens."""
    lengths = (SHORT, LONG)
    pages = [pages_for(length + WARM_TOKENS + tokens) for length in lengths]
    backend.reserve(sum(pages))
    sequences = []
    for first, count, length in zip((0, pages[0]), pages, lengths, strict=True):
        sequences.append(Sequence(backend, first, count * PAGE_POSITIONS))
        sequences[-1].read(length)
        sequences[-1].write(WARM_TOKENS)
    seconds = [0.0, 0.0]
    for _ in range(tokens // 8):
        for number, sequence in enumerate(sequences):
            seconds[number] += sequence.write(8)
    short, long = (tokens // 8 * 8 / taken for taken in seconds)
    return {
        "short_tokens_per_second": short,
        "tokens_per_second": long,
        "position_bytes": backend.page_bytes / PAGE_POSITIONS,
    }


def memory(backend: Backend, tokens: int) -> Result:
    """A prompt, then some tokens; what keys and values take."""
    positions = tokens + WARM_TOKENS
    backend.reserve(pages_for(positions))
    sequence = Sequence(backend, 0, positions)
    sequence.read(tokens)
    sequence.write(WARM_TOKENS)
    return {"kv_bytes": pages_for(positions) * backend.page_bytes}


def idle(backend: Backend, tokens: int) -> Result:
    """The share of a core that the engine takes while nobody asks anything."""
    decode(backend, tokens)
    before = time.process_time()
    time.sleep(IDLE_SECONDS)
    return {"share": (time.process_time() - before) / IDLE_SECONDS}


def packed_bytes(backend: Backend, source: ModelSource) -> int:
    """What the weights take in memory; their size in the file where the backend keeps no count."""
    weights = getattr(backend, "weights", None)
    if weights is not None:
        return int(weights.nbytes)
    return sum(tensor.nbytes for tensor in source.tensors.values())


def peak_bytes() -> int:
    """This process' peak; ru_maxrss would begin with what its parent held."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) * 1024 if found else hardware.peak_resident_bytes()


TRIALS: dict[str, Callable[[Backend, int], Result]] = {
    "decode": decode,
    "prefill": prefill,
    "batch": batch,
    "context": context,
    "memory": memory,
    "idle": idle,
}


# Peers


def transformers(config: ModelConfig, tokens: int) -> Result:
    """transformers' prompt in bf16; its weights are random, which changes no speed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.dim,
        intermediate_size=config.ffn_dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_head_count,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=config.tied_embeddings,
        attn_implementation="sdpa",  # type: ignore[call-arg]
    )
    model = LlamaForCausalLM(theirs).bfloat16().train(False)
    ids = torch.randint(config.vocabulary_size, (1, tokens))
    return {
        "tokens_per_second": tokens / _seconds(lambda: model(input_ids=ids, logits_to_keep=1)),
    }


def gemm(config: ModelConfig, tokens: int) -> Result:
    """The model's matrix products alone, in torch's bf16, on two layers of weights in turn."""
    import torch

    dim, hidden, kv_dim = config.dim, config.ffn_dim, config.kv_head_count * config.head_dim
    shapes = [(dim, dim), (kv_dim, dim), (kv_dim, dim), (dim, dim)]
    shapes += [(hidden, dim), (hidden, dim), (dim, hidden)]
    inputs = {size: torch.randn(tokens, size, dtype=torch.bfloat16) for size in (dim, hidden)}
    weights = [torch.randn(shape, dtype=torch.bfloat16) for _ in range(2) for shape in shapes]

    def two_layers() -> None:
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    seconds = _seconds(two_layers) * config.layers / 2
    flops = 2 * tokens * sum(outer * inner for outer, inner in shapes) * config.layers
    return {"tokens_per_second": tokens / seconds, "tflops": flops / seconds / 1e12}


def _seconds(action: Callable[[], Any]) -> float:
    """The shorter of two runs after a warm one."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times[1:])


PEERS: dict[str, Callable[[ModelConfig, int], Result]] = {
    "transformers": transformers,
    "gemm": gemm,
}

if __name__ == "__main__":
    main()
