"""Ids that other projects publish for their texts, from every form of each tokenizer."""

import json

import pytest
from token_texts import SHARED

VECTORS = {
    "llama2_spm": ("LLaMA model", "LLaMA bin", "LLaMA json", "LLaMA folder", "LLaMA gguf"),
    "llama3_bpe": ("Llama 3 ranks", "Llama 3 gguf"),
    "smollm2_bpe": ("SmolLM2 folder", "SmolLM2 gguf"),
    "gpt2_bpe": ("GPT-2 folder",),
}
COUNTS = {"llama2_spm": 75, "llama3_bpe": 87, "smollm2_bpe": 19, "gpt2_bpe": 55}
CASES = [(vectors, name) for vectors, names in VECTORS.items() for name in names]
PAIRS = {
    "ggml-vocab-llama-spm.gguf": VECTORS["llama2_spm"],
    "ggml-vocab-llama-bpe.gguf": VECTORS["llama3_bpe"],
}


@pytest.mark.parametrize(("vectors", "name"), CASES)
def test_ids_equal_those_of_other_projects(vectors: str, name: str, real):
    tokenizer = real(name)
    content = (SHARED / "vectors" / f"{vectors}.json").read_text(encoding="utf-8")
    # The rest need the names that Llama 3.1 gave its special tokens.
    rows = [row for row in json.loads(content) if not row.get("skip")]
    assert len(rows) >= COUNTS[vectors]
    for row in rows:
        ids = tokenizer.encode(
            row["text"],
            bos=row["bos"],
            eos=row.get("eos", False),
            special=row.get("special", False),
        )
        assert ids == row["ids"], f"{row['source']}: {row['text']!r}"


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file, names in PAIRS.items() for name in names]
)
def test_llama_cpp_s_own_tests_pass(file: str, name: str, real):
    tokenizer = real(name)
    folder = SHARED / "llama.cpp-vocab"
    content = (folder / f"{file}.inp").read_text(encoding="utf-8")
    *texts, _after_the_last = content.split("\n__ggml_vocab_test__\n")
    lines = (folder / f"{file}.out").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(lines) == 46
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text) == [int(word) for word in line.split()], repr(text)


def test_names_that_llama_3_1_gave_its_special_tokens_come_from_the_config(real, tmp_path):
    """The vectors that need them, with a tokenizer_config.json in the manner of Llama 3.1's."""
    ranks = real("Llama 3 ranks")
    (tmp_path / "tokenizer.model").write_bytes(ranks.path.read_bytes())
    named = {4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"}
    rest = [*range(2, 4), 5, *range(11, 256)]
    named |= {id_: f"<|reserved_special_token_{n}|>" for n, id_ in enumerate(rest)}
    named |= {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 9: "<|eot_id|>"}
    named |= {6: "<|start_header_id|>", 7: "<|end_header_id|>"}
    added = {str(128000 + id_): {"content": text, "special": True} for id_, text in named.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    tokenizer = type(ranks).load(tmp_path)
    content = (SHARED / "vectors" / "llama3_bpe.json").read_text(encoding="utf-8")
    rows = [row for row in json.loads(content) if row.get("special_set") == "llama3.1"]
    assert len(rows) == 2
    for row in rows:
        assert tokenizer.encode(row["text"], special=True) == row["ids"]
    assert {128001, 128008, 128009} <= tokenizer.stop_ids
