"""Constraints kept by llguidance: which tokens may come next, so that a text is what it has to be.

Before a token is chosen, the logits of those that the grammar does not allow become minus infinity.
Bytes that the grammar forces have to be spelt as the tokenizer spells them.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, grammar_from
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from puna.errors import ConfigError
from puna.infer.constraint import Constraint
from puna.infer.sampler import Logits
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.vocabulary import PieceType

KEPT = 64  # grammars; the states of a lexer take memory as they are met
MOST_LEXER_STATES = 20_000  # of one text, 1 to 2 kB each; objects of 200 properties meet some 100s
# The library calls itself for each rule that a rule begins with, and of 3,000 in a chain it died in
# 8 MB. Only memory that is used counts.
COMPILING_STACK = 256 << 20
SAID = 300  # characters of what the library says
# Without a bound on it, a small model may go on with whitespace for ever.
WHITESPACE = r"( |\n[ \t]{0,24})?"
OBJECT = '{"type": "object"}'


class Grammars:
    """The constraints that texts of a tokenizer were asked to keep to, each compiled once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = _Pieces(tokenizer)
        self._tokenizer = self._pieces.for_library()
        self._kept: OrderedDict[Constraint, Grammar] = OrderedDict()
        self._lock = threading.Lock()
        self._compiling = threading.Lock()

    def of(self, constraint: Constraint) -> Grammar:
        """The grammar. Raises ConfigError for what the library does not understand."""
        with self._lock:
            if constraint in self._kept:
                self._kept.move_to_end(constraint)
                return self._kept[constraint]
        with self._compiling:
            before = threading.stack_size(COMPILING_STACK)
            try:
                with ThreadPoolExecutor(1) as thread:
                    matcher = thread.submit(self._compile, constraint).result()
            finally:
                threading.stack_size(before)
        if matcher.is_error():
            raise _unusable(constraint, matcher.get_error())
        grammar = Grammar(matcher, self._tokenizer.vocab_size, self._pieces.ends)
        with self._lock:
            self._kept[constraint] = grammar
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return grammar

    def _compile(self, constraint: Constraint) -> LLMatcher:
        limits = LLParserLimits(max_lexer_states=MOST_LEXER_STATES, verbose_errors=False)
        return LLMatcher(self._tokenizer, _source(constraint), log_level=0, limits=limits)


class Grammar:
    """A compiled constraint; `ends` are the tokens that end a text where it may end."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int, ends: frozenset[int]) -> None:
        self._matcher = matcher
        self._vocabulary_size = vocabulary_size
        self._ends = ends

    def text(self, ends: Iterable[int]) -> GrammarText:
        """A new text, which only `ends` may end: a request may want others than its tokenizer."""
        more = sorted(set(ends) - self._ends)
        fewer = sorted(self._ends - set(ends))
        bits = allocate_token_bitmask(1, self._vocabulary_size)
        return GrammarText(self._matcher.deep_copy(), bits, more, fewer)


class GrammarText:
    """How far a text is in its grammar. `is_complete`: nothing may follow any more."""

    def __init__(
        self, matcher: LLMatcher, bits: np.ndarray, more_ends: list[int], no_ends: list[int]
    ) -> None:
        self._matcher = matcher
        self._bits = bits
        self._more_ends = more_ends
        self._no_ends = no_ends
        self.is_complete = matcher.is_stopped()

    def masked(self, logits: Logits) -> Logits:
        """The logits [vocabulary], minus infinity for what may not come next; a new array.

        Raises ConfigError where the grammar has grown too complex, or no token may come.
        """
        fill_next_token_bitmask(self._matcher, self._bits)
        allowed = np.unpackbits(
            self._bits.view(np.uint8)[0], count=len(logits), bitorder="little"
        ).view(np.bool_)
        allowed[self._no_ends] = False
        if self._more_ends and self._matcher.is_accepting():
            allowed[self._more_ends] = True
        if self._matcher.is_error() or not allowed.any():
            raise self._lost()
        return np.where(allowed, logits, logits.dtype.type(-np.inf))

    def take(self, token: int) -> None:
        """Go on behind a token of the text. Raises ConfigError as `masked` does."""
        if not self._matcher.consume_token(token):
            raise self._lost()
        self.is_complete = self._matcher.is_stopped()

    def _lost(self) -> ConfigError:
        reason = self._matcher.get_error() or "no token of the vocabulary may come next"
        return ConfigError(f"the constraint cannot be kept to here: {_in_short(reason)}")


class _Pieces:
    """A vocabulary as the library takes it: the bytes of each piece, and how a text is spelt."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.vocabulary
        self._tokenizer = tokenizer
        self.ends = tokenizer.stop_ids
        special = self.ends.union(vocabulary.ids_of(PieceType.CONTROL))
        nothing = special.union(vocabulary.ids_of(PieceType.UNKNOWN, PieceType.UNUSED))
        self.tokens = [
            b"" if token in nothing else tokenizer.bytes_of(token)
            for token in range(len(vocabulary))
        ]
        for token in special:
            self.tokens[token] = vocabulary.pieces[token].encode()
        if not self.ends:  # the library wants one
            special = special | {len(self.tokens)}
            self.tokens.append(b"<end>")
        self.special_token_ids = sorted(special)
        self.bos_token_id = None
        self.eos_token_id = min(self.ends, default=len(self.tokens) - 1)

    def for_library(self) -> LLTokenizer:
        """The library's own form; it takes 0.1 s for 49,152 pieces, 0.3 s for 128,256."""
        ends = sorted(self.ends) or [self.eos_token_id]
        self._library = LLTokenizer(TokenizerWrapper(self), eos_token=ends)
        return self._library

    def __call__(self, content: bytes) -> list[int]:
        """The ids of bytes within a text, where the tokenizer's own make up just these."""
        ids = self._tokenizer.encode(content.decode(), goes_on=True)
        if b"".join(self.tokens[token] for token in ids) == content:
            return ids
        return self._library.greedy_tokenize(content.decode())


def _source(constraint: Constraint) -> str:
    """A constraint as the library takes it. Raises ConfigError for a grammar that is none."""
    kind, source = constraint.kind, constraint.source
    try:
        if kind in ("json_object", "json_schema"):
            return LLMatcher.grammar_from_json_schema(
                source or OBJECT, overrides={"whitespace_pattern": WHITESPACE}
            )
        if kind == "regex":
            return grammar_from("regex", source)
        # Reading GBNF takes a time that grows with the square of empty lines.
        return grammar_from("grammar", re.sub(r"\n\s+", "\n", source))
    except ValueError as error:
        raise _unusable(constraint, str(error)) from None


def _unusable(constraint: Constraint, reason: str) -> ConfigError:
    return ConfigError(f"{constraint.kind} cannot be kept to: {_in_short(reason)}")


def _in_short(message: str) -> str:
    return " ".join(message.split())[:SAID]
