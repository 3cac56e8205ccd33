"""What OpenAI's clients may send: strict types, hard caps, and nothing unknown.

A field that cannot change the answer is taken and left alone (`Ignored`); one that would change it
and is not served is refused by name (`UNSUPPORTED`), unless it is null.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

MOST_STOPS, LONGEST_STOP, MOST_BIASES, MOST_LOGPROBS = 32, 1024, 1024, 20
MOST_CHOICES, MOST_MESSAGES, MOST_TOOLS, MOST_PROMPTS = 128, 4096, 128, 2048
LONGEST_NAME = 256
LONGEST_GRAMMAR = 256 << 10  # characters

# Fields of OpenAI's and of other servers that would change the answer -> what to do instead.
UNSUPPORTED = {
    "audio": "Puna's models write text",
    "web_search_options": "give a tool that searches",
    "function_call": "tool_choice",
    "functions": "tools",
    "reasoning_effort": "chat_template_kwargs, where the model's template has such a variable",
    "verbosity": "say it in a system message",
    "moderation": "send the answer to a moderation model",
    "suffix": "the prompt's end is where Puna's models go on",
    "dimensions": "the vectors are as wide as the model",
    "guided_json": "response_format",
    "guided_grammar": "grammar",
    "guided_regex": "grammar",
    "guided_choice": "grammar",
}

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
StopText = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Bias = Annotated[float, Field(ge=-100, le=100)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Strict(BaseModel):
    """Base of every request: no conversion of types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class Ignored(Strict):
    """Fields that cannot change the answer: taken, and left alone."""

    user: str | None = None
    metadata: dict[str, JsonValue] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    keep_alive: str | int | float | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prediction: dict[str, JsonValue] | None = Field(None, description="It is for speed alone.")
    cache_prompt: bool | None = Field(
        None, description="Prefixes are always kept; that changes the speed and never the text."
    )


class StreamOptions(Strict):
    """What a stream has beside its text."""

    include_usage: bool | None = Field(None, description="A last chunk with the usage.")
    include_obfuscation: bool | None = None


class Choosing(Strict):
    """How tokens are chosen, as OpenAI's, llama.cpp's and Ollama's clients name it alike; what is
    absent is as `puna generate` has it."""

    seed: int | None = Field(None, ge=-1, lt=2**63, description="-1: another each time.")
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    temperature: float | None = Field(None, ge=0, le=1000, description="Default 0.8; 0 is greedy.")
    top_p: float | None = Field(None, ge=0, le=1, description="Default 0.95; 0 is greedy.")
    top_k: int | None = Field(None, ge=-1, lt=2**31, description="0 and -1 are off.")
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repeat_penalty: float | None = Field(None, ge=0.01, le=100)


class Sampling(Ignored, Choosing):
    """Fields that chat and completions share."""

    model: Name | None = Field(
        None, description="One of /v1/models; where one model is served, any name means it."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=100, description="vLLM's name of repeat_penalty."
    )
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias] | None = Field(
        None, max_length=MOST_BIASES, description="Token ids and what is added to their logits."
    )
    ignore_eos: bool | None = None
    draft_tokens: int | None = Field(
        None, ge=0, le=32, description="Guesses a step; changes the speed and never the text."
    )
    grammar: str | None = Field(
        None, min_length=1, max_length=LONGEST_GRAMMAR, description="Lark, as llguidance reads it."
    )


class TextPart(Strict):
    """A part of a message. Images and sounds are refused: the models read text."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_MESSAGES)]


class CalledFunction(Strict):
    """A call that the assistant made before: `arguments` is JSON in a string."""

    name: ToolName
    arguments: str
    parsed_arguments: JsonValue = None  # what openai-python makes of them, and sends back


class ToolCall(Strict):
    """One of an assistant's calls."""

    id: Name
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # chunks have it; who joins them may send it back


class SystemMessage(Strict):
    """What the model is told before the talk; `developer` is OpenAI's newer name."""

    role: Literal["system", "developer"]
    content: Content
    name: Name | None = None


class UserMessage(Strict):
    """What the person says."""

    role: Literal["user"]
    content: Content
    name: Name | None = None


class AssistantMessage(Strict):
    """What the model said, with the fields that our answers have and clients send back."""

    role: Literal["assistant"]
    content: Content | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS)] | None = None
    refusal: str | None = None
    audio: None = None
    function_call: None = None
    parsed: JsonValue = None  # what openai-python makes of the content
    annotations: list[JsonValue] | None = None


class ToolMessage(Strict):
    """What a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Name
    name: Name | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]


class Function(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = Field(
        None, description="Calls that are required or named always follow their schema."
    )


class Tool(Strict):
    """A tool; there are only functions."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """The name of a function."""

    name: ToolName


class NamedTool(Strict):
    """`tool_choice` of one tool."""

    type: Literal["function"]
    function: NamedFunction


class PlainText(Strict):
    """`response_format` of an answer in any form."""

    type: Literal["text"]


class JsonObject(Strict):
    """`response_format` of an answer that is a JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Strict):
    """A JSON schema with its name; it is always followed, `strict` or not."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=(), title="Schema")

    name: ToolName
    description: str | None = None
    schema_: dict[str, JsonValue] = Field(alias="schema")
    strict: bool | None = None


class JsonSchema(Strict):
    """`response_format` of an answer that follows a JSON schema."""

    type: Literal["json_schema"]
    json_schema: SchemaFormat


ResponseFormat = Annotated[PlainText | JsonObject | JsonSchema, Field(discriminator="type")]


class Templated(Strict):
    """How a conversation becomes a prompt."""

    messages: Messages = Field(description="The conversation; contents are texts.")
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = Field(
        None, description="Functions that the model may call."
    )
    chat_template_kwargs: dict[str, JsonValue] | None = Field(
        None, description="Variables for the model's chat template."
    )
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = Field(
        None, description="Go on with the last message, which the assistant began."
    )


class ChatRequest(Sampling, Templated):
    """POST /v1/chat/completions."""

    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    modalities: list[Literal["text"]] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    response_format: ResponseFormat | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None


Prompt = (
    str
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
    | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
    | TokenIds
)


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: Prompt = Field(description="A text, texts, token ids, or lists of token ids.")
    max_tokens: int | None = Field(None, ge=0, lt=2**31, description="Default 16, as OpenAI's.")
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    best_of: int | None = Field(
        None, ge=1, le=MOST_CHOICES, description="Only as n: no text is made and thrown away."
    )
    response_format: ResponseFormat | None = None


class EmbeddingRequest(Ignored):
    """POST /v1/embeddings: each vector is the mean of a text's hidden states."""

    model: Name | None = None
    input: Prompt = Field(description="A text, texts, token ids, or lists of token ids.")
    encoding_format: Literal["float", "base64"] | None = None
