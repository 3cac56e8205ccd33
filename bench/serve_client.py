"""Chats at once with one server over HTTP, timed: the benchmark's client, a process of its own.

    python bench/serve_client.py http://127.0.0.1:8000 '{"chats": 16, "max_tokens": 128, "seed": 1}'

The spec may name `temperature`, `top_k`, `top_p` and `min_p`. Prints one JSON object: seconds from
the first request to the last byte, tokens that the servers say they made, and of each chat the
seconds to its first text. It only notes when bytes come, and reads them afterwards, because it
shares the processor with the server. It speaks HTTP itself, which costs it less than any library.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from typing import Any
from urllib.parse import urlsplit

PROMPT_WORDS = 70  # about 100 tokens with the template's
WORDS = ("harbour", "winter", "lantern", "granite", "orchard", "signal", "copper", "village")
_TEXT = re.compile(rb'"content": ?"[^"]')
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')


def main() -> None:
    """Talk, and print what it took."""
    url, spec = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(asyncio.run(talk(url, spec))))


async def talk(url: str, spec: dict[str, Any]) -> dict[str, Any]:
    """All chats at once, each on a connection of its own."""
    draw = random.Random(spec.pop("seed"))
    prompts = [
        f"Tell a long story with these words: {' '.join(draw.choices(WORDS, k=PROMPT_WORDS))}."
        for _ in range(spec.pop("chats"))
    ]
    began = time.perf_counter()
    chats = await asyncio.gather(*(chat(url, prompt, spec) for prompt in prompts))
    return {
        "seconds": time.perf_counter() - began,
        "tokens": sum(tokens for tokens, _first in chats),
        "first_seconds": [first for _tokens, first in chats],
    }


async def chat(url: str, prompt: str, spec: dict[str, Any]) -> tuple[int, float]:
    """Tokens of one chat, and seconds to its first text. Its refusal ends the benchmark."""
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        **spec,
    }
    content = json.dumps(body).encode()
    place = urlsplit(url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(head.encode() + content)
    parts, first = [], 0.0
    while part := await reader.read(1 << 16):
        if not first and _TEXT.search(part):
            first = time.perf_counter() - began
        parts.append(part)
    writer.close()
    answer = b"".join(parts)
    usage = _USAGE.findall(answer)
    if b" 200 " not in answer[:20] or not first or not usage:
        raise SystemExit(f"{url} answered {answer[:500]!r}")
    return int(usage[-1]), first


if __name__ == "__main__":
    main()
