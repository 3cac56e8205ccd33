"""Texts kept to a constraint: whatever a model would say, they are what was asked for.

Oracles: json and re of the standard library, the jsonschema package.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_backend import PrefixBackend
from shared_weights import SHARED as WEIGHTS
from shared_weights import needs_shared
from small_vocabulary import smollm2_gguf
from tiny_model import tiny_config, write_tokenizer

from puna.errors import ConfigError
from puna.infer.constraint import LONGEST_SOURCE, MOST_OPTIONAL, Constraint
from puna.infer.engine import Engine, EngineSettings, load_engine
from puna.infer.grammar import Grammars
from puna.infer.sampler import TokenCounts, next_token
from puna.infer.sampling_params import SamplingParams
from puna.tokens.tokenizer import Tokenizer
from puna.weights.open_model import load_tokenizer, open_model

SHARED = WEIGHTS.parent / "tokenizers"
STORIES = WEIGHTS / "stories260K" / "stories260K.gguf"
JSON_OBJECT = Constraint("json_object")
RANDOM = SamplingParams(temperature=1.0, top_p=1.0)


def smollm2() -> Tokenizer:
    return load_tokenizer(open_model(smollm2_gguf()), None)


def shared(name: str) -> Tokenizer:
    if not SHARED.is_dir():
        pytest.skip("../shared/tokenizers, which no clone carries, is absent")
    return Tokenizer.load(SHARED / name)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Tokenizer:
    return Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("grammar")))


@pytest.fixture(scope="module")
def tiny_grammars(tiny) -> Grammars:
    return Grammars(tiny)


def random_text(
    tokenizer: Tokenizer, grammars: Grammars, constraint: Constraint, seed: int, most: int = 300
) -> tuple[str, bool]:
    """What a model of random logits says, that prefers to end; and whether it did."""
    random = np.random.default_rng(seed)
    text = grammars.of(constraint).text(tokenizer.stop_ids)
    ids: list[int] = []
    ending = [token for piece in '"}] ' for token in tokenizer.encode(piece, goes_on=True)]
    while len(ids) < most and not text.is_complete:
        logits = random.normal(0, 2, tokenizer.vocabulary_size).astype(np.float32)
        logits[ending] += 6
        logits[list(tokenizer.stop_ids)] += 9
        token = next_token(text.masked(logits), RANDOM, TokenCounts([]), float(random.random()))
        if token in tokenizer.stop_ids:
            return after_prompt(tokenizer, ids), True
        text.take(token)
        ids.append(token)
    return after_prompt(tokenizer, ids), text.is_complete


def after_prompt(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode([*tokenizer.encode("A"), *ids]).removeprefix("A")


NAMES = st.sampled_from(["a", "name", "two words", "é", 'quo"te'])
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=5)
INTEGERS = st.integers(-(2**53), 2**53)  # the library reads a schema's numbers as float64
LEAVES = st.one_of(
    st.builds(lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
              st.integers(0, 3), st.integers(0, 6)),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
              st.integers(-2000, 2000), st.integers(0, 5000)),
    st.sampled_from([
        {"type": "boolean"}, {"type": "null"}, {"type": "number", "exclusiveMinimum": 0.5},
        {"type": ["string", "null"], "maxLength": 4}, {"type": "string", "pattern": "^[a-c]{2,4}$"},
        {"type": "string", "format": "date"}, {"$ref": "#/$defs/tree"},
    ]),
    st.builds(lambda values: {"enum": values},
              st.lists(st.one_of(TEXTS, INTEGERS, st.booleans()), min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, st.one_of(TEXTS, st.lists(INTEGERS))),
)  # fmt: skip


def larger(inner: st.SearchStrategy) -> st.SearchStrategy:
    """Objects, arrays and choices of schemas."""
    properties = st.dictionaries(NAMES, inner, max_size=3)
    objects = st.builds(
        lambda props, needed, more: {
            "type": "object",
            "properties": props,
            "required": list(props)[:needed],
            **({} if more else {"additionalProperties": False}),
        },
        properties,
        st.integers(0, 3),
        st.booleans(),
    )
    arrays = st.builds(
        lambda item, least, more: {
            "type": "array",
            "items": item,
            "minItems": least,
            "maxItems": least + more,
        },
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )
    return objects | arrays | st.lists(inner, min_size=1, max_size=2).map(lambda s: {"anyOf": s})


SCHEMAS = st.recursive(LEAVES, larger, max_leaves=6)
TREE = {
    "type": "object",
    "properties": {
        "leaf": {"type": "boolean"},
        "below": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
    },
    "required": ["leaf"],
    "additionalProperties": False,
}


@settings(max_examples=150)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_random_texts_of_random_schemas_are_valid(tiny, tiny_grammars, schema, seed):
    jsonschema = pytest.importorskip("jsonschema")
    schema = {**schema, "$defs": {"tree": TREE}}
    text, has_ended = random_text(tiny, tiny_grammars, Constraint.of({"json_schema": schema}), seed)
    if has_ended:
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


def test_most_random_texts_end(tiny, tiny_grammars):
    """So that the test above has something to say."""
    endings = [random_text(tiny, tiny_grammars, JSON_OBJECT, seed)[1] for seed in range(40)]
    assert sum(endings) >= 35


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(smollm2, id="SmolLM2 gguf"),
        pytest.param(lambda: shared("smollm2-tokenizer"), id="SmolLM2 folder"),
        pytest.param(lambda: shared("llama2-tokenizer"), id="LLaMA"),
        pytest.param(lambda: shared("llama3-tokenizer"), id="Llama 3"),
        pytest.param(lambda: shared("gpt2-bpe"), id="GPT-2"),
    ],
)
def test_json_of_real_vocabularies_is_json(load):
    tokenizer = load()
    grammars = Grammars(tokenizer)
    for seed in range(15):
        text, has_ended = random_text(tokenizer, grammars, JSON_OBJECT, seed)
        assert not has_ended or isinstance(json.loads(text), dict)
    said = '{"name": "Ada", "ages": [36, 1.5e3], "naïve 高🦙": null}'
    mine = grammars.of(JSON_OBJECT).text(tokenizer.stop_ids)
    for token in tokenizer.encode(said, goes_on=True):
        logits = np.zeros(tokenizer.vocabulary_size, dtype=np.float32)
        assert mine.masked(logits)[token] == 0
        mine.take(token)
    assert mine.is_complete


@needs_shared
def test_a_trained_model_without_any_idea_of_json_says_it():
    engine = load_engine(STORIES)
    toys = {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3}
    properties = {"girl": {"type": "string", "maxLength": 20}, "toys": toys}
    schema = {"type": "object", "properties": properties, "required": ["girl", "toys"]}
    asked = params(Constraint.of({"json_schema": {**schema, "additionalProperties": False}}), n=20)
    results = engine.generate("Once upon a time there was", asked)
    assert {result.ended_by for result in results} == {"constraint"}
    said = [json.loads(result.text) for result in results]
    assert all(len(one["girl"]) <= 20 and len(one["toys"]) <= 3 for one in said)


REGEXES = ["[0-9]{3}-[a-z]+", r"(yes|no)\.?", "a/b\n?", r"[0-9]+\s[a-z]", "é+|高", ".{3,5}"]


@pytest.mark.parametrize("pattern", REGEXES)
def test_a_regular_expression_matches_the_whole_text(tiny, tiny_grammars, pattern):
    endings = 0
    for seed in range(20):
        text, has_ended = random_text(tiny, tiny_grammars, Constraint("regex", pattern), seed)
        endings += has_ended
        assert not has_ended or re.fullmatch(pattern, text), text
    assert endings > 10


GRAMMARS = [
    'start: "(" start ")" | "x"',
    'root ::= "(" root ")" | "x"',
    "start: nested\nnested: /\\(/ nested /\\)/ | /x/",
]


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_a_grammar_may_be_lark_or_gbnf(tiny, tiny_grammars, grammar):
    for seed in range(10):
        text, has_ended = random_text(tiny, tiny_grammars, Constraint("grammar", grammar), seed)
        depth = text.count("(")
        assert not has_ended or text == "(" * depth + "x" + ")" * depth


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"json_schema": {"type": "objec"}}, "json_schema cannot be kept to: Invalid type: objec"),
        ({"json_schema": {"$ref": "#/nope"}}, "Pointer '/nope' does not exist"),
        ({"json_schema": {"$ref": "http://host/x"}}, "retrieving it failed"),
        ({"json_schema": {"not": {}}}, 'Unimplemented keys: \\["not"\\]'),
        ({"json_schema": {"type": "string", "format": "x"}}, "Unknown format: x"),
        ({"json_schema": {"minimum": 5, "maximum": 3, "type": "integer"}}, "Unsatisfiable"),
        ({"regex": "a("}, "regex cannot be kept to: .* unclosed group"),
        ({"regex": "(?=a)"}, "look-around"),
        ({"grammar": "start: foo"}, 'grammar cannot be kept to: .*unknown name: "foo"'),
        ({"grammar": "root ::= nope"}, "grammar cannot be kept to: .*'nope' not found"),
        ({"grammar": "hello"}, "grammar cannot be kept to: "),
    ],
)
def test_what_cannot_be_kept_to_is_one_clear_error(tiny_grammars, asked, said):
    with pytest.raises(ConfigError, match=said) as error:
        tiny_grammars.of(Constraint.of(asked))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


CHAINS = {
    "lark": ("grammar", "start: r0\n", "r{}:r{}\n", 'r{}: "x"\n'),
    "gbnf": ("grammar", "root ::= r0\n", "r{} ::= r{}\n", 'r{} ::= "x"\n'),
    "schema": (
        "json_schema",
        '{"$ref":"#/0",',
        '"{}":{{"$ref":"#/{}"}},',
        '"{}":{{"const":"x"}}}}',
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_long_chain_of_rules_is_no_danger(tiny, tiny_grammars, name):
    kind, begin, link, end = CHAINS[name]
    count = (LONGEST_SOURCE - 100) // len(link.format(9999, 9999))
    links = [link.format(number, number + 1) for number in range(count)]
    constraint = Constraint(kind, "".join([begin, *links, end.format(count)]))
    try:
        text, has_ended = random_text(tiny, tiny_grammars, constraint, 0)
    except ConfigError:
        return
    assert has_ended
    assert text.strip('"') == "x"


@pytest.mark.parametrize("source", ["\n" * 60_000 + "::=", "root ::= a" + "\t\n" * 30_000 + "b"])
def test_nothing_takes_long_to_be_refused(tiny_grammars, source):
    began = time.process_time()
    with pytest.raises(ConfigError, match="grammar cannot be kept to"):
        tiny_grammars.of(Constraint("grammar", source))
    assert time.process_time() - began < 2


def test_a_grammar_that_grows_too_complex_ends_the_text_with_one_error(tiny, monkeypatch):
    monkeypatch.setattr("puna.infer.grammar.MOST_LEXER_STATES", 10)
    grammars = Grammars(tiny)
    constraint = Constraint("regex", "(a.{9}b|c.{7}d|[e-z ]{20}a)+")
    with pytest.raises(ConfigError, match="cannot be kept to"):
        _texts = [random_text(tiny, grammars, constraint, seed) for seed in range(50)]


def test_as_many_optional_properties_as_may_be_asked_for_can_be_written(tiny, tiny_grammars):
    properties = {f"field_{number}": {"type": "string"} for number in range(MOST_OPTIONAL)}
    constraint = Constraint.of({"json_schema": {"type": "object", "properties": properties}})
    text = tiny_grammars.of(constraint).text(tiny.stop_ids)
    for token in tiny.encode('{"field_0": "', goes_on=True):
        text.take(token)
    text.masked(np.zeros(tiny.vocabulary_size, np.float32))


def make(tokenizer: Tokenizer) -> Engine:
    return Engine(
        config=tiny_config(320, context_length=400),
        tokenizer=tokenizer,
        backend=PrefixBackend(320),
        choice="",
        checkpoint=Path(),
        settings=EngineSettings(context_tokens=2000),
    )


def params(constraint: Constraint | None, **changes) -> SamplingParams:
    values = {"max_tokens": 200, "seed": 1, "temperature": 1.5, "constraint": constraint}
    return SamplingParams(**{**values, **changes})


def test_a_text_ends_when_nothing_may_follow_and_others_are_as_they_were(tiny):
    engine = make(tiny)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    schema["additionalProperties"] = False
    asked = [params(Constraint.of({"json_schema": schema})), params(None), params(JSON_OBJECT)]
    alone = [engine.generate("The", one)[0] for one in asked]
    together = engine.generate(["The"] * 3, asked)
    assert [one.text for one in together] == [one.text for one in alone]
    assert (together[0].ended_by, together[0].finish_reason) == ("constraint", "stop")
    assert set(json.loads(together[0].text)) == {"a"}
    assert engine.generate("The", params(None))[0].text == together[1].text


def test_drafts_and_the_backends_own_choice_keep_to_the_constraint(tiny):
    engine = make(tiny)
    asked = params(Constraint("regex", "(ab|ba)+!"), temperature=0, max_tokens=60)
    (plain,) = engine.generate("The abab", asked)
    (drafted,) = engine.generate("The abab", params(asked.constraint, temperature=0, max_tokens=60,
                                                    draft_tokens=8, shortest_ngram=1))  # fmt: skip
    assert plain.text == drafted.text
    assert re.fullmatch("(ab|ba)*[ab]?!?", plain.text)
    assert engine.metrics.accepted_tokens > 0


def test_several_texts_of_a_request_keep_to_it_each_for_itself(tiny):
    results = make(tiny).generate("The", params(Constraint("regex", "[a-z]{8}"), n=4))
    assert all(re.fullmatch("[a-z]{8}", result.text) for result in results)
    assert len({result.text for result in results}) == 4


def test_only_what_the_request_ends_with_ends_a_text(tiny):
    engine = make(tiny)
    constraint = Constraint("regex", "[ab]*")
    (going_on,) = engine.generate("The", params(constraint, ignore_eos=True))
    assert (going_on.ended_by, len(going_on.ids)) == ("max tokens", 200)
    (stopped,) = engine.generate(
        "The", params(constraint, ignore_eos=True, stop_ids=(3,), logit_bias={3: 100})
    )
    assert (stopped.ended_by, stopped.text) == ("stop token", "")


def test_a_grammar_is_compiled_once(tiny, monkeypatch):
    engine = make(tiny)
    assert engine.grammar(JSON_OBJECT) is engine.grammar(Constraint("json_object"))
    monkeypatch.setattr("puna.infer.grammar.KEPT", 2)
    first = engine.grammar(JSON_OBJECT)
    for pattern in ("a", "b"):
        engine.grammar(Constraint("regex", pattern))
    assert engine.grammar(JSON_OBJECT) is not first


def test_a_bad_constraint_is_told_before_any_work(tiny):
    engine = make(tiny)
    with pytest.raises(ConfigError, match="unclosed group"):
        engine.generate(["a", "b"], [params(None), params(Constraint("regex", "("))])
    assert engine.backend.steps == []
