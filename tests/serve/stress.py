"""Many clients at once against `puna serve`: good ones, rude ones and those that talk nonsense."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serve.raw_http import head

from puna.infer.engine import Engine
from puna.infer.sampling_params import SamplingParams

PROMPTS = ("The llama", "In 1532", "def herd", "Un r\u00edo corre", "Once upon a time", "Spring is")
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True)
class Answer:
    """What came back, without the transfer's coding, and how long it took."""

    status: int
    headers: str
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Ask:
    """A request, and what an answer of 200 has to say: `read` makes it comparable."""

    request: bytes
    expected: Any
    read: Callable[[bytes], Any]


def asks_of(engine: Engine, tokens: int) -> list[Ask]:
    """Requests of every kind, answered by the engine itself."""
    asks = []
    for seed, prompt in enumerate(PROMPTS):
        sampled = {"max_tokens": tokens, "temperature": 0.9, "top_p": 0.9, "seed": seed}
        texts = [one.text for one in engine.generate([prompt], SamplingParams(n=2, **sampled))]
        body = {"prompt": prompt, "ignore_eos": False, **sampled}
        asks.append(Ask(posted(COMPLETIONS, **body, n=2), texts, whole_texts))
        asks.append(Ask(posted(COMPLETIONS, **body, stream=True), texts[0], streamed_text))
        asks.append(Ask(posted(COMPLETIONS, **body, logprobs=2), texts[:1], whole_texts))
        options = {**sampled, "num_predict": tokens, "top_k": 0, "min_p": 0, "repeat_penalty": 1}
        del options["max_tokens"]
        body = {"model": "stressed", "prompt": prompt, "raw": True, "options": options}
        asks.append(Ask(posted("/api/generate", **body), texts[0], ollama_text))
        ids = engine.tokenizer.encode(prompt)
        body = {"content": prompt, "add_special": False}
        asks.append(Ask(posted("/tokenize", **body), ids, lambda body: json.loads(body)["tokens"]))
        if engine.tokenizer.chat_template is not None:
            asks += chats_of(engine, prompt, sampled, options)
    return asks


def chats_of(
    engine: Engine, prompt: str, sampled: dict[str, Any], options: dict[str, Any]
) -> list[Ask]:
    """A conversation in each form; the prompts of all of them have the same beginning."""
    messages = [
        {"role": "system", "content": "You are a guide in the Andes."},
        {"role": "user", "content": prompt},
    ]
    ids = engine.tokenizer.encode_chat(engine.tokenizer.render_chat(messages))
    texts = [one.text for one in engine.generate([ids], SamplingParams(n=2, **sampled))]
    asked = {"messages": messages, **sampled}
    ollama = {"model": "stressed", "messages": messages, "options": options}
    return [
        Ask(posted(CHAT, **asked, n=2), texts, whole_chats),
        Ask(posted(CHAT, **asked, stream=True), texts[0], streamed_chat),
        Ask(posted("/api/chat", **ollama), texts[0], ollama_chat),
    ]


def nonsense(context_tokens: int) -> list[tuple[bytes, int | None]]:
    """Requests that cannot be served, and their status; None where no answer is due."""
    good = {"prompt": "Hi", "max_tokens": 1}
    cut = posted(COMPLETIONS, **good)[:-5]
    as_text = posted(COMPLETIONS, **good).replace(b"application/json", b"text/plain")
    return [
        (head(COMPLETIONS, Content_Length=9, Connection="close") + b'{"prompt"', 400),
        (posted(COMPLETIONS, prompt="Hi", max_tokens="many"), 400),
        (posted(COMPLETIONS, **good, colour="red"), 400),
        (posted(COMPLETIONS, prompt=[1] * context_tokens, max_tokens=1), 400),
        (posted(COMPLETIONS, prompt=[[-1]], max_tokens=1), 400),
        (posted(COMPLETIONS, prompt="Hi", temperature=-1), 400),
        (posted("/v1/nothing", **good), 404),
        (as_text, 415),
        (b"\x16\x03\x01 nothing of HTTP\r\n\r\n", 400),
        (cut, None),
    ]


def posted(path: str, **fields: Any) -> bytes:
    """A whole request whose connection ends after the answer."""
    body = json.dumps(fields).encode()
    return head(path, Content_Length=len(body), Connection="close") + body


def whole_texts(body: bytes) -> list[str]:
    """The texts of a finished answer."""
    return [one["text"] for one in json.loads(body)["choices"]]


def whole_chats(body: bytes) -> list[str]:
    """The messages of a finished answer."""
    return [one["message"]["content"] for one in json.loads(body)["choices"]]


