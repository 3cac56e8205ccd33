"""The question, held to closed forms where costs are FLOPs, and to brute force where money."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import ConfigError
from puna.model import count
from puna.model.sizes import SIZES, ModelConfig, named
from puna.plan import candidates, limits
from puna.plan import law as laws
from puna.plan.candidates import Choices, Load, Money, Serving, Training, choices
from puna.plan.devices import device
from puna.plan.known import Trained, known
from puna.plan.law import PUBLISHED, break_even_tokens
from puna.plan.question import Answer, Goal, Question, answer

EPOCH = PUBLISHED["epoch"]
A100 = device("A100-80GB")
TRAIN, SERVE, LOAD = Training(A100, 64), Serving(A100), Load(2e12)
SPACING = 0.03  # between the sizes that are tried


class Flops:
    """Costs in FLOPs: 6N a token of training, 2N a token of use."""

    def training(self, config: ModelConfig) -> float:
        return 6.0 * count.parameters(config)

    def inference(self, config: ModelConfig) -> float:
        return 2.0 * count.parameters(config)


FLOPS = choices(Flops())
MONEY = choices(Money(TRAIN, SERVE, LOAD))

budgets = st.floats(3e4, 1e9)
uses = st.floats(0, 1e14)


def asked(goal: Goal, *kept: limits.Limit, use: float = 2e12, of: Choices = MONEY) -> Answer:
    return answer(Question(EPOCH, goal, of, use, kept))


def test_the_shapes_are_real_ones_in_small_steps():
    sizes = FLOPS.parameters
    assert {named(name) for name in ("7B", "13B", "33B", "65B")} < set(FLOPS.configs)
    steps = sizes[1:] / sizes[:-1]
    assert steps.max() < 1.13  # of small ones: a layer, or 64 values of width
    assert steps[sizes[1:] > 3e9].max() < 1.06
    assert (sizes[0], sizes[-1]) == pytest.approx((20e6, 2e12), rel=0.05)
    wide = [config.dim / config.layers for config in FLOPS.configs if config.dim >= 4096]
    assert min(wide) > 90  # table 2: 102 to 128
    assert max(wide) < 140


def test_sardanas_13b_with_two_trillion_tokens_of_use():
    """arXiv 2401.00448's example: by Epoch's constants 6.1B on 0.74T tokens, 29 % less in all."""
    found = asked(Goal(as_good_as=Trained(13e9, 260e9)), of=FLOPS)
    assert found.plan.parameters == pytest.approx(6.1e9, rel=SPACING)
    assert found.plan.tokens == pytest.approx(0.74e12, rel=2 * SPACING)
    assert found.chinchilla.parameters == pytest.approx(13e9, rel=2 * SPACING)
    assert found.plan.total_usd / found.chinchilla.total_usd == pytest.approx(0.71, abs=0.01)
    small, large = ((p.parameters, p.tokens) for p in (found.plan, found.chinchilla))
    assert found.break_even_tokens == pytest.approx(break_even_tokens(small, large))


def test_the_model_that_is_named_stands_beside_the_plan():
    """LLaMA's 13B took 135,168 GPU-hours (paper, table 15): what it costs at a price an hour."""
    hour = 2.0
    bill = Money(replace(TRAIN, usd_per_hour=hour), SERVE, LOAD)
    found = asked(Goal(as_good_as=known("llama-13b")), of=choices(bill))
    assert found.named is not None
    assert found.named.config.layers == 40
    assert found.named.tokens == pytest.approx(1e12, rel=1e-3)
    assert found.named.training_usd == pytest.approx(135_168 * hour, rel=0.1)
    assert found.named.loss == pytest.approx(found.plan.loss)
    assert found.named.total_usd > found.plan.total_usd
    assert asked(Goal(loss=2.05)).named is None


def test_heads_that_share_keys_make_use_cheaper_and_the_model_larger():
    alone, shared = (
        asked(Goal(loss=2.05), of=choices(Money(TRAIN, SERVE, LOAD), shapes=family))
        for family in (candidates.family(), candidates.family(group=8))
    )
    assert shared.plan.inference_usd < 0.8 * alone.plan.inference_usd
    assert shared.plan.total_usd < alone.plan.total_usd
    assert shared.plan.config.kv_head_count < shared.plan.config.heads


def test_half_of_chinchillas_70b_pays_back_after_two_and_a_half_trillion_tokens():
    found = asked(Goal(as_good_as=known("chinchilla-70b")), use=0, of=FLOPS)
    assert found.half is not None
    half = (found.half.parameters, found.half.tokens)
    exact = EPOCH.tokens_for(EPOCH.loss(70e9, 1.4e12), half[0])
    assert half[1] == pytest.approx(exact, rel=1e-6)
    whole = (70e9, 1.4e12)
    assert half[0] * half[1] / math.prod(whole) == pytest.approx(1.30, abs=0.05)
    assert break_even_tokens(half, whole) == pytest.approx(2.5e12, rel=0.15)


