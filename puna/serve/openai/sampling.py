"""From a request's fields to what an engine process is asked: sampling and constraints."""

from __future__ import annotations

import json
from typing import Any

from puna.serve.errors import ServeError
from puna.serve.openai.schemas import Choosing, JsonObject, JsonSchema, PlainText, Sampling
from puna.serve.settings import RequestLimits

Constraint = dict[str, Any]

NO_LIMIT = 2**31 - 1  # of tokens: to the context's end
_OWN = ("n", "logit_bias", "ignore_eos", "draft_tokens", "repetition_penalty")
_LEAST_TOP_P = 1e-30  # the likeliest token alone, which OpenAI's 0 means


def sampling_fields(request: Sampling) -> dict[str, Any]:
    """SamplingParams' fields that the request gives, under their names there, all of JSON's types.

    Raises ServeError for fields that contradict each other.
    """
    if request.stream_options is not None and not request.stream:
        raise ServeError(
            "invalid", "stream_options is only for stream: true", param="stream_options"
        )
    if request.repeat_penalty is not None and request.repetition_penalty is not None:
        message = "repeat_penalty and repetition_penalty are the same, found both"
        raise ServeError("invalid", message, param="repeat_penalty")
    return {**choosing_fields(request), **request.model_dump(include=set(_OWN), exclude_none=True)}


def choosing_fields(request: Choosing) -> dict[str, Any]:
    """Those of them that Ollama's clients know, too."""
    fields = request.model_dump(include=set(Choosing.model_fields), exclude_none=True)
    if "repeat_penalty" in fields:
        fields["repetition_penalty"] = fields.pop("repeat_penalty")
    if "top_p" in fields:
        fields["top_p"] = max(fields["top_p"], _LEAST_TOP_P)
    if "top_k" in fields:
        fields["top_k"] = max(fields["top_k"], 0)
    if fields.get("seed") == -1:
        del fields["seed"]
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    return fields


def logprob_fields(logprobs: bool | None, top_logprobs: int | None) -> dict[str, int]:
    """Chat's fields as SamplingParams'. Raises ServeError for the second without the first."""
    if top_logprobs is not None and not logprobs:
        raise ServeError("invalid", "top_logprobs needs logprobs: true", param="top_logprobs")
    return {"logprobs": top_logprobs or 0} if logprobs else {}


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
