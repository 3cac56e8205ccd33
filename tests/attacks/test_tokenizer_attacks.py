"""Every broken tokenizer file ends in the one error it should, or loads and still works."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import tokenizer_attacks
from attacks.mutations import ends_well
from attacks.tokenizer_attacks import BINS, FOLDERS, JSONS, MODELS, RANK_FILES, use
from small_tokenizers import sentencepiece_model, tokenizer_json

from puna.errors import TokenizerError
from puna.tokens.formats.gguf_vocabulary import gguf_metadata
from puna.tokens.tokenizer import Tokenizer

ATTACKS = {
    f"{kind}: {label}": attack
    for kind, attacks in (
        ("model", MODELS),
        ("ranks", RANK_FILES),
        ("bin", BINS),
        ("json", JSONS),
    )
    for label, attack in attacks.items()
}


@pytest.mark.parametrize("label", ATTACKS)
def test_a_broken_file_is_refused_with_its_reason(label: str, tmp_path: Path):
    name, content, says = ATTACKS[label]
    path = tmp_path / name
    path.write_bytes(content)
    outcome = ends_well(lambda: use(path), path)
    assert isinstance(outcome, TokenizerError), f"it loads, with {outcome} ids"
    assert re.search(says, outcome.message), outcome.message


@pytest.mark.parametrize("label", FOLDERS)
def test_a_broken_file_beside_a_good_one_is_refused(label: str, tmp_path: Path):
    name, content, says = FOLDERS[label]
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_attacks.MODEL)
    assert use(tmp_path)
    (tmp_path / name).write_bytes(content)
    outcome = ends_well(lambda: use(tmp_path), tmp_path)
    assert isinstance(outcome, TokenizerError), f"it loads, with {outcome} ids"
    assert re.search(says, outcome.message), outcome.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", b'{"chat_template": [{"name": [1], "template": "a"}]}'),
        ("manifest.json", b'{"a":' * 100_000),
        ("manifest.json", b'{"a":' + b"1" * 5000 + b"}"),
    ],
)
def test_what_says_nothing_of_a_tokenizer_changes_nothing(
    name: str, content: bytes, tmp_path: Path
):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_attacks.MODEL)
    (tmp_path / name).write_bytes(content)
    assert ends_well(lambda: use(tmp_path), tmp_path) == use(tmp_path / "tokenizer.model")


def test_what_is_no_regular_file_is_refused(tmp_path: Path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this platform has no named pipes")
    os.mkfifo(tmp_path / "tokenizer.model")
    with pytest.raises(TokenizerError, match="no regular file"):
        Tokenizer.load(tmp_path / "tokenizer.model")


def test_a_pattern_that_backtracks_without_end_makes_rust_panic_and_is_one_error(tmp_path: Path):
    record = json.loads(tokenizer_json("gpt-2"))
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    split["pattern"] = {"Regex": "(x+x+)+y"}
    parts = [split, record["pre_tokenizer"]]
    record["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(record))
    outcome = ends_well(lambda: Tokenizer.load(path).encode("x" * 40), path)
    assert isinstance(outcome, TokenizerError)
    assert "refused by tokenizers: Onig" in outcome.message


GGUF_CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no model": (lambda keys: keys.pop("model"), "model should be text, found nothing"),
    "a model that is a number": (lambda keys: keys.update(model=5), "model should be text"),
    "another model": (lambda keys: keys.update(model="bert"), "LLaMA's are 'llama'"),
    "no tokens": (lambda keys: keys.update(tokens=[]), "has 320 values for 0"),
    "tokens that are numbers": (lambda keys: keys.update(tokens=[1, 2]), "an array of text"),
    "tokens that are text": (lambda keys: keys.update(tokens="abc"), "an array of text"),
    "too few scores": (lambda keys: keys.update(scores=[0.0]), "scores has 1 values for 320"),
    "scores of text": (lambda keys: keys.update(scores=["x"] * 320), "an array of numbers"),
    "a score that is none": (lambda keys: keys["scores"].__setitem__(300, np.nan), "300 is nan"),
    "no scores": (lambda keys: keys.pop("scores"), "scores should be an array"),
    "no types": (lambda keys: keys.pop("token_type"), "token_type should be an array"),
    "a type of 9": (lambda keys: keys["token_type"].__setitem__(5, 9), "type of token 5 is 9"),
    "a token twice": (lambda keys: keys["tokens"].__setitem__(300, "<s>"), "the same as piece 1"),
    "an empty token": (lambda keys: keys["tokens"].__setitem__(300, ""), "piece 300 is empty"),
    "a BOS outside": (lambda keys: keys.update(bos_token_id=320), "bos_token_id is 320, the last"),
    "a negative EOS": (lambda keys: keys.update(eos_token_id=-7), "eos_token_id is -7"),
    "an EOS of text": (lambda keys: keys.update(eos_token_id="2"), "should be a token's id"),
    "a flag of numbers": (lambda keys: keys.update(add_bos_token=1), "should be true or false"),
    "two unknown tokens": (
        lambda keys: keys["token_type"].__setitem__(300, 2),
        "should have one unknown token",
    ),
    "a byte too few": (lambda keys: keys["tokens"].__setitem__(10, "x9"), "256 byte tokens"),
}


@pytest.mark.parametrize("label", GGUF_CHANGES)
def test_broken_metadata_of_a_gguf_is_refused(label: str):
    good = gguf_metadata(Tokenizer(sentencepiece_model()).vocabulary)
    keys = {name.removeprefix("tokenizer.ggml."): value for name, value in good.items()}
    change, says = GGUF_CHANGES[label]
    change(keys)
    broken = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    with pytest.raises(TokenizerError, match=says) as raised:
        Tokenizer.from_gguf(broken, Path("model.gguf"))
    assert "model.gguf" in raised.value.message
