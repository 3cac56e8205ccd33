"""Drawing in C++: every build against the NumPy twin, id for id, and against the formula."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_runs import isas, needs_kernels
from mixed_model import mixed_source

from puna.errors import CheckpointError
from puna.infer import sampler
from puna.infer.backends.base import Chunk, Draw
from puna.infer.backends.cpu_backend import CpuBackend
from puna.infer.sampling_params import SamplingParams
from puna.model.sizes import ModelConfig
from puna.native import kernels

pytestmark = needs_kernels

SIZES = (1, 2, 15, 16, 17, 31, 33, 63, 511, 512, 513, 3001, 32_000, 49_152, 128_256)
TEMPERATURES = (0, 1e-30, 1e-3, 0.3, 0.8, 1, 1.7, 50, 1000)
TOP_PS = (1, 1, 1 - 2**-53, 0.999, 0.95, 0.9, 0.5, 0.1, 1e-30)
MIN_PS = (0, 0, 1e-9, 0.05, 0.5, 1)
POINTS = (0, 1 - 2**-53)


def drawn(isa: str, logits: np.ndarray, draw: Draw) -> int:
    return kernels.extension().draw(isa, logits, np.array([draw], dtype=np.float64))


def odd_rows(size: int, random: np.random.Generator) -> list[np.ndarray]:
    """Rows cold and hot, of many equals, mostly impossible, sorted, next to nothing."""
    plain = random.normal(0, 3, size)
    masked = np.where(random.random(size) < 0.9, -np.inf, plain)
    masked[random.integers(size)] = -0.0
    peaked = plain / 3
    peaked[random.integers(0, size, 1 + size // 100)] += 12
    rows = [
        *(plain * factor for factor in (1e-6, 0.1, 1, 10, 1e30)),
        *(np.round(plain), np.full(size, 1.5), np.sort(plain), peaked, masked),
        np.where(plain > 0, 0.0, -0.0),
        plain * 1e-39,  # float32 has these, if with fewer digits
    ]
    return [row.astype(np.float32) for row in rows]


def random_draw(size: int, random: np.random.Generator) -> Draw:
    top_k = int(random.choice([0, 0, 1, 2, 7, 40, 900, max(1, size - 1), size, 10**9]))
    point = float(random.choice([*POINTS, *random.random(4)]))
    filters = (float(random.choice(TOP_PS)), float(random.choice(MIN_PS)))
    return Draw(size, float(random.choice(TEMPERATURES)), top_k, *filters, point)


@pytest.mark.parametrize("size", SIZES)
def test_every_build_draws_the_twins_id(size):
    random = np.random.default_rng(size)
    for logits in odd_rows(size, random):
        before = logits.copy()
        for _ in range(40 if size < 10_000 else 8):
            draw = random_draw(size, random)
            wanted = sampler.drawn_id(logits, draw)
            assert {isa: drawn(isa, logits, draw) for isa in isas()} == dict.fromkeys(
                isas(), wanted
            ), draw
        np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("isa", isas())
def test_all_top_ks_leave_the_beginning_of_the_order(isa):
    logits = np.round(np.random.default_rng(1).normal(0, 2, 70)).astype(np.float32)
    order = np.argsort(-logits, kind="stable")  # of equals the lower ids first
    for top_k in range(1, 71):
        draws = [Draw(70, 1000.0, top_k, point=(i + 0.5) / 1000) for i in range(1000)]
        assert {drawn(isa, logits, draw) for draw in draws} == set(order[:top_k].tolist())


@pytest.mark.parametrize("isa", isas())
def test_where_one_id_is_possible_it_is_drawn(isa):
    logits = np.full(49_152, -np.inf, dtype=np.float32)
    logits[40_000] = -3
    for values in ((0,), (1.0,), (1.0, 5), (1.0, 0, 0.5), (1.0, 0, 1.0, 0.5)):
        for point in (*POINTS, 0.5):
            draw = Draw(len(logits), *values)._replace(point=point)
            assert drawn(isa, logits, draw) == 40_000
    full = np.random.default_rng(0).normal(0, 1, 49_152).astype(np.float32)
    for draw in (Draw(len(full), 1e-30), Draw(len(full), 1.0, 1), Draw(len(full), 1.0, 0, 1e-30)):
        assert drawn(isa, full, draw._replace(point=0.7)) == full.argmax()


def formula(logits: np.ndarray, draw: Draw) -> np.ndarray:
    """The probability of each id: softmax(logits / temperature), and the filters in order."""
    shares = np.exp((logits - logits.max()).astype(np.float64) / draw.temperature)
    order = np.argsort(-logits, kind="stable")
    if draw.top_k:
        shares[order[draw.top_k :]] = 0
    shares /= shares.sum()
    before = np.cumsum(shares[order]) - shares[order]
    shares[order[before > draw.top_p]] = 0
    shares[shares < draw.min_p * shares.max()] = 0
    return shares / shares.sum()


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(
    "values", [(1.0,), (0.8, 0, 0.95), (1.7, 12), (1.3, 0, 1.0, 0.2), (2.5, 40, 0.9, 0.03)]
)
def test_drawn_ids_have_the_formulas_distribution(isa, values):
    """Exactly: with n evenly spaced numbers an id of probability p is drawn n p times, within 1."""
    logits = np.random.default_rng(3).normal(0, 1.5, 60).astype(np.float32)
    count = 20_000
    draw = Draw(60, *values)
    ids = [drawn(isa, logits, draw._replace(point=(i + 0.5) / count)) for i in range(count)]
    found = np.bincount(ids, minlength=60)
    assert np.abs(found - count * formula(logits, draw)).max() <= 1.01
    assert (np.diff(ids) >= 0).all()  # the inverse of the running sum


def test_seeded_draws_pass_a_chi_square_test_of_the_formula():
    stats = pytest.importorskip("scipy.stats")
    logits = np.random.default_rng(4).normal(0, 1, 40).astype(np.float32)
    params = SamplingParams(temperature=0.9, top_p=0.9)
    counts = sampler.TokenCounts(())
    ids = [
        sampler.next_token(logits, params, counts, sampler.uniform(11, index))
        for index in range(20_000)
    ]
    shares = formula(logits, sampler.draw_for(params, 40, 0.0))
    possible = shares > 0
    found = np.bincount(ids, minlength=40)
    assert not found[~possible].any()
    assert stats.chisquare(found[possible], 20_000 * shares[possible]).pvalue > 1e-3


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(isa, bad):
    logits = np.zeros(100, dtype=np.float32)
    logits[77] = bad
    impossible = np.full(100, -np.inf, dtype=np.float32)
    for draw in (Draw(100), Draw(100, 1.0, 5, 0.9, 0.1, 0.5)):
        assert drawn(isa, logits, draw) == drawn(isa, impossible, draw) == -1
    with pytest.raises(CheckpointError, match="not finite"):
        sampler.next_token(logits, SamplingParams(), sampler.TokenCounts(()), 0.5)


def test_a_draw_among_other_than_all_logits_is_refused():
    with pytest.raises(ValueError, match="among all the logits"):
        drawn(isas()[0], np.zeros(9, dtype=np.float32), Draw(8, 1.0))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("threads", [1, 3])
def test_a_step_draws_what_the_twin_draws_from_its_logits(isa, threads):
    source = mixed_source(ModelConfig(64, 2, 4, vocabulary_size=1003, context_length=64))
    backend = CpuBackend(source, threads=threads, mode="exact", isa=isa)
    backend.reserve(20)
    random = np.random.default_rng(5)
    chunks = []
    for number, wanted in enumerate((1, 5, 0, 3, 30, 1)):
        draws = [random_draw(int(random.choice([1003, 700])), random) for _ in range(wanted)]
        pages = np.arange(3 * number, 3 * number + 2, dtype=np.int32)
        some = draws if number % 3 else []  # the first and the fourth want logits
        chunks.append(Chunk(pages, 0, random.integers(0, 1003, 40), wanted, some))
    logits = backend.step(chunks)
    output = backend.choose(chunks)
    draws = [draw for one in chunks for draw in one.draws or [None] * one.wanted_rows]
    assert len(output) == len(logits) == len(draws) == 40
    for row, draw, found in zip(logits, draws, output, strict=True):
        if draw is None:
            np.testing.assert_array_equal(found, row)
        else:
            assert found == sampler.drawn_id(row[: draw.ids], draw)


def test_without_kernels_numpy_draws_the_same(monkeypatch):
    logits = np.random.default_rng(6).normal(0, 3, 5000).astype(np.float32)
    params, counts = SamplingParams(), sampler.TokenCounts(())
    points = np.random.default_rng(7).random(50)
    by_kernels = [sampler.next_token(logits, params, counts, float(point)) for point in points]
    monkeypatch.setattr(sampler, "drawing_isa", lambda: None)
    assert by_kernels == [
        sampler.next_token(logits, params, counts, float(point)) for point in points
    ]
