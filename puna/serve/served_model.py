"""A model in its engine process: wire's questions, answered in JSON's types by an Engine."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from puna import hardware
from puna.config import nearest
from puna.errors import BusyError, ConfigError, PunaError, TokenizerError, UsageError
from puna.infer.backends.base import PAGE_POSITIONS
from puna.infer.constraint import Constraint
from puna.infer.engine import Engine, EngineSettings, choose_backend, load_engine
from puna.infer.logprobs import TokenLogprob
from puna.infer.result import Piece
from puna.infer.sampling_params import SamplingParams
from puna.infer.sequence import Listener
from puna.infer.sequence import Sequence as Text
from puna.model import count
from puna.serve.errors import ServeError
from puna.serve.wire import Message, error_message
from puna.weights.inspect import dtypes, needs
from puna.weights.open_model import open_model
from puna.weights.source import ModelSource

LEAST_KEPT_TOKENS = 512  # a model that has no room for so many is not loaded
_FIELDS = frozenset(one.name for one in fields(SamplingParams)) - {"constraint"}
_ENDING = (
    "finish_reason",
    "ended_by",
    "prompt_tokens",
    "generated_tokens",
    "cached_tokens",
    "prefill_seconds",
    "decode_seconds",
    "queue_seconds",
    "seed",
)
_TOOLS = re.compile(r"\btools\b")


@dataclass(frozen=True)
class Header:
    """A model before it is loaded: where it lies, how it will run, what it needs."""

    source: ModelSource
    asked: Message
    weight_bytes: int
    process_bytes: int
    kept_bytes: int  # of some tokens' keys and values

    @classmethod
    def read(cls, asked: Message) -> Header:
        """What `open` asks for; no tensor is read. Raises as load_engine does."""
        source = open_model(asked["model"], which=asked["which"])
        backend, _why = choose_backend(asked["backend"], batched=True)
        weight_bytes, value_bytes = needs(source.config).weight_bytes, 4
        if backend.startswith("cpu"):
            from puna.infer.backends.cpu_backend import KEPT_BYTES
            from puna.infer.backends.cpu_weights import plan

            weight_bytes = plan(source)[1]
            value_bytes = 4 if backend == "cpu-float" else KEPT_BYTES[asked["kv"]]
        tokens = asked["context_tokens"] or min(LEAST_KEPT_TOKENS, source.config.context_length)
        kept_bytes = count.kv_cache_bytes(source.config, 1, tokens, value_bytes)
        return cls(source, asked, weight_bytes, hardware.resident_bytes(), kept_bytes)

    @property
    def needed_bytes(self) -> int:
        """Of memory, at least: process, weights, and some tokens' keys and values."""
        return self.process_bytes + self.weight_bytes + self.kept_bytes

    def load(self, asked: Message) -> ServedModel:
        """The model as `load` asks for it. Raises as load_engine does."""
        began = time.perf_counter()
        room_bytes = asked["room_bytes"]
        if room_bytes is not None:
            room_bytes = max(room_bytes - self.process_bytes - self.weight_bytes, 1)
        settings = EngineSettings(
            context_tokens=self.asked["context_tokens"],
            room_bytes=room_bytes,
            running=asked["running"],
            queue_limit=asked["queue_limit"],
        )
        tokenizer_path = self.asked["tokenizer_path"]
        engine = load_engine(
            self.asked["model"],
            self.asked["backend"],
            which=self.asked["which"],
            batched=True,
            tokenizer_path=None if tokenizer_path is None else Path(tokenizer_path),
            settings=settings,
            kv=self.asked["kv"],
        )
        engine.core  # noqa: B018  (reserves the pages)
        with suppress(PunaError):  # which is for who asks for a constraint
            engine.grammar(Constraint("json_object"))  # the first takes long, and holds others up
        return ServedModel(engine, self, time.perf_counter() - began)


