"""`puna bench` as a user runs it, on a tiny model: counts are right, rates are a clock's."""

from __future__ import annotations

import json

import pytest

from puna import cli
from puna.evaluate import bandwidth
from puna.native import kernels
from puna.weights.open_model import open_model

LITTLE = ("--prompt", "16", "--tokens", "8", "--repeats", "3")


def bench(*words) -> int:
    return cli.main(["bench", *map(str, words), "--backend", "numpy"])


@pytest.fixture(autouse=True)
def small_probe(monkeypatch):
    monkeypatch.setattr(bandwidth, "PROBE_BYTES", 1 << 20)


def test_json_has_every_trial_and_what_it_ran_on(tiny_run, capsys):
    assert bench(tiny_run, *LITTLE, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    source = open_model(tiny_run)
    everything = sum(tensor.nbytes for tensor in source.tensors.values())
    assert record["bytes"] == everything
    assert record["bytes_a_token"] == everything - 319 * 32 * 4  # of the embedding one row
    assert (record["backend"], record["dtypes"]) == ("NumPy twin", ["F32"])
    assert record["cores"] >= 1
    assert {"model", "parameters", "isas", "cpu"} <= set(record)
    prompt, decode = record["results"]
    assert (prompt["test"], decode["test"]) == ("pp16", "tg8")
    for one in (prompt, decode):
        assert len(one["tokens_per_second"]["trials"]) == 3
        assert len(one["read_bytes_per_second"]) == 3
        assert min(one["read_bytes_per_second"]) > 0
    assert prompt["roofline_share"] is None
    shares = [
        rate * record["bytes_a_token"] / probe
        for rate, probe in zip(
            decode["tokens_per_second"]["trials"], decode["read_bytes_per_second"], strict=True
        )
    ]
    assert decode["roofline_share"] == pytest.approx(sorted(shares)[1])


def test_lists_give_a_line_for_each_combination_in_80_columns(tiny_run, capsys):
    words = ["--tokens", "4,8", "--depth", "0,20", "--sequences", "1,3", "--repeats", 1]
    assert bench(tiny_run, "--prompt", 0, *words) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split("  ")[0] for line in lines[-8:]] == [
        "tg4", "tg4 x 3", "tg4 @ d20", "tg4 @ d20 x 3",
        "tg8", "tg8 x 3", "tg8 @ d20", "tg8 @ d20 x 3",
    ]  # fmt: skip
    assert all("GB/s" in line and "%" in line for line in lines[-8:])
    assert max(map(len, lines[1:])) <= 80
    assert "engine: NumPy twin (asked for)" in printed.err


def test_without_a_probe_there_is_no_roofline(tiny_run, capsys, monkeypatch):
    monkeypatch.setattr(bandwidth, "ReadProbe", None)  # would fail
    assert bench(tiny_run, *LITTLE, "--no-probe") == 0
    assert "GB/s" not in capsys.readouterr().out


@pytest.mark.skipif(not kernels.inference_isas(), reason="no kernels were built here")
def test_the_kernels_run_on_as_many_threads_as_asked(tiny_run, capsys):
    assert cli.main(["bench", str(tiny_run), *LITTLE, "--backend", "cpu-exact", "-t", "1"]) == 0
    assert "threads: 1, exact" in capsys.readouterr().out
    assert cli.main(["bench", str(tiny_run), *LITTLE, "--backend", "cpu", "--kv", "int8"]) == 0
    assert "fast, int8 cache" in capsys.readouterr().out
    assert cli.main(["bench", str(tiny_run), *LITTLE, "--backend", "numpy", "--kv", "int8"]) == 2
    assert "numpy keeps no cache in int8" in capsys.readouterr().err
    assert cli.main(["bench", str(tiny_run), *LITTLE, "--backend", "cpu", "-t", "0"]) == 2
    assert "--threads must be at least 1, got 0" in capsys.readouterr().err


def test_mistakes_get_one_clear_error_before_anything_runs(tiny_run, tmp_path, capsys):
    for words, code, message in (
        ((tmp_path / "no",), 1, "should be a model's folder, file or name"),
        ((tiny_run, "--prompt", "12,x"), 2, "--prompt must be whole numbers from 0 on"),
        ((tiny_run, "--tokens", "-1"), 2, "--tokens must be whole numbers from 0 on"),
        ((tiny_run, "--sequences", "0"), 2, "--sequences must be whole numbers from 1 on"),
        ((tiny_run, "--prompt", 0, "--tokens", 0), 2, "something to measure"),
        ((tiny_run, *LITTLE, "--threads", 2), 2, "--threads is for the C++ kernels, numpy takes"),
        ((tiny_run, "--repeats", 0), 2, "--repeats of at least 1"),
        ((tiny_run, "--tokens", 8, "--depth", 60), 2, "pp512 @ d60 takes 572 positions"),
    ):
        assert bench(*words) == code
        assert message in capsys.readouterr().err
