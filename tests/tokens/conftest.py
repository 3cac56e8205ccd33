"""A small tokenizer of our own kind, trained once; and LLaMA's own where it is at hand."""

import pytest
from token_texts import SHARED, documents

from puna.console import silent
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.training import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [text for _, text in documents(200)]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    out = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(texts, out, TokenizerConfig(vocabulary_size=480), silent())


@pytest.fixture(scope="session")
def llama_tokenizer() -> Tokenizer:
    path = SHARED / "llama2-tokenizer" / "tokenizer.model"
    if not path.is_file():
        pytest.skip("needs LLaMA's tokenizer.model from ../shared, which is not beside this clone")
    return Tokenizer.load(path)
