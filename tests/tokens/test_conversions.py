"""A tokenizer stays the same through every format: Hugging Face's files, Meta's, GGUF's keys."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from small_tokenizers import (
    TEMPLATE,
    ranks,
    sentencepiece_model,
    tokenizer_bin,
    tokenizer_json,
)
from token_texts import sentences

from puna.errors import TokenizerError
from puna.tokens.formats.gguf_vocabulary import gguf_metadata
from puna.tokens.formats.tokenizer_json_writer import spm_merges
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.vocabulary import padded

MADE = {
    "model": lambda: Tokenizer(sentencepiece_model()),
    "no dummy prefix": lambda: Tokenizer(sentencepiece_model(add_dummy_prefix=False)),
    "bin": lambda: Tokenizer(tokenizer_bin()),
    "ranks": lambda: Tokenizer(ranks()),
    "gpt-2": lambda: Tokenizer(tokenizer_json("gpt-2")),
    "smollm": lambda: Tokenizer(tokenizer_json("smollm")),
    "llama-bpe": lambda: Tokenizer(tokenizer_json("llama-bpe")),
}
REAL = (
    "LLaMA folder",
    "LLaMA gguf",
    "stories gguf",
    "Llama 3 gguf",
    "SmolLM2 gguf",
    "GPT-2 folder",
)
PLAIN = ["", " ", " Hello", "  Hello", "\n", "a\tb", "高原の草", "🦙 llama", "e\u0301", "1,024"]
PARTS = [
    "<s>",
    "</s>",
    "<unk>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|eot_id|>",
    " ",
    "a",
    " x",
    "\n",
]


def texts() -> list[str]:
    return [*PLAIN, *sentences(40)]


def marked_texts() -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(PARTS, k=draw.randrange(1, 8))) for _ in range(80)]


@pytest.fixture(params=[*MADE, *REAL])
def tokenizer(request, real) -> Tokenizer:
    return MADE[request.param]() if request.param in MADE else real(request.param)


def write(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def assert_same(one: Tokenizer, other: Tokenizer, *, marks: bool = True) -> None:
    for text in texts():
        assert one.encode(text) == other.encode(text), repr(text)
    for text in marked_texts():
        ids = one.encode(text, special=True)
        assert ids == other.encode(text, special=True), repr(text)
        assert one.decode(ids) == other.decode(ids)
        assert one.decode(ids, special=True) == other.decode(ids, special=True)
    if marks:
        for name in ("bos_id", "eos_id", "adds_bos", "adds_eos", "stop_ids", "chat_template"):
            assert getattr(one, name) == getattr(other, name), name


def test_transformers_loads_the_files_and_gives_the_same_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    folder = write(tokenizer.files(), tmp_path)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    library = AutoTokenizer.from_pretrained(folder)
    for text in texts():
        ids = tokenizer.encode(text, bos=tokenizer.adds_bos, eos=tokenizer.adds_eos)
        assert library.encode(text, split_special_tokens=True) == ids, repr(text)
    for text in marked_texts():
        ids = tokenizer.encode(text, special=True)
        assert library.encode(text, add_special_tokens=False) == ids, repr(text)
    for mine, theirs in (
        (tokenizer.bos_id, library.bos_token_id),
        (tokenizer.eos_id, library.eos_token_id),
    ):
        assert theirs == (mine if mine >= 0 else None)


def test_the_files_for_hugging_face_read_back(tokenizer, tmp_path):
    assert_same(tokenizer, Tokenizer.load(write(tokenizer.files(), tmp_path / "hf")))


def test_the_files_for_meta_read_back(tokenizer, tmp_path):
    files = tokenizer.meta_files()
    again = Tokenizer.load(write(files, tmp_path / "meta"))
    assert_same(tokenizer, again, marks=False)
    if tokenizer.format in ("SentencePiece", "tiktoken"):
        assert files == {"tokenizer.model": tokenizer._content.original["tokenizer.model"]}


def test_the_keys_of_a_gguf_read_back(tokenizer):
    keys = gguf_metadata(tokenizer.vocabulary)
    assert_same(tokenizer, Tokenizer.from_gguf(keys, Path("model.gguf")))


def test_a_way_around_through_every_format_ends_where_it_began(tokenizer, tmp_path):
    folder = write(tokenizer.files(), tmp_path / "hf")
    keys = gguf_metadata(Tokenizer.load(folder).vocabulary)
    from_gguf = Tokenizer.from_gguf(keys, Path("model.gguf"))
    from_meta = Tokenizer.load(write(from_gguf.meta_files(), tmp_path / "meta"))
    assert_same(tokenizer, from_meta, marks=False)
    assert from_meta.vocabulary.pieces == tokenizer.vocabulary.pieces


def test_the_vocabulary_gguf_of_llama_cpp_is_made_again(real):
    from puna.weights.gguf_file import read_gguf

    for file, name in (("LLaMA model", "LLaMA gguf"), ("Llama 3 ranks", "Llama 3 gguf")):
        theirs = read_gguf(real(name).path).metadata
        ours = gguf_metadata(real(file).vocabulary)
        for key in ("tokens", "token_type", "scores", "merges", "model", "pre"):
            wanted = theirs.get(f"tokenizer.ggml.{key}")
            if wanted is not None:
                assert list(ours[f"tokenizer.ggml.{key}"]) == list(wanted), key
        for key in ("bos_token_id", "eos_token_id"):
            assert ours[f"tokenizer.ggml.{key}"] == theirs[f"tokenizer.ggml.{key}"]


def test_llama_s_own_model_is_made_again_from_the_gguf(real):
    model, gguf = real("LLaMA model"), real("LLaMA gguf")
    again = Tokenizer(gguf.meta_files()["tokenizer.model"])
    for name in ("pieces", "types", "scores", "bos_id", "eos_id", "unknown_id", "dummy_prefix"):
        assert getattr(again.vocabulary, name) == getattr(model.vocabulary, name), name


def test_llama_3_s_ranks_are_made_again_byte_for_byte(real):
    made = real("Llama 3 gguf").meta_files()["tokenizer.model"]
    assert made == real("Llama 3 ranks").path.read_bytes()


def test_the_merges_in_a_published_tokenizer_json_are_those_of_its_model(real):
    published = real("LLaMA json").vocabulary
    made = spm_merges(real("LLaMA model").vocabulary)
    assert sorted(made) == sorted(published.merges)
    # It has lost the scores. Those made from its order give the same merges, hence the same ids.
    assert sorted(spm_merges(replace(published, merges=()))) == sorted(made)


def test_the_template_and_the_ends_of_turns_travel_too(tmp_path):
    folder = write({"tokenizer.json": tokenizer_json("smollm")}, tmp_path / "one")
    config = {"eos_token": "<|im_end|>", "bos_token": None, "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    first = Tokenizer.load(folder)
    assert first.stop_ids == {0, 2, 5}  # 5 is named by the file only
    assert not first.adds_bos
    second = Tokenizer.load(write(first.files(), tmp_path / "two"))
    third = Tokenizer.from_gguf(gguf_metadata(second.vocabulary), Path("x.gguf"))
    fourth = Tokenizer.load(write(third.files(), tmp_path / "three"))
    for one in (second, third, fourth):
        assert_same(first, one)
        assert one.render_chat([{"role": "user", "content": "x"}]) == first.render_chat(
            [{"role": "user", "content": "x"}]
        )


def test_a_model_with_more_rows_than_pieces_gets_unused_ones():
    tokenizer = Tokenizer(sentencepiece_model())
    keys = gguf_metadata(padded(tokenizer.vocabulary, 384))
    again = Tokenizer.from_gguf(keys, Path("model.gguf"))
    assert again.vocabulary_size == 384
    assert again.piece(383) == "[PAD383]"
    for text in [*texts(), "[PAD383]"]:
        assert again.encode(text) == tokenizer.encode(text)


def test_what_a_gguf_cannot_say_is_refused(tmp_path):
    normalizing = Tokenizer(
        sentencepiece_model(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    )
    with pytest.raises(TokenizerError, match="rules of its own"):
        gguf_metadata(normalizing.vocabulary)
    record = json.loads(tokenizer_json("gpt-2"))
    record["normalizer"] = {"type": "NFC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    with pytest.raises(TokenizerError, match="no name for") as raised:
        gguf_metadata(Tokenizer.load(tmp_path).vocabulary)
    assert "llama-bpe" in str(raised.value.hint)
