"""GET /api/tags, /api/ps and /api/version, POST /api/show."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path
from stat import S_ISREG
from typing import Any

from fastapi import APIRouter, Request

import puna
from puna.errors import PunaError
from puna.serve.body import JsonRoute
from puna.serve.errors import ServeError
from puna.serve.ollama.naming import meant_name, tagged, timestamp
from puna.serve.ollama.responses import (
    ERRORS,
    ONLY_READS,
    OllamaModels,
    OllamaVersion,
    Shown,
)
from puna.serve.ollama.schemas import ShowRequest
from puna.weights.cache import Cache
from puna.weights.registry import is_name

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)

_NEVER = "9999-12-31T00:00:00Z"  # no time unloads a model, only want of memory does
_UNKNOWN: dict[str, Any] = {"path": "", "parameters": 0, "file_type": ""}


@router.get("/api/version", response_model=OllamaVersion, responses={403: ERRORS[403]})
async def version() -> Any:
    """Of Puna, not of Ollama."""
    return {"version": puna.__version__}


@router.get(
    "/api/tags",
    response_model=OllamaModels,
    response_model_exclude_none=True,
    responses=ONLY_READS,
)
async def tags(request: Request) -> Any:
    """Every model that is served, with its files' size; details of those that are loaded."""
    pool = request.app.state.pool
    return {"models": [await _listed(request, name) for name in pool.names()]}


@router.get(
    "/api/ps", response_model=OllamaModels, response_model_exclude_none=True, responses=ONLY_READS
)
async def loaded(request: Request) -> Any:
    """The models that are loaded."""
    pool = request.app.state.pool
    names = [name for name in pool.names() if pool.state(name) == "ready"]
    return {"models": [await _listed(request, name) | await _running(pool, name) for name in names]}


@router.post("/api/show", response_model=Shown, responses=ERRORS)
async def show(body: ShowRequest, request: Request) -> Any:
    """All about a model, which is loaded for it."""
    asked = body.model or body.name
    if asked is None:
        raise ServeError("invalid", "model is missing", param="model")
    pool = request.app.state.pool
    name = meant_name(pool, asked, is_exact=True)
    async with pool.use(name) as client:
        described = client.described
    return {
        "modelfile": f"# Puna serves this model; it has no Modelfile\nFROM {name}\n",
        "parameters": "",
        "template": described["chat_template"] or "",
        "details": _details(described),
        "model_info": {
            "general.architecture": "llama",
            "general.parameter_count": described["parameters"],
            "llama.context_length": described["context_tokens"],
            "llama.embedding_length": described["embedding_size"],
            "llama.vocab_size": described["vocabulary_size"],
        },
        "capabilities": ["completion", "embedding", *_tools(described)],
        "modified_at": timestamp(request.app.state.started_at),
    }


async def _listed(request: Request, name: str) -> dict[str, Any]:
    state = request.app.state
    described = await _described(state.pool, name)
    return {
        "name": tagged(name),
        "model": tagged(name),
        **await asyncio.to_thread(_on_disk, name, state.settings.models[name], state.started_at),
        "details": _details(described),
    }


def _on_disk(name: str, model: str, started_at: float) -> dict[str, Any]:
    """What its files take, when the last of them changed, and a digest that changes with them.

    Of their names, sizes and times: to read gigabytes would take a minute.
    """
    path = Path(model)
    with contextlib.suppress(PunaError):  # not pulled yet
        path = Cache().locate(model).path if is_name(model) and not os.path.exists(path) else path
    digest, size, changed_at = hashlib.sha256(name.encode()), 0, 0.0
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        with contextlib.suppress(OSError):  # a run's old checkpoint goes while its folder is read
            stat = file.stat()
            if not S_ISREG(stat.st_mode):
                continue
            size, changed_at = size + stat.st_size, max(changed_at, stat.st_mtime)
            digest.update(f"\n{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    modified_at = timestamp(changed_at or started_at)
    return {"modified_at": modified_at, "size": size, "digest": digest.hexdigest()}


async def _running(pool: Any, name: str) -> dict[str, Any]:
    described = await _described(pool, name)
    return {
        "expires_at": _NEVER,
        "size": described.get("memory_bytes", 0),
        "size_vram": 0,
        "context_length": described.get("context_tokens", 0),
    }


async def _described(pool: Any, name: str) -> dict[str, Any]:
    """What is known of a model without loading it."""
    if pool.state(name) != "ready":
        return _UNKNOWN
    async with pool.use(name) as client:
        described: dict[str, Any] = client.described
    return described


def _details(described: dict[str, Any]) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": Path(described["path"]).suffix.removeprefix("."),
        "family": "llama",
        "families": ["llama"],
        "parameter_size": _short(described["parameters"]),
        "quantization_level": described["file_type"] or "",
    }


def _tools(described: dict[str, Any]) -> list[str]:
    """Tools are called by models that can talk; a template that knows none is told in words."""
    return ["tools"] if described["has_chat_template"] else []


def _short(count: int) -> str:
    """A count of parameters as in the names of models: 134.5M, 6.7B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count) if count else ""
