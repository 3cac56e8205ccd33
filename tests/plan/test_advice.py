"""The fastest way that fits; what would make it fit where it does not; what cannot be at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from puna.errors import ConfigError
from puna.model.sizes import named
from puna.plan import advice, devices, shapes

A100, GAMING = devices.device("A100-80GB"), devices.device("RTX-4090")
SEVEN = advice.Wish(named("7B"), A100, 8)


def test_what_is_advised_fits_and_nothing_that_fits_is_faster():
    chosen = advice.best(SEVEN)
    assert chosen.fits
    for name, other in advice.alternatives(SEVEN, chosen):
        assert name
        if other.fits:
            assert other.step.tokens_per_second <= (1 + advice.AS_FAST) * (
                chosen.step.tokens_per_second
            )


def test_among_equals_the_simplest_is_taken():
    """A small model on GPUs with links: each holds it whole, and only gradients travel."""
    run = advice.best(advice.Wish(named("350M"), A100, 8)).run
    assert (run.layout.tensor, run.layout.pipeline, run.layout.zero) == (1, 1, 0)
    assert run.checkpointing == "none"


def test_one_device_is_what_puna_trains_on():
    chosen = advice.best(advice.Wish(named("1B"), A100))
    assert chosen.run.layout.is_punas
    assert not advice.best(SEVEN).run.layout.is_punas


def test_what_is_fixed_stays_fixed():
    wish = replace(SEVEN, zero=3, checkpointing="full", micro_batch=2, tensor=2, pipeline=2)
    run = advice.best(wish).run
    assert (run.layout.data, run.layout.tensor, run.layout.pipeline) == (2, 2, 2)
    assert (run.layout.zero, run.checkpointing, run.micro_batch) == (3, "full", 2)


def test_where_it_does_not_fit_the_smallest_is_shown_and_then_what_would_fit():
    """7B's states are 16 bytes a parameter, 100 GiB: 4 to 8 GPUs of 22.6 usable GiB hold them."""
    wish = advice.Wish(named("7B"), GAMING)
    chosen = advice.best(wish)
    assert not chosen.fits
    assert chosen.run.checkpointing == "full"
    name, first = advice.alternatives(wish, chosen)[0]
    assert first.fits
    assert name.startswith(f"{first.run.layout.devices} of them: ")
    assert first.run.layout.devices == 8
    fewer = advice.best(replace(wish, devices=4))
    assert not fewer.fits


def test_a_change_that_makes_it_fit_comes_before_more_devices():
    wish = replace(SEVEN, zero=0)
    chosen = advice.best(wish)
    changes = advice.alternatives(wish, chosen)
    assert changes[0][1].fits
    assert all(one.run.layout.devices == 8 for _name, one in changes)


@pytest.mark.parametrize("name", ["7B", "13B", "33B", "65B"])
def test_the_papers_gpus_hold_the_papers_models(name):
    chosen = advice.best(advice.Wish(named(name), A100, 2048, batch_tokens=1 << 22))
    assert chosen.fits
    assert chosen.run.batch_tokens == 1 << 22


def test_more_memory_never_makes_it_slower():
    """A GPU of 80 GB against one of 40, otherwise the same."""
    small = advice.best(advice.Wish(shapes.model("llama2-13b"), devices.device("A100-40GB"), 8))
    large = advice.best(advice.Wish(shapes.model("llama2-13b"), A100, 8))
    assert large.step.tokens_per_second >= 0.98 * small.step.tokens_per_second


def test_one_device_takes_as_many_sequences_as_leave_a_fifth_of_its_memory():
    card = devices.device("RTX-4090")
    found = advice.best(advice.Wish(shapes.model("demo.toml"), card, batch_tokens=4096))
    assert found.run.micro_batch == 16  # the whole step
    large = advice.best(advice.Wish(shapes.model("tinyllama-1.1b"), card, checkpointing="full"))
    assert large.memory.total <= 0.8 * card.usable_bytes
    more = advice.option(replace(large.run, micro_batch=2 * large.run.micro_batch))
    assert more.memory.total > 0.8 * card.usable_bytes


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"tensor": 3}, "a divisor of 32, at most 8"),
        ({"pipeline": 5}, "1 x 5 divides"),
        ({"pipeline": 64, "devices": 64}, "at most 32 stages"),
        ({"batch_tokens": 1_000_000}, "--batch-tokens 999424"),
        ({"devices": 1, "zero": 3}, "--zero 0"),
    ],
)
def test_what_no_layout_can_do_is_refused(change, hint):
    with pytest.raises(ConfigError, match="have no layout with") as caught:
        advice.best(replace(SEVEN, **change))
    assert hint in str(caught.value.hint)
    if "--batch-tokens" in hint:
        advice.best(replace(SEVEN, batch_tokens=int(hint.split()[-1])))
