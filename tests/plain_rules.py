"""C4's and Gopher's rules with plain loops, from the publications: the oracle of the fast ones."""

import re
from collections import Counter

from puna.data.quality.rules_gopher import GopherQuality, GopherRepetition

POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies")


def c4(text: str, bad_words: list[str], sentences) -> str | None:
    """The page as C4 leaves it, None for one that it drops; every rule as published."""
    bad = re.compile("[^a-z](" + "|".join(map(re.escape, bad_words)) + ")[^a-z]")
    kept, count = [], 0
    if len(text) > 190_000:
        return None
    for line in map(str.strip, text.splitlines()):
        if any(len(word) > 1000 for word in line.split()):
            continue
        line = re.sub(r"\[\d*\]|\[edit\]|\[citation needed\]", "", line)
        if line.endswith("...") or not line.endswith((".", "?", "!", '"')):
            continue
        if len(line.split()) < 5:
            continue
        lower = line.lower()
        if "lorem ipsum" in lower:
            return None
        if "javascript" in lower:
            continue
        if "{" in line:
            return None
        if any(policy in lower for policy in (*POLICIES, "use cookies")):
            continue
        if bad.search(lower):
            return None
        count += len(sentences(line))
        kept.append(line)
    return "\n".join(kept).strip() if count >= 3 else None


def is_good(text: str) -> bool:
    """Gopher's rules of quality, with their defaults."""
    rules = GopherQuality()
    words = text.split()
    count = len(words)
    if count < 50 or count > 100_000:
        return False
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ellipses = text.count("...") + text.count("…")
    return (
        3 <= sum(len(word) for word in words) / count <= 10
        and text.count("#") / count <= 0.1
        and ellipses / count <= 0.1
        and sum(line[0] in "•-" for line in lines) / len(lines) <= 0.9
        and sum(line.endswith(("...", "…")) for line in lines) / len(lines) <= 0.3
        and sum(any(one.isalpha() for one in word) for word in words) / count >= 0.8
        and len({word for word in words if word in rules.stop_words}) >= 2
    )


def duplicates(parts: list[str]) -> tuple[int, int]:
    seen, count, characters = set(), 0, 0
    for part in parts:
        if part in seen:
            count, characters = count + 1, characters + len(part)
        seen.add(part)
    return count, characters


def top_characters(words: list[str], n: int) -> int:
    counts = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    if not counts:
        return 0
    ngram, count = counts.most_common(1)[0]
    return len(ngram) * count


def duplicate_characters(words: list[str], n: int) -> int:
    seen, place, characters = set(), 0, 0
    while place < len(words) - n + 1:
        ngram = tuple(words[place : place + n])
        if ngram in seen:
            characters += sum(map(len, ngram))
            place += n
        else:
            seen.add(ngram)
            place += 1
    return characters


def repeats_little(text: str) -> bool:
    """Gopher's rules of repetition, with their defaults."""
    rules = GopherRepetition()
    words, size = text.split(), len(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    paragraphs = re.split(r"\n[^\S\n]*\n\s*", text.strip())
    line_count, line_characters = duplicates(lines)
    paragraph_count, paragraph_characters = duplicates(paragraphs)
    return (
        line_count <= 0.30 * len(lines)
        and paragraph_count <= 0.30 * len(paragraphs)
        and line_characters <= 0.20 * size
        and paragraph_characters <= 0.20 * size
        and all(top_characters(words, n) <= x * size for n, x in rules.max_top_ngram_characters)
        and all(
            duplicate_characters(words, n) <= x * size
            for n, x in rules.max_duplicate_ngram_characters
        )
    )
