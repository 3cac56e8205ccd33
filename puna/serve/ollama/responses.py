"""What Ollama's routes answer, for the OpenAPI document: the answers themselves are plain JSON."""

from __future__ import annotations

from typing import Any, Literal

from puna.serve.openai import responses as openai
from puna.serve.openai.responses import Answered


class OllamaError(Answered):
    """The body of every status but 200."""

    error: str


class Durations(Answered):
    """The end of an answer; times are nanoseconds."""

    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class Line(Durations):
    """A line of an answer, or all of it."""

    model: str
    created_at: str
    done: bool
    logprobs: list[openai.ChatLogprob] | None = None


class GenerateLine(Line):
    """Of /api/generate."""

    response: str


class MadeFunction(Answered):
    """What is called, and with what."""

    name: str
    arguments: dict[str, Any]


class MadeCall(Answered):
    """A tool that the model calls."""

    id: str
    function: MadeFunction


class SaidMessage(Answered):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[MadeCall] | None = None


class ChatLine(Line):
    """Of /api/chat."""

    message: SaidMessage


class Embedded(Answered):
    """Of /api/embed: vectors of length 1."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OneEmbedded(Answered):
    """Of /api/embeddings: the vector as the model has it."""

    embedding: list[float]


class Details(Answered):
    """Of a model; empty while it is not loaded."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(Answered):
    """A model in a list. The digest is of its files' names, sizes and times, not of their bytes."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    expires_at: str | None = None
    size_vram: int | None = None
    context_length: int | None = None


class OllamaModels(Answered):
    """Several."""

    models: list[OllamaModel]


class Shown(Answered):
    """All about a model."""

    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, str | int | None]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(Answered):
    """Puna's."""

    version: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**error, "model": OllamaError} for status, error in openai.ERRORS.items()
}
ONLY_READS = {status: ERRORS[status] for status in openai.ONLY_READS}


def lines_of(line: type[Answered]) -> dict[str, Any]:
    """The 200 of a route that streams lines, or answers in one."""
    schema = {"type": "string", "description": f"A {line.__name__} a line."}
    return {
        "description": "The answer, or a stream of its lines",
        "content": {"application/x-ndjson": {"schema": schema}},
    }
