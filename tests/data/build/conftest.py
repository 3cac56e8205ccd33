"""Small trees of text, a tokenizer for them, and builds run as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from token_texts import documents, sentences

from puna.console import silent
from puna.data.document import Document, write_documents
from puna.tokens.training import TokenizerConfig, train_tokenizer

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.fixture
def run_verb() -> Callable[[Sequence[object]], subprocess.CompletedProcess[str]]:
    """Runs `puna data build ...` as a process of its own."""

    def run(words: Sequence[object]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(words), capture_output=True, text=True, check=False, env=environment()
        )

    return run


def command(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", "puna", "data", "build", *map(str, words)]


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
