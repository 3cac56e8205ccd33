"""Many texts at once against the slow plain twin, over a backend whose pages hold ids."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from plain_engine import plain_text, prompt_logprobs
from prefix_backend import PrefixBackend
from tiny_model import TEXTS, tiny_config, write_tokenizer

from puna.errors import BusyError, CheckpointError, ConfigError, UsageError
from puna.infer.backends.base import PAGE_POSITIONS, pages_for
from puna.infer.constraint import Constraint
from puna.infer.engine import Engine, EngineSettings
from puna.infer.sampling_params import SamplingParams
from puna.model.sizes import RopeScaling
from puna.tokens.tokenizer import Tokenizer

CONTEXT, PAGES = 200, 9
GREEDY = SamplingParams(temperature=0, max_tokens=20, seed=1, ignore_eos=True)
SYSTEM = [5 + i * 7 % 300 for i in range(70)]  # two full pages and a bit
TOKENIZERS: list[Tokenizer] = []


@pytest.fixture(scope="module", autouse=True)
def tokenizer(tmp_path_factory) -> Tokenizer:
    TOKENIZERS[:] = [Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("core")))]
    return TOKENIZERS[0]


def make(backend=None, scaling=None, vocabulary_size=320, **changes) -> Engine:
    """An engine with little room, so that texts get into each other's way."""
    limits = {"context_tokens": PAGES * 32, "step_rows": 48, "running": 4, "queue_limit": 50}
    return Engine(
        config=tiny_config(vocabulary_size, context_length=CONTEXT, rope_scaling=scaling),
        tokenizer=TOKENIZERS[0],
        backend=backend or PrefixBackend(vocabulary_size),
        choice="",
        checkpoint=Path(),
        settings=EngineSettings(**{**limits, **changes}),
    )


def wanted_text(engine: Engine, prompt, params, choice=0):
    return plain_text(
        engine.backend.logits,
        engine.tokenizer,
        prompt,
        params,
        context_length=min(CONTEXT, engine.core.scheduler.pool.count * PAGE_POSITIONS),
        choice=choice,
        grammar=params.constraint and engine.grammar(params.constraint),
    )


def assert_same(engine: Engine, prompt, params, result, choice=0) -> None:
    wanted = wanted_text(engine, prompt, params, choice)
    assert (result.text, result.ids) == (wanted.text, wanted.ids)
    assert (result.ended_by, result.logprobs) == (wanted.ended_by, wanted.logprobs)
    assert result.generated_tokens == len(wanted.ids) + (wanted.ended_by in ("eos", "stop token"))


def check_pages(engine: Engine) -> None:
    """Every page is free, or kept, or counted once for each text that has it in its table."""
    scheduler, pool = engine.core.scheduler, engine.core.scheduler.pool
    held: Counter[int] = Counter()
    for one in scheduler.running:
        assert one.page_count >= pages_for(one.computed)
        held.update(one.pages[: one.page_count].tolist())
    assert all(not one.page_count for one in scheduler.waiting)
    assert [pool._users[page] for page in range(pool.count)] == [
        held[page] for page in range(pool.count)
    ]
    idle = [*pool._free, *pool._unused]
    assert sorted([*idle, *held]) == list(range(pool.count))
    assert len(set(idle)) == len(idle)


def rows_run(engine: Engine) -> int:
    return sum(len(chunk.ids) for chunks in engine.backend.steps for chunk in chunks)


def test_a_shared_prompt_is_computed_once_also_by_those_that_arrive_together():
    engine = make()
    prompts = [[*SYSTEM, 7 + n] for n in range(3)]
    params = replace(GREEDY, max_tokens=1)
    results = engine.generate(prompts, params)
    assert [result.cached_tokens for result in results] == [0, 64, 64]
    assert rows_run(engine) == 71 + 7 + 7
    (again,) = engine.generate([[*SYSTEM, 300]], params)
    assert again.cached_tokens == 64
    assert rows_run(engine) == 71 + 7 + 7 + 7
    for prompt, result in zip(prompts, results, strict=True):
        assert_same(engine, prompt, params, result)


def test_a_reply_is_found_again_by_the_next_turn():
    engine = make()
    (first,) = engine.generate(SYSTEM, replace(GREEDY, max_tokens=60))
    assert first.generated_tokens == 60
    (second,) = engine.generate([*SYSTEM, *first.ids, 9, 9], GREEDY)
    assert second.cached_tokens == 128
    assert_same(engine, [*SYSTEM, *first.ids, 9, 9], GREEDY, second)


