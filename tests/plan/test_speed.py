"""How fast: the paper's runs, other people's measured runs, and our own engine's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from puna.errors import ConfigError
from puna.model.sizes import ModelConfig, named
from puna.plan import devices, memory, shapes, speed
from puna.plan.layout import Layout, TrainingRun

ROOT = Path(__file__).resolve().parents[2]
A100, H100 = devices.device("A100-80GB"), devices.device("H100-SXM")

# The paper, table 15: GPU-hours; tokens of table 2. The layout is not in the paper: 2,048 GPUs
# (said of 65B), tensor parallelism as the release's files are split, one sequence at a time and
# the optimizer split over the data-parallel GPUs are our assumptions.
PAPER = {
    "7B": (82_432, 1.0e12, 1),
    "13B": (135_168, 1.0e12, 2),
    "33B": (530_432, 1.4e12, 4),
    "65B": (1_022_362, 1.4e12, 8),
}
GPUS, BATCH = 2048, 1 << 22


def paper_run(name: str) -> tuple[TrainingRun, float]:
    """A run of the paper's and its seconds a step; all sequences of a group go through at once."""
    hours, tokens, tensor = PAPER[name]
    layout = Layout(data=GPUS // tensor, tensor=tensor, zero=1)
    run = TrainingRun(named(name), A100, layout, batch_tokens=BATCH, micro_batch=tensor)
    assert run.micro_batches == 1
    return run, hours * 3600 / GPUS / (tokens / BATCH)


def fitted_on(*names: str) -> float:
    return speed.fitted_share([paper_run(name) for name in names])


def missed_by(name: str, share: float) -> float:
    run, seconds = paper_run(name)
    return speed.training_step(run, share).seconds / seconds - 1


def test_the_table_has_the_share_that_fits_7b_and_13b():
    assert A100.training == pytest.approx(fitted_on("7B", "13B"), abs=0.001)


@pytest.mark.parametrize("name", ["33B", "65B"])
def test_33b_and_65b_are_predicted_within_a_tenth_from_7b_and_13b_alone(name):
    assert abs(missed_by(name, fitted_on("7B", "13B"))) < 0.10


def test_the_two_that_it_was_fitted_on_lie_as_far_from_it():
    """One share cannot be both: the model explains no difference between 7B and 13B."""
    share = fitted_on("7B", "13B")
    assert -0.10 < missed_by("7B", share) < -0.07
    assert 0.07 < missed_by("13B", share) < 0.10


def test_65b_takes_about_21_days_at_about_380_tokens_a_second_a_gpu():
    run, _seconds = paper_run("65B")
    step = speed.training_step(run, fitted_on("7B", "13B"))
    assert step.tokens_per_second / GPUS == pytest.approx(380, rel=0.06)
    assert 1.4e12 / step.tokens_per_second / 86400 == pytest.approx(21, rel=0.06)


@pytest.mark.parametrize(
    ("name", "wanted"), {"7B": 0.471, "13B": 0.548, "33B": 0.482, "65B": 0.497}.items()
)
def test_the_share_of_the_peak_that_the_papers_hours_imply(name, wanted):
    run, seconds = paper_run(name)
    step = speed.training_step(run, speed.fitted_share([(run, seconds)]))
    assert step.seconds == pytest.approx(seconds, rel=1e-6)
    assert step.mfu == pytest.approx(wanted, abs=0.0006)


def test_how_the_prediction_hangs_on_what_the_paper_does_not_say(monkeypatch):
    """Of what tensor parallelism sends none, half or all is waited for: 65B by 0, +6, +11 %."""
    missed = []
    for exposed in (0.0, 0.5, 1.0):
        monkeypatch.setattr(speed, "TENSOR_EXPOSED", exposed)
        share = fitted_on("7B", "13B")
        missed.append((missed_by("33B", share), missed_by("65B", share)))
    assert [one[0] for one in missed] == pytest.approx([-0.034, -0.011, 0.011], abs=0.005)
    assert [one[1] for one in missed] == pytest.approx([0.004, 0.055, 0.106], abs=0.005)


# Measured by others: tokens a second a GPU in MosaicML's llm-foundry (scripts/train/benchmarking,
# README: A100 and H100 of 80 GB, bf16, FSDP). MPT's blocks have LLaMA's products: 12 d² weights.

MPT = {"1b": (2048, 24, 16), "3b": (2560, 32, 32), "7b": (4096, 32, 32), "13b": (5120, 40, 40),
       "30b": (7168, 48, 56), "70b": (8192, 80, 64)}  # fmt: skip
MOSAIC_A100 = (  # model, context, GPUs, micro-batch, accumulated, checkpointing, tokens/s/GPU
    ("7b", 4096, 8, 16, 2, "full", 3684),
    ("7b", 8192, 8, 8, 2, "full", 3206),
    ("7b", 2048, 8, 6, 2, "none", 4641),
    ("1b", 2048, 8, 14, 4, "none", 20513),
    ("3b", 2048, 8, 10, 2, "none", 10811),
    ("13b", 4096, 8, 10, 3, "full", 2060),
    ("13b", 2048, 8, 2, 3, "none", 2262),
    ("30b", 2048, 8, 3, 21, "full", 916),
    ("70b", 2048, 32, 2, 16, "full", 373),
    ("70b", 2048, 64, 8, 4, "full", 410),
)
MOSAIC_H100 = (
    ("7b", 4096, 8, 16, 2, "full", 8611),
    ("7b", 2048, 8, 6, 1, "none", 10643),
    ("1b", 2048, 8, 14, 1, "none", 45455),
    ("3b", 2048, 16, 10, 3, "none", 24142),
    ("13b", 4096, 8, 10, 3, "full", 4717),
    ("13b", 2048, 64, 2, 1, "none", 4800),
    ("30b", 2048, 8, 3, 21, "full", 2002),
    ("30b", 2048, 32, 14, 3, "full", 2308),
    ("70b", 2048, 64, 8, 4, "full", 1039),
)


def mosaic_run(row: tuple, device: devices.Device) -> tuple[TrainingRun, float]:
    name, context, gpus, micro_batch, accumulated, policy, rate = row
    dim, layers, heads = MPT[name]
    config = ModelConfig(
        dim=dim,
        layers=layers,
        heads=heads,
        hidden_dim=round(8 * dim / 3),
        vocabulary_size=50368,
        context_length=context,
        tied_embeddings=True,
    )
    tokens = context * gpus * micro_batch * accumulated
    layout = Layout(data=gpus, zero=3)
    run = TrainingRun(
        config,
        device,
        layout,
        batch_tokens=tokens,
        micro_batch=micro_batch,
        checkpointing=policy,
    )
    return run, tokens / (rate * gpus)


@pytest.mark.parametrize(
    ("device", "rows", "tolerance"), [(A100, MOSAIC_A100, 0.12), (H100, MOSAIC_H100, 0.21)]
)
def test_measured_runs_from_1b_to_70b_are_predicted_from_their_7b_alone(device, rows, tolerance):
    runs = [mosaic_run(row, device) for row in rows]
    share = speed.fitted_share([one for one in runs if one[0].config.dim == 4096])
    for run, seconds in runs:
        assert speed.training_step(run, share).seconds == pytest.approx(seconds, rel=tolerance)


def test_h100s_share_in_the_table_is_that_of_the_measured_7b():
    sevens = [mosaic_run(row, H100) for row in MOSAIC_H100 if row[0] == "7b"]
    assert H100.training == pytest.approx(speed.fitted_share(sevens), abs=0.005)


def test_our_trainer_on_a_cpu_is_predicted_from_its_probed_matmul_within_15_percent():
    """The newest row of bench/train.py's 110M: compiled, under `narrow`, beside its own probe."""
    lines = (ROOT / "bench" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["bench"] == "train"]
    row = [one for one in rows if one["shape"] == "110M"][-1]
    rates = {"fp32": 2e11, "bf16": row["matmul_tflops"]["median"] * 1e12}
    machine = devices.this_machine(31e9, rates, "bench/history.jsonl")
    run = TrainingRun(
        named("110M"), machine, batch_tokens=4096, micro_batch=4, checkpointing="narrow"
    )
    measured = row["results"]["puna"]["seconds"]["median"]
    assert speed.training_step(run).seconds == pytest.approx(measured, rel=0.15)


# Communication: identities of the papers that the formulas come from.


def test_zero_1_and_2_send_what_plain_data_parallelism_does_and_3_half_as_much_again():
    """ZeRO, section 7: 2, 2, 2 and 3 times the parameters (one micro-batch, equal widths)."""
    runs = [
        TrainingRun(
            named("7B"), A100, Layout(data=64, zero=stage), batch_tokens=64 * 2048, precision="fp32"
        )
        for stage in range(4)
    ]
    sent = [speed.data_traffic(run).total for run in runs]
    assert sent[1] == pytest.approx(sent[0])
    assert sent[2] == pytest.approx(sent[0])
    assert sent[3] == pytest.approx(1.5 * sent[0])
    assert sent[0] == pytest.approx(
        2 * 63 / 64 * 4 * memory.stage_parameters(named("7B"), Layout())
    )
    mixed = [speed.data_traffic(replace(run, precision="bf16")).total for run in runs]
    assert mixed[:3] == pytest.approx(sent[:3])  # weights and gradients stay float32
    assert mixed[3] == pytest.approx(sent[0])  # twice in bf16, and the gradients


def test_sequence_parallelism_sends_what_four_all_reduces_a_layer_would():
    """Korthikanti et al., 4.2.2: a gather and a scatter are an all-reduce; gathered rows are not
    kept, so that the weights' gradients gather them twice more."""
    run = TrainingRun(named("65B"), A100, Layout(tensor=8, data=1), batch_tokens=1 << 17)
    rows = 7 / 8 * 80 * run.batch_tokens * 8192 * 2
    traffic = speed.tensor_traffic(run)
    assert traffic.reduce_scatter == pytest.approx(4 * rows)
    assert traffic.all_gather == pytest.approx(6 * rows)
    assert speed.tensor_traffic(replace(run, layout=Layout(data=8))).total == 0


def test_gradients_summed_once_a_step_hide_behind_one_micro_batch_alone():
    """Two cards on a slow link: what a step waits for grows with its micro-batches."""
    card = replace(A100, link_bytes_per_second=1e9, network_bytes_per_second=1e9)
    for zero, grows in ((0, True), (1, True), (3, False)):
        waits = []
        for micro_batches in (1, 64):
            run = TrainingRun(
                named("7B"), card, Layout(data=2, zero=zero), batch_tokens=2 * 2048 * micro_batches
            )
            step = speed.training_step(run)
            waits.append(step.traffic.total / 1e9 - step.communication_seconds)
        assert (waits[1] < 2 * waits[0]) == grows  # seconds that are hidden


def test_a_pipeline_of_uneven_stages_waits_for_the_longest():
    even, uneven = (
        speed.training_step(TrainingRun(named("13B"), A100, Layout(pipeline=stages), 16 * 2048))
        for stages in (8, 16)
    )
    assert uneven.compute_seconds == pytest.approx(even.compute_seconds / 2 * (3 * 16 / 40))


def test_a_pipeline_waits_while_it_fills_and_empties():
    """(p - 1) / m of the time of the micro-batches (GPipe; not interleaved)."""
    run = TrainingRun(named("65B"), A100, Layout(pipeline=4), batch_tokens=16 * 2048)
    step = speed.training_step(run)
    busy = step.compute_seconds + step.communication_seconds
    assert step.bubble_seconds == pytest.approx(3 / 16 * busy)


def test_what_is_computed_again_costs_what_it_multiplies():
    run = TrainingRun(named("65B"), A100, Layout(data=8), checkpointing="none")
    times = {
        policy: speed.flops_per_token(replace(run, checkpointing=policy))
        for policy in ("none", "selective", "narrow", "full")
    }
    assert times["none"] == times["selective"]
    assert 1.1 < times["narrow"] / times["none"] < 1.2
    assert 1.2 < times["full"] / times["none"] < 4 / 3  # a third, but for the last product


@pytest.mark.parametrize("more", [{"batch_tokens": 1 << 23}, {"micro_batch": 2}])
def test_a_larger_step_is_never_slower_a_token(more):
    run = TrainingRun(named("7B"), A100, Layout(data=64, zero=3))
    assert (
        speed.training_step(replace(run, **more)).tokens_per_second
        >= speed.training_step(run).tokens_per_second
    )


def test_layouts_that_do_not_divide_are_refused():
    for layout, wrong in (
        (Layout(tensor=3), "tensor must divide the model's 32 key-value heads, got 3"),
        (Layout(pipeline=64), "pipeline must be at most the model's 32 layers, got 64"),
        (Layout(data=12), "multiple of 24,576 tokens"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            TrainingRun(named("7B"), A100, layout)
    with pytest.raises(ConfigError, match="zero must be 0, 1, 2 or 3"):
        Layout(zero=4)


# Serving: predicted beside what bench/cpu_engine.py measured, with the bandwidth probed beside each

MATMUL = 1.55e12  # bf16 on that machine, the median of bench/train.py's probes
TINY_LLAMA = shapes.PUBLISHED["TinyLlama-1.1B"]
FILES = {"smol": shapes.PUBLISHED["SmolLM2-135M"], "1b": TINY_LLAMA, "7b": named("7B")}


def engine_rows(kind: str, *models: str) -> list[tuple[ModelConfig, str, devices.Device, float]]:
    """The newest row of each file: shape, type, the machine as it was probed, tokens a second."""
    rows = {}
    for line in (ROOT / "bench" / "history.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["bench"] == "cpu_engine" and row["kind"] == kind:
            rows[row["shape"]] = row["values"]
    found = []
    for shape, values in rows.items():
        model, weights = shape.split("-")
        if model in models:
            reading = values["bandwidth of puna"]["median"] * 1e9
            rates = {"fp32": MATMUL / 4, "bf16": MATMUL}
            machine = devices.this_machine(reading, rates, "bench/history.jsonl")
            found.append((FILES[model], weights.upper(), machine, values["puna"]["median"]))
    assert found
    return found


def test_decoding_1b_and_7b_is_predicted_from_the_probed_bandwidth_within_7_percent():
    for config, kind, machine, measured in engine_rows("decode", "1b", "7b"):
        rate = speed.decode_tokens_per_second(config, machine, kind=kind, context=32)
        assert rate == pytest.approx(measured, rel=0.07)


def test_decoding_16_at_once_and_after_4096_positions_is_predicted_within_7_percent():
    for config, kind, machine, measured in engine_rows("batch", "1b"):
        rate = speed.decode_tokens_per_second(config, machine, kind=kind, batch=16, context=32)
        assert rate == pytest.approx(measured, rel=0.07)
    for config, kind, machine, measured in engine_rows("context", "1b"):
        rate = speed.decode_tokens_per_second(config, machine, kind=kind, context=4096 + 32)
        assert rate == pytest.approx(measured, rel=0.07)


def test_a_135m_model_lies_in_part_in_the_cache_and_is_predicted_too_slow():
    """Bandwidth is no bound there: 24 to 31 % too few tokens a second, and the sum of many small
    products is: 16 at once and prompts come out 30 to 60 % too fast."""
    for config, kind, machine, measured in engine_rows("decode", "smol"):
        rate = speed.decode_tokens_per_second(config, machine, kind=kind, context=64)
        assert 0.65 * measured < rate < 0.8 * measured
    for config, kind, machine, measured in engine_rows("batch", "smol"):
        rate = speed.decode_tokens_per_second(config, machine, kind=kind, batch=16, context=32)
        assert measured < rate < 1.65 * measured
    for config, kind, machine, measured in engine_rows("prefill", "smol"):
        rate = 512 / speed.prefill_seconds(config, 512, machine, kind=kind)
        assert measured < rate < 1.45 * measured


def test_prompts_of_1b_and_7b_are_predicted_within_7_percent():
    for config, kind, machine, measured in engine_rows("prefill", "1b", "7b"):
        rate = 512 / speed.prefill_seconds(config, 512, machine, kind=kind)
        assert rate == pytest.approx(measured, rel=0.07)


def test_fewer_bits_decode_faster_and_longer_contexts_slower():
    config = named("7B")
    rates = [speed.decode_tokens_per_second(config, A100, kind=k) for k in ("BF16", "Q8_0", "Q4_0")]
    assert rates == sorted(rates)
    rates = [speed.decode_tokens_per_second(config, A100, context=c) for c in (0, 1024, 8192)]
    assert rates == sorted(rates, reverse=True)
    more = speed.decode_tokens_per_second(config, A100, context=1024, batch=16)
    assert rates[1] < more < 16 * rates[1]
    assert speed.prefill_seconds(config, 2048, A100) > 2 * speed.prefill_seconds(config, 1024, A100)


def test_a_short_prompt_still_reads_every_weight():
    config = named("7B")
    least = memory.weight_bytes(config) / A100.read_bytes_per_second
    assert speed.prefill_seconds(config, 1, A100) >= least


def test_training_seconds_are_a_steps_without_communication():
    run = TrainingRun(named("7B"), A100, Layout(data=8), batch_tokens=1 << 20, checkpointing="none")
    alone = speed.training_seconds(named("7B"), run.batch_tokens, A100, 8)
    assert speed.training_step(run).compute_seconds == pytest.approx(alone)
