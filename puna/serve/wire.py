"""What the HTTP process and an engine process say to each other over a private socket pair.

A frame is four bytes, the length of what follows as a big-endian number, and one JSON object. Both
sides end the connection at a frame that is too long or no JSON object; nothing is ever unpickled.

To the engine process, in this order; everything after `load` in any order and number:

    {"id": 1, "ask": "open", "model": "path or name", "backend": "auto", "kv": "bf16",
     "which": "latest", "tokenizer_path": null, "context_tokens": null}
        -> {"id": 1, "ok": {"needed_bytes": 190000000}}          headers are read, no tensor
    {"id": 2, "ask": "load", "room_bytes": 800000000, "running": 64, "queue_limit": 256}
        -> {"id": 2, "ok": {...}}                                as "describe"
    {"id": 3, "ask": "describe"}
        -> {"id": 3, "ok": {"path": "/models/smol.gguf", "context_tokens": 8192,
            "vocabulary_size": 49152, "has_chat_template": true, "supports_tools": false,
            "chat_template": "{% for ...", "bos": "<|im_start|>", "eos": "<|im_end|>",
            "adds_bos": false, "backend": "C++ for amx, threads: 2, fast", "isa": "amx",
            "parameters": 134515008, "weight_bytes": 144811584, "file_type": "Q8_0",
            "embedding_size": 576, "training_step": null, "memory_bytes": 655000000,
            "kept_tokens": 32768, "load_seconds": 0.4, "notes": []}}
    {"id": 4, "ask": "generate", "prompt": PROMPT, "params": {"max_tokens": 16, "n": 1},
     "constraint": null, "echo_prompt": false}
        PROMPT is {"text": "Once"}, {"ids": [1, 403]}, or {"messages": [{"role": "user",
        "content": "Hi"}], "tools": null, "template_variables": {}, "add_generation_prompt": true};
        params are SamplingParams' fields, the keys of logit_bias in digits; the constraint is
        null, {"json_object": true}, {"json_schema": {...}}, {"regex": "..."} or {"grammar": "..."}
        -> {"id": 4, "ok": {"started": {"prompt_tokens": 2, "choices": 1, "prompt_ids": [1, 403],
            "prompt_text": "Once"}}}                             ids and text: with echo_prompt
        -> {"pieces": [[4, 0, " upon", [2501], null, null], [7, 1, "", [], null, ENDING]]}
        One frame has what a step gave to all texts: [id, choice, text, ids, logprobs, ending].
        logprobs is null or has {"id": 2501, "text": " upon", "bytes": [32, 117], "logprob": -0.1,
        "top": [{"id": 2501, "text": " upon", "bytes": [32, 117], "logprob": -0.1}]} for each id;
        with the params' prompt_logprobs, the prompt's come before those of choice 0's first piece,
        its first with null. Text and bytes are what a token adds to the text where it stands.
        ENDING is null before the last piece of a text, then {"finish_reason": "stop", "ended_by":
        "eos", "prompt_tokens": 2, "generated_tokens": 9, "cached_tokens": 0, "prefill_seconds":
        0.01, "decode_seconds": 0.1, "queue_seconds": 0.0, "seed": 3} or {"error": {...}}.
    {"id": 5, "ask": "cancel", "of": 4} -> {"id": 5, "ok": {}}   its texts end within one step, and
                                                                 nothing more is said of them
    {"id": 6, "ask": "tokenize", "text": "Once", "add_special": true, "parse_special": false,
     "with_pieces": true}
        -> {"id": 6, "ok": {"ids": [1, 403], "pieces": [{"id": 1, "text": "<s>", "bytes": []},
            {"id": 403, "text": " Once", "bytes": [32, 79, 110, 99, 101]}]}}
    {"id": 7, "ask": "detokenize", "ids": [403]} -> {"id": 7, "ok": {"text": "Once"}}
    {"id": 8, "ask": "render", "messages": [...], "tools": null, "template_variables": {},
     "add_generation_prompt": true, "continue_final_message": false}
        -> {"id": 8, "ok": {"text": "<|im_start|>user..."}}
    {"id": 9, "ask": "embed", "inputs": [{"text": "Once"}, {"ids": [1, 403]}]}
        -> {"id": 9, "ok": {"vectors": [[0.1, -0.2]], "prompt_tokens": 4}}
    {"id": 10, "ask": "metrics"} -> {"id": 10, "ok": {...}}      Metrics' fields of puna.infer.core
    {"id": 11, "ask": "drain"} -> {"id": 11, "ok": {}}           once every text has ended; new ones
                                                                 are "unavailable" from now on

Where the connection ends, so do the process and all that is under way in it.
A refusal is {"id": 4, "error": {"kind": "invalid", "message": "...", "hint": null, "param": null}};
kind is invalid, context (with prompt_tokens and context_tokens), busy, unavailable or failed, and
param the request's field that is wrong, where one is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from puna.serve.errors import ServeError

LONGEST_FRAME_BYTES = 64 << 20  # a body of 8 MiB, as ASCII with escapes, has room eight times
_LENGTH_BYTES = 4

Message = dict[str, Any]


def frame_of(message: Mapping[str, Any]) -> bytes:
    """The bytes of one message. Raises ServeError (large) where they are too many."""
    # With escapes, because half of a surrogate pair in a text has no UTF-8.
    content = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(content) > LONGEST_FRAME_BYTES:
        raise ServeError(
            "large",
            f"a message between the server's processes has at most {LONGEST_FRAME_BYTES:,} bytes, "
            f"this one {len(content):,}",
            hint="ask for fewer log-probabilities, or send less at once",
        )
    return len(content).to_bytes(_LENGTH_BYTES, "big") + content


class FrameReader:
    """Bytes as they arrive become messages; it keeps at most the beginning of one frame."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, content: bytes) -> Iterator[Message]:
        """The messages that are whole now. Raises ServeError (failed) where there is none."""
        self._held += content
        while len(self._held) >= _LENGTH_BYTES:
            length = int.from_bytes(self._held[:_LENGTH_BYTES], "big")
            if length > LONGEST_FRAME_BYTES:
                raise ServeError("failed", f"a frame of {length:,} bytes was announced")
            end = _LENGTH_BYTES + length
            if len(self._held) < end:
                return
            frame = bytes(self._held[_LENGTH_BYTES:end])
            del self._held[:end]
            yield _message(frame)


def error_message(error: ServeError) -> Message:
    """The error as it is sent; ServeError.from_wire reads it."""
    fields = ("kind", "message", "hint", "param")
    message: Message = {name: getattr(error, name) for name in fields}
    if error.kind == "context":
        message["prompt_tokens"] = error.details["n_prompt_tokens"]
        message["context_tokens"] = error.details["n_ctx"]
    return message


def _message(frame: bytes) -> Message:
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise ServeError("failed", f"a frame should be JSON: {error!s:.200}") from None
    if not isinstance(message, dict):
        raise ServeError("failed", f"a frame should be a JSON object, found {frame[:40]!r}")
    return message
