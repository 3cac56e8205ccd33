"""From a request's fields to what an engine process is asked: sampling and constraints."""

from __future__ import annotations

import json
from typing import Any

from puna.serve.errors import ServeError
from puna.serve.openai.schemas import JsonObject, JsonSchema, PlainText, Sampling
from puna.serve.settings import RequestLimits

Constraint = dict[str, Any]

_SAME_NAME = (
    "n",
    "seed",
    "temperature",
    "min_p",
    "typical_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
    "draft_tokens",
)
_LEAST_TOP_P = 1e-30  # the likeliest token alone, which OpenAI's 0 means


def sampling_fields(request: Sampling) -> dict[str, Any]:
    """SamplingParams' fields that the request gives, under their names there, all of JSON's types.

    Raises ServeError for fields that contradict each other.
    """
    if request.stream_options is not None and not request.stream:
        raise ServeError(
            "invalid", "stream_options is only for stream: true", param="stream_options"
        )
    fields = {
        name: getattr(request, name) for name in _SAME_NAME if getattr(request, name) is not None
    }
    if request.repeat_penalty is not None:
        if request.repetition_penalty is not None:
            raise ServeError(
                "invalid",
                "repeat_penalty and repetition_penalty are the same, found both",
                param="repeat_penalty",
            )
        fields["repetition_penalty"] = request.repeat_penalty
    if request.top_p is not None:
        fields["top_p"] = max(request.top_p, _LEAST_TOP_P)
    if request.top_k is not None:
        fields["top_k"] = max(request.top_k, 0)
    if request.stop:
        fields["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.logit_bias:
        fields["logit_bias"] = request.logit_bias
    return fields


def constraint_of(
    response_format: PlainText | JsonObject | JsonSchema | None,
    grammar: str | None,
    limits: RequestLimits,
) -> Constraint | None:
    """What the text must follow. Raises ServeError for two of them and for a schema too large."""
    if isinstance(response_format, PlainText):
        response_format = None
    if response_format is not None and grammar is not None:
        raise ServeError(
            "invalid", "response_format and grammar cannot both be followed", param="grammar"
        )
    if grammar is not None:
        return {"grammar": grammar}
    if isinstance(response_format, JsonSchema):
        return schema_constraint(response_format.json_schema.schema_, "response_format", limits)
    return {"json_object": True} if response_format is not None else None


def schema_constraint(schema: dict[str, Any], param: str, limits: RequestLimits) -> Constraint:
    """The constraint of a JSON schema. Raises ServeError for one that is too large."""
    size = len(json.dumps(schema))
    if size > limits.schema_bytes:
        raise ServeError(
            "invalid",
            f"a JSON schema should have at most {limits.schema_bytes} bytes, got {size}",
            param=param,
        )
    return {"json_schema": schema}
