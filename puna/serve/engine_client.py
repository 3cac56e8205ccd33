"""An engine process as the HTTP process sees it: asked over a socket, ended, and mourned."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from puna.serve.errors import ServeError
from puna.serve.wire import LONGEST_FRAME_BYTES, FrameReader, Message, frame_of

logger = logging.getLogger("puna.serve")

END_SECONDS = 5  # for a process to end by itself
# -P: the folder the server was started in is not where it imports from. The path is handed on, so
# that the process finds Puna where this one does. The model is there for `ps` alone.
COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from puna.serve.engine_process import main; main()"
)


@dataclass(frozen=True)
class EngineOptions:
    """How an engine process runs its model; EngineSettings of puna.infer says what they mean."""

    backend: str = "auto"
    kv: str = "bf16"
    which: str = "latest"
    tokenizer_path: str | None = None
    context_tokens: int | None = None
    running: int = 64
    queue_limit: int = 256


@dataclass(frozen=True, slots=True)
class Started:
    """A prompt was read and waits for its turn; its ids and text only where `echo_prompt` asked."""

    prompt_tokens: int
    choices: int
    prompt_ids: list[int] | None = None
    prompt_text: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step added to the text `choice`; the last has an `ending`, as puna.serve.wire says."""

    choice: int
    text: str
    ids: list[int]
    logprobs: list[dict[str, Any]] | None
    ending: dict[str, Any] | None


