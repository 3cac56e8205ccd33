"""The engine's threads under stress, and what the extension refuses before kernels trust it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from cpu_runs import isas, needs_kernels, run_texts
from mixed_model import mixed_source

from puna.infer.backends.cpu_backend import CpuBackend
from puna.model.sizes import ModelConfig
from puna.native import kernels
from puna.native.packed import pack, packed_size

pytestmark = needs_kernels

CONFIG = ModelConfig(dim=64, layers=2, heads=4, kv_heads=2, vocabulary_size=97, context_length=128)
SHAPE = {
    "dim": 32,
    "hidden": 40,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "vocabulary": 50,
    "norm_epsilon": 1e-5,
    "kept_bytes": 2,
}


def texts() -> list[np.ndarray]:
    random = np.random.default_rng(8)
    return [random.integers(0, 97, length) for length in (100, 9)]


def logits_with(threads: int, sizes: list[int]) -> list[np.ndarray]:
    backend = CpuBackend(mixed_source(CONFIG), threads=threads, mode="exact")
    return run_texts(backend, texts(), sizes)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("threads", [7, 33])
def test_more_threads_than_cores_give_the_same(threads):
    assert same(logits_with(threads, [1, 40]), logits_with(1, [1, 40]))


def test_two_engines_may_step_at_once_and_die_while_the_other_runs():
    wanted, found = logits_with(1, [3]), []

    def work() -> None:
        found.extend(logits_with(3, [3]) for _ in range(3))

    both = [threading.Thread(target=work) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert len(found) == 6
    assert all(same(one, wanted) for one in found)


def test_a_thousand_short_steps_lose_no_wakeup():
    backend = CpuBackend(mixed_source(CONFIG), threads=3, mode="exact")
    first = run_texts(backend, [np.arange(3)], [1])
    for turn in range(300):
        if turn % 30 == 0:
            time.sleep(0.002)  # longer than a wait spins: everyone sleeps
        assert same(run_texts(backend, [np.arange(3)], [1]), first)


IDLE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from mixed_model import mixed_source
from cpu_runs import run_texts
import numpy as np
from puna.infer.backends.cpu_backend import CpuBackend
from puna.model.sizes import ModelConfig
config = ModelConfig(dim=64, layers=2, heads=4, vocabulary_size=97, context_length=128)
backend = CpuBackend(mixed_source(config), threads=4, mode="exact")
first = run_texts(backend, [np.arange(40)], [7])[0]
"""
REST = (
    IDLE
    + """
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before)
"""
)
FORK = (
    IDLE
    + """
import os
for _ in range(3):
    child = os.fork()
    if child == 0:
        again = run_texts(backend, [np.arange(40)], [7])[0]
        del backend
        os._exit(0 if np.array_equal(again, first) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(np.array_equal(run_texts(backend, [np.arange(40)], [7])[0], first))
"""
)


