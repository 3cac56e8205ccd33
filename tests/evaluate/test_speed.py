"""The speed tests do what llama-bench's do, and their numbers follow from seconds and bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from memory_source import MemorySource
from prefix_backend import PrefixBackend
from tiny_model import random_arrays, tiny_config

from puna import hardware
from puna.errors import MachineError
from puna.evaluate import bandwidth, speed
from puna.evaluate.bandwidth import ReadProbe
from puna.evaluate.speed import SpeedResult, SpeedTest, Trial, bytes_a_step, measure
from puna.native import kernels

VOCABULARY = 30


def run(backend: PrefixBackend, test: SpeedTest, repeats: int = 1, probe=None) -> SpeedResult:
    return measure(backend, test, repeats, probe, progress=lambda: None)


def shapes(backend: PrefixBackend) -> list[list[tuple[int, int, int]]]:
    """Start, ids and wanted rows of each chunk of each step."""
    return [[(one.start, len(one.ids), one.wanted_rows) for one in step] for step in backend.steps]


def test_tests_are_called_as_llama_bench_calls_them():
    assert SpeedTest("prompt", 512).label == "pp512"
    assert SpeedTest("decode", 128, depth=4096).label == "tg128 @ d4096"
    assert SpeedTest("decode", 128, sequences=16).label == "tg128 x 16"


def test_a_prompt_is_read_in_pieces_and_wants_one_row():
    backend = PrefixBackend(VOCABULARY)
    run(backend, SpeedTest("prompt", 1100))
    once = [[(0, 512, 0)], [(512, 512, 0)], [(1024, 76, 1)]]
    assert shapes(backend) == once * 2  # to warm up, and the trial


def test_sequences_read_their_prompts_together():
    backend = PrefixBackend(VOCABULARY)
    run(backend, SpeedTest("prompt", 200, sequences=4))
    assert shapes(backend)[:2] == [[(0, 128, 0)] * 4, [(128, 72, 1)] * 4]
    tables = [chunk.pages.tolist() for chunk in backend.steps[1]]
    assert sorted(itertools.chain(*tables)) == list(range(4 * 7))


def test_decoding_is_greedy_and_starts_after_the_depth():
    backend = PrefixBackend(VOCABULARY)
    run(backend, SpeedTest("decode", 5, sequences=2, depth=70))
    assert shapes(backend) == [
        [(0, 70, 1)] * 2,  # the depth
        [(70, 1, 1)] * 2,  # to warm up
        *([(70 + step, 1, 1)] * 2 for step in range(5)),
    ]
    steps = backend.steps[2:]
    for row in range(2):
        seen = [*backend.steps[0][row].ids, *(step[row].ids[0] for step in steps)]
        for number in range(1, 5):
            assert seen[70 + number] == backend.logits(seen[: 70 + number]).argmax()


def test_each_trial_has_a_probe_of_its_own_and_none_is_timed(monkeypatch):
    clock = itertools.count(0, 2)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    rates = iter((10e9, 20e9, 40e9))
    result = run(PrefixBackend(VOCABULARY), SpeedTest("decode", 6), 3, lambda: next(rates))
    assert result.trials == (Trial(2, 10e9), Trial(2, 20e9), Trial(2, 40e9))
    assert result.rates == [3, 3, 3]


def test_the_roofline_is_what_reading_the_weights_once_a_step_allows():
    trials = tuple(Trial(seconds, 20e9) for seconds in (4.0, 5.0, 8.0))
    result = SpeedResult(SpeedTest("decode", 100, sequences=2), trials)
    record = result.record(bytes_a_step=500_000_000)
    assert record["roofline_share"] == pytest.approx(0.5)  # 20 steps/s of the 40 that are possible
    assert record["tokens_per_second"]["median"] == 40
    assert record["tokens_per_second"]["mean"] == pytest.approx((50 + 40 + 25) / 3)
    assert record["tokens_per_second"]["deviation"] == pytest.approx(np.std([50, 40, 25], ddof=1))
    assert SpeedResult(SpeedTest("prompt", 100), trials).roofline_share(1) is None
    assert SpeedResult(SpeedTest("decode", 1), (Trial(1, None),)).roofline_share(1) is None


def test_of_an_embedding_that_is_not_the_output_a_step_reads_one_row():
    config = tiny_config(tied_embeddings=True)
    tied = MemorySource(config, random_arrays(config))
    everything = sum(tensor.nbytes for tensor in tied.tensors.values())
    assert bytes_a_step(tied) == everything
    config = tiny_config()
    untied = MemorySource(config, random_arrays(config))
    assert bytes_a_step(untied) == everything + 4 * config.dim


@pytest.mark.parametrize("isas", [kernels.inference_isas(), ()], ids=["kernels", "NumPy"])
def test_the_probe_reads_memory_and_says_how(isas, monkeypatch):
    monkeypatch.setattr(kernels, "inference_isas", lambda: isas)
    probe = ReadProbe(1 << 22)
    by = f"C++ for {kernels.inference_isa()}" if isas else "NumPy"
    assert probe.source == f"4.0 MiB read by {by}, threads: {hardware.usable_cores()}"
    assert 1e8 < probe() < 1e13


def test_numpy_s_reading_is_the_bytes_over_a_clock(monkeypatch):
    reader = bandwidth._NumpyReader(3, 1 << 20)
    assert sum(part.nbytes for part in reader.parts) == 1 << 20
    monkeypatch.setattr(bandwidth.time, "perf_counter", iter((1, 5)).__next__)
    assert reader.measure() == (1 << 20) / 4


def test_a_machine_without_room_for_the_probe_says_so(monkeypatch):
    monkeypatch.setattr("puna.hardware.memory_available_bytes", lambda: 1 << 30)
    with pytest.raises(MachineError, match=r"takes 2\.0 GiB of it, 1\.0 GiB are free"):
        ReadProbe(bandwidth.PROBE_BYTES)