def test_several_texts_of_one_prompt_share_its_pages():
    engine = make()
    params = SamplingParams(temperature=1.5, n=3, seed=4, max_tokens=12)
    results = engine.generate(SYSTEM, params)
    assert rows_run(engine) < 2 * len(SYSTEM) + 3 * 12
    assert len({result.text for result in results}) == 3
    for choice, result in enumerate(results):
        assert_same(engine, SYSTEM, params, result, choice)


def test_a_long_prompt_does_not_stop_others():
    engine = make(step_rows=256, context_tokens=20 * 32)
    talker = engine.stream([5, 6], replace(GREEDY, max_tokens=60))
    next(talker)
    reader = engine.stream([6] * 180, replace(GREEDY, max_tokens=2))
    late = engine.stream([7] * 10, replace(GREEDY, max_tokens=1))
    before = len(engine.backend.steps)
    list(late)
    assert len(engine.backend.steps) == before + 1  # it is short: it need not wait for the long one
    list(reader)
    for chunks in engine.backend.steps[before:-1]:
        assert sum(len(chunk.ids) for chunk in chunks) <= 64
        assert chunks[0].wanted_rows == 1  # the talker has a row in every step
    assert reader.result.ended_by == "max tokens"


def test_the_youngest_gives_way_and_goes_on_as_if_nothing_had_been():
    engine = make(context_tokens=5 * 32)
    prompts = [[11 + n] * 30 for n in range(3)]
    params = SamplingParams(temperature=1, seed=3, max_tokens=60, ignore_eos=True)
    results = engine.generate(prompts, params)
    assert engine.metrics.preemptions > 0
    for prompt, result in zip(prompts, results, strict=True):
        assert_same(engine, prompt, params, result)
    assert engine.metrics.pages_used == 0


def test_prompt_logprobs_are_those_of_whole_passes_and_come_with_the_first_text():
    engine = make()
    params = replace(GREEDY, prompt_logprobs=2, logprobs=3, n=2)
    first, second = engine.generate(SYSTEM, params)
    wanted = prompt_logprobs(engine.backend.logits, SYSTEM, 2)
    assert first.prompt_logprobs == second.prompt_logprobs == wanted
    assert_same(engine, SYSTEM, params, first)
    (again,) = engine.generate(SYSTEM, replace(GREEDY, prompt_logprobs=0))
    assert [one and one.logprob for one in again.prompt_logprobs] == [
        one and one.logprob for one in wanted
    ]


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_drafts_save_steps_and_change_nothing(temperature):
    params = replace(GREEDY, temperature=temperature, max_tokens=100)
    prompt = [4, 5, 6, 7] * 6
    loop = np.full((320, 320), -30, dtype=np.float32)
    loop[np.arange(320), (np.arange(320) + 1) % 320] = 30

    def steps(drafts: int) -> int:
        backend = PrefixBackend(320)
        backend.logits = lambda ids: loop[4 + (ids[-1] - 3) % 4]  # 4 5 6 7 over and over
        engine = make(backend)
        (result,) = engine.generate(prompt, replace(params, draft_tokens=drafts))
        assert_same(engine, prompt, params, result)
        return len(backend.steps)

    assert steps(5) * 4 < steps(0)


def test_generation_is_counted():
    engine = make()
    params = [replace(GREEDY, max_tokens=tokens) for tokens in (5, 9)]
    engine.generate([SYSTEM, [*SYSTEM, 1]], params)
    stream = engine.stream([1, 2], GREEDY)
    next(stream)
    stream.cancel()
    found = engine.metrics
    assert (found.finished, found.cancelled, found.failed) == (2, 1, 0)
    assert (found.prompt_tokens, found.cached_tokens) == (141, 64)
    assert found.generated_tokens >= 15
    assert (found.running, found.waiting, found.pages, found.pages_used) == (0, 0, PAGES, 0)


def test_times_are_those_of_the_steps_a_text_had_a_part_in():
    engine = make()
    (first, second) = engine.generate([[3], [4]], GREEDY)
    assert first.prefill_seconds > 0
    assert first.decode_seconds > 0
    assert second.queue_seconds > 0


