"""Chat templates: a conversation becomes one text, by a Jinja template that came with the model.

The template runs in a process of its own, in Jinja's sandbox, with a limit of time, memory and
text. The process starts with the first conversation (a tenth of a second) and stays; a template
that does not end in time is ended with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from puna.errors import TokenizerError

RENDER_SECONDS = 2  # the longest template in use takes ten milliseconds
_START_SECONDS = 30
_LONGEST_ANSWER = 32 << 20  # bytes; the worker stops long before
_WORKER = Path(__file__).with_name("chat_worker.py")
# -P: the worker's own folder is not where it imports from. The path is handed on, so that it finds
# Jinja where this process does.
_BOOT = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)


class ChatTemplate:
    """A template that renders conversations; `where` names its file in messages.

    Safe to use from several threads; one conversation is rendered at a time.
    """

    def __init__(self, source: str, where: str) -> None:
        self.source = source
        self._where = where
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def render(self, **variables: Any) -> str:
        """The text of a conversation.

        `variables` are what the template sees: messages, tools, add_generation_prompt, bos_token
        and so on, of the types that JSON has. Raises TokenizerError when the template is broken or
        refuses the conversation, and when it takes more than two seconds, 512 MB or four million
        characters.
        """
        try:
            request = json.dumps(
                {"template": self.source, "variables": variables, "seconds": RENDER_SECONDS}
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise TokenizerError(
                f"a conversation should be made of JSON's types: {error}"
            ) from None
        with self._lock:
            if self._worker is None or not self._worker.is_ours():
                self._worker = _Worker(self._where)
            try:
                answer = self._worker.ask(request)
            except BaseException:
                self._worker = None
                raise
        text = answer.get("text")
        if not isinstance(text, str):
            raise TokenizerError(f"{self._where}: the chat template failed: {answer.get('error')}")
        return text


class _Worker:
    """The process that renders. It ends when this object does, or when this process does."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, str(_WORKER), json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._end = weakref.finalize(self, _end, self._process, self._owner)
        if self._answer_within(_START_SECONDS, b"") is None:
            raise TokenizerError(
                f"{where}: the process for chat templates does not start",
                hint="is jinja2 installed? pip install --upgrade puna",
            )

    def is_ours(self) -> bool:
        """Whether the process runs, and was started by this one and not before a fork."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, request: bytes) -> dict[str, Any]:
        """The answer to a request. Raises TokenizerError when there is none in time."""
        answer = self._answer_within(RENDER_SECONDS, request)
        if answer is None:
            raise TokenizerError(
                f"{self._where}: the chat template did not end well within {RENDER_SECONDS} "
                "seconds and 512 MB",
                hint="it may be made to use a machine up; give another --chat-template",
            )
        return answer

    def _answer_within(self, seconds: float, request: bytes) -> dict[str, Any] | None:
        """What the process says; None when it is ended or ends by itself first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.start()
        try:
            if request:
                self._process.stdin.write(request + b"\n")
                self._process.stdin.flush()
            content = self._process.stdout.readline(_LONGEST_ANSWER)
        except OSError:  # the pipe is broken
            content = b""
        finally:
            watchdog.cancel()
        if not content.endswith(b"\n"):
            self._end()
            return None
        answer: dict[str, Any] = json.loads(content)
        return answer


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End the process and take it off the system's list; a forked copy leaves it alone."""
    if owner != os.getpid():
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            _close(pipe)
    process.wait()


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:  # what was not written yet has no reader any more
        return
