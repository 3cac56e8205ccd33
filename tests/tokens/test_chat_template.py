"""Conversations to text as Hugging Face's library does it, and templates that mean harm."""

import os
import signal
import threading
import time

import pytest
from small_tokenizers import TEMPLATE, sentencepiece_model, tokenizer_json

from puna.errors import TokenizerError
from puna.tokens.chat_template import RENDER_SECONDS, ChatTemplate
from puna.tokens.formats.gguf_vocabulary import gguf_metadata
from puna.tokens.tokenizer import Tokenizer

TALK = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": 'What is a "llama"? <b>é</b>\n🦙'},
    {"role": "assistant", "content": "An animal."},
    {"role": "user", "content": "And a puna?"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather at a place, “now” & <here>",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
]
# Templates in the manner of those that come with models, each with something that others lack.
TEMPLATES = {
    "chatml": TEMPLATE,
    "llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% set system = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and system != false %}"
        "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "tools as JSON": (
        "{{- bos_token }}\n{%- if tools is not none %}\n    {%- for tool in tools %}\n"
        "        {{- tool | tojson(indent=4) }}\n        {{- '\\n\\n' }}\n    {%- endfor %}\n"
        "{%- endif %}\n{%- for message in messages %}\n    {{- message | tojson }}\n{%- endfor %}"
    ),
    "blocks on lines of their own": (
        "{% for message in messages %}\n    {% if message.role == 'system' %}\n"
        "    {% continue %}\n    {% endif %}\n{{ message.role | upper }}: {{ message.content }}\n"
        "    {% if loop.index > 2 %}\n    {% break %}\n    {% endif %}\n{% endfor %}\n"
    ),
    "what the assistant said": (
        "{% for message in messages %}{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content }}{% endgeneration %}"
        "{% else %}{{ message.content }}{% endif %}{% endfor %}"
    ),
    "a namespace and macros": (
        "{% macro turn(m) %}<{{ m.role }}>{{ m.content | trim }}{% endmacro %}"
        "{% set ns = namespace(count=0) %}{% for m in messages %}"
        "{% set ns.count = ns.count + 1 %}{{ turn(m) }}{% endfor %}{{ ns.count }}"
        "{{ missing is defined }}{{ messages[0].tool_calls is defined }}"
    ),
}
HARMS = {
    "an endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "a range of a trillion": "{% for a in range(10**12) %}x{% endfor %}",
    "a product of strings": "{{ 'x' * 10**10 }}",
    "a product of lists": "{{ ([0] * 10**10) | length }}",
    "a power of numbers": "{{ (10 ** (10 ** 10)) % 7 }}",
    "a power of powers": "{% set n = 99999999 ** 9999999 %}{{ n % 10 }}",
    "doubling": "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a wide filter": "{{ 'x' | center(10**10) }}",
    "a wide format": "{{ '%9999999999d' | format(1) }}",
    "a wide justification": "{{ 'x'.ljust(10**10) }}",
    "a long replacement": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "a long text": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "deep nesting": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "attributes that lead out": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "the way to globals": "{{ raise_exception.__globals__.os }}",
    "imports": "{% import 'os' as os %}{{ os.system('true') }}",
    "files": "{% include '/etc/passwd' %}",
    "a changed message": "{{ messages.append(1) }}",
    "a changed dictionary": "{{ messages[0].update({'role': 'x'}) }}",
    "a syntax error": "{% for %}",
    "an unknown filter": "{{ 1 | shell }}",
    "division by zero": "{{ 1 / 0 }}",
    "an undefined call": "{{ nothing() }}",
    "an exception of its own": "{{ raise_exception('no thanks') }}",
}


