"""Settings for all tests: properties try the same examples every time, with no clock."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")

os.environ["PUNA_PACKED_CACHE"] = "0"  # a test run packs each model anew, and leaves no files


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a small random model and a real tokenizer (tests/tiny_model.py)."""
    from tiny_model import random_arrays, tiny_config, write_run, write_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    config = tiny_config()
    tokenizer = write_tokenizer(folder / "tokenizer", config.vocabulary_size)
    return write_run(folder / "run", tokenizer, config, random_arrays(config))


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards of both splits with their tokenizer (tests/tiny_training.py)."""
    from tiny_training import write_shards_folder

    return write_shards_folder(tmp_path_factory.mktemp("tiny") / "shards")
