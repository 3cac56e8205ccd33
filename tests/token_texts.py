"""Text to learn tokens from, made here and always the same; and where the originals lie."""

import random
from pathlib import Path

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "tokenizers"
TEXT = (
    "the llama grazes on high grassland where air is thin and winters are long because nobody "
    "drives it down before spring returns señor naïve Straße Москва 高原 returns def self.count "
    "if else: import numpy 1789 1,024 3.14 don't — “quoted” ... (brackets) [list] {dict} e.g."
)
WORDS = TEXT.split()


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of words drawn so that the early ones are common, some lines indented."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        words = [WORDS[int(len(WORDS) * draw.random() ** 2)] for _ in range(draw.randrange(3, 14))]
        lines.append("    " * draw.randrange(3) + " ".join(words) + ".")
    return lines


def documents(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Documents as (id, text), of one to nine lines each."""
    draw = random.Random(seed)
    return [
        (f"document-{i}", "\n".join(sentences(draw.randrange(1, 10), seed=seed * 10_000 + i)))
        for i in range(count)
    ]
