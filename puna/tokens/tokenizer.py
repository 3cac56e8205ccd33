"""Text to token ids and back: one interface over every tokenizer that a LLaMA comes with.

LLaMA's own is SentencePiece BPE (paper 2.1); LLaMA 3, SmolLM2 and GPT-2 have byte-level BPE.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.errors import TokenizerError
from puna.tokens.byte_spelling import BYTE_OF_CHARACTER
from puna.tokens.chat_template import ChatTemplate
from puna.tokens.encoders import BpeEncoder, Encoder, SentencePieceEncoder
from puna.tokens.formats.sentencepiece_model import write_sentencepiece
from puna.tokens.formats.tiktoken_ranks import write_tiktoken
from puna.tokens.formats.tokenizer_json_writer import (
    write_generation_config,
    write_tokenizer_config,
    write_tokenizer_json,
)
from puna.tokens.marks import Marks
from puna.tokens.spelling import ByteLevelSpelling, SentencePieceSpelling, TextStream
from puna.tokens.tokenizer_file import (
    FILE_NAME,
    KIND,
    MANIFEST_NAME,
    TokenizerContent,
    gguf_tokenizer,
    open_tokenizer,
    read_tokenizer,
)
from puna.tokens.vocabulary import MARKUP, SPACE_MARK, PieceType, Vocabulary
from puna.tokens.word_cache import WordCache

__all__ = ["FILE_NAME", "KIND", "MANIFEST_NAME", "SPACE_MARK", "Tokenizer", "utf8"]


class Tokenizer:
    """A tokenizer: `encode` gives ids, `decode` gives the text back.

    With LLaMA's own kind (identity normaliser, byte fallback, dummy prefix; Puna trains no other)
    and with byte-level BPE that has all 256 bytes, `decode(encode(text)) == text` for every valid
    text: emoji, tabs, CRLF, NUL, leading and trailing spaces, the empty text. Two exceptions:
    SentencePiece's own mark for a space, U+2581, is read as a space and comes back as one; and
    bytes that a vocabulary has no piece for (SmolLM2 lacks 21, among them some control characters)
    are left out, as other programs leave them out.

    Markup such as `<s>` inside a text is plain text, never a control token, unless `special` is
    asked for.
    """

    def __init__(self, content: bytes | TokenizerContent, path: Path | None = None) -> None:
        """Use the bytes of a tokenizer's file; `path` says where they came from.

        Raises TokenizerError when they are no tokenizer.
        """
        if isinstance(content, bytes):
            content = read_tokenizer(content, path or Path(FILE_NAME))
        self._content = content
        self.path = content.path
        self.sha256 = content.sha256
        self.format = content.format
        self.vocabulary: Vocabulary = content.vocabulary
        self.vocabulary_size = len(self.vocabulary)
        self.bos_id = self.vocabulary.bos_id  # -1 where there is none, as for the others
        self.eos_id = self.vocabulary.eos_id
        self.unknown_id = self.vocabulary.unknown_id
        self._encoder = _encoder(content)
        self._words = WordCache(self._encoder)
        self._marks = Marks(self.vocabulary, self._encoder.finds)
        self._markup_ids = frozenset(self.vocabulary.ids_of(PieceType.CONTROL))

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """The tokenizer in a file, or in a folder with what the small files beside it say.

        A file is a SentencePiece model, Llama 3's ranks, a tokenizer.json or llama2.c's
        tokenizer.bin, whatever it is called; a folder may hold GPT-2's pair of files too. In a
        folder that `puna tokenizer train` wrote, the file must still be the one that its manifest
        names. Raises TokenizerError when it is missing, changed, or no tokenizer.
        """
        return cls(open_tokenizer(Path(path)))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], path: Path) -> Tokenizer:
        """The tokenizer in a GGUF file's metadata, encoding as llama.cpp does.

        Raises TokenizerError where its keys are missing, contradict, or are of another kind.
        """
        return cls(gguf_tokenizer(metadata, path))

    @property
    def adds_bos(self) -> bool:
        """Whether the file says that a text begins with BOS."""
        return self.vocabulary.adds_bos and self.bos_id >= 0

    @property
    def adds_eos(self) -> bool:
        """Whether the file says that a text ends with EOS."""
        return self.vocabulary.adds_eos and self.eos_id >= 0

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Every token that ends an answer: EOS, end of turn, end of message."""
        return frozenset(self.vocabulary.stop_ids)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that makes a prompt of a conversation; None where there is none."""
        return self.vocabulary.chat_template

    @property
    def speed(self) -> str:
        """How texts are encoded: through a memory of words, or why not."""
        if self._encoder.words is not None:
            return "words are encoded once and remembered"
        return f"every text is encoded anew: {self._encoder.whole_because}"

    def encode(
        self,
        text: str,
        *,
        bos: bool = False,
        eos: bool = False,
        special: bool = False,
        goes_on: bool = False,
    ) -> list[int]:
        """The ids of `text`, between the begin and end tokens where asked.

        With `special`, markup that spells a control token becomes that token. A text that
        `goes_on` from another has no space put before it. Raises TokenizerError for a lone
        surrogate, naming its position.
        """
        self._require_marks(bos, eos)
        ids = [self.bos_id] if bos else []
        at = 0
        try:
            for part in self._marks.split(text, special=special):
                if isinstance(part, int):
                    ids.append(part)
                else:
                    is_first = at == 0
                    plain = self._with_prefix(part, is_first=is_first, goes_on=goes_on and is_first)
                    ids += memoryview(self._words.encode(plain)).cast("i").tolist()
                at += 1
        except ValueError:
            utf8(text)
            raise
        if eos:
            ids.append(self.eos_id)
        return ids

    def encode_many(
        self,
        texts: Sequence[str],
        *,
        bos: bool = False,
        eos: bool = False,
        special: bool = False,
        cores: int | None = None,
    ) -> list[NDArray[np.int32]]:
        """The ids of each text, the same as from `encode`; new words of all texts at once.

        `cores` is how many of them may be used: all, unless said.
        Raises TokenizerError for a lone surrogate, naming the text's index and the position.
        """
        self._require_marks(bos, eos)
        parts: list[list[str | int]] = [list(self._marks.split(t, special=special)) for t in texts]
        plain = [
            self._with_prefix(part, is_first=at == 0)
            for of_text in parts
            for at, part in enumerate(of_text)
            if isinstance(part, str)
        ]
        try:
            encoded = iter(self._words.encode_many(plain, cores))
        except ValueError:
            for index, text in enumerate(texts):
                utf8(text, f"text {index}: ")
            raise
        before = _as_bytes(self.bos_id) if bos else b""
        after = _as_bytes(self.eos_id) if eos else b""
        return [
            np.frombuffer(
                b"".join(
                    [
                        before,
                        *(_as_bytes(p) if isinstance(p, int) else next(encoded) for p in of_text),
                        after,
                    ]
                ),
                dtype=np.int32,
            )
            for of_text in parts
        ]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of `ids`; control tokens add nothing, or with `special` their spelling.

        Bytes that make no UTF-8 together become U+FFFD. Raises TokenizerError for an id outside the
        vocabulary, naming its position.
        """
        whole = [operator.index(token) for token in ids]
        if whole and not 0 <= min(whole) <= max(whole) < self.vocabulary_size:
            for position, token in enumerate(whole):
                self._require_known(token, f" at position {position}")
        return self._spelling.decode(whole, markup=special)

    def stream(self, *, special: bool = False) -> StreamDecoder:
        """A decoder for ids that arrive one at a time."""
        return StreamDecoder(self, self._spelling.stream(markup=special))

    def piece(self, token: int) -> str:
        """The piece as it stands in the vocabulary, such as `▁the`, `Ġthe`, `<0x0A>` or `</s>`.

        Raises TokenizerError for an id outside the vocabulary.
        """
        self._require_known(token)
        return self.vocabulary.pieces[token]

    def byte_of(self, token: int) -> int | None:
        """The byte that a byte piece stands for; None for any other piece."""
        piece, kind = self.piece(token), self.vocabulary.types[token]
        if self.vocabulary.kind == "spm":
            return int(piece[1:-1], 16) if kind == PieceType.BYTE else None
        return BYTE_OF_CHARACTER.get(piece) if kind == PieceType.NORMAL else None

    def bytes_of(self, token: int) -> bytes:
        """The bytes that the piece adds to a text; none where it is a control token.

        Raises TokenizerError for an id outside the vocabulary.
        """
        self._require_known(token)
        return self._spelling.bytes_of(token)

    def is_control(self, token: int) -> bool:
        """Whether the piece is a token without text, such as begin and end."""
        self._require_known(token)
        return token in self._markup_ids

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        continues_last: bool = False,
    ) -> str:
        """The prompt that the chat template makes of a conversation.

        The template sees `variables` beside its own. With `continues_last` the prompt ends where
        the last message does, to be gone on with. Raises TokenizerError when there is no template,
        or it fails, or takes too long, or leaves the message out that is to be gone on with.
        """
        if self._template is None:
            raise TokenizerError(
                f"{self.path} has no chat template",
                hint="it belongs to a base model: give it a text to go on with",
            )
        own = {
            "messages": list(messages),
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt and not continues_last,
            **self.vocabulary.named_pieces(),
        }
        text = self._template.render(**{**(variables or {}), **own})
        return _before_the_end_of_turn(text, messages) if continues_last else text

    def encode_chat(self, text: str) -> list[int]:
        """The ids of a rendered conversation; one BOS at most, whether template or file adds it."""
        ids = self.encode(text, special=True)
        if self.adds_bos and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def apply_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """The ids of that prompt. Raises as `render_chat` does."""
        rendered = self.render_chat(
            messages, add_generation_prompt=add_generation_prompt, tools=tools
        )
        return self.encode_chat(rendered)

    def files(self) -> dict[str, bytes]:
        """What to write beside Hugging Face weights: name -> content.

        tokenizer.json and tokenizer_config.json; for SentencePiece's kind tokenizer.model too; with
        several tokens that end a turn, generation_config.json. Raises TokenizerError for rules that
        no file of these can say.
        """
        config = write_tokenizer_config(self.vocabulary)
        result = {"tokenizer_config.json": config}
        if (model := self._sentencepiece_file()) is not None:
            result[FILE_NAME] = model
        if "tokenizer.json" in self._content.original:
            result["tokenizer.json"] = self._content.original["tokenizer.json"]
        elif not self.vocabulary.normalizes:
            result["tokenizer.json"] = write_tokenizer_json(self.vocabulary)
        if (generation := write_generation_config(self.vocabulary)) is not None:
            result["generation_config.json"] = generation
        return result

    def meta_files(self) -> dict[str, bytes]:
        """What to write beside Meta's weights: tokenizer.model as Meta has it.

        Byte-level BPE that ranks cannot say is written as for Hugging Face.
        """
        if (model := self._sentencepiece_file()) is not None:
            return {FILE_NAME: model}
        original = self._content.original.get(FILE_NAME)
        ranks = original if original is not None else write_tiktoken(self.vocabulary)
        return {FILE_NAME: ranks} if ranks is not None else self.files()

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.path)!r}, {self.vocabulary_size} pieces)"

    def _sentencepiece_file(self) -> bytes | None:
        """The tokenizer.model of SentencePiece's kind; None for byte-level BPE."""
        if self._content.model is not None:
            return self._content.original[FILE_NAME]
        is_spm = self.vocabulary.kind == "spm" and not self.vocabulary.normalizes
        return write_sentencepiece(self.vocabulary) if is_spm else None

    @cached_property
    def _spelling(self) -> SentencePieceSpelling | ByteLevelSpelling:
        if self.vocabulary.kind == "bpe":
            return ByteLevelSpelling(self.vocabulary)
        if (model := self._content.model) is None:
            return SentencePieceSpelling(self.vocabulary)
        return SentencePieceSpelling(self.vocabulary, model.unknown_surface, model.removes_spaces)

    @cached_property
    def _template(self) -> ChatTemplate | None:
        source = self.vocabulary.chat_template
        return None if source is None else ChatTemplate(source, str(self.path))

    def _with_prefix(self, text: str, *, is_first: bool, goes_on: bool = False) -> str:
        """`text` after the space that SentencePiece's kind puts before it, unless it `goes_on`."""
        rules = self.vocabulary
        if rules.kind == "bpe" or self._encoder.adds_prefix:
            return text
        if SPACE_MARK in text:
            text = text.replace(SPACE_MARK, " ")
        is_prefixed = rules.dummy_prefix and (is_first or rules.prefix_after_marks)
        if not is_prefixed or goes_on or not text:
            return text
        return text if text[0] == " " and not rules.prefix_doubles_spaces else f" {text}"

    def _require_marks(self, bos: bool, eos: bool) -> None:
        for is_wanted, token, name in ((bos, self.bos_id, "begin"), (eos, self.eos_id, "end")):
            if is_wanted and token < 0:
                raise TokenizerError(f"{self.path} has no {name} token, and one was asked for")

    def _require_known(self, token: int, where: str = "") -> None:
        if not 0 <= token < self.vocabulary_size:
            raise TokenizerError(
                f"token ids go from 0 to {self.vocabulary_size - 1}, got {token}{where}",
                hint="were these ids made with another tokenizer?",
            )


