"""The fitter: Epoch's published constants from their data, and constants known beforehand."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from puna.errors import DataError, MachineError
from puna.plan import law as laws
from puna.plan.fit import Fitted, _Problem, fit
from puna.plan.law import CONSTANTS, PUBLISHED
from puna.plan.runs import CHINCHILLA, Run, Runs, chinchilla, read_runs

pytest.importorskip("scipy")
EPOCH = PUBLISHED["epoch"]
# arXiv 2404.10102, table 1: standard errors of 4,000 bootstraps, the last three as printed.
EPOCH_ERRORS = {"e": 0.03, "a": 124.58, "b": 1293.23, "alpha": 0.02, "beta": 0.02}


def made_up(law: laws.Law, noise: float, seed: int = 0) -> Runs:
    """25 runs of a known law, with relative noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for size, amount in itertools.product(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)):
        loss = law.loss(size, amount) * np.exp(noise * generator.standard_normal())
        rows.append(Run(f"{size:.0f}/{amount:.0f}", float(size), float(amount), float(loss)))
    return Runs(tuple(rows))


@pytest.fixture(scope="module")
def replication() -> Fitted:
    return fit(chinchilla(), draws=200)


@pytest.mark.parametrize("name", CONSTANTS)
def test_epochs_constants_from_their_240_runs(replication: Fitted, name: str):
    ours, theirs = getattr(replication.law, name), getattr(EPOCH, name)
    assert abs(ours - theirs) < 0.1 * EPOCH_ERRORS[name]
    assert replication.standard_error(name) == pytest.approx(EPOCH_ERRORS[name], rel=0.3)
    low, high = replication.interval(name)
    assert low < theirs < high


def test_the_refit_of_others_to_the_digit(replication: Fitted):
    """SciPy on the same 240 rows, Huber losses summed: the reference sheet's own refit."""
    law = replication.law
    assert (law.e, law.alpha, law.beta) == pytest.approx((1.8172, 0.3473, 0.3672), abs=5e-5)
    assert (law.a, law.b) == pytest.approx((477.8, 2143.4), abs=0.1)
    assert law.parameter_exponent == pytest.approx(0.5139, abs=5e-5)


def test_with_the_five_outliers_it_is_another_law():
    law = fit(read_runs([CHINCHILLA]), draws=0).law
    assert (law.e, law.beta) == pytest.approx((1.8913, 0.453), abs=2e-4)


def test_no_start_of_the_first_papers_grid_finds_a_better_law(replication: Fitted):
    """Every 60th of Hoffmann et al.'s 4,500 starts (section D.2)."""
    from scipy.optimize import minimize

    problem = _Problem(chinchilla())
    ones = np.ones(240)
    law = replication.law
    found = np.array([np.log(law.a), np.log(law.b), np.log(law.e), law.alpha, law.beta])
    best, _slope = problem.objective(found, ones)
    grid = itertools.product(
        np.arange(0, 30, 5.0), np.arange(0, 30, 5.0), np.arange(-1, 1.5, 0.5),
        np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5),
    )  # fmt: skip
    for start in itertools.islice(grid, 0, None, 60):
        done = minimize(problem.objective, start, args=(ones,), jac=True, method="L-BFGS-B")
        assert best <= done.fun * (1 + 1e-9)


def test_the_gradient_is_that_of_finite_differences():
    problem, weights = _Problem(made_up(EPOCH, 0.01)), np.arange(25.0)
    point = np.array([6.0, 7.5, 0.6, 0.35, 0.36])
    _value, slope = problem.objective(point, weights)
    for axis, step in enumerate(1e-6 * np.eye(5)):
        ahead, behind = (problem.objective(p, weights)[0] for p in (point + step, point - step))
        assert slope[axis] == pytest.approx((ahead - behind) / 2e-6, rel=1e-4), axis


@pytest.mark.parametrize("name", [*PUBLISHED])
def test_known_constants_come_back(name: str):
    law = PUBLISHED[name]
    fitted = fit(made_up(law, noise=0.0), draws=0).law
    for constant in ("e", "alpha", "beta"):
        assert getattr(fitted, constant) == pytest.approx(getattr(law, constant), rel=1e-3)
    assert (fitted.a, fitted.b) == pytest.approx((law.a, law.b), rel=0.02)


