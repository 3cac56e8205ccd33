"""Small trees of text, a tokenizer for them, a recipe over both."""

from pathlib import Path

import pytest
from token_texts import documents, sentences

from puna.console import silent
from puna.data.document import Document, write_documents
from puna.tokens.training import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model of 400 pieces."""
    out = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(sentences(300), out, TokenizerConfig(400), silent()).path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two folders of own text: many documents in files of JSON lines, and some text files.

    Each file repeats the first document of the one before.
    """
    texts = [text for _, text in documents(400)]
    for number in range(8):
        part = texts[50 * number - bool(number) : 50 * number + 50]
        written = [Document(text, "", "CC0", str(at)) for at, text in enumerate(part)]
        write_documents(tmp_path / "text" / "lines" / f"{number}.jsonl.zst", written)
    notes = tmp_path / "text" / "notes"
    notes.mkdir()
    for number in range(5):
        (notes / f"{number}.txt").write_text(f"Note {number}. " + texts[number * 7], "utf-8")
    return tmp_path / "text"


@pytest.fixture
def recipe(tree: Path, tokenizer_path: Path, tmp_path: Path) -> Path:
    """A recipe of two sources over the tree, one file a task."""
    path = tmp_path / "own.toml"
    path.write_text(
        f"""
        heldout_every = 10
        task_bytes = 1
        tokens = 1e5
        [sources.lines]
        reader = "own"
        inputs = ["{tree}/lines"]
        share = 3
        [sources.notes]
        reader = "own"
        inputs = ["{tree}/notes/*.txt"]
        share = 1
        stages = []
        [tokenizer]
        path = "{tokenizer_path}"
        [shards]
        shard_bytes = 20001
        """
    )
    return path