class StreamDecoder:
    """Text from ids one at a time: the pieces joined equal `Tokenizer.decode` of all the ids.

    A character whose bytes are spread over several ids is held back until it is complete.
    """

    def __init__(self, tokenizer: Tokenizer, stream: TextStream) -> None:
        self._tokenizer = tokenizer
        self._stream = stream

    def push(self, token: int) -> str:
        """The text that `token` completes, often all of its piece, sometimes nothing.

        Raises TokenizerError for an id outside the vocabulary.
        """
        self._tokenizer._require_known(token)
        return self._stream.push(token)

    def flush(self) -> str:
        """What is still held back, as U+FFFD for each byte; the next `push` starts a new text."""
        return self._stream.flush()


def _before_the_end_of_turn(text: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """A rendered conversation up to where its last message's content ends."""
    content = str(messages[-1].get("content") or "").strip() if messages else ""
    at = text.rfind(content)
    if not content or at < 0:
        raise TokenizerError(
            "the last message should have a text that the chat template shows, to go on with it",
            hint="without continue_final_message, the model answers with a message of its own",
        )
    return text[: at + len(content)]


def utf8(text: str, name: str = "") -> bytes:
    """The bytes of `text`. Raises TokenizerError at a lone surrogate, which UTF-8 cannot hold."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise TokenizerError(
            f"{name}character {error.start} is a lone surrogate (U+{code:04X}), "
            "which no valid text holds",
            hint="it comes from broken UTF-16 or JSON escapes; "
            "text.encode('utf-8', 'replace').decode() puts '?' in its place",
        ) from None


def _encoder(content: TokenizerContent) -> Encoder:
    vocabulary, path = content.vocabulary, content.path
    if content.rules is not None:
        return BpeEncoder.from_rules(content.rules, vocabulary, path)
    if vocabulary.kind == "bpe" or vocabulary.merges:
        return BpeEncoder.from_vocabulary(vocabulary, path)
    if content.model is not None and _says_the_same(content.model.vocabulary, vocabulary):
        return SentencePieceEncoder(content.original[FILE_NAME], content.model.vocabulary, path)
    # Text never reaches what Marks finds, nor what no text may become.
    kept = (PieceType.NORMAL, PieceType.BYTE, *MARKUP)
    types = tuple(kind if kind in kept else PieceType.CONTROL for kind in vocabulary.types)
    plain = replace(vocabulary, types=types)
    return SentencePieceEncoder(write_sentencepiece(plain), plain, path)


def _says_the_same(model: Vocabulary, vocabulary: Vocabulary) -> bool:
    """Whether a model's pieces are still what the vocabulary has in their places."""
    size = len(model)
    is_same = model.pieces == vocabulary.pieces[:size] and model.types == vocabulary.types[:size]
    return model.normalizes or is_same


def _as_bytes(token: int) -> bytes:
    return np.int32(token).tobytes()
