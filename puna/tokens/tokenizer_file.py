"""Opens a tokenizer by its content, never by its name: which format it is, and what it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from puna import schema
from puna.errors import TokenizerError
from puna.tokens.formats.companions import read_limited, with_companions
from puna.tokens.formats.gguf_vocabulary import read_gguf_vocabulary
from puna.tokens.formats.gpt2_files import PAIRS_OF_FILES, read_gpt2
from puna.tokens.formats.llama2c_vocabulary import (
    is_llama2c_vocabulary,
    read_llama2c_vocabulary,
)
from puna.tokens.formats.sentencepiece_model import (
    SentencePieceModel,
    is_sentencepiece,
    read_sentencepiece,
)
from puna.tokens.formats.tiktoken_ranks import is_tiktoken, read_tiktoken
from puna.tokens.formats.tokenizer_json import read_tokenizer_json
from puna.tokens.vocabulary import Vocabulary

FILE_NAME = "tokenizer.model"
MANIFEST_NAME = "manifest.json"
KIND = "puna.tokenizer"
LARGEST_BYTES = 256 << 20  # ten times the largest tokenizer.json in use
_NAMES = (FILE_NAME, "tokenizer.json", "tokenizer.bin")
_HINT = (
    "give a tokenizer.model, tokenizer.json or tokenizer.bin, or a folder that holds one; "
    "`puna tokenizer train` makes one from your text"
)


@dataclass(frozen=True)
class TokenizerContent:
    """What a tokenizer's files hold, checked.

    `original` is the main file's bytes under the name that other programs know it by; `model` says
    what only a SentencePiece model can, `rules` what only a tokenizer.json can.
    """

    format: str
    vocabulary: Vocabulary
    path: Path
    sha256: str
    original: Mapping[str, bytes]
    model: SentencePieceModel | None = None
    rules: dict[str, Any] | None = None


def open_tokenizer(path: Path) -> TokenizerContent:
    """The tokenizer in a file, or in a folder with what the files beside it say.

    In a folder that `puna tokenizer train` wrote, the file must still be the one that its manifest
    names. Raises TokenizerError when it is missing, changed, broken, or no tokenizer.
    """
    if not path.is_dir():
        return read_tokenizer(_bytes_of(path), path)
    content = _of_folder(path)
    _check_manifest(path / MANIFEST_NAME, content)
    return replace(content, vocabulary=with_companions(content.vocabulary, path))


def read_tokenizer(content: bytes, path: Path) -> TokenizerContent:
    """The tokenizer in a file's bytes. Raises TokenizerError for anything else."""
    start = content[:4096]
    name, model, rules = FILE_NAME, None, None
    if start.lstrip()[:1] == b"{":
        found = read_tokenizer_json(content, path)
        format_name, vocabulary, rules = "tokenizer.json", found.vocabulary, found.rules
        name = "tokenizer.json"
    elif is_tiktoken(start):
        format_name, vocabulary = "tiktoken", read_tiktoken(content, path)
    elif is_llama2c_vocabulary(start):
        format_name, vocabulary = "llama2.c", read_llama2c_vocabulary(content, path)
        name = "tokenizer.bin"
    elif is_sentencepiece(start):
        model = read_sentencepiece(content, path)
        format_name, vocabulary = "SentencePiece", model.vocabulary
    else:
        raise _no_tokenizer(content, path)
    return TokenizerContent(
        format=format_name,
        vocabulary=vocabulary,
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        original={name: content},
        model=model,
        rules=rules,
    )


def gguf_tokenizer(metadata: Mapping[str, Any], path: Path) -> TokenizerContent:
    """The tokenizer in a GGUF file's metadata; its SHA-256 is over what it says."""
    vocabulary = read_gguf_vocabulary(metadata, path)
    return TokenizerContent(
        format="GGUF",
        vocabulary=vocabulary,
        path=path,
        sha256=vocabulary_sha256(vocabulary),
        original={},
    )


def vocabulary_sha256(vocabulary: Vocabulary) -> str:
    """A SHA-256 over everything in a vocabulary, 64 hex digits."""
    facts = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in vars(vocabulary).items()
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _of_folder(folder: Path) -> TokenizerContent:
    """The main file of a folder: a model before its tokenizer.json, but not Llama 3's.

    A SentencePiece model says more than the tokenizer.json made from it; ranks say less, for the
    names of special tokens are not among them.
    """
    present = [folder / name for name in _NAMES if (folder / name).is_file()]
    if len(present) > 1 and is_tiktoken(read_limited(present[0], LARGEST_BYTES)[:4096]):
        present.pop(0)
    if present:
        return read_tokenizer(_bytes_of(present[0]), present[0])
    for encoder_name, merges_name in PAIRS_OF_FILES:
        encoder, merges = folder / encoder_name, folder / merges_name
        if encoder.is_file() and merges.is_file():
            pieces, pairs = _bytes_of(encoder), _bytes_of(merges)
            return TokenizerContent(
                format="GPT-2",
                vocabulary=read_gpt2(pieces, pairs, encoder),
                path=encoder,
                sha256=hashlib.sha256(pieces + pairs).hexdigest(),
                original={},
            )
    raise TokenizerError(f"there is no tokenizer at {folder / FILE_NAME}", hint=_HINT)


def _bytes_of(path: Path) -> bytes:
    if not path.exists():
        raise TokenizerError(f"there is no tokenizer at {path}", hint=_HINT)
    return read_limited(path, LARGEST_BYTES)


def _no_tokenizer(content: bytes, path: Path) -> TokenizerError:
    if content.startswith(b"GGUF"):
        return TokenizerError(
            f"{path} is a GGUF model, which holds its tokenizer within",
            hint="give the model where a model is asked for; its tokenizer comes with it",
        )
    return TokenizerError(
        f"{path} should be a tokenizer: a SentencePiece model, Llama 3's ranks, a tokenizer.json "
        f"or llama2.c's tokenizer.bin; found {len(content):,} other bytes",
        hint=_HINT,
    )


def _check_manifest(path: Path, content: TokenizerContent) -> None:
    """Refuse a file other than the one that the manifest beside it names."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(record, dict) or record.get("schema") != KIND:
        return  # the manifest of a checkpoint, or someone else's
    schema.check(record, KIND, path)
    if record.get("sha256") != content.sha256:
        raise TokenizerError(
            f"{content.path} is not the file that {path.name} beside it names: "
            f"SHA-256 {content.sha256[:12]}... instead of {str(record.get('sha256'))[:12]}...",
            hint="it was changed or replaced; train it again, or delete the manifest to accept it",
        )