def output_of(code: str, folder: str) -> str:
    command = [sys.executable, "-c", code, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_idle_engine_takes_no_time(request):
    # The spinning between two steps is over after 0.3 ms.
    assert float(output_of(REST, str(request.config.rootpath / "tests"))) < 0.05


def test_an_engine_goes_on_in_a_forked_process_and_in_the_first(request):
    assert output_of(FORK, str(request.config.rootpath / "tests")) == "True"


def matrix(outputs: int, inputs: int) -> tuple[np.ndarray, int, int, int]:
    rows = np.zeros((outputs, 4 * inputs), np.uint8)
    out = np.zeros(packed_size("F32", outputs, inputs), np.uint8)
    return pack("F32", rows, inputs, out, 1).arguments()


def engine(**changes):
    """An engine of zeros, with some of its parts changed."""
    dim, hidden = 32, 40
    layer = [(32, dim), (16, dim), (16, dim), (dim, 32), (hidden, dim), (dim, hidden)]
    sizes = [*layer, (hidden, dim), (50, dim), (50, dim)]
    right = {
        "isa": isas()[0],
        "threads": 2,
        "mode": 0,
        "shape": SHAPE,
        "matrices": [matrix(*size) for size in sizes],
        "norms": [np.ones(32, np.float32) for _ in range(3)],
    }
    return kernels.extension().InferenceEngine(*{**right, **changes}.values())


def changed(matrices: list, place: int, **changes) -> list:
    names = ("data", "outputs", "inputs", "format")
    values = dict(zip(names, matrices[place], strict=True))
    return [*matrices[:place], tuple({**values, **changes}.values()), *matrices[place + 1 :]]


RIGHT = [matrix(*size) for size in ((32, 32), (16, 32), (16, 32), (32, 32), (40, 32), (32, 40))]
RIGHT = [*RIGHT, matrix(40, 32), matrix(50, 32), matrix(50, 32)] if isas() else []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"isa": "none such"}, "cannot run kernels built for none such"),
        ({"threads": 0}, "between 1 and 256"),
        ({"threads": 257}, "between 1 and 256"),
        ({"mode": 3}, "mode should be"),
        ({"mode": -1}, "mode should be"),
        ({"shape": {**SHAPE, "dim": 0}}, "between 1 and 2\\^24"),
        ({"shape": {**SHAPE, "vocabulary": 1 << 25}}, "between 1 and 2\\^24"),
        ({"shape": {**SHAPE, "kv_heads": 3}}, "kv_heads should divide heads"),
        ({"shape": {**SHAPE, "head_dim": 7}}, "even and at most 256"),
        ({"shape": {**SHAPE, "head_dim": 258}}, "even and at most 256"),
        ({"shape": {**SHAPE, "kept_bytes": 4}}, "kept_bytes should be 1 or 2"),
        ({"shape": {**SHAPE, "kept_bytes": 3}}, "kept_bytes should be 1 or 2"),
        ({"mode": 2}, "in mode 2 it is 4"),
        ({"shape": {**SHAPE, "hidden": 41}}, "a matrix has not the model's shape"),
        ({"norms": []}, "7 matrices and 2 norms a layer"),
        ({"norms": [np.ones(32, np.float32)] * 5}, "7 matrices and 2 norms a layer"),
        ({"norms": [np.ones(32, np.float32)] * 2}, "7 matrices and 2 norms a layer"),
        ({"norms": [np.ones(31, np.float32)] * 3}, "a norm has not the model's width"),
        ({"matrices": RIGHT[:-1]}, "7 matrices and 2 norms a layer"),
        ({"matrices": RIGHT and changed(RIGHT, 8, outputs=51)}, "not the model's shape"),
        ({"matrices": RIGHT and changed(RIGHT, 0, format=11)}, "unknown format"),
        ({"matrices": RIGHT and changed(RIGHT, 0, format=-1)}, "unknown format"),
        ({"matrices": RIGHT and changed(RIGHT, 0, format=1)}, "as many bytes as its format"),
    ],
)
def test_an_engine_of_parts_that_do_not_fit_is_refused(changes, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        engine(**changes)


ALONE = dict.fromkeys(("logits", "draws", "drawn", "targets", "log_probabilities"))
DRAW = [50, 0.8, 40, 0.9, 0.1, 0.5]  # ids, temperature, top_k, top_p, min_p, point


def bad_draw(place: int, value: float) -> dict[str, np.ndarray]:
    """Draws of which one has another number there."""
    draws = np.array([DRAW, DRAW], dtype=np.float64)
    draws[1, place] = value
    return {"draws": draws}


def step(**changes) -> bool:
    """A step of three rows, the last two wanted, in two pages."""
    one = engine()
    one.reserve(2)
    right = {
        "ids": np.zeros(3, np.int32),
        "spans": np.array([[1, 40, 0], [2, 0, 1]]),
        "pages": np.array([0, 1], np.int32),
        "cosines": np.ones((3, 4), np.float32),
        "sines": np.zeros((3, 4), np.float32),
        "wanted": np.array([1, 2], np.int32),
        "logits": np.zeros((2, 50), np.float32),
        "draws": np.array([DRAW, DRAW], dtype=np.float64),
        "drawn": np.zeros(2, np.int64),
        "targets": np.zeros(2, np.int64),
        "log_probabilities": np.zeros(2),
        "hidden": None,
    }
    return one.step(*{**right, **changes}.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.array([0, 0, 50], np.int32)}, "an id is out of range"),
        ({"ids": np.array([0, 0, -1], np.int32)}, "an id is out of range"),
        ({"ids": np.zeros(2, np.int32)}, "cosines and sines should be"),
        ({"cosines": np.ones((3, 5), np.float32)}, "cosines and sines should be"),
        ({"sines": np.zeros((2, 4), np.float32)}, "cosines and sines should be"),
        ({"spans": np.zeros((2, 2), np.int64)}, "spans should be"),
        ({"spans": np.array([[1, 0, 0], [0, 0, 1]])}, "a span is out of range"),
        ({"spans": np.array([[1, -1, 0], [2, 0, 1]])}, "a span is out of range"),
        ({"spans": np.array([[1, 0, -1], [2, 0, 1]])}, "a span is out of range"),
        ({"spans": np.array([[1, 1 << 31, 0], [2, 0, 1]])}, "a span is out of range"),
        ({"spans": np.array([[1, 0, 0], [3, 0, 1]])}, "more rows than there are ids"),
        ({"spans": np.array([[1, 0, 0], [1, 0, 1]])}, "fewer rows than there are ids"),
        ({"spans": np.array([[1, 40, 1], [2, 0, 0]])}, "do not cover its positions"),
        ({"spans": np.array([[1, 0, 1 << 62], [2, 0, 0]])}, "do not cover its positions"),
        ({"pages": np.array([0, 2], np.int32)}, "a page is not reserved"),
        ({"pages": np.array([-1, 1], np.int32)}, "a page is not reserved"),
        ({"wanted": np.array([0, 3], np.int32)}, "a wanted row is out of range"),
        ({"wanted": np.array([0, -1], np.int32)}, "a wanted row is out of range"),
        ({"logits": np.zeros((2, 49), np.float32)}, "logits should be"),
        ({"draws": None}, "draws and drawn go together"),
        ({"drawn": np.zeros(1, np.int64)}, "drawn should be"),
        ({"draws": np.zeros((3, 6)), "drawn": np.zeros(3, np.int64)}, "drawn should be"),
        ({"draws": np.zeros((2, 5))}, "a draw should have 6 numbers"),
        *((bad_draw(0, ids), "among 1 or more") for ids in (0, 51, 1.5, np.nan)),
        *((bad_draw(1, one), "temperature should be") for one in (-1, 1e-31, np.inf, np.nan)),
        *((bad_draw(2, top_k), "out of range") for top_k in (-1, 0.5, np.nan)),
        *((bad_draw(3, top_p), "out of range") for top_p in (0, 1.1, np.nan)),
        *((bad_draw(4, min_p), "out of range") for min_p in (-0.1, 1.1, np.nan)),
        *((bad_draw(5, point), "out of range") for point in (-0.1, 1, np.nan)),
        ({"targets": None}, "go together"),
        ({"log_probabilities": np.zeros(1)}, "should be \\[wanted\\]"),
        ({"targets": np.array([0, 50])}, "a target is out of range"),
        ({"hidden": np.zeros((2, 32), np.float32)}, "hidden is asked for alone"),
        ({**ALONE, "hidden": np.zeros((2, 31), np.float32)}, "hidden should be"),
        ({**ALONE, "hidden": np.zeros((3, 32), np.float32)}, "hidden should be"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(changes, message):
    assert step()
    with pytest.raises(ValueError, match=message):
        step(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": np.zeros(3, np.int64)},
        {"logits": np.zeros((2, 50))},
        {"logits": np.zeros((50, 2), np.float32).T},
        {"log_probabilities": np.zeros(2, np.float32)},
    ],
)
def test_another_dtype_or_layout_is_refused_not_copied(changes):
    with pytest.raises(TypeError):
        step(**changes)