class EngineClient:
    """One engine process and what was asked of it; `described` is what it says of its model.

    Belongs to the event loop that started it. What is under way when the process ends fails at
    once with ServeError (failed). Pieces that nobody takes yet are kept here: at most those of the
    request's max_tokens.
    """

    def __init__(self, name: str, model: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.model = model
        self.described: dict[str, Any] = {}
        self.pid = process.pid
        self._process = process
        self._transport: asyncio.Transport | None = None
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._streams: dict[int, _Parts] = {}
        self._is_ending = False
        self._exited: asyncio.Task[int] | None = None

    @classmethod
    async def spawn(cls, name: str, model: str) -> EngineClient:
        """A process for `model`, which is called `name`; `open` and `load` are to be asked."""
        path = json.dumps(sys.path)
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", COMMAND, str(theirs.fileno()), path, model],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server, which lets it finish
            )
        client = cls(name, model, process)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: _Connection(client), sock=ours)
        return client

    @classmethod
    async def start(cls, model: str, options: EngineOptions | None = None) -> EngineClient:
        """A process with the model loaded. Raises ServeError (failed) where that fails."""
        client = await cls.spawn(model, model)
        try:
            await client.open(options or EngineOptions())
            await client.load(options or EngineOptions())
        except BaseException:
            await client.end()
            raise
        return client

    async def open(self, options: EngineOptions) -> int:
        """Bytes that the model needs at least, by its headers."""
        names = ("backend", "kv", "which", "tokenizer_path", "context_tokens")
        told = {name: getattr(options, name) for name in names}
        opened = await self.ask("open", model=self.model, **told)
        return int(opened["needed_bytes"])

    async def load(self, options: EngineOptions, room_bytes: int | None = None) -> None:
        """Load what was opened, in so much memory; without a bound, in what is free."""
        told = {"running": options.running, "queue_limit": options.queue_limit}
        loaded = await self.ask("load", room_bytes=room_bytes, **told)
        self.described = {"name": self.name, **loaded}

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._transport is not None and not self._is_ending

    async def ask(self, name: str, **fields: Any) -> dict[str, Any]:
        """The answer to one question. Raises the ServeError that it was refused with.

        Cancelling who waits for it cancels what it asked for.
        """
        if name == "describe" and self.described:
            return self.described
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send({"id": number, "ask": name, **fields})
            return await answer
        except asyncio.CancelledError:
            self._cancel(number)
            raise
        finally:
            del self._asked[number]

    async def generate(self, **fields: Any) -> AsyncGenerator[Started | Piece]:
        """A Started, then a Piece for each step and text that had something new.

        The fields are those of `generate` in puna.serve.wire. Raises the ServeError that the
        request is refused with, or that ends one of its texts. Closing the generator, or cancelling
        who waits for it, cancels the texts within one step.
        """
        number = next(self._ids)
        parts = self._streams[number] = _Parts()
        try:
            self._send({"id": number, "ask": "generate", **fields})
            while parts.open:
                yield await parts.next()
        finally:
            del self._streams[number]
            if parts.open:
                self._cancel(number)

    async def end(self) -> None:
        """End the process, and what is under way in it; returns when its memory is free."""
        self._is_ending = True
        if self._transport is not None:
            self._transport.abort()  # which the process takes for its end
        try:
            await asyncio.wait_for(asyncio.shield(self._wait()), END_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._wait()

    def kill(self) -> None:
        """End the process without asking it."""
        self._process.kill()

    def _cancel(self, number: int) -> None:
        with contextlib.suppress(ServeError):  # the process has ended, and the texts with it
            self._send({"id": next(self._ids), "ask": "cancel", "of": number})

    def _send(self, message: Message) -> None:
        if self._transport is None or self._is_ending:
            raise self._ended()
        if self._transport.get_write_buffer_size() > LONGEST_FRAME_BYTES:
            raise ServeError("busy", f"the engine of {self.name} reads nothing now")
        self._transport.write(frame_of(message))

    def _take(self, message: Message) -> None:
        """Hand a message of the process to who waits for it, if anybody does."""
        if "pieces" in message:
            for number, *piece in message["pieces"]:
                if (stream := self._streams.get(number)) is not None:
                    stream.arrived.put_nowait(Piece(*piece))
            return
        number = message["id"]
        refusal = ServeError.from_wire(message["error"]) if "error" in message else None
        if (stream := self._streams.get(number)) is not None:
            stream.arrived.put_nowait(refusal or Started(**message["ok"]["started"]))
        answer = self._asked.get(number)
        if answer is None or answer.done():
            return
        if refusal is not None:
            answer.set_exception(refusal)
        else:
            answer.set_result(message["ok"])

    def _lose(self) -> None:
        """The connection has ended: so has the process, or it does now."""
        self._transport = None
        if not self._is_ending:
            self._process.kill()
            logger.error("the engine of %s (process %d) ended by itself", self.name, self.pid)
        self._wait()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(self._ended())
        for stream in self._streams.values():
            stream.arrived.put_nowait(self._ended())

    def _wait(self) -> asyncio.Task[int]:
        """The process's exit status, once it has ended."""
        if self._exited is None:
            self._exited = asyncio.ensure_future(asyncio.to_thread(self._process.wait))
        return self._exited

    def _ended(self) -> ServeError:
        if self._is_ending:
            return ServeError("unavailable", f"the engine of {self.name} was ended")
        return ServeError(
            "failed", f"the engine of {self.name} ended in the midst of it", hint="try again"
        )


class _Parts:
    """What has arrived of a request, and how many of its texts are open."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[Started | Piece | ServeError] = asyncio.Queue()
        self.open = 1

    async def next(self) -> Started | Piece:
        """The next part. Raises what ended the request or one of its texts."""
        part = await self.arrived.get()
        if isinstance(part, ServeError):
            self.open = 0
            raise part
        if isinstance(part, Started):
            self.open = part.choices
        elif part.ending is not None:
            if "error" in part.ending:
                raise ServeError.from_wire(part.ending["error"])
            self.open -= 1
        return part


class _Connection(asyncio.Protocol):
    """The socket: frames in, whole messages out. What makes no sense ends the connection."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the client its writing end."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = self._client._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand over every message that is whole."""
        try:
            for message in self._frames.feed(data):
                self._client._take(message)
        except (ServeError, AttributeError, LookupError, TypeError, ValueError) as error:
            logger.error("the engine of %s said nonsense: %r", self._client.name, error)
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self._client._lose()
