"""Text to tokens and back, as vLLM's, llama.cpp's and lm-eval's clients ask for it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from puna.serve.body import JsonRoute
from puna.serve.errors import ServeError
from puna.serve.openai.conversation import conversation_prompt
from puna.serve.openai.models import served_name
from puna.serve.openai.responses import (
    ERRORS,
    ONLY_READS,
    DetokenizedText,
    RenderedText,
    TokenizerInfo,
    Tokens,
)
from puna.serve.openai.schemas import Name, Strict, Templated, TokenId

router = APIRouter(tags=["tokens"], route_class=JsonRoute)


class TokenizeRequest(Strict):
    """The text is `prompt` (vLLM) or `content` (llama.cpp)."""

    model: Name | None = None
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool | None = Field(None, description="BOS first; vLLM's default, true.")
    add_special: bool | None = Field(None, description="llama.cpp's name; its default, false.")
    parse_special: bool | None = Field(
        None,
        description="Whether text that spells a control token becomes it; default true with "
        "prompt, as lm-eval asks for the id of BOS, and false with content.",
    )
    with_pieces: bool | None = None


class DetokenizeRequest(Strict):
    """Token ids."""

    model: Name | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]


class TemplateRequest(Templated):
    """A conversation."""

    model: Name | None = None


@router.post("/tokenize", response_model=Tokens, responses=ERRORS)
async def tokenize(body: TokenizeRequest, request: Request) -> Any:
    """The token ids of a text."""
    if (body.prompt is None) == (body.content is None):
        raise ServeError("invalid", "one of prompt and content is wanted", param="prompt")
    if body.add_special_tokens is not None and body.add_special is not None:
        message = "add_special and add_special_tokens are the same, found both"
        raise ServeError("invalid", message, param="add_special")
    asked = body.add_special if body.add_special_tokens is None else body.add_special_tokens
    is_vllm_s = body.prompt is not None
    add_special = is_vllm_s if asked is None else asked
    parse_special = is_vllm_s if body.parse_special is None else body.parse_special
    pool = request.app.state.pool
    async with pool.use(served_name(pool, body.model)) as client:
        answer = await client.ask(
            "tokenize",
            text=body.content if body.prompt is None else body.prompt,
            add_special=add_special,
            parse_special=parse_special,
            with_pieces=bool(body.with_pieces),
        )
        most = client.described["context_tokens"]
    tokens = answer["ids"]
    if body.with_pieces:
        tokens = [
            {"id": one["id"], "piece": one["text"], "bytes": one["bytes"]}
            for one in answer["pieces"]
        ]
    return {"tokens": tokens, "count": len(tokens), "max_model_len": most}


@router.post("/detokenize", response_model=DetokenizedText, responses=ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request) -> Any:
    """The text of token ids."""
    pool = request.app.state.pool
    async with pool.use(served_name(pool, body.model)) as client:
        answer = await client.ask("detokenize", ids=body.tokens)
    return {"prompt": answer["text"], "content": answer["text"]}


@router.post("/apply-template", response_model=RenderedText, responses=ERRORS)
async def apply_template(body: TemplateRequest, request: Request) -> Any:
    """The prompt that a conversation becomes."""
    pool = request.app.state.pool
    async with pool.use(served_name(pool, body.model)) as client:
        answer = await client.ask("render", **conversation_prompt(client, body))
    return {"prompt": answer["text"]}


@router.get("/tokenizer_info", response_model=TokenizerInfo, responses=ONLY_READS)
async def tokenizer_info(
    request: Request, model: Annotated[str | None, Query(max_length=256)] = None
) -> Any:
    """The marks and the template of a model's tokenizer."""
    pool = request.app.state.pool
    name = served_name(pool, model)
    async with pool.use(name) as client:
        described = client.described
    return {
        "bos_token": described["bos"],
        "eos_token": described["eos"],
        "chat_template": described["chat_template"],
        "vocabulary_size": described["vocabulary_size"],
        "max_model_len": described["context_tokens"],
        "model": name,
    }