def test_pages_may_be_given_back_and_more_than_there_is_memory_is_an_error():
    one = engine()
    one.reserve(5)
    one.reserve(0)
    with pytest.raises(ValueError, match="pages should be 0 or more"):
        one.reserve(-1)
    assert one.page_bytes == 2 * 2 * 32 * 32 * 2  # keys and values, heads, positions, width, bf16
    small = engine(shape={**SHAPE, "kept_bytes": 1})
    assert small.page_bytes == 2 * 2 * 32 * (32 + 4)  # int8, and a float32 scale
    assert step(ids=np.zeros(0, np.int32), spans=np.zeros((0, 3), np.int64), **EMPTY)


EMPTY = {
    "cosines": np.zeros((0, 4), np.float32),
    "sines": np.zeros((0, 4), np.float32),
    "wanted": np.zeros(0, np.int32),
    "logits": None,
    "draws": None,
    "drawn": None,
    "targets": None,
    "log_probabilities": None,
}


def test_the_bandwidth_probe_measures_and_refuses_nothing_to_read():
    for isa in isas():
        probe = kernels.extension().BandwidthProbe(isa, 2, 1 << 20)
        assert 1e8 < max(probe.measure() for _ in range(5)) < 1e13
    with pytest.raises(ValueError, match="bytes should be above 0"):
        kernels.extension().BandwidthProbe(isas()[0], 2, 0)
