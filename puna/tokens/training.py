"""A tokenizer from text: SentencePiece's BPE trainer with every setting of LLaMA's (paper 2.1)."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece

from puna import schema
from puna.config import to_table
from puna.console import Console, human_bytes, human_duration
from puna.errors import ConfigError, TokenizerError
from puna.tokens.fingerprint import TextFingerprint, differences
from puna.tokens.tokenizer import FILE_NAME, KIND, MANIFEST_NAME, SPACE_MARK, Tokenizer

BYTE_PIECES = 256
CONTROL_PIECES = 3  # <unk>, <s>, </s>
MAX_LINE_BYTES = 4192

# The trainer spec inside the tokenizer.model that came with LLaMA. What a TokenizerConfig sets is
# not here, nor what only changes how training runs.
LLAMA_SPEC: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "split_by_unicode_script": True,
    "split_by_whitespace": True,
    "split_by_number": True,
    "allow_whitespace_only_pieces": True,
    "hard_vocab_limit": True,
    "input_sentence_size": 200_000_000,
    "shuffle_input_sentence": True,
    "max_sentence_length": MAX_LINE_BYTES,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "unk_surface": " \u2047 ",
}
# How training runs. The file records the threads too, so they are fixed.
_RUNNING: dict[str, Any] = {"num_threads": 16, "minloglevel": 2}

_RESERVED = "\u2585"  # SentencePiece's stand-in for rare characters; it skips lines that hold one
_MAX_CUT_CHARACTERS = MAX_LINE_BYTES // 4  # UTF-8 takes at most four bytes
_SAMPLE_EVERY_DOCUMENTS = 20
_SAMPLE_CHARACTERS = 1 << 20
_SAMPLE_CHARACTERS_PER_DOCUMENT = 1 << 16
_TICK_SECONDS = 0.2
_PLACE_TO_CUT = re.compile(f"(?<=[^ {SPACE_MARK}]) (?=[^ {SPACE_MARK}])")


@dataclass(frozen=True)
class TokenizerConfig:
    """What may be chosen about a tokenizer; all the rest is as LLaMA's."""

    vocabulary_size: int = 4096  # LLaMA: 32000; counts the 256 bytes and 3 control tokens
    character_coverage: float = 0.99995  # rarer characters are spelt in bytes
    max_piece_length: int = 16  # characters
    split_digits: bool = True  # each digit is a token of its own (paper 2.1)

    def __post_init__(self) -> None:
        smallest = CONTROL_PIECES + BYTE_PIECES + 1
        if self.vocabulary_size < smallest:
            raise ConfigError(
                f"tokenizer.vocabulary_size must be at least {smallest}, "
                f"got {self.vocabulary_size}",
                hint="256 bytes and 3 control tokens come first; 4096 suits a small model",
            )
        if not 0.98 <= self.character_coverage <= 1.0:
            raise ConfigError(
                "tokenizer.character_coverage must be from 0.98 to 1.0, "
                f"got {self.character_coverage}"
            )
        if not 1 <= self.max_piece_length <= 512:
            raise ConfigError(
                f"tokenizer.max_piece_length must be from 1 to 512, got {self.max_piece_length}"
            )


