"""POST /v1/embeddings: a text's meaning as the mean of its hidden states."""

from __future__ import annotations

import array
import base64
import sys
from typing import Any

from fastapi import APIRouter, Request, Response

from puna.serve.body import JsonRoute
from puna.serve.openai.completions import prompts_of, require_few
from puna.serve.openai.models import served_name
from puna.serve.openai.responses import ERRORS, EmbeddingList
from puna.serve.openai.schemas import EmbeddingRequest
from puna.serve.openai.streaming import json_response, unless_client_leaves

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


@router.post("/v1/embeddings", response_model=EmbeddingList, responses=ERRORS)
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """A vector for each input, in their order; base64 is of little-endian float32."""
    state = request.app.state
    model = served_name(state.pool, body.model)
    inputs = prompts_of(body.input)
    require_few(len(inputs), state.settings.limits, "input")

    async def embedded() -> dict[str, Any]:
        async with state.pool.use(model) as client:
            return dict(await client.ask("embed", inputs=inputs))

    answer = await unless_client_leaves(request, embedded())
    is_base64 = body.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64_of(vector) if is_base64 else vector,
        }
        for index, vector in enumerate(answer["vectors"])
    ]
    tokens = answer["prompt_tokens"]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": model, "usage": usage})


def base64_of(vector: list[float]) -> str:
    """The vector's little-endian float32 in base64."""
    values = array.array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()
