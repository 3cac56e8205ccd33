"""The application: every route, and one shape for everything that goes wrong."""

from __future__ import annotations

import logging
import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import puna
from puna.serve import guard, health, metrics, page_routes, tokenizing
from puna.serve.access_log import AccessLog, RequestRecord
from puna.serve.body import as_serve_error
from puna.serve.clients import Pool
from puna.serve.errors import Kind, ServeError
from puna.serve.guard.gate import error_response
from puna.serve.ollama import embeddings as ollama_embeddings
from puna.serve.ollama import models as ollama_models
from puna.serve.ollama import writing as ollama_writing
from puna.serve.openai import chat, completions, embeddings, models
from puna.serve.openai.streaming import ClientLeftError
from puna.serve.settings import ServeSettings

logger = logging.getLogger("puna.serve")

_ROUTERS = (
    models.router,
    chat.router,
    completions.router,
    embeddings.router,
    tokenizing.router,
    ollama_models.router,
    ollama_writing.router,
    ollama_embeddings.router,
    health.router,
    metrics.router,
    page_routes.router,
)
_KINDS: dict[int, Kind] = {404: "unknown", 405: "method", 413: "large", 415: "media"}
_CLIENT_LEFT = 499  # nginx's number, for the log: nobody reads it


def build_app(settings: ServeSettings, pool: Pool) -> FastAPI:
    """The ASGI application that answers with the pool's models.

    FastAPI's own pages of documentation are left out: they load their scripts from elsewhere.
    """
    app = FastAPI(
        title="Puna",
        version=puna.__version__,
        description="OpenAI's and Ollama's routes in front of LLaMA models",
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings, app.state.metrics = settings, metrics.Metrics()
    app.state.pool = metrics.MeteredPool(pool, app.state.metrics)
    app.state.started_at = int(time.time())
    for router in _ROUTERS:
        app.include_router(router)
    app.add_exception_handler(ServeError, _answer_serve_error)
    app.add_exception_handler(RequestValidationError, _answer_wrong_body)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientLeftError, _answer_nobody)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_bug)
    _complete_document(app)
    guard.install(app, settings)
    notes = [app.state.metrics.note_response]
    if settings.access_log is not None:
        notes.append(AccessLog(settings.access_log).note)
    app.add_middleware(RequestRecord, notes=notes)  # outermost: it sees refusals, too
    return app


async def _answer_serve_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServeError)
    return error_response(error, request.url.path)


async def _answer_wrong_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(as_serve_error(error), request.url.path)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, not this method."""
    assert isinstance(error, HTTPException)
    kind = _KINDS.get(error.status_code, "failed" if error.status_code >= 500 else "invalid")
    message = f"{request.method} {request.url.path}: {error.detail}"
    response = error_response(ServeError(kind, message), request.url.path)
    response.headers.update(error.headers or {})
    return response


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_LEFT)


async def _answer_bug(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    failure = ServeError("failed", "the server failed; its log says why")
    response = error_response(failure, request.url.path)
    response.headers["X-Request-Id"] = request.state.request_id
    return response


def _complete_document(app: FastAPI) -> None:
    """Take FastAPI's own 422 out of the OpenAPI document: a wrong body is a 400 here."""
    make = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return app.openapi_schema or document

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way