@dataclass(frozen=True)
class TokenizerRecipe:
    """A recipe that only trains a tokenizer: `--set tokenizer.split_digits=false`."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


def train_tokenizer(
    texts: Iterable[str], out: Path, config: TokenizerConfig, console: Console
) -> Tokenizer:
    """Learn a tokenizer from documents and write `out/tokenizer.model` and `out/manifest.json`.

    The same texts and config give the same file, byte for byte. Where `out` holds a tokenizer
    already, it is returned if it was made from the same texts and config.

    Raises TokenizerError when the text is too small for the vocabulary or too varied for it, holds
    a lone surrogate, or when `out` holds another tokenizer.
    """
    if (out / MANIFEST_NAME).exists() or (out / FILE_NAME).exists():
        return _reuse(texts, out, config, console)
    began = time.monotonic()
    _make_folder(out)
    lines = _TrainingLines(texts)
    content = _run_trainer(lines, config, console)
    tokenizer = Tokenizer(content, out / FILE_NAME)
    seconds = time.monotonic() - began
    facts = _facts(tokenizer, lines.sample)
    record = {
        "sha256": tokenizer.sha256,
        "config": to_table(config),
        "trained_on": lines.summary(),
        "facts": facts,
        "seconds": round(seconds, 2),
        "sentencepiece": sentencepiece.__version__,
    }
    try:
        schema.write_atomic(out / FILE_NAME, content)
        schema.write_json(out / MANIFEST_NAME, KIND, record)
    except OSError as error:
        raise _cannot_write(out, error) from None
    console.say(
        f"tokenizer: {tokenizer.vocabulary_size:,} pieces from {lines.texts.documents:,} documents "
        f"({human_bytes(lines.texts.bytes)}) in {human_duration(seconds)}, "
        f"{facts['bytes_per_token']} bytes a token"
    )
    return tokenizer


def pieces_by_kind(tokenizer: Tokenizer) -> dict[str, list[str]]:
    """The vocabulary in four lists: `control`, `bytes`, `characters` (single ones), `merges`."""
    kinds: dict[str, list[str]] = {"control": [], "bytes": [], "characters": [], "merges": []}
    for token in range(tokenizer.vocabulary_size):
        piece = tokenizer.piece(token)
        if tokenizer.is_control(token) or token == tokenizer.unknown_id:
            kinds["control"].append(piece)
        elif tokenizer.byte_of(token) is not None:
            kinds["bytes"].append(piece)
        else:
            kinds["characters" if len(piece) == 1 else "merges"].append(piece)
    return kinds


def cut_at_spaces(text: str, limit: int) -> list[str]:
    """`text` in parts of at most `limit` characters, cut at single spaces, which are dropped.

    SentencePiece puts a space before every text (the dummy prefix), so each part gets its lost
    space back: words, and with them ids and counts, stay the same. Where no single space lies
    within `limit` characters the part runs on to the next one. `" ".join` gives `text` again.
    """
    parts = []
    start = 0
    while len(text) - start > limit:
        place = _last_place(text, start, start + limit)
        if place < 0:
            later = _PLACE_TO_CUT.search(text, start + limit)
            if later is None:
                break
            place = later.start()
        parts.append(text[start:place])
        start = place + 1
    parts.append(text[start:])
    return parts


@dataclass
class _TrainingLines:
    """Documents as the lines SentencePiece counts, with what was seen on the way.

    SentencePiece drops a line of more than 4,192 bytes without a word; such lines are cut here, at
    a single space if there is one, which changes no word count (see `cut_at_spaces`).
    """

    documents: Iterable[str]
    texts: TextFingerprint = field(default_factory=TextFingerprint)
    lines: int = 0
    cut_at_space: int = 0
    cut_inside_word: int = 0
    sample: list[str] = field(default_factory=list)
    failure: Exception | None = None
    is_stopped: bool = False
    _sampled: int = 0

    def __iter__(self) -> Iterator[str]:
        """The lines; an error ends them and is kept in `failure` (C++ would flatten it)."""
        try:
            for document in self.documents:
                self._sample(document)
                self.texts.add(document)
                yield from self._lines_of(document)
                if self.is_stopped:
                    return
        except Exception as error:
            self.failure = error

    def summary(self) -> dict[str, Any]:
        """What the tokenizer was trained on, for the manifest."""
        return {
            "documents": self.texts.documents,
            "bytes": self.texts.bytes,
            "sha256": self.texts.sha256,
            "lines": self.lines,
            "lines_cut_at_a_space": self.cut_at_space,
            "lines_cut_inside_a_word": self.cut_inside_word,
        }

    def _lines_of(self, document: str) -> Iterator[str]:
        for line in document.replace(_RESERVED, "\n").split("\n"):
            if not line:
                continue
            self.lines += 1
            is_short = len(line) <= _MAX_CUT_CHARACTERS
            if is_short or len(line.encode("utf-8")) <= MAX_LINE_BYTES:
                yield line
            else:
                yield from self._cut(line)

    def _cut(self, line: str) -> Iterator[str]:
        parts = cut_at_spaces(line, _MAX_CUT_CHARACTERS)
        self.cut_at_space += len(parts) > 1
        for part in parts:
            self.cut_inside_word += len(part) > _MAX_CUT_CHARACTERS
            for start in range(0, len(part), _MAX_CUT_CHARACTERS):
                yield part[start : start + _MAX_CUT_CHARACTERS]

    def _sample(self, document: str) -> None:
        is_due = self.texts.documents % _SAMPLE_EVERY_DOCUMENTS == 0
        if is_due and self._sampled < _SAMPLE_CHARACTERS:
            self.sample.append(document[:_SAMPLE_CHARACTERS_PER_DOCUMENT])
            self._sampled += len(self.sample[-1])


def _make_folder(out: Path) -> None:
    """Make `out` before the work, since it is the likeliest thing to be wrong."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(out, error) from None