class ServedModel:
    """Answers about one engine's model. Safe to use from several threads.

    Methods raise PunaErrors of the request, which `refusal` turns into what is sent.
    """

    def __init__(self, engine: Engine, header: Header, load_seconds: float) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self._description = self._describe(header, load_seconds)
        self._spellings: dict[tuple[int, bool], tuple[str, list[int]]] = {}

    def describe(self) -> Message:
        """The facts of the model."""
        return self._description

    def texts(self, asked: Message, listener: Listener) -> tuple[list[Text], Message]:
        """The texts that `generate` asks for, and what is said once they wait for their turn."""
        params = sampling_params(asked["params"], asked.get("constraint"))
        try:
            params.require_known_ids(self.tokenizer.vocabulary_size)
        except ConfigError as error:
            raise ServeError("invalid", error.message, param="logit_bias") from None
        ids = self._prompt_ids(asked["prompt"])
        try:
            texts = self.engine.prepare(ids, params, listener)
        except UsageError as error:
            field = "messages" if "messages" in asked["prompt"] else "prompt"
            raise self._too_long(ids, min(params.max_tokens, 1), error, field) from None
        started: Message = {"prompt_tokens": len(ids), "choices": len(texts)}
        if asked.get("echo_prompt"):
            text = asked["prompt"].get("text")
            started["prompt_ids"] = ids
            started["prompt_text"] = self.tokenizer.decode(ids) if text is None else text
        return texts, started

    def embedded_texts(self, asked: Message, listener: Listener) -> list[Text]:
        """The texts that `embed` asks for."""
        prompts = [self._prompt_ids(one) for one in asked["inputs"]]
        try:
            return self.engine.prepare_embeddings(prompts, listener)
        except UsageError as error:
            longest = max(prompts, key=len, default=[])
            raise self._too_long(longest, 0, error, "input") from None

    def tokenize(self, asked: Message) -> Message:
        """Ids, and with `with_pieces` what each is."""
        bos = bool(asked.get("add_special")) and self.tokenizer.adds_bos
        special = bool(asked.get("parse_special"))
        ids = self.tokenizer.encode(asked["text"], bos=bos, special=special)
        answer: Message = {"ids": ids}
        if asked.get("with_pieces"):
            answer["pieces"] = [self._token(one) for one in ids]
        return answer

    def detokenize(self, asked: Message) -> Message:
        """The text of ids."""
        return {"text": self.tokenizer.decode(_ids(asked["ids"]))}

    def render(self, asked: Message) -> Message:
        """The text that the chat template makes of messages."""
        text = self.tokenizer.render_chat(
            asked["messages"],
            tools=asked.get("tools"),
            variables=asked.get("template_variables"),
            add_generation_prompt=asked.get("add_generation_prompt", True),
            continues_last=asked.get("continue_final_message", False),
        )
        return {"text": text}

    def metrics(self) -> Message:
        """What the engine does and has done."""
        return asdict(self.engine.metrics)

    def row(self, number: int, text: Text, piece: Piece) -> list[Any]:
        """A piece of a text of the request `number`, as it is sent."""
        scored: Iterable[TokenLogprob | None] = piece.logprobs
        begin, params = len(text.ids) - len(piece.ids), text.params
        is_first = begin == text.prompt_tokens and piece.choice == 0
        if params.prompt_logprobs is not None and is_first:
            begin, scored = 0, [*text.prompt_logprobs, *scored]
        has_logprobs = params.logprobs is not None or begin == 0
        logprobs = self._scored(text.ids, begin, scored) if has_logprobs else None
        ending: Message | None = None
        if piece.error is not None:
            ending = {"error": refusal(piece.error)}
        elif piece.result is not None:
            ending = {name: getattr(piece.result, name) for name in _ENDING}
        return [number, piece.choice, piece.text, piece.ids, logprobs, ending]

    def _scored(
        self, ids: Sequence[int], begin: int, scored: Iterable[TokenLogprob | None]
    ) -> list[Message]:
        """The tokens of `ids` from `begin`, with what each was scored; a prompt's first is not."""
        is_first = all(map(self.tokenizer.is_control, itertools.islice(ids, begin)))
        told = []
        for token, one in zip(itertools.islice(ids, begin, None), scored, strict=False):
            logprob, others = (one.logprob, one.alternatives) if one is not None else (None, ())
            top = [{**self._token(other, is_first), "logprob": value} for other, value in others]
            told.append({**self._token(token, is_first), "logprob": logprob, "top": top})
            is_first = is_first and self.tokenizer.is_control(token)
        return told

    def _token(self, token: int, is_first: bool = False) -> Message:
        """What a token adds to a text, to its begin with `is_first`, as text and as bytes.

        Of a control token the text is its name.
        """
        spelling = self._spellings.get((token, is_first))
        if spelling is None:
            content = self.tokenizer.bytes_of(token)
            if is_first and not self.tokenizer.decode([token]).startswith(" "):
                content = content.removeprefix(b" ")  # SentencePiece's before a text
            is_control = self.tokenizer.is_control(token)
            text = self.tokenizer.piece(token) if is_control else content.decode(errors="replace")
            spelling = self._spellings[token, is_first] = (text, list(content))
        text, content_bytes = spelling
        return {"id": token, "text": text, "bytes": content_bytes}

    def _prompt_ids(self, prompt: Message) -> list[int]:
        if "ids" in prompt:
            return _ids(prompt["ids"])
        if "text" in prompt:
            return self.tokenizer.encode(prompt["text"], bos=self.tokenizer.adds_bos)
        return self.tokenizer.encode_chat(self.render(prompt)["text"])

    def _too_long(
        self, ids: Sequence[int], least: int, error: UsageError, field: str
    ) -> ServeError:
        """What was wrong with the prompt in `field`, with its counts where it is too long."""
        kept, message, hint = self.engine.context_length, error.message, error.hint
        if len(ids) + least <= kept:
            return ServeError("invalid", message, hint=hint, param=field)
        details = {"n_prompt_tokens": len(ids), "n_ctx": kept}
        return ServeError("context", message, hint=hint, param=field, details=details)

    def _describe(self, header: Header, load_seconds: float) -> Message:
        engine, tokenizer, source = self.engine, self.tokenizer, header.source
        template = tokenizer.chat_template
        pages = engine.metrics.pages
        kept_bytes = pages * engine.backend.page_bytes
        return {
            "path": str(source.path),
            "context_tokens": engine.context_length,
            "vocabulary_size": tokenizer.vocabulary_size,
            "has_chat_template": template is not None,
            "supports_tools": template is not None and _TOOLS.search(template) is not None,
            "chat_template": template,
            "bos": self._mark(tokenizer.bos_id),
            "eos": self._mark(tokenizer.eos_id),
            "adds_bos": tokenizer.adds_bos,
            "backend": engine.backend.name,
            "isa": getattr(engine.backend, "isa", None),
            "parameters": sum(math.prod(one.shape) for one in source.tensors.values()),
            "weight_bytes": header.weight_bytes,
            "file_type": next(iter(dtypes(source))),
            "embedding_size": engine.config.dim,
            "training_step": engine.step,
            "memory_bytes": header.process_bytes + header.weight_bytes + kept_bytes,
            "kept_tokens": pages * PAGE_POSITIONS,
            "load_seconds": load_seconds,
            "notes": list(engine.notes),
        }

    def _mark(self, token: int) -> str | None:
        return self.tokenizer.piece(token) if token >= 0 else None


