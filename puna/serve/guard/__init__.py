"""What stands before the routes: who may call, in what form, and how much of the server one call
may hold. Each check is a function of the request's head; `install` puts them in their order."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from puna.serve.guard import cors
from puna.serve.guard.api_key import KeyCheck
from puna.serve.guard.body_limit import BodyLimit
from puna.serve.guard.content_type import require_json
from puna.serve.guard.gate import Check, Gate
from puna.serve.guard.host import HostCheck
from puna.serve.settings import ServeSettings


def install(app: FastAPI, settings: ServeSettings) -> None:
    """Put the guard around the application's routes. Raises ConfigError for origins that are none.

    From outside in: the Host header, CORS (whose preflights carry no key), the key, the Origin, the
    body's form, its size, and how many there are. A refusal costs no more than a request's head.
    """
    cors.require_origins(settings)
    app.add_middleware(
        BodyLimit,
        limits=settings.limits,
        most_answered=(settings.running + settings.queue_limit) * len(settings.models),
        is_kept=settings.log_prompts,
    )
    inner: list[Check] = [KeyCheck(settings.api_keys), cors.OriginCheck(settings), require_json]
    app.add_middleware(Gate, checks=inner)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # the OpenAI client for JavaScript sends many of its own
            allow_credentials=False,
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(Gate, checks=[HostCheck(settings)])
