"""`puna convert`, `puna quantize` and `puna inspect` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puna import cli


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))


def puna(*words) -> int:
    return cli.main([str(word) for word in words])


def test_a_conversion_says_where_it_is_and_what_the_proof_found(tiny_run, tmp_path, capsys):
    assert puna("convert", tiny_run, tmp_path / "hf", "--to", "hf") == 0
    printed = capsys.readouterr()
    assert f"wrote {tmp_path / 'hf'}\nproof over 32 tokens, weights kept exactly" in printed.out
    assert "largest difference of logits" in printed.out
    assert puna("convert", tmp_path / "hf", tmp_path / "meta", "--to", "meta", "--mp", 2) == 0
    names = {path.name for path in (tmp_path / "meta").iterdir()}
    shards = {"consolidated.00.pth", "consolidated.01.pth"}
    assert names >= shards | {"params.json", "tokenizer.model"}


def test_json_holds_the_proof_s_numbers(tiny_run, tmp_path, capsys):
    words = ["convert", tiny_run, tmp_path / "m.gguf", "--to", "gguf", "--dtype", "Q8_0", "--json"]
    assert puna(*words) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["from"], record["to"], record["dtype"]) == ("puna", "gguf", "q8_0")
    assert record["proof"]["is_lossless"] is False
    assert record["proof"]["largest_difference"] > 0
    assert puna("convert", tiny_run, tmp_path / "x", "--to", "hf", "--no-proof", "--json") == 0
    assert json.loads(capsys.readouterr().out)["proof"] is None


def test_quantize_is_short_for_a_gguf_of_few_bits(tiny_run, tmp_path, capsys):
    assert puna("quantize", tiny_run, tmp_path / "q.gguf", "--dtype", "q4_0") == 0
    assert "rounded to fewer bits (lossy)" in capsys.readouterr().out
    assert puna("inspect", tmp_path / "q.gguf", "--json") == 0
    assert "Q4_0" in json.loads(capsys.readouterr().out)["dtypes"]
    assert puna("quantize", tiny_run, tmp_path / "q.gguf", "--dtype", "q2_k") == 2
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--to", "hf", "--dtype", "q8_0"], 2, "hf is written as f32, f16, bf16"),
        (["--to", "onnx"], 2, "invalid choice: 'onnx'"),
        (["--to", "hf", "--split", "many"], 2, "--split wants bytes such as"),
        (["--to", "hf", "--mp", "2"], 2, "only Meta's format"),
        (["--to", "meta", "--mp", "3"], 1, "3"),
        ([], 2, "required: --to"),
    ],
)
def test_wrong_wishes_get_one_clear_error(tiny_run, tmp_path, capsys, words, code, message):
    assert puna("convert", tiny_run, tmp_path / "out", *words) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "size"), [("40000", 1), ("40K", 1), ("1G", None), ("20kB", 1)])
def test_split_takes_units(tiny_run, tmp_path, text, size):
    assert puna("convert", tiny_run, tmp_path / "m.gguf", "--to", "gguf", "--split", text) == 0
    parts = list(tmp_path.glob("m-*-of-*.gguf"))
    assert bool(parts) is bool(size)


def test_a_model_without_a_tokenizer_takes_the_given_one(tiny_run, tmp_path, capsys):
    puna("convert", tiny_run, tmp_path / "meta", "--to", "meta")
    (tmp_path / "meta" / "tokenizer.model").rename(tmp_path / "other.model")
    capsys.readouterr()
    words = ["convert", tmp_path / "meta", tmp_path / "m.gguf", "--to", "gguf"]
    assert puna(*words) == 2
    assert "--tokenizer-path tokenizer.model" in capsys.readouterr().err
    assert puna(*words, "--tokenizer_path", tmp_path / "other.model") == 0
    assert puna("convert", tmp_path / "meta", tmp_path / "hf", "--to", "hf") == 0
    assert "no tokenizer lies with the source" in capsys.readouterr().err


def test_inspect_tells_the_facts(tiny_run, capsys):
    assert puna("inspect", tiny_run) == 0
    told = capsys.readouterr().out
    for text in (
        "a training checkpoint of Puna's",
        "dim 32, 2 layers, 4 heads of 8 (2 for keys and values)",
        "vocabulary 320",
        "F32",
        "context        64 tokens",
        "SentencePiece BPE, 320 pieces",
        "bos <s> = 1, put before a text; eos </s> = 2",
        "none: a base model",
        "fits here",
        "step 7, 28,672 tokens",
    ):
        assert text in told, text


def test_inspect_s_json_has_exact_numbers(tiny_run, tmp_path, capsys):
    puna("convert", tiny_run, tmp_path / "m.gguf", "--to", "gguf", "--dtype", "f16")
    capsys.readouterr()
    assert puna("inspect", tmp_path / "m.gguf", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    kinds = record["dtypes"]
    assert set(kinds) == {"F16", "F32"}
    assert sum(kind["parameters"] for kind in kinds.values()) == record["parameters"]
    assert sum(kind["bytes"] for kind in kinds.values()) == record["bytes"]
    assert record["bytes"] == 2 * kinds["F16"]["parameters"] + 4 * kinds["F32"]["parameters"]
    assert record["needs"]["weight_bytes"] == 4 * record["parameters"]
    assert record["needs"]["kv_bytes"] == 4 * 2 * 2 * 16 * 64  # 2 layers, k and v, 16 values
    assert record["tokenizer"]["bos"] == {"id": 1, "piece": "<s>"}
    assert {"id": 2, "piece": "</s>"} in record["tokenizer"]["special"]
    assert record["needs"]["fits"] is True


def test_inspect_of_nothing_is_one_error(tmp_path, capsys):
    assert puna("inspect", tmp_path / "none") == 1
    assert "should be a model's folder, file or name" in capsys.readouterr().err
