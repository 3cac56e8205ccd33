"""A pool whose models say what the test wrote: one piece a token, one character an id."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from puna.serve.engine_client import Piece, Started
from puna.serve.errors import ServeError

CONTEXT_TOKENS = 4096
DESCRIPTION = {
    "name": "fake",
    "path": "fake.gguf",
    "context_tokens": CONTEXT_TOKENS,
    "vocabulary_size": 0x110000,
    "has_chat_template": True,
    "supports_tools": True,
    "backend": "fake",
    "isa": "none",
    "parameters": 1_000,
    "embedding_size": 2,
    "memory_bytes": 4_000,
    "file_type": "F32",
    "bos": "<s>",
    "eos": "</s>",
    "chat_template": "{{ messages }}",
}


def as_token(text: str, logprob: float | None = -0.5) -> dict[str, Any]:
    """The log-probabilities of one token, with one alternative."""
    other = {"id": 33, "text": "!", "bytes": [33], "logprob": -1.5}
    itself = {"id": ord(text[0]), "text": text, "bytes": list(text.encode()), "logprob": logprob}
    return {**itself, "top": [] if logprob is None else [itself, other]}


@dataclass
class FakeClient:
    """Says `says` for each text; a ServeError among the pieces is raised there.

    `asked` has what it was asked, `left` the `generate`s that were closed before their end.
    `wait_seconds` pass before each piece; `never_ends` says it over and over.
    """

    says: Sequence[str | ServeError] = ("Hello", " there", "!")
    finish_reason: str = "stop"
    wait_seconds: float = 0.0
    never_ends: bool = False
    described: dict[str, Any] = field(default_factory=lambda: dict(DESCRIPTION))
    fails: dict[str, ServeError] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    is_alive: bool = True
    order: Callable[[int], Iterable[int]] = range  # in which the texts of a prompt speak

    async def ask(self, name: str, **fields: Any) -> dict[str, Any]:
        self.asked.append((name, fields))
        if name in self.fails:
            raise self.fails[name]
        return getattr(self, f"_{name}")(**fields)

    async def generate(self, **fields: Any) -> AsyncGenerator[Started | Piece]:
        self.asked.append(("generate", fields))
        if "generate" in self.fails:
            raise self.fails["generate"]
        prompt = self._ids(fields["prompt"])
        if len(prompt) >= CONTEXT_TOKENS:
            wire = {"kind": "context", "message": "too long", "hint": None}
            counts = {"prompt_tokens": len(prompt), "context_tokens": CONTEXT_TOKENS}
            raise ServeError.from_wire({**wire, **counts})
        try:
            echo = (prompt, self._detokenize(prompt)["text"]) if fields.get("echo_prompt") else ()
            yield Started(len(prompt), fields["params"].get("n", 1), *echo)
            async for piece in self._pieces(fields["params"], prompt):
                yield piece
        except (GeneratorExit, asyncio.CancelledError):
            self.left.append(fields)
            raise

    def generated(self) -> list[dict[str, Any]]:
        """The fields of each `generate` so far."""
        return [fields for name, fields in self.asked if name == "generate"]

    async def _pieces(self, params: dict[str, Any], prompt: list[int]) -> AsyncIterator[Piece]:
        has_logprobs = params.get("logprobs") is not None
        scored = []
        if params.get("prompt_logprobs") is not None:
            scored = [
                as_token(self._detokenize([one])["text"], None if i == 0 else -0.25)
                for i, one in enumerate(prompt)
            ]
        said = 0
        limit = params.get("max_tokens", 256)
        while True:
            for text in self.says[: limit - said]:
                await asyncio.sleep(self.wait_seconds)
                if isinstance(text, ServeError):
                    raise text
                said += 1
                for choice in self.order(params.get("n", 1)):
                    logprobs = [as_token(text)] if has_logprobs else None
                    if scored and not choice:
                        logprobs, scored = [*scored, *(logprobs or [])], []
                    yield Piece(choice, text, [ord(text[0])], logprobs, None)
            if not self.never_ends or said >= limit:
                break
        for choice in self.order(params.get("n", 1)):
            logprobs = scored if not choice else None
            yield Piece(choice, "", [], logprobs, self._ending(params, prompt, said))

    def _ending(self, params: dict[str, Any], prompt: list[int], said: int) -> dict[str, Any]:
        is_cut = said >= params.get("max_tokens", 256)
        return {
            "finish_reason": "length" if is_cut else self.finish_reason,
            "ended_by": "max tokens" if is_cut else "eos",
            "prompt_tokens": len(prompt),
            "generated_tokens": said,
            "cached_tokens": 1,
            "prefill_seconds": 0.25,
            "decode_seconds": 0.5,
            "queue_seconds": 0.0,
            "seed": 1,
        }

    def _ids(self, prompt: dict[str, Any]) -> list[int]:
        if "ids" in prompt:
            return list(prompt["ids"])
        text = prompt["text"] if "text" in prompt else self._render(**prompt)["text"]
        return [ord(one) for one in text]

    def _tokenize(self, text: str, add_special: bool, **_others: Any) -> dict[str, Any]:
        ids = [*([1] if add_special else []), *(ord(one) for one in text)]
        pieces = [{"id": one, "text": chr(one), "bytes": list(chr(one).encode())} for one in ids]
        return {"ids": ids, "pieces": pieces}

    def _detokenize(self, ids: list[int]) -> dict[str, Any]:
        return {"text": "".join(chr(one) if one < 0xD800 else "?" for one in ids)}

    def _render(self, messages: list[dict[str, Any]], **_others: Any) -> dict[str, Any]:
        return {"text": "".join(f"{one['role']}: {one['content']}\n" for one in messages)}

    def _embed(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        lengths = [len(self._ids(one)) for one in inputs]
        return {"vectors": [[float(n), 0.5] for n in lengths], "prompt_tokens": sum(lengths)}

    def _metrics(self) -> dict[str, Any]:
        return {"running": 0, "waiting": 0}

    def _drain(self) -> dict[str, Any]:
        return {}


class FakePool:
    """Models by name, all of them loaded."""

    def __init__(self, **clients: FakeClient) -> None:
        self.clients = clients or {"fake": FakeClient()}
        self.states = dict.fromkeys(self.clients, "ready")
        self.in_use = dict.fromkeys(self.clients, 0)

    @property
    def client(self) -> FakeClient:
        """The only model's."""
        (one,) = self.clients.values()
        return one

    def names(self) -> list[str]:
        return list(self.clients)

    def state(self, name: str) -> str:
        return self.states[name]

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[FakeClient]:
        self.in_use[name] += 1
        try:
            yield self.clients[name]
        finally:
            self.in_use[name] -= 1

    async def metrics(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"state": self.states[name]} | client._metrics()
            for name, client in self.clients.items()
        }
