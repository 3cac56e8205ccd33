"""GET /v1/models: what is served, under which names."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from puna.serve.clients import Pool
from puna.serve.errors import ServeError
from puna.serve.openai.responses import ERRORS, ModelCard, ModelList

router = APIRouter(tags=["OpenAI"])


def served_name(pool: Pool, asked: str | None) -> str:
    """The served model that a request means: where there is one, any name means it.

    Raises ServeError when several are served and none has the name.
    """
    names = pool.names()
    if len(names) == 1:
        return names[0]
    if asked is None:
        raise ServeError(
            "invalid", "model is missing", param="model", hint=f"one of {', '.join(names)}"
        )
    return known_name(pool, asked)


def known_name(pool: Pool, asked: str) -> str:
    """The name itself. Raises ServeError when no model has it."""
    if asked not in pool.names():
        raise ServeError(
            "unknown",
            f"there is no model {asked[:100]!r}",
            param="model",
            code="model_not_found",
            hint=f"one of {', '.join(pool.names())}",
        )
    return asked


@router.get("/v1/models", response_model=ModelList, responses=ERRORS)
async def list_models(request: Request) -> Any:
    """Every model that is served, loaded or not."""
    state = request.app.state
    names = state.pool.names()
    return {"object": "list", "data": [_card(state, name) for name in names]}


@router.get("/v1/models/{model:path}", response_model=ModelCard, responses=ERRORS)
async def show_model(model: str, request: Request) -> Any:
    """One model by its exact name."""
    state = request.app.state
    return _card(state, known_name(state.pool, model))


def _card(state: Any, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": state.started_at,
        "owned_by": "puna",
        "state": state.pool.state(name),
    }