def _cannot_write(out: Path, error: OSError) -> TokenizerError:
    return TokenizerError(
        f"a tokenizer cannot be written to {out}: {error.strerror}",
        hint="give --out a folder that you may write to, on a disk with room",
    )


def _run_trainer(lines: _TrainingLines, config: TokenizerConfig, console: Console) -> bytes:
    """Train in a thread of its own, so that the clock goes on and Ctrl-C is heard."""
    model = io.BytesIO()
    failures: list[Exception] = []

    def train() -> None:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                vocab_size=config.vocabulary_size,
                character_coverage=config.character_coverage,
                max_sentencepiece_length=config.max_piece_length,
                split_digits=config.split_digits,
                **LLAMA_SPEC,
                **_RUNNING,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            failures.append(error)

    thread = threading.Thread(target=train, name="tokenizer training", daemon=True)
    thread.start()
    try:
        _show_progress(thread, lines, console)
    except KeyboardInterrupt:
        lines.is_stopped = True
        thread.join(2)  # while it reads it may not be cut off: it holds Python objects
        raise
    if lines.failure is not None:
        raise lines.failure
    if failures:
        raise _translated(failures[0], config)
    return model.getvalue()


def _show_progress(thread: threading.Thread, lines: _TrainingLines, console: Console) -> None:
    shown = 0
    with console.progress(None, "train tokenizer", "B") as bar:
        while thread.is_alive():
            thread.join(_TICK_SECONDS)
            bar.update(lines.texts.bytes - shown)
            shown = lines.texts.bytes


def _translated(error: Exception, config: TokenizerConfig) -> TokenizerError:
    """SentencePiece's message as one that says what is possible."""
    message = str(error)
    wanted = config.vocabulary_size
    if found := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        return TokenizerError(
            f"the text is too small for {wanted:,} pieces: it yields at most {int(found[1]):,}",
            hint=f"give more text, or vocabulary_size={found[1]} or less",
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return TokenizerError(
            f"the text needs at least {int(found[1]):,} pieces, one for each of its characters "
            f"beside the 256 bytes and 3 control tokens; {wanted:,} were asked for",
            hint=f"vocabulary_size={found[1]} or more, or a smaller "
            "character_coverage: rarer characters are then spelt in bytes",
        )
    if "sentences_.empty()" in message:
        return TokenizerError(
            "there is no text to train a tokenizer on: every document is empty",
            hint="look at the input with `puna data look`",
        )
    return TokenizerError(f"SentencePiece could not train on this text: {message}")


def _facts(tokenizer: Tokenizer, sample: list[str]) -> dict[str, Any]:
    """What one wants to know of a vocabulary; `bytes_per_token` is of training text."""
    kinds = pieces_by_kind(tokenizer)
    sample_bytes = sum(len(text.encode("utf-8")) for text in sample)
    sample_tokens = sum(len(ids) for ids in tokenizer.encode_many(sample))
    longest = sorted(kinds["merges"], key=lambda piece: (-len(piece), piece))
    return {
        "vocabulary_size": tokenizer.vocabulary_size,
        "characters": len(kinds["characters"]),
        "merges": len(kinds["merges"]),
        "bytes_per_token": round(sample_bytes / max(sample_tokens, 1), 3),
        "sample_bytes": sample_bytes,
        "longest_pieces": longest[:12],
    }


def _reuse(texts: Iterable[str], out: Path, config: TokenizerConfig, console: Console) -> Tokenizer:
    """The tokenizer in `out`, if it is the one that training would give."""
    if not (out / MANIFEST_NAME).is_file():
        raise TokenizerError(
            f"{out / FILE_NAME} is there already, without the manifest of a finished training",
            hint="choose another --out, or delete it",
        )
    record = schema.read_json(out / MANIFEST_NAME, KIND)
    fingerprint = TextFingerprint()
    for text in texts:
        fingerprint.add(text)
    there = {"config": record.get("config"), "text": record.get("trained_on", {}).get("sha256")}
    here = {"config": to_table(config), "text": fingerprint.sha256}
    if differing := differences(there, here):
        raise TokenizerError(
            f"{out} holds a tokenizer made from other inputs: {'; '.join(differing)}",
            hint=f"choose another --out, or delete {out}",
        )
    tokenizer = Tokenizer.load(out)
    console.say(f"tokenizer: {out} was made from the same text and config; using it")
    return tokenizer


def _last_place(text: str, start: int, end: int) -> int:
    """The last place in `text[start:end]` to cut at; -1 where there is none."""
    place = text.rfind(" ", start, end)
    while place >= 0 and not _PLACE_TO_CUT.match(text, place):
        place = text.rfind(" ", start, place)
    return place
