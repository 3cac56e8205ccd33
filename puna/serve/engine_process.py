"""The process that runs one model for the server: `python -m puna.serve.engine_process 5`.

The number is that of an inherited socket, on which puna.serve.wire is spoken. One thread reads it,
some prepare what is asked (templates, tokens, grammars), and this process's first thread runs the
steps and sends what each gave to all texts in one frame. While nobody reads the other end, sending
waits, and the steps with it: so nothing piles up here. When the other end is closed, the process
ends at once.
"""

from __future__ import annotations

import faulthandler
import functools
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

from puna.errors import BusyError, PunaError
from puna.infer.core import Core
from puna.infer.embedding import Embeddings
from puna.infer.result import Piece
from puna.infer.sequence import Sequence as Text
from puna.serve.errors import ServeError
from puna.serve.served_model import Header, ServedModel, refusal
from puna.serve.wire import FrameReader, Message, frame_of

logger = logging.getLogger("puna.serve.engine")

PREPARING_THREADS = 2
EMBEDDED_AT_ONCE = 16  # texts of one request, so that others get in between
SWITCH_SECONDS = 0.0005  # of Python; with its 5 ms, a long prompt doubles the time of others' steps
_READ_BYTES = 1 << 18


@dataclass
class Request:
    """A `generate` or `embed` under way: its texts, those not over, those not yet submitted."""

    number: int
    texts: list[Text] = field(default_factory=list)
    open: int = 0
    waiting: deque[Text] = field(default_factory=deque)
    is_cancelled: bool = False
    is_embedding: bool = False


