"""The engine on a tiny random model: what a user of generate sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_model import random_arrays, tiny_config, write_run, write_tokenizer

from puna import hardware
from puna.errors import CheckpointError, ConfigError, MachineError, TokenizerError, UsageError
from puna.infer.backends.base import Chunk
from puna.infer.engine import EngineSettings, choose_backend, load_engine
from puna.infer.sampling_params import SamplingParams
from puna.native import kernels

GREEDY = SamplingParams(temperature=0, max_tokens=20)


@pytest.fixture(scope="module")
def engine(tiny_run):
    return load_engine(tiny_run, "numpy")


class Scripted:
    """A backend that wants to say given ids and then EOS, whatever it is told."""

    name, vocabulary_size, page_bytes, free_bytes = "scripted", 320, 1, 1 << 30

    def __init__(self, ids):
        self.ids = list(ids)
        self.rows_read: list[int] = []

    def reserve(self, pages):
        self.pages = pages

    def choose(self, chunks):
        (chunk,) = chunks
        self.rows_read.append(len(chunk.ids))
        return [self.ids.pop(0) if self.ids else 2][: chunk.wanted_rows]


def say(engine, text_or_ids, prompt="The", **params):
    """A finished generation of a model that wants to say this text."""
    ids = text_or_ids
    if isinstance(ids, str):
        whole = engine.tokenizer.encode(prompt + text_or_ids)
        ids = whole[len(engine.tokenizer.encode(prompt)) :]
    talker = replace(engine, backend=Scripted(ids))
    run = talker.stream(prompt, replace(GREEDY, **params))
    return list(run), run.result, talker.backend


def test_greedy_text_equals_a_plain_loop_over_whole_prompts(engine):
    ids = engine.tokenizer.encode("The llama", bos=True)
    start = len(ids)
    for _ in range(20):
        engine.backend.reserve(2)
        logits = engine.backend.step([Chunk(np.arange(2), 0, np.array(ids))])
        ids.append(int(logits[-1].argmax()))
    wanted = engine.tokenizer.decode(ids).removeprefix("The llama")
    run = engine.stream("The llama", GREEDY)
    assert "".join(run) == wanted
    assert run.result.text == wanted
    assert (run.result.prompt_tokens, run.result.generated_tokens) == (start, 20)


def test_the_same_seed_gives_the_same_text_and_an_unset_one_is_reported(engine):
    def text(seed):
        run = engine.stream("The", SamplingParams(max_tokens=30, seed=seed, temperature=1.5))
        return "".join(run), run.result.seed

    assert text(5) == text(5)
    assert text(5)[0] != text(6)[0]
    drawn, seed = text(None)
    assert text(seed)[0] == drawn


def test_the_first_piece_keeps_the_space_before_it(engine):
    pieces, _, _ = say(engine, " llama lives")
    assert "".join(pieces) == " llama lives"


def test_pieces_never_split_a_character(engine):
    ids = engine.tokenizer.encode("The 高🐦")[len(engine.tokenizer.encode("The")) :]
    pieces, _, _ = say(engine, ids)
    assert "".join(pieces) == " 高🐦"
    assert "\ufffd" not in "".join(pieces)
    cut, result, _ = say(engine, ids, max_tokens=len(ids) - 1)
    assert "".join(cut) == " 高\ufffd\ufffd\ufffd"  # the cut character shows, it is not dropped
    assert result.finish_reason == "length"


def test_generation_ends_at_eos_which_is_counted_and_not_shown(engine):
    ids = [*engine.tokenizer.encode("ab"), engine.tokenizer.eos_id, 5]
    pieces, result, _ = say(engine, ids)
    assert result.ended_by == "eos"
    assert result.finish_reason == "stop"
    assert result.generated_tokens == len(ids) - 1
    assert "".join(pieces) == " ab"


def test_generation_ends_before_a_stop_string(engine):
    pieces, result, _ = say(engine, " llama lives on the", stop=("lives",), max_tokens=40)
    assert "".join(pieces) == " llama "
    assert (result.ended_by, result.finish_reason) == ("stop string", "stop")


def test_generation_says_that_it_ran_into_the_end_of_the_context(engine):
    prompt_tokens = len(engine.tokenizer.encode("The", bos=True))
    run = engine.stream("The", replace(GREEDY, max_tokens=1000))
    assert list(run)
    assert (run.result.ended_by, run.result.finish_reason) == ("context end", "length")
    assert run.result.generated_tokens == 64 - prompt_tokens


def test_generation_ends_at_max_tokens_even_where_that_is_the_context_end(engine):
    prompt_tokens = len(engine.tokenizer.encode("The", bos=True))
    for count in (3, 64 - prompt_tokens):
        run = engine.stream("The", replace(GREEDY, max_tokens=count))
        list(run)
        assert (run.result.ended_by, run.result.generated_tokens) == ("max tokens", count)


def test_a_prompt_that_leaves_no_room_is_refused_before_any_work(engine):
    with pytest.raises(UsageError, match=r"prompt has \d+ tokens.* context of 64"):
        engine.stream("llama " * 100)


def test_a_prompt_that_is_not_text_is_refused(engine):
    with pytest.raises(TokenizerError, match="surrogate"):
        engine.stream("\ud800")


def test_an_empty_prompt_starts_a_document(engine):
    run = engine.stream("", GREEDY)
    assert "".join(run)
    assert run.result.prompt_tokens == 1


def test_a_cancelled_generation_keeps_its_text(engine):
    run = engine.stream("The", GREEDY)
    first = next(run)
    run.cancel()
    assert list(run) == []
    assert run.result.text == first
    assert (run.result.ended_by, run.result.finish_reason) == ("cancelled", "cancelled")


def test_result_while_running_has_no_ending(engine):
    run = engine.stream("The", GREEDY)
    next(run)
    assert run.result.finish_reason is None


def test_rate_counts_the_tokens_after_the_first(engine):
    run = engine.stream("The", GREEDY)
    list(run)
    assert run.result.tokens_per_second == 19 / run.result.decode_seconds
    one = engine.stream("The", replace(GREEDY, max_tokens=1))
    list(one)
    assert one.result.tokens_per_second == 0


def test_a_padded_vocabulary_never_gives_an_id_without_a_piece(engine):
    config = tiny_config(400)
    arrays = random_arrays(config)
    arrays["output.weight"][320:] *= 100
    from puna.infer.backends.numpy_backend import NumpyBackend

    padded = replace(engine, config=config, backend=NumpyBackend(config, arrays))
    assert "".join(padded.stream("The", GREEDY))


def test_a_tokenizer_larger_than_the_model_is_refused(engine, tmp_path):
    tokenizer = write_tokenizer(tmp_path / "tokenizer", 320)
    config = tiny_config(300)
    run = write_run(tmp_path / "run", tokenizer, config, random_arrays(config))
    with pytest.raises(CheckpointError, match="320 pieces, the model knows 300"):
        load_engine(run, "numpy")


def test_engine_names_its_checkpoint_and_backend(engine, tiny_run):
    assert engine.choice == "engine: NumPy twin (asked for)"
    assert (engine.checkpoint, engine.step) == (tiny_run / "checkpoints" / "step-000007", 7)


def test_backend_choice_gives_its_reason(monkeypatch):
    monkeypatch.setattr(kernels, "inference_isas", lambda: ())
    monkeypatch.setattr(kernels, "missing_reason", lambda: "no kernels here")
    monkeypatch.setattr(hardware, "has_package", lambda name: False)
    wanted = ("numpy", "no kernels here, and torch is not installed")
    assert choose_backend("auto", batched=True) == wanted
    with pytest.raises(MachineError, match="torch, which is not installed"):
        choose_backend("torch", batched=False)
    monkeypatch.setattr(hardware, "has_package", lambda name: True)
    monkeypatch.setattr(hardware, "has_nvidia_driver", lambda: False)
    assert choose_backend("auto", batched=True)[0] == "torch"
    assert choose_backend("auto", batched=False)[0] == "numpy"
    monkeypatch.setattr(kernels, "inference_isas", lambda: ("avx2",))
    assert choose_backend("auto", batched=True) == ("cpu", "the fastest on this machine")
    monkeypatch.setattr(hardware, "isa_wish", lambda: "none")
    assert choose_backend("auto", batched=False)[0] == "numpy"
    monkeypatch.setattr(hardware, "has_nvidia_driver", lambda: True)
    assert choose_backend("auto", batched=False)[0] == "torch"
    with pytest.raises(ConfigError, match="no backend 'nunpy'"):
        choose_backend("nunpy", batched=False)


def fresh(engine, **settings):
    return replace(engine, settings=EngineSettings(**settings))


def test_pages_are_reserved_as_memory_allows(engine, monkeypatch):
    # 2 layers, keys and values of 2 heads of 8 in float32: 8 KiB a page, 2 pages a context.
    for free, pages in ((10_000, 1), (16_384, 1), (40_000, 2), (400_000, 6), (10**9, 8)):
        monkeypatch.setattr("puna.hardware.memory_available_bytes", lambda free=free: free)
        assert fresh(engine).core.metrics.pages == pages
    assert fresh(engine, context_tokens=100).kept_context == (
        "kept: keys and values of 128 tokens, 32.0 KiB"
    )
    assert fresh(engine, context_tokens=1).kept_context == (
        "kept: keys and values of 32 tokens, 8.0 KiB; the model's context of 64 needs more memory"
    )
    assert fresh(engine, running=1).core.metrics.pages == 2
    monkeypatch.setattr("puna.hardware.memory_available_bytes", lambda: 5_000)
    with pytest.raises(MachineError, match=r"room for 32 tokens, .* needs 8\.0 KiB of memory"):
        fresh(engine).stream("a")


def test_a_text_is_no_longer_than_what_is_kept_and_that_is_said(engine):
    short = fresh(engine, context_tokens=32)
    prompt_tokens = len(engine.tokenizer.encode("The", bos=True))
    (result,) = short.generate("The", replace(GREEDY, max_tokens=1000))
    assert (result.ended_by, result.generated_tokens) == ("context end", 32 - prompt_tokens)
    with pytest.raises(UsageError, match="in the 32 tokens that are kept"):
        short.generate([5] * 32)


@pytest.mark.parametrize("name", ["context_tokens", "step_rows", "running", "queue_limit"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} should be at least 1, got 0"):
        EngineSettings(**{name: 0})


@pytest.mark.parametrize("name", ["numpy", "cpu-exact"])
def test_a_real_model_gives_the_same_texts_alone_and_together(tiny_run, engine, tmp_path, name):
    """NumPy's sums differ in the last place by the batch (in these texts none decides); `exact`
    gives the same bits."""
    if name == "cpu-exact" and not kernels.inference_isas():
        pytest.skip(f"there are no C++ kernels: {kernels.missing_reason()}")
    config = tiny_config(context_length=256)
    run = write_run(tmp_path, engine.tokenizer.path, config, random_arrays(config))
    small = load_engine(run, name, settings=EngineSettings(288, 64, 5))
    shared = "The llama lives on the high grassland of the Andes. " * 2
    prompts = [f"{shared}{n}" for n in range(4)] + ["In 1532", "Un río"]
    random = SamplingParams(max_tokens=40, temperature=1, ignore_eos=True, logprobs=2)
    params = [replace(random, seed=n, draft_tokens=n % 3) for n in range(6)]
    together = small.generate(prompts, params)
    assert small.metrics.preemptions > 0
    assert sum(result.cached_tokens for result in together) >= 3 * 32
    for prompt, setting, result in zip(prompts, params, together, strict=True):
        (alone,) = replace(small, settings=EngineSettings(288)).generate(
            prompt, replace(setting, draft_tokens=0)
        )
        assert (alone.text, alone.ids) == (result.text, result.ids)
        if name == "cpu-exact":
            assert alone.logprobs == result.logprobs
