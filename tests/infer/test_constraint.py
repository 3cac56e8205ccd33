"""What a constraint may be asked for: bounds, and one clear error for each mistake."""

from __future__ import annotations

import json

import pytest

from puna.errors import ConfigError
from puna.infer.constraint import DEEPEST_SCHEMA, LONGEST_SOURCE, MOST_OPTIONAL, Constraint
from puna.infer.sampling_params import SamplingParams


def nested(depth: int) -> dict:
    schema: dict = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def optional(count: int, needed: int = 0) -> dict:
    names = [f"field_{number}" for number in range(count + needed)]
    return {"properties": {name: {} for name in names}, "required": names[:needed]}


def test_a_request_becomes_a_constraint():
    schema = {"type": "object", "properties": {"é": {"const": 1}}}
    assert json.loads(Constraint.of({"json_schema": schema}).source) == schema
    assert Constraint.of({"json_schema": "{}"}) == Constraint.of({"json_schema": {}})
    assert Constraint.of({"json_object": True}) == Constraint("json_object")
    assert Constraint.of({"regex": "[ab]+"}) == Constraint("regex", "[ab]+")
    assert SamplingParams(constraint=Constraint("json_object")).constraint is not None
    Constraint.of({"json_schema": nested(DEEPEST_SCHEMA)})
    Constraint.of({"json_schema": optional(MOST_OPTIONAL, needed=500)})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "one constraint is wanted, found none"),
        ({"regex": "a", "grammar": "b"}, "one constraint is wanted, found regex, grammar"),
        ({"json_shema": {}}, "json_object, json_schema, regex, grammar"),
        ({"json_object": False}, "json_object should be true"),
        ({"json_object": "yes"}, "json_object should be true"),
        ({"regex": ""}, "regex should be a text that is not empty"),
        ({"grammar": 3}, "grammar should be a text that is not empty"),
        ({"regex": "a" * (LONGEST_SOURCE + 1)}, "at most 65,536 characters, found 65,537"),
        ({"json_schema": True}, "json_schema should be a JSON object, got true"),
        ({"json_schema": "{"}, "json_schema should be JSON: Expecting property name"),
        ({"json_schema": '{"const": NaN}'}, "json_schema should be JSON: NaN is no JSON"),
        ({"json_schema": {"const": float("inf")}}, "json_schema should be JSON: Out of range"),
        ({"json_schema": {"const": b""}}, "json_schema should be JSON: .*bytes"),
        ({"json_schema": nested(DEEPEST_SCHEMA + 1)}, "nested at most 64 deep"),
        ({"json_schema": {"items": optional(MOST_OPTIONAL + 1)}}, "480 optional .* found 481"),
        ({"json_schema": "[" * 10000 + "]" * 10000}, "json_schema should be "),
    ],
)
def test_mistakes_are_one_clear_error(asked, said):
    with pytest.raises(ConfigError, match=said):
        Constraint.of(asked)


def test_params_take_a_constraint_and_nothing_like_it():
    with pytest.raises(ConfigError, match="constraint should be a Constraint or None"):
        SamplingParams(constraint={"json_object": True})