class EngineProcess:
    """The loop of the process, and what its threads share."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._due = threading.Condition()
        self._requests: dict[int, Request] = {}
        self._told: list[tuple[Request, Piece]] = []
        self._to_load: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, "puna-prepare")
        self._room = threading.Semaphore(0)  # for requests that are prepared or wait for it
        self._is_draining = False
        self._drains: list[Message] = []  # asked for, and not answered yet
        self._model: ServedModel | None = None

    def run(self) -> NoReturn:
        """Load the model that is asked for, then run its texts until the process ends."""
        threading.Thread(target=self._guarded, args=(self._read,), daemon=True).start()
        self._guarded(self._load_and_step)
        raise AssertionError("it ends the process")

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it; whatever it raises ends the process, in words."""
        try:
            work()
        except OSError:  # the server is gone
            os._exit(0)
        except BaseException:
            logger.exception("the engine ends")
            os._exit(1)

    def _load_and_step(self) -> None:
        model = self._loaded()
        core = model.engine.core
        while True:
            with self._due:
                while not core.has_work:
                    self._due.wait()
            core.step()
            self._hand_over(model, core)

    def _loaded(self) -> ServedModel:
        """The model, once it was opened and loaded; a failure is answered, and ends the process."""
        message = self._to_load.get()
        try:
            header = Header.read(message)
            self._answer(message, {"needed_bytes": header.needed_bytes})
            message = self._to_load.get()
            model = header.load(message)
        except Exception as error:
            if not isinstance(error, PunaError):
                logger.exception("the model cannot be loaded")
            self._send({"id": message["id"], "error": {**refusal(error), "kind": "failed"}})
            os._exit(1)
        self._room.release(message["queue_limit"])
        self._model = model
        self._answer(message, model.describe())
        return model

    def _read(self) -> None:
        frames = FrameReader()
        while content := self._connection.recv(_READ_BYTES):
            for message in frames.feed(content):
                self._take(message)
        os._exit(0)

    def _take(self, message: Message) -> None:
        """Do what takes no time, have the rest done by another thread."""
        match message["ask"]:
            case "open" | "load":
                self._to_load.put(message)
            case "cancel":
                self._cancel(message["of"])
                self._answer(message, {})
            case _ if self._model is None:
                self._refuse(message, ServeError("unavailable", "the model is loading"))
            case "describe":
                self._answer(message, self._model.describe())
            case "metrics":
                self._answer(message, self._model.metrics())
            case "drain":
                self._is_draining = True
                self._drains.append(message)
                self._answer_drains()
            case _:
                self._prepare_later(message)

    def _prepare_later(self, message: Message) -> None:
        if not self._room.acquire(blocking=False):
            return self._refuse(
                message, BusyError("too many requests wait", hint="try again later")
            )
        request = None
        if message["ask"] in ("generate", "embed"):
            if self._is_draining:
                self._room.release()
                return self._refuse(message, ServeError("unavailable", "the server is ending"))
            request = Request(message["id"], is_embedding=message["ask"] == "embed")
            self._requests[request.number] = request
        self._preparing.submit(self._guarded, functools.partial(self._prepare, message, request))
        return None

    def _prepare(self, message: Message, request: Request | None) -> None:
        """Answer, or submit the texts of a request."""
        model = self._model
        assert model is not None
        try:
            if request is not None:
                self._start(model, message, request)
            else:
                answer = {
                    "tokenize": model.tokenize,
                    "detokenize": model.detokenize,
                    "render": model.render,
                }[message["ask"]]
                self._answer(message, answer(message))
        except OSError:
            raise
        except Exception as error:
            if not isinstance(error, PunaError):
                logger.exception("%s failed", message["ask"])
            self._forget(message["id"])
            self._refuse(message, error)
        finally:
            self._room.release()

    def _start(self, model: ServedModel, message: Message, request: Request) -> None:
        """Submit the texts of a request; nothing, where it was cancelled meanwhile."""
        core = model.engine.core

        def listener(piece: Piece) -> None:  # called by the steps
            self._told.append((request, piece))

        if request.is_embedding:
            self._take_texts(request, model.embedded_texts(message, listener))
            request.waiting.extend(request.texts)
            self._submit_some(core, request)
            if not request.texts:
                self._finish_embedding(request)
            return
        texts, started = model.texts(message, listener)
        self._take_texts(request, texts)
        frame = frame_of({"id": request.number, "ok": {"started": started}})
        with self._sending:  # so that no piece goes before it
            core.submit(texts)
            self._connection.sendall(frame)
        with self._due:
            self._due.notify()

    def _take_texts(self, request: Request, texts: list[Text]) -> None:
        with self._due:
            request.texts, request.open = texts, len(texts)
            for text in texts:
                text.is_cancelled = request.is_cancelled

    def _submit_some(self, core: Core, request: Request) -> None:
        """Texts to be embedded, beside some others of the request. Raises BusyError for none."""
        with self._due:
            try:
                while request.waiting and request.open - len(request.waiting) < EMBEDDED_AT_ONCE:
                    core.submit([request.waiting[0]])
                    request.waiting.popleft()
            except BusyError:  # more of them when another has ended
                if request.open == len(request.waiting):
                    raise
            self._due.notify()

    def _hand_over(self, model: ServedModel, core: Core) -> None:
        """Send what the step gave to all texts, and end where it failed."""
        told, self._told = self._told, []
        rows, ended = [], []
        for request, piece in told:
            is_over = piece.result is not None or piece.error is not None
            request.open -= is_over
            if request.is_cancelled:
                continue
            if request.is_embedding:
                self._go_on_embedding(core, request, piece)
                continue
            rows.append(model.row(request.number, request.texts[piece.choice], piece))
            if not request.open:
                ended.append(request.number)
        if rows:
            self._send_rows(rows)
        for number in ended:
            self._forget(number)
        for _request, piece in told:
            if piece.error is not None and not isinstance(piece.error, PunaError):
                raise piece.error

    def _send_rows(self, rows: list[list[Any]]) -> None:
        try:
            self._send({"pieces": rows})
        except ServeError as error:  # too long
            if len(rows) == 1:
                rows = [[*rows[0][:2], "", [], None, {"error": refusal(error)}]]
            for row in rows:
                self._send_rows([row])

    def _go_on_embedding(self, core: Core, request: Request, piece: Piece) -> None:
        try:
            if piece.error is not None:
                raise piece.error
            self._submit_some(core, request)
        except Exception as error:
            self._cancel(request.number)
            self._send({"id": request.number, "error": refusal(error)})
            return
        if not request.open:
            # A large answer takes a second to write.
            self._preparing.submit(self._guarded, lambda: self._finish_embedding(request))

    def _finish_embedding(self, request: Request) -> None:
        means = [text.mean for text in request.texts if text.mean is not None]
        message: Message = {"id": request.number}
        try:
            found = Embeddings.of(means, is_unit=True)
            message["ok"] = {
                "vectors": found.vectors.tolist(),
                "prompt_tokens": found.prompt_tokens,
            }
            frame = frame_of(message)
        except PunaError as error:
            frame = frame_of({"id": request.number, "error": refusal(error)})
        with self._sending:
            self._connection.sendall(frame)
        self._forget(request.number)

    def _cancel(self, number: int) -> None:
        with self._due:
            request = self._requests.get(number)
            if request is None:
                return
            request.is_cancelled = True
            request.waiting.clear()
            for text in request.texts:
                text.is_cancelled = True
            self._due.notify()
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._requests.pop(number, None)
        if self._is_draining:
            self._answer_drains()

    def _answer_drains(self) -> None:
        with self._due:
            if self._requests:
                return
            drains, self._drains = self._drains, []
        for message in drains:
            self._answer(message, {})

    def _answer(self, message: Message, ok: Message) -> None:
        self._send({"id": message["id"], "ok": ok})

    def _refuse(self, message: Message, error: Exception) -> None:
        self._send({"id": message["id"], "error": refusal(error)})

    def _send(self, message: Message) -> None:
        frame = frame_of(message)
        with self._sending:
            self._connection.sendall(frame)


def main() -> NoReturn:
    """Serve the model on the socket whose number is the first argument."""
    logging.basicConfig(format="%(asctime)s engine %(process)d: %(message)s", level=logging.INFO)
    faulthandler.enable()  # where native code fails, the log says in what
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server ends this process when it has drained
    sys.setswitchinterval(SWITCH_SECONDS)
    EngineProcess(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
