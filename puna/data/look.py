"""Documents to look at: some chosen by a seed, or one by its id.

They come from a corpus, from token shards, from a build's mixture of them, or from a file of
documents such as every stage of a build leaves.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from puna.data.corpus import Corpus
from puna.data.document import Document, read_documents
from puna.data.split import SPLITS, Split
from puna.errors import DataError
from puna.tokens.mixture import MIXTURE_NAME, Mixture
from puna.tokens.shards import MANIFEST_NAME, ShardSet
from puna.tokens.tokenizer import FILE_NAME, Tokenizer

Place = TypeVar("Place", bound=str)  # a split, or a source of a mixture


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A document to show. Shards know neither source nor licence, a corpus no tokens."""

    id: str
    split: str  # or the source, in a mixture
    text: str
    source: str | None = None
    licence: str | None = None
    tokens: int | None = None


def sample_corpus(
    corpus: Corpus, splits: tuple[Split, ...], number: int, seed: int
) -> Iterator[Shown]:
    """`number` documents, or all where there are fewer, in the corpus's order."""
    chosen = _choose({split: corpus.count(split)[0] for split in splits}, number, seed)
    for split, numbers in chosen.items():
        if not numbers:
            continue
        for index, document in enumerate(corpus.documents(split)):
            if index in numbers:
                yield _shown(document, split)
            if index == max(numbers):
                break


def find_in_corpus(corpus: Corpus, splits: tuple[Split, ...], document_id: str) -> Shown:
    """The document of this id. Raises DataError when the splits hold none."""
    for split in splits:
        for document in corpus.documents(split):
            if document.id == document_id:
                return _shown(document, split)
    example = next(corpus.documents(splits[0])).id
    raise DataError(
        f"{corpus.folder} has no document {document_id!r} in {' or '.join(splits)}",
        hint=f"an id looks like {example}; without --id some documents are chosen",
    )


def open_shards(folder: Path) -> dict[str, ShardSet]:
    """The shards of each split, of each source of a mixture, or those in the folder itself.

    Raises DataError for other folders.
    """
    if (folder / MIXTURE_NAME).is_file():
        mixture = Mixture.open(folder)
        held_out = {"heldout": mixture.heldout} if mixture.heldout else {}
        return {**mixture.sources, **held_out}
    if (folder / MANIFEST_NAME).is_file():
        return {folder.name: ShardSet.open(folder)}
    if not any((folder / split / MANIFEST_NAME).is_file() for split in SPLITS):
        raise DataError(
            f"{folder} should be a corpus or a folder of token shards, found neither",
            hint="puna data add writes a corpus, puna data build token shards",
        )
    return {split: ShardSet.open(folder / split) for split in SPLITS}


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer that lies beside shards or in a folder above. Raises TokenizerError."""
    places = [folder, *folder.absolute().parents[:2]]
    return Tokenizer.load(next((one for one in places if (one / FILE_NAME).is_file()), folder))


def sample_file(path: Path, number: int, seed: int) -> Iterator[Shown]:
    """`number` documents of a file of documents, or all where there are fewer, in its order."""
    draw = random.Random(seed)
    chosen: list[tuple[int, Document]] = []
    for index, document in enumerate(read_documents(path)):
        if len(chosen) < number:
            chosen.append((index, document))
        elif (place := draw.randrange(index + 1)) < number:
            chosen[place] = (index, document)
    for _, document in sorted(chosen, key=lambda one: one[0]):
        yield _shown(document, path.name)


def find_in_file(path: Path, document_id: str) -> Shown:
    """The document of this id. Raises DataError when the file has none."""
    for document in read_documents(path):
        if document.id == document_id:
            return _shown(document, path.name)
    raise DataError(f"{path} has no document {document_id!r}")


def sample_shards(
    shards: Mapping[str, ShardSet], tokenizer: Tokenizer, number: int, seed: int
) -> Iterator[Shown]:
    """`number` documents decoded from their tokens, with their place in the split as id."""
    counts = {split: shard_set.documents for split, shard_set in shards.items()}
    for split, numbers in _choose(counts, number, seed).items():
        for index in sorted(numbers):
            yield from_shards(shards[split], split, tokenizer, index)


def from_shards(shard_set: ShardSet, split: str, tokenizer: Tokenizer, index: int) -> Shown:
    """Document `index`, decoded. Raises DataError when there is none, or for another tokenizer."""
    shard_set.require_tokenizer(tokenizer)
    ids = shard_set.document(index)
    text = tokenizer.decode(ids.tolist())
    return Shown(id=str(index), split=split, text=text, tokens=len(ids))


def _shown(document: Document, split: str) -> Shown:
    return Shown(
        id=document.id,
        split=split,
        text=document.text,
        source=document.source,
        licence=document.licence,
    )


def _choose(counts: Mapping[Place, int], number: int, seed: int) -> dict[Place, set[int]]:
    """Numbers of documents in each split; every document is as likely as any other."""
    total = sum(counts.values())
    chosen = random.Random(seed).sample(range(total), min(number, total))
    result: dict[Place, set[int]] = {}
    first = 0
    for split, count in counts.items():
        result[split] = {place - first for place in chosen if first <= place < first + count}
        first += count
    return result
