"""Tokenizer files of every kind, cut short, flipped and with odd values: each copy ends well."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from attacks.gguf_attacks import (
    BOOL,
    FLOAT32,
    INT32,
    encoded,
    gguf,
    numbers,
    strings,
    struct,
    text,
    u32,
)
from attacks.mutations import ends_well, flips, other_values, truncations
from attacks.tokenizer_attacks import use
from small_tokenizers import (
    TEMPLATE,
    byte_level_engine,
    ranks,
    sentencepiece_model,
    tokenizer_bin,
    tokenizer_json,
)

from puna.errors import PunaError
from puna.schema import stamp
from puna.tokens.formats.gguf_vocabulary import gguf_metadata
from puna.tokens.formats.tokenizer_json_writer import write_tokenizer_json
from puna.tokens.tokenizer import Tokenizer

FLIPS = 100_000
QUICK_FLIPS = 250
QUICK_CUTS = 300

# What is bent comes first, then what lies beside it.
Files = dict[str, bytes]


def small_model() -> bytes:
    return sentencepiece_model(70, byte_fallback=False)


def beside_a_model(name: str, content: object) -> Callable[[], Files]:
    """A small file beside a very small tokenizer.model."""
    written = content if isinstance(content, str) else json.dumps(content)
    return lambda: {name: written.encode(), "tokenizer.model": small_model()}


def manifest() -> Files:
    """What `puna tokenizer train` writes beside its model."""
    digest = hashlib.sha256(small_model()).hexdigest()
    return beside_a_model("manifest.json", {**stamp("puna.tokenizer"), "sha256": digest})()


def gpt2_files(first: str) -> Files:
    """Both of GPT-2's files."""
    model = json.loads(byte_level_engine("gpt-2").to_str())["model"]
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    files = {"vocab.json": json.dumps(model["vocab"]).encode(), "merges.txt": merges.encode()}
    return {first: files[first]} | files


def gguf_vocabulary(tokenizer: bytes) -> Files:
    """A GGUF file that holds nothing but a vocabulary."""
    keys = {"general.architecture": text("llama")}
    for name, value in gguf_metadata(Tokenizer(tokenizer).vocabulary).items():
        if isinstance(value, str):
            keys[name] = text(value)
        elif isinstance(value, bool):
            keys[name] = struct.pack("<IB", BOOL, value)
        elif isinstance(value, int):
            keys[name] = u32(value)
        elif isinstance(value, list):
            keys[name] = strings(value)
        else:
            kind, code = (FLOAT32, "f") if value.dtype.kind == "f" else (INT32, "i")
            keys[name] = numbers(kind, code, value.tolist())
    return {"model.gguf": gguf(encoded(keys), [])}


CONFIG = {
    "add_bos_token": True,
    "added_tokens_decoder": {
        "1": {"content": "<s>", "special": True, "lstrip": False},
        "70": {"content": "<|im_end|>", "special": True, "rstrip": True},
    },
    "bos_token": "<s>",
    "eos_token": {"content": "<|im_end|>"},
    "legacy": False,
    "chat_template": [{"name": "default", "template": TEMPLATE}],
}
MARKS = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
CUT_WELL = ("merges.txt", "chat_template.jinja", "manifest.json")  # half of one is one, or none
TARGETS: dict[str, Callable[[], Files]] = {
    "tokenizer.model": lambda: {"tokenizer.model": sentencepiece_model()},
    "ranks": lambda: {"tokenizer.model": ranks()},
    "tokenizer.bin": lambda: {"tokenizer.bin": tokenizer_bin()},
    "tokenizer.json": lambda: {"tokenizer.json": tokenizer_json()},
    "spm.json": lambda: {
        "tokenizer.json": write_tokenizer_json(Tokenizer(sentencepiece_model()).vocabulary)
    },
    "spm.gguf": lambda: gguf_vocabulary(sentencepiece_model()),
    "bpe.gguf": lambda: gguf_vocabulary(tokenizer_json()),
    "vocab.json": lambda: gpt2_files("vocab.json"),
    "merges.txt": lambda: gpt2_files("merges.txt"),
    "tokenizer_config.json": beside_a_model("tokenizer_config.json", CONFIG),
    "special_tokens_map.json": beside_a_model("special_tokens_map.json", MARKS),
    "added_tokens.json": beside_a_model("added_tokens.json", {"<|im_end|>": 71, "<pad>": 70}),
    "generation_config.json": beside_a_model("generation_config.json", {"eos_token_id": [2, 1]}),
    "chat_template.jinja": beside_a_model("chat_template.jinja", TEMPLATE),
    "manifest.json": manifest,
}


class Bent:
    """A folder with the files of a target, and what became of its bent copies."""

    def __init__(self, target: str, folder: Path) -> None:
        files = TARGETS[target]()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        self.path = folder / next(iter(files))
        self.content = next(iter(files.values()))
        self.loaded = folder if len(files) > 1 else self.path
        assert len(self.content) <= 64 << 10
        assert use(self.loaded)

    def try_all(self, contents: Iterable[bytes]) -> dict[str, int]:
        """How many copies were refused, and how many still load and work."""
        counts = {"refused": 0, "read": 0}
        for content in contents:
            self.path.write_bytes(content)
            outcome = ends_well(lambda: use(self.loaded), self.loaded)
            counts["refused" if isinstance(outcome, PunaError) else "read"] += 1
        return counts

    def with_other_values(self, count: int, seed: int) -> Iterable[bytes]:
        is_json = self.path.suffix == ".json"
        return other_values(self.content, count, seed=seed) if is_json else ()


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_cut_short_anywhere_ends_well(target: str, tmp_path: Path):
    bent = Bent(target, tmp_path)
    step = max(1, len(bent.content) // QUICK_CUTS)
    cuts = [prefix for at, prefix in enumerate(truncations(bent.content)) if at % step == 0]
    counts = bent.try_all(cuts)
    assert counts["refused"] > 0.8 * len(cuts) or target in CUT_WELL


@pytest.mark.parametrize("target", TARGETS)
def test_flipped_bytes_and_odd_values_end_well(target: str, tmp_path: Path):
    bent = Bent(target, tmp_path)
    counts = bent.try_all(flips(bent.content, QUICK_FLIPS))
    assert counts["refused"], "no flip was noticed"
    bent.try_all(bent.with_other_values(QUICK_FLIPS, seed=1))


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("target", TARGETS)
def test_every_cut_and_many_flips_end_well(target: str, part: int, tmp_path: Path):
    bent = Bent(target, tmp_path)
    if part == 0:
        bent.try_all(truncations(bent.content))
    bent.try_all(flips(bent.content, FLIPS // 10, seed=100 + part))
    bent.try_all(bent.with_other_values(FLIPS // 20, seed=200 + part))
