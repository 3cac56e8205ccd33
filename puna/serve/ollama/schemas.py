"""What Ollama's clients may send, as strict as OpenAI's: nothing that changes an answer is ignored.

Left alone are keep_alive, as the memory budget says what stays loaded, and the options of Ollama's
own runner that change its speed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from puna.serve.errors import ServeError
from puna.serve.openai.schemas import (
    MOST_LOGPROBS,
    MOST_MESSAGES,
    MOST_PROMPTS,
    MOST_TOOLS,
    Choosing,
    Name,
    Strict,
    Tool,
    ToolName,
)

_REFUSED = {
    "template": "the model's own is used; raw: true takes a prompt that is made already",
    "suffix": "the prompt's end is where Puna's models go on",
    "context": "/api/chat takes a conversation",
    "images": "Puna's models read text",
    "think": "Puna's models do not think apart",
    "dimensions": "the vectors are as wide as the model",
}


class Asked(Strict):
    """Base of what a model is asked."""

    model: Name
    keep_alive: str | int | float | None = None


class Options(Choosing):
    """Settings of a text."""

    num_predict: int | None = Field(None, ge=-2, lt=2**31, description="-1 and -2: no limit.")
    num_ctx: int | None = Field(None, ge=1, lt=2**31, description="At most the model's.")
    repeat_last_n: Literal[-1] | None = Field(None, description="Penalties see the whole text.")
    penalize_newline: Literal[True] | None = None
    mirostat: Literal[0] | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    tfs_z: Annotated[float, Field(ge=1, le=1)] | None = None
    vocab_only: Literal[False] | None = None
    embedding_only: Literal[False] | None = None
    logits_all: bool | None = None
    num_keep: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    num_thread: int | None = None
    main_gpu: int | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    numa: bool | None = None


class Written(Asked):
    """What generate and chat share."""

    stream: bool | None = Field(None, description="Default true.")
    format: Literal["", "json"] | dict[str, JsonValue] | None = Field(
        None, description="json, or a JSON schema that the text follows."
    )
    options: Options | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    think: bool | str | None = None

    @property
    def is_stream(self) -> bool:
        """Ollama streams unless it is told not to."""
        return self.stream is not False


class GenerateRequest(Written):
    """POST /api/generate. Without a prompt the model is only loaded."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = Field(None, description="The prompt as it is, without the chat template.")
    template: str | None = None
    suffix: str | None = None
    context: list[int] | None = None
    images: list[str] | None = None


class OllamaFunction(Strict):
    """A call that the assistant made before."""

    name: ToolName
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    index: int | None = None


class OllamaCall(Strict):
    """One of an assistant's calls."""

    function: OllamaFunction
    id: Name | None = None
    type: Literal["function"] | None = None


class OllamaMessage(Strict):
    """Something said; a tool's answer has the tool's name."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: Annotated[list[OllamaCall], Field(max_length=MOST_TOOLS)] | None = None
    tool_name: ToolName | None = None
    tool_call_id: Name | None = None
    images: list[str] | None = None
    thinking: str | None = None


class OllamaChat(Written):
    """POST /api/chat. Without messages the model is only loaded."""

    messages: Annotated[list[OllamaMessage], Field(max_length=MOST_MESSAGES)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None


class EmbedRequest(Asked):
    """POST /api/embed."""

    input: str | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
    truncate: bool | None = Field(
        None, description="Cut what is longer than the context; otherwise that is an error."
    )
    options: Options | None = None
    dimensions: int | None = None


class EmbeddingsRequest(Asked):
    """POST /api/embeddings, the older form."""

    prompt: str
    options: Options | None = None


class ShowRequest(Strict):
    """POST /api/show; `name` is the older name of `model`."""

    model: Name | None = None
    name: Name | None = None
    verbose: bool | None = None


def require_served(request: Strict) -> None:
    """Raises ServeError for a field that would change the answer and is not served."""
    for name, hint in _REFUSED.items():
        if getattr(request, name, None):
            raise ServeError(
                "invalid",
                f"{name} is not supported",
                hint=hint,
                param=name,
                code="unsupported_parameter",
            )