@settings(max_examples=40, deadline=None)
@given(st.floats(1.9, 3.2), uses)
def test_costs_in_flops_give_the_closed_form(loss: float, use: float):
    size, tokens = EPOCH.cheapest(loss, use)
    if not 1e8 < size < 1e12:
        return
    found = asked(Goal(loss=loss), use=use, of=FLOPS).plan
    exact = 6 * size * tokens + 2 * size * use
    assert exact <= found.total_usd * (1 + 1e-9)
    assert found.total_usd == pytest.approx(exact, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(budgets, st.floats(1, 100), uses)
def test_more_money_never_gives_a_worse_loss(budget: float, times: float, use: float):
    if MONEY.inference.min() * use >= budget:
        assert "money in all" in reason(Goal(budget_usd=budget), use=use)[1]
        return
    less = asked(Goal(budget_usd=budget), use=use).plan
    more = asked(Goal(budget_usd=budget * times), use=use).plan
    assert more.loss <= less.loss
    assert less.total_usd == pytest.approx(budget)


@settings(max_examples=40, deadline=None)
@given(st.floats(1.95, 2.8), uses, st.floats(1, 50))
def test_more_use_never_asks_for_a_larger_model(loss: float, use: float, times: float):
    rarely = asked(Goal(loss=loss), use=use).plan
    often = asked(Goal(loss=loss), use=use * times).plan
    assert often.parameters <= rarely.parameters
    assert often.tokens >= rarely.tokens
    assert often.total_usd >= rarely.total_usd


@settings(max_examples=40, deadline=None)
@given(st.floats(1.95, 2.8), uses)
def test_a_better_loss_never_costs_less(loss: float, use: float):
    good, better = (asked(Goal(loss=wanted), use=use).plan for wanted in (loss, loss - 0.01))
    assert better.total_usd > good.total_usd


@settings(max_examples=40, deadline=None)
@given(st.floats(1.95, 2.8), uses)
def test_the_money_of_a_loss_buys_that_loss(loss: float, use: float):
    plan = asked(Goal(loss=loss), use=use).plan
    assert asked(Goal(budget_usd=plan.total_usd), use=use).plan.loss <= loss * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(1.95, 2.6), uses, st.floats(2e9, 1e11))
def test_the_answer_is_that_of_brute_force(loss: float, use: float, memory_bytes: float):
    home = limits.fits(limits.Home("it", memory_bytes), LOAD)
    cheapest = math.inf
    for index, config in enumerate(MONEY.configs):
        tokens = EPOCH.tokens_for(loss, float(MONEY.parameters[index]))
        if home.measure(config) <= memory_bytes and MONEY.inference[index] < math.inf:
            usd = MONEY.training[index] * tokens + MONEY.inference[index] * use
            cheapest = min(cheapest, usd)
    if cheapest == math.inf:
        with pytest.raises(ConfigError, match="in the memory of it"):
            asked(Goal(loss=loss), home, use=use)
    else:
        assert asked(Goal(loss=loss), home, use=use).plan.total_usd == pytest.approx(cheapest)


def test_units_dearer_hours_change_the_bill_and_not_the_plan():
    goal = Goal(as_good_as=known("llama-13b"))
    once = asked(goal)
    twice = replace(MONEY, training=2 * MONEY.training, inference=2 * MONEY.inference)
    dear = asked(goal, of=twice)
    assert dear.plan.config == once.plan.config
    assert dear.plan.total_usd == pytest.approx(2 * once.plan.total_usd)
    assert dear.break_even_tokens == pytest.approx(once.break_even_tokens)


def test_more_devices_train_sooner_for_the_same_money():
    few, many = (choices(Money(Training(A100, n), SERVE, LOAD), shapes=[named("7B")])
                 for n in (8, 2048))  # fmt: skip
    assert many.training == pytest.approx(few.training, rel=0.05)
    days = [limits.days(Training(A100, n), 1).measure(named("7B")) * 1e12 for n in (8, 2048)]
    assert days[1] == pytest.approx(82_432 / 2048 / 24, rel=0.1)  # of the paper, table 15
    assert days[0] == pytest.approx(256 * days[1])


def test_llama_cost_what_the_paper_says_in_gpu_hours():
    """Table 15: 82,432 and 135,168 GPU-hours for 7B and 13B on 1T tokens."""
    for name, hours in (("7B", 82_432), ("13B", 135_168)):
        usd = Money(TRAIN, SERVE, LOAD).training(named(name)) * 1e12
        assert A100.usd_per_hour is not None
        assert usd / A100.usd_per_hour == pytest.approx(hours, rel=0.15)