def streamed_text(body: bytes) -> str:
    """The text of a stream of events."""
    return "".join(one["text"] for one in _streamed(body))


def streamed_chat(body: bytes) -> str:
    """The message of a stream of events."""
    return "".join(one["delta"].get("content", "") for one in _streamed(body))


def ollama_text(body: bytes) -> str:
    """The text of Ollama's stream of lines."""
    return "".join(line["response"] for line in _lines(body))


def ollama_chat(body: bytes) -> str:
    """The message of Ollama's stream of lines."""
    return "".join(line["message"]["content"] for line in _lines(body))


def _streamed(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(b"data: [DONE]\n\n"), body[-200:]
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: {")]
    return [one for event in events for one in json.loads(event)["choices"]]


def _lines(body: bytes) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in body.splitlines()]
    assert lines[-1]["done"]
    return lines


class Crowd:
    """The clients of one server; what any of them saw that is not right is in `wrong`."""

    def __init__(self, url: str, asks: Sequence[Ask], seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.wrong: list[str] = []
        self.right = 0
        self.refusals: list[float] = []  # seconds to each 429
        self._asks = asks
        self._place = urlsplit(url)

    async def mixed(self, bad: Sequence[tuple[bytes, int | None]], count: int, width: int) -> None:
        """So many requests, `width` at once: 30 % leave before the end, 10 % are nonsense."""
        kinds = self.random.choices(("good", "leaves", "nonsense"), (60, 30, 10), k=count)

        async def one(kind: str) -> None:
            if kind == "nonsense":
                await self._talk_nonsense(*self.random.choice(bad))
            elif kind == "leaves":
                await self._leave()
            else:
                await self.ask()

        await self._at_once((one(kind) for kind in kinds), width)

    async def highest_rate(self, count: int, width: int) -> float:
        """Answers a second to so many requests of `width` clients."""
        began = time.perf_counter()
        await self._at_once((self.ask() for _ in range(count)), width)
        return count / (time.perf_counter() - began)

    async def flood(self, rate: float, seconds: float) -> None:
        """So many requests a second, whatever becomes of those before."""
        loop = asyncio.get_running_loop()
        began, tasks = loop.time(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(began + number / rate - loop.time(), 0))
            tasks.append(asyncio.ensure_future(self.ask()))
        await asyncio.gather(*tasks)

    async def ask(self, one: Ask | None = None) -> None:
        """One good request, to its end."""
        one = one or self.random.choice(self._asks)
        answer = await self._exchange(one.request)
        if answer.status == 429 and "retry-after:" in answer.headers:
            self.refusals.append(answer.seconds)
        elif answer.status == 200 and (said := one.read(answer.body)) == one.expected:
            self.right += 1
        else:
            said = said if answer.status == 200 else answer.body[:300]
            self.wrong.append(f"{answer.status} {said!r} for {one.request[-150:]!r}")

    async def _talk_nonsense(self, request: bytes, status: int | None) -> None:
        answer = await self._exchange(request, ends=status is None)
        if answer.status not in (status or 0, 400, 429):
            self.wrong.append(f"{answer.status}, not {status}, for {request[-150:]!r}")

    async def _leave(self) -> None:
        """Close the connection at the first bytes of the answer, or some time before."""
        reader, writer = await asyncio.open_connection(self._place.hostname, self._place.port)
        writer.write(self.random.choice(self._asks).request)
        wait = self.random.choice((None, self.random.uniform(0, 0.1)))
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1), wait)
        writer.transport.abort()

    async def _exchange(self, request: bytes, *, ends: bool = False) -> Answer:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection(self._place.hostname, self._place.port)
        try:
            writer.write(request)
            if ends:
                writer.write_eof()
            content = await reader.read()
        finally:
            writer.close()
        seconds = time.perf_counter() - began
        top, _, body = content.partition(b"\r\n\r\n")
        if not top:
            return Answer(0, "", b"", seconds)
        headers = top.decode("latin-1").lower()
        if "transfer-encoding: chunked" in headers:
            body = _unchunked(body)
        return Answer(int(headers.split()[1]), headers, body, seconds)

    async def _at_once(self, work: Iterable[Any], width: int) -> None:
        waiting = iter(work)

        async def client() -> None:
            for one in waiting:
                await one

        await asyncio.gather(*(client() for _ in range(width)))


def server_memory_bytes() -> list[int]:
    """What each process below this one that runs Puna holds now; Linux only."""
    return list(map(_resident_bytes, _children(os.getpid())))


def _children(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            if b"puna" in Path(f"/proc/{child}/cmdline").read_bytes():
                found += [child, *_children(child)]
    return found


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _unchunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(parts)
