"""POST /api/embed and /api/embeddings."""

from __future__ import annotations

import math
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from puna.serve.body import JsonRoute
from puna.serve.engine_client import EngineClient
from puna.serve.ollama.naming import meant_name
from puna.serve.ollama.responses import ERRORS, Embedded, OneEmbedded
from puna.serve.ollama.schemas import EmbeddingsRequest, EmbedRequest, require_served
from puna.serve.openai.completions import require_few
from puna.serve.openai.streaming import json_response, unless_client_leaves

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)


@router.post("/api/embed", response_model=Embedded, responses=ERRORS)
async def embed(body: EmbedRequest, request: Request) -> Response:
    """A vector of length 1 for each input, in their order."""
    require_served(body)
    inputs = [body.input] if isinstance(body.input, str) else body.input
    require_few(len(inputs), request.app.state.settings.limits, "input")
    answer = await _vectors(request, body.model, inputs, is_cut=bool(body.truncate))
    embeddings = [_of_length_1(vector) for vector in answer.pop("vectors")]
    return json_response({"model": body.model, "embeddings": embeddings, **answer})


@router.post("/api/embeddings", response_model=OneEmbedded, responses=ERRORS)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """The vector of one text, as the model has it."""
    answer = await _vectors(request, body.model, [body.prompt])
    return json_response({"embedding": answer["vectors"][0]})


async def _vectors(
    request: Request, model: str, texts: list[str], *, is_cut: bool = False
) -> dict[str, Any]:
    pool = request.app.state.pool
    began = time.perf_counter_ns()

    async def embedded() -> dict[str, Any]:
        async with pool.use(meant_name(pool, model)) as client:
            loaded = time.perf_counter_ns()
            inputs: list[dict[str, Any]] = [{"text": text} for text in texts]
            if is_cut:
                inputs = [{"ids": await _cut(client, text)} for text in texts]
            answer = await client.ask("embed", inputs=inputs)
        return {
            "vectors": answer["vectors"],
            "total_duration": time.perf_counter_ns() - began,
            "load_duration": loaded - began,
            "prompt_eval_count": answer["prompt_tokens"],
        }

    return await unless_client_leaves(request, embedded())


async def _cut(client: EngineClient, text: str) -> list[int]:
    answer = await client.ask(
        "tokenize", text=text, add_special=True, parse_special=False, with_pieces=False
    )
    ids: list[int] = answer["ids"]
    return ids[: client.described["context_tokens"]]


def _of_length_1(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [value / length for value in vector] if length else vector
