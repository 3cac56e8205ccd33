"""Every broken tokenizer file ends in the one error it should, or loads and still works."""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import tokenizer_attacks
from attacks.mutations import ends_well, flips, truncations
from attacks.tokenizer_attacks import BINS, FOLDERS, JSONS, MODELS, RANK_FILES
from small_tokenizers import ranks, sentencepiece_model, tokenizer_bin, tokenizer_json

from puna.errors import PunaError, TokenizerError
from puna.tokens.formats.gguf_vocabulary import gguf_metadata
from puna.tokens.formats.tokenizer_json_writer import write_tokenizer_json
from puna.tokens.tokenizer import Tokenizer

FLIPS = 100_000
QUICK_FLIPS = 250
QUICK_CUTS = 300
TEXT = "the llama's  1,024 <s>é\n🦙"
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
FILES: dict[str, Callable[[], bytes]] = {
    "tokenizer.model": lambda: sentencepiece_model(),
    "ranks.model": lambda: ranks(),
    "tokenizer.bin": lambda: tokenizer_bin(),
    "tokenizer.json": lambda: tokenizer_json(),
    "spm.json": lambda: write_tokenizer_json(Tokenizer(sentencepiece_model()).vocabulary),
}


def use(path: Path) -> int:
    """Load a tokenizer and make it work: there and back, markup, one id after another."""
    tokenizer = Tokenizer.load(path)
    ids = tokenizer.encode(TEXT, special=True)
    assert all(0 <= token < tokenizer.vocabulary_size for token in ids)
    text = tokenizer.decode(ids)
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == text
    return len(ids)


def bent(path: Path, contents: Iterable[bytes]) -> dict[str, int]:
    """How many bent copies were refused, and how many still load and work."""
    counts = {"refused": 0, "read": 0}
    for content in contents:
        path.write_bytes(content)
        outcome = ends_well(lambda: use(path), path)
        counts["refused" if isinstance(outcome, PunaError) else "read"] += 1
    return counts


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
    with pytest.raises(TokenizerError, match=says) as raised:
        use(tmp_path)
    assert str(tmp_path) in raised.value.message


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_anywhere_ends_well(name: str, tmp_path: Path):
    content = FILES[name]()
    step = max(1, len(content) // QUICK_CUTS)
    prefixes = [prefix for at, prefix in enumerate(truncations(content)) if at % step == 0]
    counts = bent(tmp_path / name, prefixes)
    assert counts["refused"] > 0.8 * len(prefixes), counts


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_end_well(name: str, tmp_path: Path):
    content = FILES[name]()
    assert len(content) <= 64 << 10
    assert bent(tmp_path / name, [content]) == {"refused": 0, "read": 1}
    counts = bent(tmp_path / name, flips(content, QUICK_FLIPS))
    assert counts["refused"], "no flip was noticed"


@pytest.mark.fuzz
@pytest.mark.parametrize("name", FILES)
def test_every_cut_and_many_flips_end_well(name: str, tmp_path: Path):
    content = FILES[name]()
    bent(tmp_path / name, truncations(content))
    bent(tmp_path / name, flips(content, FLIPS, seed=1))


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
