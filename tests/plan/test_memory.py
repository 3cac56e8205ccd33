"""Bytes: the planned peak beside measured ones, published tables of states, files as they are."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from puna.errors import ConfigError
from puna.model import count
from puna.model.sizes import ModelConfig, named
from puna.plan import devices, memory, shapes
from puna.plan.layout import Layout, TrainingRun
from puna.weights.gguf_mixture import mixture
from puna.weights.gguf_types import TYPES
from puna.weights.source import StoredTensor, tensor_names

ROOT = Path(__file__).resolve().parents[2]
A100 = devices.device("A100-80GB")
CPU = devices.this_machine(31e9, {"fp32": 2e11, "bf16": 1.5e12}, "not measured")
MEASURED_TOLERANCE = 0.10  # what the planner claims


# The trainer's own peaks


def measured_rows() -> list[dict]:
    """The newest row of every case that bench/memory_plan.py measured."""
    rows = {}
    for line in (ROOT / "bench" / "history.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["bench"] == "memory_plan":
            rows[row["shape"], row["policy"], row.get("compiled", False)] = row
    return list(rows.values())


def planned(row: dict) -> memory.TrainingMemory:
    config = ModelConfig(**row["model"])
    run = TrainingRun(
        config,
        CPU if row["device"] == "cpu" else A100,
        batch_tokens=row["sequences"] * config.context_length,
        micro_batch=row["micro_batch"],
        precision=row["dtype"],
        checkpointing=row["policy"],
        compiled=row.get("compiled", False),
    )
    return memory.training(run)


def named_case(row: dict) -> str:
    return f"{row['shape']}-{row['policy']}{'-compiled' if row.get('compiled') else ''}"


@pytest.mark.parametrize("row", measured_rows(), ids=named_case)
def test_planned_peaks_are_within_a_tenth_of_those_measured(row):
    assert row["peak_bytes"] >= 1e9
    assert planned(row).total == pytest.approx(row["peak_bytes"], rel=MEASURED_TOLERANCE)


def test_what_was_measured_is_four_shapes_under_every_policy_compiled_and_not():
    rows = measured_rows()
    assert {row["policy"] for row in rows} == {"none", "selective", "narrow", "full"}
    assert len(rows) == 2 * 4 * len({row["shape"] for row in rows}) == 32


@pytest.mark.slow
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("policy", ["none", "selective", "full"])
@pytest.mark.parametrize("shape", ["weights", "long", "vocabulary"])
def test_the_trainer_takes_what_is_planned(shape, policy, compiles):
    """Measured again, here: three steps of `puna train` in a process of its own."""
    pytest.importorskip("torch")
    if compiles:
        require_compiler()
    sys.path.insert(0, str(ROOT / "bench"))
    import memory_plan

    row = memory_plan.measured(shape, policy, compiles=compiles)
    assert row["peak_bytes"] >= 1e9
    assert planned(row).total == pytest.approx(row["peak_bytes"], rel=MEASURED_TOLERANCE)


# Live bytes of torch's own allocator (profiler), without the heap around them: a step of a small
# model whose every tensor counts.


def require_compiler() -> None:
    from puna import hardware

    _compiler, missing = hardware.compiler()
    if missing:
        pytest.skip(f"compiled blocks need a C++ compiler: {missing}")


def live_peak(
    config: ModelConfig, policy: str, sequences: int, precision: str, compiles: bool
) -> int:
    """The most bytes of tensors that exist at once in a second step, state included."""
    import torch
    from torch.autograd import profiler

    from puna.model.llama import Llama
    from puna.train import execution
    from puna.train.adamw import build_adamw
    from puna.train.settings import RunConfig, TrainConfig

    train = TrainConfig(
        batch_tokens=sequences * config.context_length,
        warmup_steps=1,
        threads=1,
        compile="on" if compiles else "off",
        device="cpu",
        precision=precision,
        activation_checkpointing=policy,
        micro_batch_sequences=sequences,
    )
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(1))
    optimizer = build_adamw(model, train)
    settings = RunConfig(config, train)
    run = execution.Execution(model, settings, execution.decide(settings))
    ids = torch.randint(config.vocabulary_size, (sequences, config.context_length + 1))

    def step():
        run.loss(ids[:, :-1], ids[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profiler.profile(profile_memory=True) as profile:
        step()
    events = profile.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = highest = 0
    for _when, change in changes:
        live += change
        highest = max(highest, live)
    return 12 * count.parameters(config) + highest


@pytest.mark.filterwarnings("default")  # torch.compile's own
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("policy", ["none", "selective", "narrow", "full"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_live_tensors_of_a_step_are_those_derived(policy, precision, compiles, monkeypatch):
    pytest.importorskip("torch")
    from puna import hardware

    if compiles:
        require_compiler()
    monkeypatch.setattr(hardware, "matmul_rate", lambda *_: hardware.Rate(1e12, "not measured"))
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr("puna.model.flash.ISA", None)  # kernels keep less; a GPU has torch's
    config = ModelConfig(dim=256, layers=6, heads=4, vocabulary_size=1024, context_length=512)
    run = TrainingRun(
        config,
        A100,
        batch_tokens=4 * 512,
        micro_batch=4,
        precision=precision,
        checkpointing=policy,
        compiled=compiles,
    )
    wanted = live_peak(config, policy, 4, precision, compiles)
    assert memory.training(run).total == pytest.approx(wanted, rel=0.07 if compiles else 0.05)


# States


def test_states_are_those_of_zeros_table():
    """7.5B on 64 GPUs, GB: 120, 31.4, 16.6, 1.9 (arXiv 1910.02054, figure 1)."""
    totals = [
        memory.state(7.5e9, Layout(data=64, zero=stage), memory.MIXED).total / 1e9
        for stage in range(4)
    ]
    assert totals == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


def test_punas_states_are_16_bytes_a_parameter_like_the_count():
    for name in ("7B", "65B"):
        parts = memory.state(count.parameters(named(name)), Layout())
        assert parts.total == count.optimizer_bytes(named(name))


def test_tensor_and_pipeline_split_what_there_is():
    config = named("65B")
    whole = memory.stage_parameters(config, Layout())
    assert whole == count.parameters(config)
    assert memory.stage_parameters(config, Layout(tensor=8)) == whole / 8
    stage = memory.stage_parameters(config, Layout(pipeline=8))
    assert whole / 8 < stage < 1.04 * whole / 8  # one end's embedding on top


@pytest.mark.parametrize("change", [{"zero": 1}, {"zero": 2}, {"zero": 3}])
def test_more_zero_never_takes_more_of_the_state(change):
    run = TrainingRun(named("7B"), A100, Layout(data=64))
    less = memory.state(7e9, replace(run.layout, zero=change["zero"] - 1)).total
    assert memory.state(7e9, replace(run.layout, **change)).total < less


@pytest.mark.parametrize("name", ["7B", "65B", "Llama2-70B"])
def test_less_is_kept_never_costs_memory_and_more_sequences_always_do(name):
    config = shapes.model(name)
    kept = []
    for policy in ("none", "selective", "narrow", "full"):
        run = TrainingRun(config, A100, micro_batch=2, checkpointing=policy)
        kept.append(memory.training(run).activations)
        smaller = memory.training(replace(run, micro_batch=1))
        assert smaller.total < memory.training(run).total
    assert kept == sorted(kept, reverse=True)


def test_activations_are_korthikantis_where_our_block_is_theirs():
    """34sbh (equation 1 of arXiv 2205.05198, attention matrices apart) for a block with h_ffn = 4h.

    Ours has no two dropout masks (-2), float32 in the residual stream and the norms (+12), turned
    queries and keys (+4), and SwiGLU keeps gate, up, silu and product, not two values (+16).
    """
    config = ModelConfig(
        dim=1024, layers=1, heads=16, hidden_dim=4096, vocabulary_size=1024, context_length=1024
    )
    sbh = 1024 * 1024
    sums_of_softmax = 4 * 16 * 1024
    copies = 2 * (count.parameters(config) - 2 * 1024 * 1024 - 3 * 1024)
    ours = count.activation_bytes(config, 1, 1024, "none") - copies - sums_of_softmax
    assert ours == (34 - 2 + 12 + 4 + 16) * sbh
    full = count.activation_bytes(config, 1, 1024, "full")
    assert full == 2 * (2 * sbh)  # theirs is 2sbh, in bf16; our residual stream is float32


# Serving


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K"])
@pytest.mark.parametrize("name", ["7B", "SmolLM2-135M", "Llama2-70B"])
def test_weights_are_those_of_the_files_that_puna_writes(kind, name):
    config = shapes.model(name)
    tensors = {
        key: StoredTensor(key, shape, "F32", 0) for key, shape in tensor_names(config).items()
    }
    types = mixture(config, tensors, kind).types
    wanted = sum(
        math.prod(one.shape) // TYPES[types[key]].block_values * TYPES[types[key]].block_bytes
        for key, one in tensors.items()
    )
    assert memory.weight_bytes(config, kind) == wanted


def test_weights_of_known_files():
    """SmolLM2-135M-Instruct's Q8_0 and Q4_1 files read 143 and 96.7 MB a token (bench/cpu_engine),
    7B's in bf16 are twice its parameters; a Q4_0 file of 7B has 3.6 GiB."""
    smol = shapes.PUBLISHED["SmolLM2-135M"]
    assert memory.read_bytes(smol, "Q8_0") == pytest.approx(143e6, rel=0.005)
    assert memory.read_bytes(smol, "Q4_1") == pytest.approx(96.6e6, rel=0.005)
    seven = named("7B")
    assert memory.weight_bytes(seven) == pytest.approx(2 * count.parameters(seven), rel=1e-4)
    assert memory.weight_bytes(seven, "Q4_0") / 2**30 == pytest.approx(3.57, abs=0.02)
    table = seven.vocabulary_size * seven.dim * 2
    assert memory.weight_bytes(seven) - memory.read_bytes(seven) == table - seven.dim * 2


@pytest.mark.parametrize(
    ("name", "wanted"),
    {"7B": 524_288, "13B": 819_200, "33B": 1_597_440, "65B": 2_621_440}.items(),
)
def test_keys_and_values_of_the_papers_sizes(name, wanted):
    assert memory.kv_bytes(named(name), 1) == wanted
    assert memory.kv_bytes(named(name), 2048, 4) == 4 * 2048 * wanted
    config = named(name)
    scales = 2 * config.layers * config.heads * 4
    assert memory.kv_bytes(config, 1, kind="int8") == wanted / 2 + scales


def test_unknown_types_are_refused():
    with pytest.raises(ConfigError, match="q3_z"):
        memory.weight_bytes(named("7B"), "q3_z")
    with pytest.raises(ConfigError, match="not 'int4'"):
        memory.kv_bytes(named("7B"), 1, kind="int4")
