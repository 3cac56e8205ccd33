"""GPT-2's two files: `encoder.json` (piece -> id) and `vocab.bpe` (merges, a line each).

Hugging Face calls the same two files `vocab.json` and `merges.txt`.
"""

from __future__ import annotations

from pathlib import Path

from puna.errors import TokenizerError
from puna.tokens.formats.bpe_parts import bpe_vocabulary, pieces_by_id
from puna.tokens.formats.json_text import read_object
from puna.tokens.vocabulary import Vocabulary, shown

END_OF_TEXT = "<|endoftext|>"
PAIRS_OF_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


def read_gpt2(encoder: bytes, merges: bytes, path: Path) -> Vocabulary:
    """The vocabulary of both files' bytes; `path` is the first's.

    Raises TokenizerError, with the line, for a merge that is no pair, and for pieces without ids
    from 0 on.
    """
    pieces = pieces_by_id(read_object(encoder, path), path)
    try:
        lines = merges.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"the merges beside {path} are not UTF-8: {error}") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        if line.count(" ") != 1:
            raise TokenizerError(
                f"the merges beside {path}: line {number} should be a pair, found {shown(line)}"
            )
        pairs.append(line)
    end = pieces.index(END_OF_TEXT) if END_OF_TEXT in pieces else -1
    return bpe_vocabulary(
        pieces,
        pairs,
        path,
        control=[end] if end >= 0 else [],
        pre_tokenizer="gpt-2",
        bos_id=end,
        eos_id=end,
        adds_bos=False,
    )
