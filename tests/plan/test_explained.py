"""The numbers in docs/explain/the-inference-budget.md are those of the law."""

import re
from pathlib import Path

import pytest

from puna.console import parse_count
from puna.model.sizes import named
from puna.plan.candidates import Load, Money, Serving, Training
from puna.plan.devices import device
from puna.plan.known import Trained, known
from puna.plan.law import PUBLISHED, break_even_tokens

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explain" / "the-inference-budget.md"
EPOCH = PUBLISHED["epoch"]
ROUNDED = 0.06  # 0.69T of 0.694T, 1.5T of 1.54T, 11T of 11.4T


def table(head: str) -> list[list[str]]:
    """The cells of the table whose first heading this is."""
    block = re.search(rf"^\| {head} \|.*\n\|.*\n((?:\|.*\n)+)", PAGE.read_text("utf-8"), re.M)
    assert block is not None
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in block[1].splitlines()]


def test_the_table_of_uses():
    large = Trained(13e9, 260e9)
    for use_said, size_said, tokens_said, ratio, cost in table("tokens of use"):
        use = parse_count(use_said)
        size, tokens = EPOCH.cheapest(EPOCH.loss(*large), use)
        assert parse_count(size_said) == pytest.approx(size, rel=0.02)
        assert parse_count(tokens_said) == pytest.approx(tokens, rel=0.02)
        assert float(ratio) == pytest.approx(tokens / size, rel=0.02)
        beside = (6 * size * tokens + 2 * size * use) / (6 * 13e9 * 260e9 + 2 * 13e9 * use)
        assert float(cost) == pytest.approx(beside, abs=0.006)


def test_the_table_of_llamas():
    for name, ratio, loss, pair, dearer, paid_back in table("model"):
        model = known(name)
        size, tokens = EPOCH.cheapest(EPOCH.loss(*model))
        long = model.tokens / model.parameters
        assert float(ratio.replace(",", "")) == pytest.approx(long, rel=0.03)
        assert float(loss) == pytest.approx(EPOCH.loss(*model), abs=6e-4)
        said = [parse_count(part) for part in pair.split(" on ")]
        assert said == pytest.approx([size, tokens], rel=0.01)
        times = model.parameters * model.tokens / (size * tokens)
        assert float(dearer) == pytest.approx(times, abs=0.006)
        back = break_even_tokens(model, (size, tokens))
        assert parse_count(paid_back) == pytest.approx(back, rel=ROUNDED)


def test_the_table_of_constants():
    rows = table("constants")
    for name, (_said, tokens_said, cost) in zip(("hoffmann", "epoch"), rows, strict=True):
        law = PUBLISHED[name]
        tokens = law.tokens_for(law.loss(70e9, 1.4e12), 35e9)
        assert parse_count(tokens_said) == pytest.approx(tokens, rel=0.002)
        assert float(cost) == pytest.approx(tokens * 35e9 / 70e9 / 1.4e12, abs=0.006)


def test_a_7bs_use_costs_beside_its_training_what_is_told():
    a100, seven = device("A100-80GB"), named("7B")
    told = [float(one) for one in re.findall(r"([\d.]+) times", PAGE.read_text("utf-8"))]
    for busy, times in ((1.0, 0.7), (0.5, 1.5)):
        money = Money(Training(a100, 8), Serving(a100, busy=busy), Load(1e12))
        assert money.inference(seven) / money.training(seven) == pytest.approx(times, abs=0.05)
        assert times in told
