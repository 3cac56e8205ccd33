"""Whatever a file should be: nothing there, a folder, a pipe and an empty file are one error."""

import os
from pathlib import Path

import pytest

from puna.errors import CheckpointError
from puna.weights.gguf_file import read_gguf
from puna.weights.huggingface_config import read_config
from puna.weights.llama2c import open_llama2c
from puna.weights.open_model import kind_of
from puna.weights.pickle_file import open_pickle
from puna.weights.safetensors_file import open_safetensors
from puna.weights.untrusted import listed

READERS = (read_gguf, open_llama2c, open_pickle, open_safetensors, read_config, kind_of)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_refused(reader, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no regular file"):
        reader(tmp_path)
    with pytest.raises(CheckpointError, match=r"absent should .* found nothing there"):
        reader(tmp_path / "absent")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
        with pytest.raises(CheckpointError, match="no regular file"):
            reader(tmp_path / "pipe")


@pytest.mark.parametrize("reader", READERS[:-1])
def test_an_empty_file_is_refused(reader, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"(empty|found 0|column 1)"):
        reader(tmp_path / "file")


def test_names_do_not_flood_a_message():
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed(["x" * 100, *"bcdef"]) == f"'{'x' * 77}...', 'b', 'c', 'd' and 2 more"