def test_a_full_queue_is_an_error_of_its_own_and_generate_waits_for_room():
    engine = make(queue_limit=2)
    streams = [engine.stream([5], GREEDY) for _ in range(2)]
    with pytest.raises(BusyError, match="room for 2 texts, 0 are free and 1 were asked for"):
        engine.stream([5], GREEDY)
    next(streams[0])  # they run now, and wait no more
    with pytest.raises(BusyError, match="2 are free and 3 were asked for"):
        engine.core.submit(engine.prepare([5], replace(GREEDY, n=3)))
    results = engine.generate([[n] for n in range(5, 15)], replace(GREEDY, n=3))
    assert len(results) == 30


def test_one_text_with_broken_logits_fails_alone():
    engine = make()
    broken = engine.backend.logits
    engine.backend.logits = lambda ids: broken(ids) * (np.nan if ids[0] == 9 else 1)
    params = replace(GREEDY, temperature=1)
    good, bad = engine.stream([5, 6], params), engine.stream([9], params)
    with pytest.raises(CheckpointError, match="not finite"):
        list(bad)
    assert "".join(good) == wanted_text(engine, [5, 6], params).text
    with pytest.raises(CheckpointError, match="not finite"):
        engine.generate([[5], [9]], params)
    assert engine.metrics.failed == 2
    check_pages(engine)