def test_requests_at_once_are_bound_by_memory():
    """65B: 130.6 GB of weights, 2.62 MB a token: two A100 leave room for nine requests."""
    room = 2 * A100.usable_bytes - 130.57e9
    assert SERVE.groups(named("65B"), LOAD)[0] == (2, int(room / (1250 * 2_621_440)))
    assert SERVE.groups(named("7B"), LOAD)[0] == (1, 64)
    assert Money(TRAIN, Serving(device("RTX-4090"), 0.5), LOAD).inference(named("65B")) > 0
    one = replace(A100, node_devices=1)
    assert Money(TRAIN, Serving(one), LOAD).inference(named("65B")) == math.inf


def test_a_busy_server_is_a_cheap_one():
    rarely, often = (
        Money(TRAIN, replace(SERVE, busy=busy), LOAD).inference(named("7B")) for busy in (0.25, 1)
    )
    assert rarely == pytest.approx(4 * often)


def test_limits_are_kept_and_told():
    rtx = device("RTX-4090")
    kept = (
        limits.fits(limits.Home("RTX-4090", rtx.usable_bytes, rtx), LOAD),
        limits.first_token(rtx, "Q4_0", LOAD, 0.2),
        limits.decoding(rtx, "Q4_0", LOAD, 20),
        limits.data(3e12),
        limits.days(TRAIN, 300),
        limits.training_money(Money(TRAIN, SERVE, LOAD).training, 5e5),
        limits.servable(SERVE, LOAD),
    )
    found = asked(Goal(as_good_as=known("llama-7b")), *kept)
    assert found.plan.broken == ()
    assert [one.share <= 1 for one in found.kept] == [True] * len(kept)
    free = asked(Goal(as_good_as=known("llama-7b")))
    assert free.plan.total_usd <= found.plan.total_usd
    assert found.kept[0].bound == "22.6 GiB"
    assert [one.label for one in found.kept if not one.asked] == [kept[-1].label]


def test_7b_in_int4_takes_what_its_blocks_say():
    """4.5 bits a weight (the file's layout adds a little), and 512 KiB for each of 1,250 tokens."""
    needed = limits.fits(limits.Home("it", 1e9), LOAD).measure(named("7B"))
    assert needed == pytest.approx(6_738_415_616 * 4.5 / 8 + 1250 * 2**19, rel=0.02)


def test_within_a_training_budget_alone_the_plan_is_chinchillas():
    usd = limits.training_money(Flops().training, 1e21)
    found = asked(Goal(), usd, use=0, of=FLOPS)
    assert (found.plan.parameters, found.plan.tokens) == pytest.approx(
        EPOCH.optimum(1e21), rel=2 * SPACING
    )
    assert found.chinchilla is found.plan
    assert found.break_even_tokens is None


def test_little_data_asks_for_a_larger_model():
    plan = asked(Goal(loss=2.1), limits.data(200e9)).plan
    assert plan.tokens <= 200e9
    assert plan.parameters > asked(Goal(loss=2.1)).plan.parameters


def test_the_band_comes_from_the_draws():
    law = laws.named("epoch")
    question = Question(law, Goal(as_good_as=known("llama-13b")), MONEY, 2e12)
    band = answer(question).band
    assert band is not None
    plan = answer(question).plan
    losses = [draw.loss(plan.parameters, plan.tokens) for draw in law.draws]
    assert band.loss == pytest.approx(tuple(np.quantile(losses, [0.05, 0.95])))
    assert band.loss[0] < plan.loss < band.loss[1]
    assert band.parameters[0] <= plan.parameters <= band.parameters[1]
    assert band.unanswered == 0
    out_of_reach = answer(Question(law, Goal(loss=1.86), FLOPS)).band
    assert out_of_reach is not None
    assert 0 < out_of_reach.unanswered < 1
    assert asked(Goal(loss=2.1)).band is None


def test_doubts_are_told():
    found = asked(Goal(as_good_as=known("llama-7b")), use=1e14)
    assert found.warnings[0].startswith("extrapolated beyond the runs behind the law epoch: ")
    assert "2401.00448" in found.warnings[1]
    assert "without refits" in found.warnings[2]
    question = Question(PUBLISHED["hoffmann"], Goal(loss=2.2), MONEY)
    assert any("suspect" in warning for warning in answer(question).warnings)
    inside = asked(Goal(as_good_as=Trained(1e9, 20e9)), use=0)
    assert inside.warnings == ("no intervals: the law epoch comes without refits",)
    assert "smallest size" in asked(Goal(loss=5.5), use=0).warnings[-1]


def reason(goal: Goal, *kept: limits.Limit, use: float = 2e12) -> list[str]:
    """The lines of the refusal."""
    with pytest.raises(ConfigError) as raised:
        asked(goal, *kept, use=use)
    return raised.value.message.splitlines()


