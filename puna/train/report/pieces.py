"""What there is to say about a tokenizer, and a text shown cut into its pieces."""

from __future__ import annotations

from html import escape

from puna.tokens.tokenizer import SPACE_MARK, Tokenizer
from puna.tokens.training import pieces_by_kind
from puna.train.report.facts import RunFacts, section

LONGEST_SHOWN = 6


def tokenizer_facts(facts: RunFacts) -> list[tuple[str, str]]:
    """Names and values: size, kinds of pieces, the longest, how far it shortens text, origin."""
    if facts.tokenizer is None:
        return []
    kinds = pieces_by_kind(facts.tokenizer)
    merges = sorted(kinds["merges"], key=lambda piece: (-len(piece), piece))
    longest = [piece.replace(SPACE_MARK, " ").strip() for piece in merges]
    counts = [
        f"{len(kinds['merges']):,} merges",
        f"{len(kinds['characters']):,} characters",
        f"{len(kinds['bytes']):,} bytes",
        f"{len(kinds['control']):,} control",
    ]
    rows = [
        ("vocabulary", f"{facts.tokenizer.vocabulary_size:,} pieces: {', '.join(counts)}"),
        ("longest pieces", ", ".join(list(dict.fromkeys(longest))[:LONGEST_SHOWN])),
    ]
    evaluation = facts.evaluation
    if evaluation is not None and evaluation.tokens:
        ratio = evaluation.bytes / evaluation.tokens
        rows.append(("on held-out text", f"{ratio:.2f} bytes per token"))
    trained_on = section(facts.tokenizer_manifest, "trained_on")
    if trained_on:
        rows.append(
            ("trained on", f"{trained_on['documents']:,} documents, {trained_on['bytes']:,} bytes")
        )
    return [*rows, ("SHA-256", f"{facts.tokenizer.sha256[:16]}…")]


def written_in_pieces(tokenizer: Tokenizer, text: str, most_pieces: int) -> str:
    """The start of `text` as an HTML figure in which every piece is a box."""
    ids = tokenizer.encode(text)
    pieces = [tokenizer.piece(number) for number in ids[:most_pieces]]
    boxes = "".join(_box(piece) for piece in pieces)
    more = "<i>…</i>" if len(ids) > most_pieces else ""
    size = len(text.encode("utf-8"))
    return (
        f'<figure class="pieces"><div>{boxes}{more}</div><figcaption>The last sample as the model '
        f"sees it: {len(ids):,} tokens for {size:,} bytes.</figcaption></figure>"
    )


def _box(piece: str) -> str:
    shown = escape(piece).replace(SPACE_MARK, '<s aria-label="space">·</s>')
    return f"<span{' class=byte' if _is_byte(piece) else ''}>{shown}</span>"


def _is_byte(piece: str) -> bool:
    """Whether a piece stands for one byte, as in `<0xE2>`."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
