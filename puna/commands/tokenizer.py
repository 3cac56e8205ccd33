"""`puna tokenizer`: train a tokenizer on text, or look at one and at what it makes of a text."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna import schema
from puna.console import Console, human_bytes, human_duration
from puna.errors import TokenizerError

if TYPE_CHECKING:
    from puna.tokens.tokenizer import Tokenizer

TRAIN_EXAMPLES = """examples:
  puna tokenizer train my_corpus --out my_tokenizer --vocabulary-size 4096
  puna tokenizer train my_texts/ --out my_tokenizer --set tokenizer.split_digits=false"""
SHOW_EXAMPLES = """examples:
  puna tokenizer show demo/data
  puna tokenizer show demo/data --text "The state of the Union"
  puna tokenizer show llama/tokenizer.model --text - < speech.txt
  puna tokenizer show model.gguf --text "<|im_start|>user" --special"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna tokenizer train` and `puna tokenizer show`."""
    parser.description = "Train a SentencePiece BPE tokenizer as LLaMA's was, or look at one."
    parser.epilog = f"{TRAIN_EXAMPLES}\n{SHOW_EXAMPLES.partition(chr(10))[2]}"
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    train = verbs.add_parser("train", help="learn a vocabulary from text")
    train.description = "Learn a vocabulary from a corpus's training split, or from text files."
    train.epilog = TRAIN_EXAMPLES
    train.add_argument("input", metavar="TEXT", type=Path, help="a corpus, a folder or a file")
    train.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="where it goes")
    train.add_argument(
        "--vocabulary-size", metavar="PIECES", type=int, help="pieces in all (default: 4096)"
    )
    train.add_argument(
        "--set",
        metavar="tokenizer.NAME=VALUE",
        action="append",
        default=[],
        help="another setting: character_coverage, max_piece_length, split_digits",
    )

    show = verbs.add_parser("show", help="facts about a tokenizer, or the tokens of a text")
    show.description = "Facts about a tokenizer; with --text, the pieces and ids of a text."
    show.epilog = SHOW_EXAMPLES
    show.add_argument(
        "tokenizer",
        type=Path,
        help="a tokenizer.model, tokenizer.json, tokenizer.bin or GGUF file, or a folder with one",
    )
    show.add_argument("--text", help="text to split into tokens; - reads it from standard input")
    show.add_argument(
        "--special", action="store_true", help="read markup such as <s> as control tokens"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Train, or show. Raises TokenizerError, ConfigError, DataError for what cannot be done."""
    if arguments.action == "train":
        return _train(arguments, console)
    tokenizer = _load(arguments.tokenizer)
    if arguments.text is None:
        record = _facts(tokenizer)
        console.result(record, _facts_text(record))
    else:
        text = _standard_input() if arguments.text == "-" else arguments.text
        record = _tokens(tokenizer, text, special=arguments.special)
        console.result(record, _tokens_text(record))
    return 0


def _load(path: Path) -> Tokenizer:
    """The tokenizer at `path`, a GGUF model's too."""
    from puna.tokens.tokenizer import Tokenizer
    from puna.weights.gguf_file import MAGIC, read_gguf

    start = b""
    with contextlib.suppress(OSError):  # Tokenizer.load says what is wrong
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(len(MAGIC))
    if start == MAGIC:
        return Tokenizer.from_gguf(read_gguf(path).metadata, path)
    return Tokenizer.load(path)


def _train(arguments: argparse.Namespace, console: Console) -> int:
    from puna import config
    from puna.tokens.training import TokenizerRecipe, train_tokenizer

    overrides = list(arguments.set)
    if arguments.vocabulary_size is not None:
        overrides.append(f"tokenizer.vocabulary_size={arguments.vocabulary_size}")
    recipe = config.load(TokenizerRecipe, None, overrides)
    tokenizer = train_tokenizer(_texts(arguments.input), arguments.out, recipe.tokenizer, console)
    record = _facts(tokenizer)
    console.result(record, _facts_text(record))
    return 0


def _texts(path: Path) -> Iterator[str]:
    """The texts to learn from: a corpus's training split, or the text files at `path`."""
    from puna.data.corpus import open_corpus
    from puna.data.document import Document
    from puna.data.sources.own import OwnText

    if _manifest(path).get("schema") == "puna.corpus":
        yield from (document.text for document in open_corpus(path).train())
    else:
        yield from (item.text for item in OwnText([path]) if isinstance(item, Document))


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest.json in a folder; empty where there is none."""
    try:
        record = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What there is to know: from the file, and from the manifest where Puna trained it."""
    from puna.tokens.training import pieces_by_kind

    kinds = pieces_by_kind(tokenizer)
    vocabulary = tokenizer.vocabulary
    record = {
        "path": str(tokenizer.path),
        "format": tokenizer.format,
        "kind": vocabulary.kind,
        "pre_tokenizer": vocabulary.pre_tokenizer,
        "sha256": tokenizer.sha256,
        "vocabulary_size": tokenizer.vocabulary_size,
        "pieces": {name: len(pieces) for name, pieces in kinds.items()},
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "unknown_id": tokenizer.unknown_id,
        "adds_bos": tokenizer.adds_bos,
        "adds_eos": tokenizer.adds_eos,
        "stop_pieces": {tokenizer.piece(one): one for one in vocabulary.stop_ids},
        "has_chat_template": tokenizer.chat_template is not None,
        "encoding": tokenizer.speed,
        "longest_pieces": _longest_words(kinds["merges"]),
    }
    manifest = _manifest(tokenizer.path.parent)
    if manifest.get("schema") == "puna.tokenizer" and manifest.get("sha256") == tokenizer.sha256:
        schema.check(manifest, "puna.tokenizer", tokenizer.path.parent / "manifest.json")
        record |= {key: manifest[key] for key in ("config", "trained_on", "seconds")}
        record["bytes_per_token"] = manifest["facts"]["bytes_per_token"]
    return record


def _longest_words(merges: list[str]) -> list[str]:
    """The longest pieces that are words: the longest of all are rules of dashes and spaces."""
    words = [piece for piece in merges if piece.lstrip("\u2581\u0120").isalpha()]
    spelt = [piece for piece in words if piece[1:].isascii()]  # byte-level spelling is no word
    return sorted(spelt or words or merges, key=lambda piece: (-len(piece), piece))[:12]


def _facts_text(record: dict[str, Any]) -> str:
    pieces = record["pieces"]
    kinds = {"spm": "SentencePiece BPE", "bpe": "byte-level BPE"}
    cut = f", text cut as by {record['pre_tokenizer']}" if record["pre_tokenizer"] else ""
    ids = {"begin": "bos_id", "end": "eos_id", "unknown": "unknown_id"}
    added = [name for name, key in (("begin", "adds_bos"), ("end", "adds_eos")) if record[key]]
    stops = (f"{piece} = {token}" for piece, token in record["stop_pieces"].items())
    facts = {
        "format": f"{record['format']}: {kinds[record['kind']]}{cut}",
        "vocabulary": f"{record['vocabulary_size']:,} pieces: {pieces['control']} control tokens, "
        f"{pieces['bytes']} bytes, {pieces['characters']:,} characters, "
        f"{pieces['merges']:,} merges",
        "ids": ", ".join(
            f"{name} {record[key] if record[key] >= 0 else 'none'}" for name, key in ids.items()
        ),
        "added to a text": " and ".join(added) or "nothing",
        "ends an answer": ", ".join(stops) or "nothing",
        "chat template": "yes" if record["has_chat_template"] else "none",
        "unknown text": _unknown_text(record),
        "encoding": record["encoding"],
        "longest": " ".join(record["longest_pieces"][:4]),
    }
    if "trained_on" in record:
        trained = record["trained_on"]
        facts["trained on"] = (
            f"{trained['documents']:,} documents, {human_bytes(trained['bytes'])}, "
            f"in {human_duration(record['seconds'])}"
        )
        facts["config"] = ", ".join(f"{key} {value}" for key, value in record["config"].items())
        facts["density"] = f"{record['bytes_per_token']} bytes a token on text it was trained on"
    facts["SHA-256"] = record["sha256"]
    width = max(len(name) for name in facts)
    return "\n".join(
        [record["path"], *(f"{name:<{width}}  {text}" for name, text in facts.items())]
    )


def _unknown_text(record: dict[str, Any]) -> str:
    count = record["pieces"]["bytes"]
    if count == 256:
        return "spelt in bytes"
    if record["kind"] == "bpe":
        return f"spelt in bytes, {256 - count} of which have no piece and are left out"
    return "becomes the unknown token"


def _tokens(tokenizer: Tokenizer, text: str, *, special: bool) -> dict[str, Any]:
    ids = tokenizer.encode(text, special=special)
    return {
        "ids": ids,
        "pieces": [tokenizer.piece(token) for token in ids],
        "tokens": len(ids),
        "bytes": len(text.encode("utf-8")),
        "decodes_to_the_same_text": tokenizer.decode(ids, special=special) == text,
    }


def _tokens_text(record: dict[str, Any]) -> str:
    lines = [
        f"{token:>7}  {piece}" for token, piece in zip(record["ids"], record["pieces"], strict=True)
    ]
    density = f"{record['bytes'] / max(record['tokens'], 1):.2f} bytes a token"
    same = "the same text" if record["decodes_to_the_same_text"] else "ANOTHER text"
    lines.append(
        f"{record['tokens']:,} tokens, {record['bytes']:,} bytes, {density}; they decode to {same}"
    )
    return "\n".join(lines)


def _standard_input() -> str:
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"standard input should be UTF-8 text, found the byte 0x{content[error.start]:02X} "
            f"at offset {error.start}",
            hint="convert it first: iconv -f LATIN1 -t UTF-8",
        ) from None
