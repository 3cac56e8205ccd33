"""One process runs the model: the same texts as offline, cancelled within a step, one clear error.

The oracle is the offline engine on the same weights, computed row by row in one way.
"""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from cpu_runs import isas
from serve.engine_runs import (
    BACKEND,
    ENDLESS,
    SLOW_STEPS,
    engine_of,
    read,
    texts_of,
    with_patch,
    write_model,
)

from puna.infer.constraint import Constraint
from puna.infer.engine import load_engine
from puna.infer.sampling_params import SamplingParams
from puna.serve.engine_client import EngineOptions, Started
from puna.serve.errors import ServeError
from puna.serve.served_model import Header

PROMPTS = ["The llama", "In 1532", "def herd", "Un río corre"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def offline(model):
    return load_engine(model, BACKEND)


def params(**changes) -> dict:
    return {"max_tokens": 40, "temperature": 1, "seed": 5, "ignore_eos": True, **changes}


def test_the_model_is_described(model, offline):
    async def main():
        async with engine_of(model) as client:
            return await client.ask("describe")

    said = asyncio.run(main())
    assert said["name"] == str(model)
    assert said["context_tokens"] == offline.config.context_length
    assert said["kept_tokens"] == 4096
    assert said["vocabulary_size"] == offline.tokenizer.vocabulary_size
    assert (said["bos"], said["eos"], said["has_chat_template"]) == ("<s>", "</s>", False)
    assert said["weight_bytes"] < said["memory_bytes"] < 300 << 20
    assert said["training_step"] == 7


def test_texts_of_many_requests_at_once_are_those_of_the_offline_engine(model, offline):
    asked = [params(seed=seed, n=1 + seed % 3, stop=["e e"]) for seed in range(12)]
    asked.append(params(temperature=0))

    async def main():
        async with engine_of(model) as client:
            return await asyncio.gather(
                *(read(client, PROMPTS[i % 4], params=one) for i, one in enumerate(asked))
            )

    for i, pieces in enumerate(asyncio.run(main())):
        wanted = offline.generate(
            PROMPTS[i % 4], SamplingParams(**{**asked[i], "stop": tuple(asked[i].get("stop", ()))})
        )
        assert texts_of(pieces) == [one.text for one in wanted]
        endings = {one.choice: one.ending for one in pieces if one.ending is not None}
        for choice, one in enumerate(wanted):
            ids = [token for piece in pieces if piece.choice == choice for token in piece.ids]
            assert tuple(ids) == one.ids
            for name in ("finish_reason", "ended_by", "generated_tokens", "seed"):
                assert endings[choice][name] == getattr(one, name)


def test_log_probabilities_of_prompt_and_text_are_the_offline_engines(model, offline):
    wanted = offline.generate("The llama", SamplingParams(**params(logprobs=2, prompt_logprobs=1)))

    async def main():
        async with engine_of(model) as client:
            asked = params(logprobs=2, prompt_logprobs=1)
            return [
                one
                async for one in client.generate(
                    prompt={"text": "The llama"}, params=asked, echo_prompt=True
                )
            ]

    started, *pieces = asyncio.run(main())
    assert isinstance(started, Started)
    tokenizer = offline.tokenizer
    assert started.prompt_ids == tokenizer.encode("The llama", bos=True)
    assert started.prompt_text == "The llama"
    told = pieces[0].logprobs
    first, *others = told[: started.prompt_tokens]
    found = told[started.prompt_tokens :] + [one for piece in pieces[1:] for one in piece.logprobs]
    assert [one["logprob"] for one in found] == [one.logprob for one in wanted[0].logprobs]
    for one, logprob in zip(found, wanted[0].logprobs, strict=True):
        assert [(top["id"], top["logprob"]) for top in one["top"]] == list(logprob.alternatives)
        assert bytes(one["bytes"]) == tokenizer.bytes_of(one["id"])
    assert first == {"id": 1, "text": "<s>", "bytes": [], "logprob": None, "top": []}
    assert [one["id"] for one in others] == started.prompt_ids[1:]
    assert [one["logprob"] for one in others] == [
        one.logprob for one in wanted[0].prompt_logprobs[1:]
    ]


OPENED = {"backend": BACKEND, "kv": "bf16", "which": "latest", "tokenizer_path": None}
LOAD = {"room_bytes": None, "running": 1, "queue_limit": 1}


def test_what_the_first_constraint_takes_is_done_before_anybody_waits(model):
    """It is tenths of a second in which no other text goes on."""
    header = Header.read({**OPENED, "model": str(model), "context_tokens": 512})
    assert header.load(LOAD).engine._grammars is not None


@pytest.mark.parametrize("kv", ["bf16", "int8"] if isas() else ["bf16"])
def test_a_model_needs_the_memory_that_it_then_takes(model, kv: str):
    """Or several of them would take more than their budget."""
    opened = {**OPENED, "model": str(model), "kv": kv, "context_tokens": 1 << 16}
    header = Header.read(opened)
    taken = header.load(LOAD).describe()["memory_bytes"]
    assert 0.8 * taken < header.needed_bytes <= taken


def test_a_constraint_is_kept_to(model, offline):
    wanted = SamplingParams(**params(constraint=Constraint("regex", "[ab]{3,9}")))

    async def main():
        async with engine_of(model) as client:
            pieces = await read(client, params=params(), constraint={"regex": "[ab]{3,9}"})
            with pytest.raises(ServeError) as caught:
                await read(client, params=params(), constraint={"regex": "(["})
            return pieces, caught.value

    pieces, error = asyncio.run(main())
    assert texts_of(pieces) == [offline.generate("The llama", wanted)[0].text]
    assert error.kind == "invalid"


def test_embeddings_are_the_offline_engines(model, offline):
    inputs = [f"{prompt} {number}" for number in range(9) for prompt in PROMPTS]
    wanted = offline.embed(inputs)

    async def main():
        async with engine_of(model) as client:
            asked = [{"text": one} for one in inputs]
            some = asyncio.ensure_future(client.ask("embed", inputs=asked * 20))
            found = await client.ask("embed", inputs=asked)
            some.cancel()
            with pytest.raises(asyncio.CancelledError):
                await some
            await client.ask("drain")
            return found, await client.ask("metrics")

    found, metrics = asyncio.run(main())
    assert found == {"vectors": wanted.vectors.tolist(), "prompt_tokens": wanted.prompt_tokens}
    assert metrics["running"] == metrics["waiting"] == metrics["pages_used"] == 0


def test_tokens_and_text_go_both_ways(model, offline):
    ids = offline.tokenizer.encode("The llama 高", bos=True)

    async def main():
        async with engine_of(model) as client:
            asked = {"text": "The llama 高", "add_special": True, "with_pieces": True}
            return (
                await client.ask("tokenize", **asked),
                await client.ask("tokenize", text="<s>", parse_special=True),
                await client.ask("detokenize", ids=ids),
            )

    found, special, text = asyncio.run(main())
    assert found["ids"] == [one["id"] for one in found["pieces"]] == ids
    assert b"".join(bytes(one["bytes"]) for one in found["pieces"]) == " The llama 高".encode()
    assert special == {"ids": [1]}
    assert text == {"text": "The llama 高"}


WRONG = {
    "unknown setting": ({"params": {"temprature": 1}}, "temperature"),
    "value out of range": ({"params": {"temperature": -1}}, "temperature"),
    "value of another type": ({"params": {"max_tokens": "5"}}, "max_tokens"),
    "bias of no token": ({"params": {"logit_bias": {"a": 1}}}, "logit_bias"),
    "bias beyond the vocabulary": ({"params": {"logit_bias": {"99999": 1}}}, "logit_bias"),
    "ids that are no numbers": ({"prompt": {"ids": [1, "2"]}}, "whole numbers"),
    "ids beyond the vocabulary": ({"prompt": {"ids": [1, 99999]}}, "0 .. 319"),
    "no prompt": ({"prompt": {"ids": []}}, "prompt"),
    "surrogate": ({"prompt": {"text": "\ud800"}}, "surrogate"),
    "no template": ({"prompt": {"messages": [{"role": "user", "content": "Hi"}]}}, "template"),
    "two constraints": ({"constraint": {"regex": "a", "json_object": True}}, "one constraint"),
}


def test_what_a_sender_did_wrong_is_one_clear_error(model):
    async def main():
        async with engine_of(model) as client:
            found = {}
            for name, (asked, _wanted) in WRONG.items():
                with pytest.raises(ServeError) as caught:
                    await read(client, **asked)
                found[name] = caught.value
            assert len(await read(client, params=params())) == 40
            return found

    for name, error in asyncio.run(main()).items():
        assert (error.kind, error.status) == ("invalid", 400), name
        assert WRONG[name][1] in error.text, name
        if "beyond the vocabulary" in name:
            assert error.param == ("prompt" if "ids" in name else "logit_bias")


def test_a_prompt_that_is_too_long_says_how_long_it_is(model):
    async def main():
        async with engine_of(model) as client:
            with pytest.raises(ServeError) as generated:
                await read(client, prompt={"ids": [5] * 2048})
            with pytest.raises(ServeError) as embedded:
                await client.ask("embed", inputs=[{"ids": [5]}, {"ids": [5] * 2049}])
            await client.ask("embed", inputs=[{"ids": [5] * 2048}])
            return generated.value, embedded.value

    generated, embedded = asyncio.run(main())
    assert (generated.kind, embedded.kind) == ("context", "context")
    assert (generated.param, embedded.param) == ("prompt", "input")
    assert generated.details == {"n_prompt_tokens": 2048, "n_ctx": 2048}
    assert embedded.details == {"n_prompt_tokens": 2049, "n_ctx": 2048}


def test_who_stops_reading_cancels_within_a_step_and_disturbs_nobody(model, offline, monkeypatch):
    with_patch(monkeypatch, SLOW_STEPS)
    wanted = offline.generate("In 1532", SamplingParams(**params(max_tokens=60)))[0].text

    async def main():
        async with engine_of(model) as client:
            stays = asyncio.ensure_future(read(client, "In 1532", params=params(max_tokens=60)))
            leaves = client.generate(prompt={"text": "The"}, params={**ENDLESS, "n": 2})
            async for _part in leaves:
                if (await client.ask("metrics"))["generated_tokens"] > 20:
                    break
            before = await client.ask("metrics")
            await leaves.aclose()
            while (after := await client.ask("metrics"))["cancelled"] < 2:
                pass
            waits = asyncio.ensure_future(read(client, params=ENDLESS))
            await asyncio.sleep(0.02)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            text = texts_of(await stays)
            await client.ask("drain")
            return before, after, text, await client.ask("metrics")

    before, after, text, end = asyncio.run(main())
    assert text == [wanted]
    assert after["steps"] - before["steps"] <= 3  # one that ran, one that let go, one as we looked
    assert (end["cancelled"], end["finished"], end["pages_used"]) == (3, 1, 0)


def test_a_full_queue_is_told_at_once(model):
    options = EngineOptions(backend=BACKEND, context_tokens=4096, running=1, queue_limit=2)

    async def main():
        async with engine_of(model, options) as client:
            busy = [client.generate(prompt={"text": "A"}, params=ENDLESS) for _ in range(3)]
            for one in busy:
                await anext(one)
            await anext(busy[0])  # it runs, the others wait
            began = time.monotonic()
            with pytest.raises(ServeError) as caught:
                await read(client, params=ENDLESS)
            with pytest.raises(ServeError) as embedded:
                await client.ask("embed", inputs=[{"text": "A"}])
            seconds = time.monotonic() - began
            for one in busy:
                await one.aclose()
            await client.ask("drain")
            return caught.value, embedded.value, seconds

    error, embedded, seconds = asyncio.run(main())
    assert (error.kind, error.status, embedded.kind) == ("busy", 429, "busy")
    assert seconds < 0.5


def test_a_prompt_that_takes_long_to_prepare_stops_no_other_text(model, monkeypatch):
    slow = (
        "import time; from puna.tokens.tokenizer import Tokenizer as T; e = T.encode; "
        "T.encode = lambda s, t, **k: (time.sleep('slow' in t), e(s, t, **k))[1]"
    )
    with_patch(monkeypatch, slow)

    async def main():
        async with engine_of(model) as client:
            slow = asyncio.ensure_future(read(client, "slow", params=params(max_tokens=1)))
            await asyncio.sleep(0.1)
            pieces = await read(client, params=params(max_tokens=200))
            was_preparing = not slow.done()
            await slow
            return pieces, was_preparing

    pieces, was_preparing = asyncio.run(main())
    assert pieces[-1].ending["generated_tokens"] == 200
    assert was_preparing


def test_an_answer_that_is_too_long_fails_alone(model, offline, monkeypatch):
    with_patch(monkeypatch, "import puna.serve.wire as w; w.LONGEST_FRAME_BYTES = 20_000")
    wanted = offline.generate("In 1532", SamplingParams(**params(max_tokens=200)))[0].text

    async def main():
        async with engine_of(model) as client:
            other = asyncio.ensure_future(read(client, "In 1532", params=params(max_tokens=200)))
            with pytest.raises(ServeError) as caught:
                await read(client, prompt={"ids": [5] * 300}, params=params(prompt_logprobs=1))
            return caught.value, texts_of(await other)

    error, texts = asyncio.run(main())
    assert (error.kind, error.status) == ("large", 413)
    assert texts == [wanted]


def test_draining_lets_texts_end_and_refuses_new_ones(model):
    async def main():
        async with engine_of(model) as client:
            text = client.generate(prompt={"text": "A"}, params=params(max_tokens=400))
            await anext(text)
            draining = asyncio.ensure_future(client.ask("drain"))
            await asyncio.sleep(0)
            with pytest.raises(ServeError) as caught:
                await read(client, params=params())
            pieces = [one async for one in text]
            await draining
            return pieces, caught.value

    pieces, error = asyncio.run(main())
    assert pieces[-1].ending["generated_tokens"] == 400
    assert (error.kind, error.status) == ("unavailable", 503)


def test_what_cannot_be_loaded_says_why(tmp_path):
    async def main():
        with pytest.raises(ServeError) as caught:
            async with engine_of(tmp_path / "nothing"):
                pass
        return caught.value

    error = asyncio.run(main())
    assert (error.kind, error.status) == ("failed", 500)
    assert "found nothing there" in error.message


def test_signals_for_the_server_do_not_end_its_engine(model):
    async def main():
        async with engine_of(model) as client:
            for number in (signal.SIGINT, signal.SIGTERM):
                client._process.send_signal(number)
            return await read(client, params=params())

    assert len(asyncio.run(main())) == 40


def test_an_idle_engine_takes_no_time(model):
    def seconds(pid: int) -> float:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    async def main():
        async with engine_of(model) as client:
            await read(client, params=params())
            await asyncio.sleep(0.1)
            before = seconds(client.pid)
            await asyncio.sleep(0.5)
            return seconds(client.pid) - before

    assert asyncio.run(main()) <= 0.02
