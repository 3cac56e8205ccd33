"""What the routes answer, for the OpenAPI document: the answers themselves are plain JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answered(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorDetail(Answered):
    """What went wrong. A prompt that is too long has its length and the context's."""

    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class ErrorBody(Answered):
    """The body of every status but 200."""

    error: ErrorDetail


class ModelCard(Answered):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    state: Literal["loading", "ready", "unloaded", "failed"]


class ModelList(Answered):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]


class PromptDetails(Answered):
    """How much of the prompts was found computed."""

    cached_tokens: int


class Usage(Answered):
    """Tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(Answered):
    """llama.cpp's: computed and found tokens of the prompts, tokens made, and their rates."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float


class TopLogprob(Answered):
    """A token that was likely."""

    token: str
    bytes: list[int] | None
    logprob: float


class ChatLogprob(TopLogprob):
    """A token of a message."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answered):
    """The tokens of a message with their log-probabilities in nats."""

    content: list[ChatLogprob]
    refusal: None


class CalledFunction(Answered):
    """`arguments` is JSON in a string."""

    name: str
    arguments: str


class ToolCall(Answered):
    """A call that the model wants made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Answered):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


FinishReason = Literal["stop", "length", "tool_calls"]


class ChatChoice(Answered):
    """One of the n answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Answered):
    """A finished answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class FunctionDelta(Answered):
    """The name comes with the call's first part; the parts of `arguments` are to be joined."""

    name: str | None = None
    arguments: str


class ToolCallDelta(Answered):
    """A part of a call in a chunk: the first has its id, the others go on with its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatDelta(Answered):
    """What a chunk adds to a message; empty in its last."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Answered):
    """Which of the n answers goes on, and how."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Answered):
    """An event of a stream; the last has the usage, where it was asked for, and no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None


class Logprobs(Answered):
    """A text's tokens; a prompt's first has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answered):
    """One of the texts: those of a prompt follow one another."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None = Field(
        description="null in the chunks of a text that goes on"
    )


class Completion(Answered):
    """A finished answer, and in a stream each of its chunks."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    timings: Timings | None = None


class Embedding(Answered):
    """One input's vector: numbers, or their float32 bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answered):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answered):
    """The vectors in the inputs' order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class TokenPiece(Answered):
    """A token with its text and bytes; `piece` is llama.cpp's name of the text."""

    id: int
    piece: str
    bytes: list[int]


class Tokens(Answered):
    """Token ids of a text, as vLLM and llama.cpp answer; with pieces where asked for."""

    tokens: list[int] | list[TokenPiece]
    count: int
    max_model_len: int


class DetokenizedText(Answered):
    """The text under both names that clients know."""

    prompt: str
    content: str


class RenderedText(Answered):
    """The prompt that a conversation becomes."""

    prompt: str


class TokenizerInfo(Answered):
    """What evaluation harnesses ask of a tokenizer."""

    bos_token: str | None
    eos_token: str | None
    chat_template: str | None
    vocabulary_size: int
    max_model_len: int
    model: Annotated[str, Field(description="The served model's name.")]


_MEANINGS = {
    400: "A field that cannot be served, or a prompt that is too long",
    401: "No API key, or a wrong one",
    403: "A Host or Origin that is not allowed",
    404: "No such model",
    408: "The request did not arrive in time",
    413: "The body is too large",
    415: "The body is not application/json",
    429: "Too many requests wait; Retry-After says when to try again",
    500: "The engine failed",
    503: "Loading or draining",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": meaning} for status, meaning in _MEANINGS.items()
}
ONLY_READS: dict[int | str, dict[str, Any]] = {
    status: ERRORS[status] for status in (400, 401, 403, 404, 500, 503)
}


def _with_stream(chunk: type[BaseModel], what: str) -> dict[str, Any]:
    """The 200 of a route that also streams chunks; its schema is that of each event."""
    data = {"type": "string", "description": f"A {chunk.__name__} in JSON; of the last, [DONE]."}
    schema = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {"description": what, "content": {"text/event-stream": {"schema": schema}}}


CHAT_STREAM = _with_stream(ChatCompletionChunk, "A message, or a stream of its chunks")
COMPLETION_STREAM = _with_stream(Completion, "Texts, or a stream of their chunks")
