"""Weights from elsewhere as step 0 of a run, whatever tokenizer they come with."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from memory_source import MemorySource
from small_tokenizers import ranks, sentencepiece_model, tokenizer_bin, tokenizer_json
from tiny_model import TinyRecipe, random_arrays, tiny_config

from puna.console import Console, silent
from puna.errors import CheckpointError, TokenizerError
from puna.tokens.tokenizer import Tokenizer
from puna.weights import checkpoint
from puna.weights.convert import Conversion, convert
from puna.weights.open_model import load_tokenizer, open_model

TEXT = "The llama lives\n\n  here: 1234 高原 🦙 déjà vu"


def made(folder: Path, tokenizer: Tokenizer, console: Console | None = None):
    """The run made of random weights with room for every piece, opened."""
    config = tiny_config(tokenizer.vocabulary_size)
    source = MemorySource(config, random_arrays(config))
    convert(source, folder / "run", Conversion("puna"), console or silent(), tokenizer)
    return open_model(folder / "run")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.model", sentencepiece_model),
        ("tokenizer.model", ranks),
        ("tokenizer.json", tokenizer_json),
        ("tokenizer.bin", tokenizer_bin),
    ],
    ids=["SentencePiece", "tiktoken", "tokenizer.json", "llama2.c"],
)
def test_a_tokenizer_of_any_kind_goes_along(tmp_path: Path, name, content):
    file = tmp_path / name
    file.write_bytes(content())
    tokenizer = Tokenizer.load(file)
    result = made(tmp_path, tokenizer)
    kept = load_tokenizer(result)
    assert kept.encode(TEXT, bos=True) == tokenizer.encode(TEXT, bos=True)
    assert kept.vocabulary.pieces == tokenizer.vocabulary.pieces
    if name != "tokenizer.bin":
        assert kept.path.read_bytes() == file.read_bytes()


def test_tokens_added_beside_a_sentencepiece_model_make_it_a_tokenizer_json(tmp_path: Path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 320}')
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    tokenizer = Tokenizer.load(tmp_path)
    console = Console(stdout=io.StringIO(), stderr=io.StringIO())
    kept = load_tokenizer(made(tmp_path, tokenizer, console))
    assert (kept.format, kept.vocabulary_size) == ("tokenizer.json", 321)
    assert kept.encode(TEXT) == tokenizer.encode(TEXT)
    assert "the chat template stays behind" in console.stderr.getvalue()


def test_a_tokenizer_that_no_single_file_holds_is_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 320}')
    tokenizer = Tokenizer.load(tmp_path)
    monkeypatch.setattr(Tokenizer, "files", lambda self: {})
    with pytest.raises(TokenizerError, match="no single file holds all of this tokenizer") as found:
        made(tmp_path, tokenizer)
    assert "--tokenizer-path" in str(found.value.hint)
    assert not (tmp_path / "run").exists()


def test_it_is_step_0_of_a_run_and_keeps_every_rule_of_the_layout(tiny_run, tmp_path: Path):
    result = made(tmp_path, load_tokenizer(open_model(tiny_run)))
    assert result.path == tmp_path / "run" / "checkpoints" / "step-000000"
    assert (result.step, result.tokens) == (0, 0)
    checkpoint.verify(result.path)
    assert checkpoint.read_arrays(result.path / "optimizer.safetensors") == {}
    assert checkpoint.read_state(result.path)["provenance"] is None
    recipes = [folder / "recipe.toml" for folder in (tmp_path / "run", result.path)]
    assert recipes[0].read_bytes() == recipes[1].read_bytes()


@pytest.mark.parametrize("name", ["step", "tokens", "best_step"])
def test_a_state_whose_counts_are_no_numbers_is_one_error(tiny_run, tmp_path: Path, name):
    folder = made(tmp_path, load_tokenizer(open_model(tiny_run))).path
    state = {"tokens": 0, name: "many"}
    checkpoint.seal(folder, 0, state, TinyRecipe(tiny_config()))
    with pytest.raises(CheckpointError, match=f"should give {name} as a whole number"):
        open_model(folder)
