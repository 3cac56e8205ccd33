"""`puna sizes`: the paper's numbers, and the same in the table, the page of one size and JSON."""

import json

import pytest

from puna import cli

PAPER = {
    "7B": 6_738_415_616,
    "13B": 13_015_864_320,
    "33B": 32_528_943_616,
    "65B": 65_285_660_672,
}


def sizes(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["sizes", *words]) == 0
    return capsys.readouterr().out


def test_the_table_has_the_paper_s_exact_parameters(capsys):
    rows = {line.split()[0]: line.split()[1] for line in sizes(capsys).splitlines() if line}
    assert {name: rows[name] for name in PAPER} == {
        name: f"{count:,}" for name, count in PAPER.items()
    }


def test_bytes_follow_from_the_parameters(capsys):
    for record in json.loads(sizes(capsys, "--json"))["sizes"]:
        assert record["weight_bytes_fp32"] == 4 * record["parameters"]
        assert record["weight_bytes_bf16"] == 2 * record["parameters"]
        # fp32 weights, gradients and two moments: 16 bytes a parameter
        assert record["training_bytes"] == 16 * record["parameters"]


def test_kv_cache_of_7b_is_half_a_mebibyte_a_token(capsys):
    """2 (K and V) x 32 layers x 4096 values x 2 bytes."""
    record = json.loads(sizes(capsys, "7B", "--json"))
    assert record["kv_bytes_per_token"] == 524_288


def test_checkpointing_keeps_less_the_more_is_recomputed(capsys):
    kept = json.loads(sizes(capsys, "7B", "--json"))["activation_bytes"]
    assert kept["none"] > kept["selective"] > kept["full"] > 0


def test_one_size_by_its_other_names(capsys):
    assert sizes(capsys, "llama-7b") == sizes(capsys, "7B")
    assert sizes(capsys, "30B").startswith("33B\n")


def test_an_unknown_size_names_the_nearest(capsys):
    assert cli.main(["sizes", "8B"]) == 1
    assert "error: there is no model size '8B'" in capsys.readouterr().err