def as_hugging_face_does(template: str, add_generation_prompt: bool, tools) -> str:
    from tokenizers import Tokenizer as Engine
    from transformers import PreTrainedTokenizerFast

    library = PreTrainedTokenizerFast(
        tokenizer_object=Engine.from_str(tokenizer_json().decode()),
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    return library.apply_chat_template(
        TALK,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        tools=tools,
    )


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_becomes_the_text_that_transformers_makes(name: str, prompt: bool):
    tools = TOOLS if "tools" in name else None
    text = ChatTemplate(TEMPLATES[name], "here").render(
        messages=TALK,
        tools=tools,
        documents=None,
        add_generation_prompt=prompt,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    assert text == as_hugging_face_does(TEMPLATES[name], prompt, tools)


@pytest.mark.parametrize("name", HARMS)
def test_a_template_that_means_harm_ends_in_one_error(name: str):
    template = ChatTemplate(HARMS[name], "model.gguf")
    began = time.monotonic()
    with pytest.raises(TokenizerError, match=r"model\.gguf: the chat template"):
        template.render(messages=[{"role": "user", "content": "x"}])
    assert time.monotonic() - began < 10 * RENDER_SECONDS


def test_after_harm_the_next_conversation_is_rendered():
    template = ChatTemplate(
        "{% if loud %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
        "{% endfor %}{% endif %}done",
        "here",
    )
    assert template.render(loud=False) == "done"
    with pytest.raises(TokenizerError, match="did not end well within 2 seconds"):
        template.render(loud=True)
    assert template.render(loud=False) == "done"


def test_a_worker_that_died_is_started_again():
    template = ChatTemplate("{{ messages | length }}", "here")
    assert template.render(messages=[1, 2]) == "2"
    assert template._worker is not None
    process = template._worker._process
    process.kill()
    process.wait()
    assert template.render(messages=[1, 2, 3]) == "3"


def test_the_worker_ends_with_its_template():
    template = ChatTemplate("x", "here")
    template.render()
    assert template._worker is not None
    process = template._worker._process
    assert process.poll() is None
    del template
    assert process.wait(timeout=10) == -signal.SIGKILL


def test_several_threads_share_a_template():
    template = ChatTemplate("{{ name }}", "here")
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda name=name: texts.append(template.render(name=name)))
        for name in "abcdefgh"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == list("abcdefgh")


def test_what_json_cannot_hold_is_refused():
    template = ChatTemplate("x", "here")
    for messages in ({1, 2}, object(), b"bytes"):
        with pytest.raises(TokenizerError, match="JSON's types"):
            template.render(messages=messages)


def test_a_date_is_today_s():
    year = ChatTemplate("{{ strftime_now('%Y') }}", "here").render()
    assert year in (time.strftime("%Y"), str(int(time.strftime("%Y")) - 1))


def test_a_forked_process_starts_a_worker_of_its_own():
    template = ChatTemplate("{{ name }}", "here")
    template.render(name="parent")
    assert template._worker is not None
    template._worker._owner = os.getpid() + 1  # as it looks after a fork
    assert template.render(name="child") == "child"


@pytest.fixture
def chat_tokenizer(tmp_path) -> Tokenizer:
    """Byte-level BPE in a folder whose config has a template that begins with BOS."""
    import json

    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json("smollm"))
    config = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(tmp_path)


def test_there_are_never_two_bos(chat_tokenizer):
    assert chat_tokenizer.adds_bos  # so says the file's post-processor, and the template adds one
    ids = chat_tokenizer.apply_chat(TALK)
    assert ids.count(chat_tokenizer.bos_id) == 1
    assert ids[0] == chat_tokenizer.bos_id


def test_a_template_without_bos_gets_the_one_that_the_file_adds(chat_tokenizer):
    keys = gguf_metadata(chat_tokenizer.vocabulary)
    keys["tokenizer.chat_template"] = TEMPLATE.removeprefix("{{ bos_token }}")
    tokenizer = Tokenizer.from_gguf(keys, chat_tokenizer.path)
    assert tokenizer.apply_chat(TALK) == chat_tokenizer.apply_chat(TALK)
    keys["tokenizer.ggml.add_bos_token"] = False
    tokenizer = Tokenizer.from_gguf(keys, chat_tokenizer.path)
    assert tokenizer.apply_chat(TALK) == chat_tokenizer.apply_chat(TALK)[1:]


def test_marks_of_the_template_become_control_tokens(chat_tokenizer):
    ids = chat_tokenizer.apply_chat([{"role": "user", "content": "the llama"}])
    start, end = (chat_tokenizer.vocabulary.pieces.index(f"<|im_{x}|>") for x in ("start", "end"))
    assert [ids.count(start), ids.count(end)] == [2, 1]
    text = "<|im_start|>user\nthe llama<|im_end|>\n<|im_start|>assistant\n"
    assert chat_tokenizer.decode(ids, special=True) == f"<|endoftext|>{text}"
    assert end in chat_tokenizer.stop_ids


def test_a_template_sees_the_variables_that_it_is_given(chat_tokenizer):
    keys = gguf_metadata(chat_tokenizer.vocabulary)
    keys["tokenizer.chat_template"] = "{{ mood }} {{ messages[0].content }}{{ bos_token }}"
    tokenizer = Tokenizer.from_gguf(keys, chat_tokenizer.path)
    variables = {"mood": "glad", "bos_token": "none", "messages": []}
    assert tokenizer.render_chat(TALK, variables=variables) == (
        "glad You are brief.<|endoftext|>"  # its own cannot be taken from it
    )


def test_a_last_message_that_is_gone_on_with_has_no_end_of_turn(chat_tokenizer):
    talk = [*TALK, {"role": "assistant", "content": " A puna is "}]
    text = chat_tokenizer.render_chat(talk, continues_last=True)
    assert text.endswith("<|im_start|>assistant\n A puna is")
    for nothing in ([*TALK, {"role": "assistant", "content": ""}], []):
        with pytest.raises(TokenizerError, match="last message"):
            chat_tokenizer.render_chat(nothing, continues_last=True)


def test_a_base_model_has_no_chat():
    tokenizer = Tokenizer(sentencepiece_model())
    assert tokenizer.chat_template is None
    with pytest.raises(TokenizerError, match="has no chat template"):
        tokenizer.apply_chat(TALK)
