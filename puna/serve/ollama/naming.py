"""Ollama's names of models, name:tag, where the tag `latest` may be left out."""

from __future__ import annotations

from datetime import UTC, datetime

from puna.serve.clients import Pool
from puna.serve.openai.models import known_name, served_name

_LATEST = ":latest"


def meant_name(pool: Pool, asked: str, *, is_exact: bool = False) -> str:
    """The served model that a request means; where there is one, any name, unless `is_exact`.

    Raises ServeError when none has the name.
    """
    spellings = (asked, asked.removesuffix(_LATEST), asked + _LATEST)
    found = next((one for one in spellings if one in pool.names()), asked)
    return known_name(pool, found) if is_exact else served_name(pool, found)


def tagged(name: str) -> str:
    """The name with its tag."""
    return name if ":" in name else name + _LATEST


def timestamp(seconds: float) -> str:
    """Unix seconds as Ollama writes them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