def test_a_backend_that_fails_ends_the_texts_of_that_step_and_no_later_one(monkeypatch):
    engine = make()
    stream = engine.stream([5, 6], GREEDY)
    with monkeypatch.context() as broken:
        broken.setattr(engine.backend, "choose", lambda chunks: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(stream)
    check_pages(engine)
    assert engine.generate([5, 6], GREEDY)[0].ended_by == "max tokens"


def test_ctrl_c_between_a_step_and_its_end_loses_nothing(monkeypatch):
    engine = make()
    params = [replace(GREEDY, max_tokens=tokens) for tokens in (2, 9)]
    streams = [engine.stream([n], one) for n, one in zip((5, 6), params, strict=True)]
    with monkeypatch.context() as broken:
        broken.setattr(engine.core.scheduler, "settle", interrupted)
        for _step in range(2):
            with pytest.raises(KeyboardInterrupt):
                engine.core.step()
    for number, stream in enumerate(streams):
        assert "".join(stream) == wanted_text(engine, [5 + number], params[number]).text
    check_pages(engine)


def interrupted(sequence) -> None:
    raise KeyboardInterrupt


def test_a_text_nobody_reads_any_more_is_let_go():
    engine = make()
    stream = engine.stream([5], GREEDY)
    next(stream)
    del stream
    engine.core.step()
    assert engine.metrics.cancelled == 1
    assert not engine.core.has_work


def test_a_cancelled_call_leaves_nothing_behind(monkeypatch):
    engine = make()
    real = engine.backend.choose
    calls = iter(range(100))

    def choose(chunks):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(chunks)

    monkeypatch.setattr(engine.backend, "choose", choose)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([[5], [6], [7], [8], [9], [10]], GREEDY)
    assert not engine.core.has_work
    assert engine.metrics.pages_used == 0


@pytest.mark.parametrize("length", [30, 80, 130])
def test_no_page_is_shared_where_the_length_turns_the_keys(length):
    scaling = RopeScaling("dynamic", 2.0, original_context_length=70)
    engine = make(scaling=scaling, context_tokens=20 * 32)
    prompt, params = list(range(5, 5 + length)), replace(GREEDY, max_tokens=3)
    engine.generate([prompt, [*prompt, 4], prompt], params)
    second = engine.generate(prompt, params)[0]
    assert second.cached_tokens == (0 if length > 70 else (length - 1) // 32 * 32)
    for chunks in engine.backend.steps:
        for chunk in chunks:
            end = chunk.start + len(chunk.ids)
            assert end <= 70 or chunk.start == 0 or len(chunk.ids) == 1


def test_the_backend_is_lent_only_when_no_text_is_under_way():
    engine = make()
    stream = engine.stream(SYSTEM, GREEDY)
    with pytest.raises(UsageError, match="must end before"):
        engine.lend_backend()
    list(stream)
    engine.lend_backend().reserve(3)
    (result,) = engine.generate(SYSTEM, GREEDY)  # what was kept is not believed any more
    assert result.cached_tokens == 0
    assert_same(engine, SYSTEM, GREEDY, result)


def test_mistakes_are_told_before_any_work():
    engine = make()
    with pytest.raises(UsageError, match="params for each of 2 prompts are wanted, found 1"):
        engine.generate(["a", "b"], [GREEDY])
    with pytest.raises(ConfigError, match="n should be 1 in a stream, got 2"):
        engine.stream("a", replace(GREEDY, n=2))
    with pytest.raises(UsageError, match=r"ids must lie in 0 \.\. 319, got 3 \.\. 320"):
        engine.generate(["a", [3, 320]])
    with pytest.raises(UsageError, match="a prompt is a text or a list"):
        engine.generate([1.5])
    with pytest.raises(ConfigError, match="logit_bias"):
        engine.generate("a", replace(GREEDY, logit_bias={320: 1.0}))
    with pytest.raises(UsageError, match="leaves none to generate"):
        engine.generate(["a", [5] * CONTEXT])
    assert engine.generate([]) == []
    assert engine.backend.steps == []


def test_threads_may_share_an_engine():
    engine = make()
    prompts = [[5 + n, 6] * 20 for n in range(6)]
    found: dict[int, str] = {}

    def run(number: int) -> None:
        found[number] = "".join(engine.stream(prompts[number], GREEDY))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, prompt in enumerate(prompts):
        assert found[number] == wanted_text(engine, prompt, GREEDY).text
    check_pages(engine)


PROMPTS = st.one_of(
    st.lists(st.integers(3, 319), min_size=1, max_size=150),
    st.tuples(st.integers(1, 70), st.lists(st.integers(3, 6), max_size=70)).map(
        lambda pair: [*SYSTEM[: pair[0]], *pair[1]]
    ),
    st.sampled_from(TEXTS),
)
CONSTRAINTS = [Constraint("json_object"), Constraint("regex", "(the|he|a|[0-9]| )*!?")]
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(0, 70),
    temperature=st.sampled_from([0.0, 0.0, 1.0, 2.0]),
    top_p=st.sampled_from([0.9, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 5),
    stop=st.sampled_from([(), ("a",), ("the", "he")]),
    ignore_eos=st.booleans(),
    n=st.integers(1, 3),
    logprobs=st.sampled_from([None, None, 0, 2]),
    prompt_logprobs=st.sampled_from([None, None, None, 1]),
    constraint=st.sampled_from([None, None, None, *CONSTRAINTS]),
    draft_tokens=st.sampled_from([0, 0, 3, 8]),
    shortest_ngram=st.just(1),
)


class Texts(RuleBasedStateMachine):
    """Texts come, go and are dropped in any order; each must be what it is alone."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = make(queue_limit=8)
        self.under_way: list = []
        self.told: dict[int, str] = {}

    @rule(prompt=PROMPTS, params=PARAMS)
    def submit(self, prompt, params) -> None:
        ids = prompt if isinstance(prompt, list) else self.engine._ids(prompt)[:150]

        def listen(piece) -> None:
            key = number, piece.choice
            self.told[key] = self.told.get(key, "") + piece.text

        number = len(self.told) + 1000 * len(self.under_way)
        sequences = self.engine.prepare(ids, params, listen)
        if len(sequences) > self.engine.core.room():
            with pytest.raises(BusyError):
                self.engine.core.submit(sequences)
            return
        self.engine.core.submit(sequences)
        self.under_way.append((number, ids, params, sequences))

    @rule(steps=st.integers(1, 20))
    def step(self, steps) -> None:
        for _ in range(steps):
            self.engine.core.step()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), at_once=st.booleans())
    def cancel(self, data, at_once) -> None:
        _number, _ids, _params, sequences = data.draw(st.sampled_from(self.under_way))
        if at_once:
            self.engine.core.cancel(sequences)
        for one in sequences:
            one.is_cancelled = True

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        check_pages(self.engine)

    def teardown(self) -> None:
        for _ in range(10_000):
            if not self.engine.core.step():
                break
        assert not self.engine.core.has_work
        check_pages(self.engine)
        assert self.engine.metrics.pages_used == 0
        for number, ids, params, sequences in self.under_way:
            for choice, one in enumerate(sequences):
                result = one.result
                assert self.told.get((number, choice), "") == result.text
                if result.ended_by == "cancelled":
                    wanted = wanted_text(self.engine, ids, params, choice)
                    assert wanted.ids[: len(result.ids)] == result.ids
                    assert wanted.text.startswith(result.text)
                    continue
                assert_same(self.engine, ids, params, result, choice)
                if params.prompt_logprobs is not None and sequences[0].ended_by != "cancelled":
                    alternatives = params.prompt_logprobs
                    wanted = prompt_logprobs(self.engine.backend.logits, ids, alternatives)
                    assert result.prompt_logprobs == wanted


Texts.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestTexts = Texts.TestCase