def test_intervals_hold_the_known_constants():
    fitted = fit(made_up(EPOCH, noise=0.005), draws=100)
    for name in CONSTANTS:
        low, high = fitted.interval(name)
        assert low < getattr(EPOCH, name) < high, name
    assert np.std(fitted.errors) == pytest.approx(0.005, rel=0.4)


def test_one_wild_run_moves_the_law_little():
    runs = made_up(EPOCH, noise=0.002)
    wild = runs.runs[7]._replace(loss=runs.runs[7].loss * 1.5)
    law = fit(Runs((*runs.runs[:7], wild, *runs.runs[8:])), draws=0).law
    assert law.loss(1e9, 1e11) == pytest.approx(EPOCH.loss(1e9, 1e11), rel=0.005)


def test_the_same_seed_draws_the_same():
    runs = made_up(EPOCH, noise=0.01)
    assert fit(runs, draws=3, seed=5).law == fit(runs, draws=3, seed=5).law


def test_our_draws_of_chinchillas_runs_are_those_that_are_shipped(replication: Fitted):
    shipped = laws.load(laws.EPOCH_DRAWS)
    assert shipped.fitted == replication.law.fitted
    assert len(shipped.draws) == len(replication.law.draws)
    for shipped_draw, draw in zip(shipped.draws, replication.law.draws, strict=True):
        assert shipped_draw.loss(7e9, 1e12) == pytest.approx(draw.loss(7e9, 1e12), abs=2e-4)


def test_too_few_runs_are_refused():
    runs = made_up(EPOCH, noise=0.0)
    with pytest.raises(DataError, match="at least 5 finished runs of 3 sizes"):
        fit(Runs(runs.runs[:4], notes=("fifth is left out",)))
    with pytest.raises(DataError, match="found 5 of 1 and 5"):
        fit(Runs(runs.runs[:5]))


def test_doubtful_runs_are_fitted_with_a_warning():
    runs = made_up(EPOCH, noise=0.003).runs
    along = Runs(tuple(run for run in runs if 99 < run.tokens / run.parameters < 101))
    assert [note.split(":")[0] for note in fit(along, draws=0).notes] == [
        "5 runs for five constants",
        "parameters and tokens grow together",
    ]
    same = [replace_size(run, 1 + number % 3) for number, run in enumerate(runs)]
    narrow = Runs(tuple(same), notes=("told before",))
    notes = fit(narrow, draws=0).notes
    assert notes == ("told before", "parameters differ only 3 times: their exponent is a guess")


def replace_size(run: Run, times: float) -> Run:
    return run._replace(parameters=1e7 * times, loss=EPOCH.loss(1e7 * times, run.tokens))


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MachineError, match="needs the package scipy") as raised:
        fit(made_up(EPOCH, noise=0.0), draws=0)
    assert raised.value.hint == "pip install 'puna[plan]'"


def test_a_fitted_law_can_be_saved(tmp_path: Path, replication: Fitted):
    law = replace(replication.law, name="mine", source="my runs")
    laws.save(law, tmp_path / "law.json")
    again = laws.load(tmp_path / "law.json")
    assert (again.name, again.e, len(again.draws)) == ("mine", law.e, 200)


def test_equal_losses_are_no_law_and_constants_at_the_searchs_end_are_told():
    pairs = [(n, d) for n in (1e6, 2e6, 4e6, 8e6) for d in (1e7, 2e7, 4e7, 8e7)]
    equal = Runs(tuple(Run(f"{n}-{d}", n, d, 3.0) for n, d in pairs))
    with pytest.raises(DataError, match="a law needs losses that differ"):
        fit(equal, draws=0)
    steep = Runs(tuple(Run(f"{n}-{d}", n, d, 2 + (1e6 / n) ** 5 + 900 / d**0.5) for n, d in pairs))
    assert any("alpha went as far as the search" in note for note in fit(steep, draws=0).notes)
