"""ollama-python on a real chat model: every content is the engine's own."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from serve.offline import TOKENS, Offline, asked

ollama = pytest.importorskip("ollama", reason="the extra puna[clients] is not installed")

pytestmark = pytest.mark.slow

QUESTION = asked("What is the capital of France?")
GREEDY = {"temperature": 0, "num_predict": TOKENS}
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "is_large": {"type": "boolean"}},
    "required": ["name", "is_large"],
    "additionalProperties": False,
}


@pytest.fixture
def client(smollm2: Offline) -> Iterator[Any]:
    with ollama.Client(smollm2.url) as one:
        yield one


def test_a_chat_and_its_stream_say_what_the_engine_says(client: Any, smollm2: Offline):
    expected = smollm2.result(QUESTION)
    answer = client.chat("smollm2", QUESTION, options=GREEDY)
    assert answer.message.content == expected.text
    assert (answer.eval_count, answer.done_reason) == (
        expected.generated_tokens,
        expected.finish_reason,
    )
    lines = list(client.chat("smollm2", QUESTION, options=GREEDY, stream=True))
    assert "".join(line.message.content for line in lines) == expected.text
    assert lines[-1].done


def test_generate_talks_by_the_template_and_raw_does_not(client: Any, smollm2: Offline):
    question = QUESTION[0]["content"]
    system = {"role": "system", "content": "You are brief."}
    talked = client.generate("smollm2", question, system=system["content"], options=GREEDY)
    assert talked.response == smollm2.text([system, *QUESTION])
    lines = client.generate("smollm2", "Once upon", raw=True, options=GREEDY, stream=True)
    assert "".join(line.response for line in lines) == smollm2.text("Once upon")


def test_a_format_is_kept_to(client: Any, smollm2: Offline):
    options = {**GREEDY, "num_predict": 80}
    text = client.chat("smollm2", QUESTION, format=CITY, options=options).message.content
    jsonschema.validate(json.loads(text), CITY)
    assert text == smollm2.form(QUESTION, CITY, max_tokens=80)


def test_tools_are_told_of(client: Any):
    tool = {"type": "function", "function": {"name": "city", "parameters": CITY}}
    message = client.chat("smollm2", QUESTION, tools=[tool], options=GREEDY).message
    assert message.content or message.tool_calls


def test_embeddings_are_the_engine_s(client: Any, smollm2: Offline):
    texts = ["The cat sat on the mat.", "Rockets fly to the moon!"]
    found = client.embed("smollm2", texts).embeddings
    np.testing.assert_allclose(found, smollm2.engine.embed(texts).vectors, atol=1e-6)


def test_the_model_is_listed_and_shown(client: Any, smollm2: Offline):
    (listed,) = client.list().models
    assert listed.model == "smollm2:latest"
    shown = client.show("smollm2")
    config = smollm2.engine.config
    assert shown.modelinfo["llama.embedding_length"] == config.dim
    assert shown.modelinfo["llama.context_length"] == config.context_length
    assert "completion" in shown.capabilities
    assert shown.template == smollm2.engine.tokenizer.chat_template
    with pytest.raises(ollama.ResponseError) as raised:
        client.chat("nobody-has-this", QUESTION, options={"mirostat": 1})
    assert raised.value.status_code == 400