def sampling_params(
    given: Mapping[str, Any], constraint: Mapping[str, Any] | None
) -> SamplingParams:
    """The params from JSON's types. Raises ConfigError for an unknown field or a wrong value."""
    values = dict(given)
    unknown = next((name for name in values if name not in _FIELDS), None)
    if unknown is not None:
        raise ConfigError(f"there is no setting {unknown}", hint=nearest(unknown, sorted(_FIELDS)))
    for name in ("stop", "stop_ids"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    if isinstance(bias := values.get("logit_bias"), Mapping):
        values["logit_bias"] = {_token_id(key): value for key, value in bias.items()}
    if constraint is not None:
        values["constraint"] = Constraint.of(constraint)
    return SamplingParams(**values)


def refusal(error: Exception) -> Message:
    """What is sent where a request fails: what its sender did wrong, or that we failed."""
    if isinstance(error, ServeError):
        return error_message(error)
    if isinstance(error, BusyError):
        return error_message(ServeError("busy", error.message, hint=error.hint))
    if isinstance(error, UsageError | ConfigError | TokenizerError):
        return error_message(ServeError("invalid", error.message, hint=error.hint))
    if isinstance(error, PunaError):
        return error_message(ServeError("failed", error.message, hint=error.hint))
    return error_message(ServeError("failed", f"the engine failed: {type(error).__name__}"))


def _ids(given: Any) -> list[int]:
    if not isinstance(given, list) or not all(type(one) is int for one in given):
        raise UsageError("token ids should be a list of whole numbers")
    return given


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 12):
        raise ConfigError(f"logit_bias should name token ids in digits, got {key[:40]!r}")
    return int(key)