def test_an_impossible_latency_says_by_how_much():
    slow = limits.first_token(device("RTX-4090"), "Q4_0", LOAD, 0.1)
    head, *lines = reason(Goal(as_good_as=known("llama-65b")), slow)
    assert head == "no model keeps to all that is asked; any one of these, relaxed, would do:"
    assert len(lines) == 2
    assert re.match(
        r"  - a loss of 1\.976: 2\.\d+ at best \(by \d.*B on endless tokens\)", lines[0]
    )
    assert "100 ms allowed" in lines[1]
    times = float(re.search(r"([\d.]+) times over", lines[1])[1])
    by = float(re.search(r": (\d+) ms at best", lines[1])[1])
    assert times == pytest.approx(by / 100, rel=0.01)


def test_too_little_money_says_how_much_it_takes():
    _head, *lines = reason(Goal(as_good_as=known("llama-65b"), budget_usd=1e4), use=0)
    plan = asked(Goal(as_good_as=known("llama-65b")), use=0).plan
    assert f"money in all: ${plan.total_usd / 1e6:.3g}M at best" in lines[1]
    assert "$10k allowed" in lines[1]


def test_where_two_limits_conflict_the_nearest_miss_is_told():
    slow = limits.first_token(A100, "BF16", LOAD, 1e-4)
    small = limits.fits(limits.Home("1MB", 1e6), LOAD)
    head, *lines = reason(Goal(budget_usd=1e6), slow, small)
    assert head.endswith("the nearest miss:")
    assert [line.split(":")[0] for line in lines] == [
        "  - first token of 1,000 read, on A100-80GB (BF16)",
        "  - in the memory of 1MB (Q4_0)",
    ]


def on_one(name: str) -> tuple[Choices, limits.Limit]:
    """Costs where a device that is one node serves, and the limit that this sets."""
    serving = Serving(replace(device(name), node_devices=1))
    return choices(Money(TRAIN, serving, LOAD)), limits.servable(serving, LOAD)


def test_chinchillas_is_the_least_training_whoever_serves():
    goal = Goal(as_good_as=known("chinchilla-70b"))
    served, by_one = on_one("RTX-3090")
    usual, small = asked(goal), asked(goal, by_one, of=served)
    assert small.chinchilla.parameters == usual.chinchilla.parameters
    assert small.chinchilla.inference_usd == math.inf
    assert small.chinchilla.broken == ("serving",)
    assert small.break_even_tokens is None
    assert small.plan.parameters < 12e9 < small.named.parameters
    assert small.named.inference_usd == math.inf


def test_too_small_a_node_is_named_where_it_stands_in_the_way():
    served, by_one = on_one("RTX-3090")
    with pytest.raises(ConfigError) as raised:
        asked(Goal(as_good_as=known("llama3.1-405b")), by_one, limits.data(), of=served)
    lines = raised.value.message.splitlines()
    assert any(line.startswith("  - on one node of 1 x RTX-3090 (BF16): ") for line in lines)


def test_two_limits_that_only_together_are_too_tight_are_told_beside_the_loss():
    slow = limits.first_token(device("RTX-4090"), "Q4_0", LOAD, 0.01)
    fast = limits.decoding(device("RTX-4090"), "Q4_0", LOAD, 5000)
    lines = reason(Goal(as_good_as=known("llama-7b")), slow, fast, limits.data(), use=0)
    assert "or all of these:" in lines
    told = lines[lines.index("or all of these:") + 1 :]
    assert [line[4:15] for line in told[:2]] == ["first token", "tokens a se"]


def test_a_model_that_nothing_can_serve_is_refused():
    unserved = replace(MONEY, inference=np.full_like(MONEY.inference, math.inf))
    with pytest.raises(ConfigError, match="too large for one node that serves"):
        asked(Goal(loss=2.0), of=unserved)


def test_a_loss_below_the_texts_entropy_and_endless_training_are_refused():
    assert "none is below 1.817" in reason(Goal(loss=1.8))[0]
    assert "nothing bounds the training" in reason(Goal())[0]


def test_published_models_by_name():
    assert known("LLaMA-7B") == known("llama7b") == Trained(6.74e9, 1e12)
    assert known("13B@260B") == Trained(13e9, 260e9)
    with pytest.raises(ConfigError, match="llama-65b"):
        known("llama-66b")
    for name in ("7B", "13B", "33B", "65B"):
        assert known(f"llama-{name}").parameters == pytest.approx(
            count.parameters(SIZES[name]), rel=1e-3
        )


def test_parameters_without_embeddings_are_counted_so():
    config = named("3M")
    every = count.parameters(config)
    assert candidates.counted(config, "all") == every
    assert candidates.counted(config, "without embeddings") == every - 4096 * 192
