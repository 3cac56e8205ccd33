"""The page at "/": files of ours, sent as they are, and the training runs whose curves it draws."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from puna.serve.errors import ServeError
from puna.serve.openai.responses import ONLY_READS, Answered

router = APIRouter()

# Nothing is loaded or asked from elsewhere, and no text can become markup: even a bug of the
# page's that lets a model's words through as HTML would be stopped by the browser.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304 by its ETag
}
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_METRICS = "metrics.jsonl"  # puna train's, which train/metrics.py describes
_RUN_DEPTH = 3  # folders below that of --runs
_PART_BYTES = 1 << 20  # about 3,000 steps


@dataclass(frozen=True)
class _PageFile:
    content: bytes
    media_type: str
    etag: str


class RunCard(Answered):
    """A run's folder: when it last wrote (Unix seconds), and how much so far."""

    name: str
    updated: float
    bytes: int


class RunList(Answered):
    """The runs below the folder of `--runs`, the latest first."""

    object: Literal["list"]
    data: list[RunCard]


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    """The page itself; programs that want no HTML look for Ollama here."""
    if "text/html" not in request.headers.get("accept", ""):
        return Response("Ollama is running", media_type="text/plain", headers={"Vary": "Accept"})
    response = _send("index.html", request)
    response.headers["Vary"] = "Accept"
    return response


@router.api_route("/static/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def static(name: str, request: Request) -> Response:
    """One of its files."""
    return _send(name, request)


@router.get("/runs", response_model=RunList, responses=ONLY_READS, tags=["runs"])
def list_runs(request: Request) -> Any:
    """The training runs that the server was told of; none without `--runs`."""
    cards: list[dict[str, Any]] = []
    for name, path in _runs(request.app.state.settings.runs):
        status = path.stat()
        cards.append({"name": name, "updated": status.st_mtime, "bytes": status.st_size})
    cards.sort(key=lambda card: -card["updated"])
    return {"object": "list", "data": cards}


@router.get(
    "/runs/{name:path}/metrics",
    response_class=Response,
    responses={
        **ONLY_READS,
        200: {
            "description": "Lines of metrics.jsonl, each a JSON object",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
            "headers": {
                "Puna-From": {"description": "Where they begin", "schema": {"type": "integer"}},
                "Puna-Next": {"description": "`after` of more", "schema": {"type": "integer"}},
            },
        },
    },
    tags=["runs"],
)
def run_metrics(
    name: str,
    request: Request,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Bytes that are known.")] = 0,
) -> Response:
    """What a run wrote from byte `after` on: whole lines, about a megabyte at most.

    Where the file is shorter than that, it is another run's by now, and sent from its beginning.
    """
    path = dict(_runs(request.app.state.settings.runs)).get(name)
    if path is None:
        message = f"there is no run {name[:100]!r}"
        raise ServeError("unknown", message, param="name", hint="GET /runs lists them")
    with path.open("rb") as file:
        begin = after if after <= os.fstat(file.fileno()).st_size else 0
        file.seek(begin)
        content = file.read(_PART_BYTES) + file.readline(_PART_BYTES)
    lines = content[: content.rfind(b"\n") + 1]  # what is being written waits for its end
    headers = {"Puna-From": str(begin), "Puna-Next": str(begin + len(lines))}
    return Response(lines, media_type="application/x-ndjson", headers=headers)


@cache
def _files() -> dict[str, _PageFile]:
    """The page's files by name, read once: together they are below 200 KB."""
    found = {}
    for entry in (resources.files("puna.serve") / "page").iterdir():
        media_type = _MEDIA_TYPES.get(Path(entry.name).suffix)
        if media_type is not None:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = _PageFile(content, media_type, etag)
    return found


def _send(name: str, request: Request) -> Response:
    file = _files().get(name)
    if file is None:
        raise ServeError("unknown", f"the page has no file {name[:100]!r}")
    headers = {**_HEADERS, "ETag": file.etag}
    known = request.headers.get("if-none-match", "").replace("W/", "")
    if file.etag in [one.strip() for one in known.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _runs(folder: Path | None) -> Iterator[tuple[str, Path]]:
    """Name and metrics file of each run in `folder`, which may be a run itself."""
    if folder is None:
        return
    if (folder / _METRICS).is_file():
        yield folder.resolve().name, folder / _METRICS
        return
    for path in _below(folder, _RUN_DEPTH):
        yield path.parent.relative_to(folder).as_posix(), path


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # not ours to read: the runs beside it still count
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False) or entry.name.startswith("."):
            continue
        metrics = Path(entry) / _METRICS
        if metrics.is_file():
            yield metrics
        elif depth > 1:
            yield from _below(Path(entry), depth - 1)
