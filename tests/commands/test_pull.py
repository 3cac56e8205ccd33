"""`puna pull` and `puna cache` as a user runs them, from a server on this machine."""

from __future__ import annotations

import json

import pytest
from file_server import serving

from puna import cli


@pytest.fixture
def site(tmp_path, monkeypatch, tiny_run):
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PUNA_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert cli.main(["convert", str(tiny_run), str(tmp_path / "m.gguf"), "--to", "gguf"]) == 0
    with serving() as running:
        running.files["/m.gguf"] = (tmp_path / "m.gguf").read_bytes()
        yield running


def puna(capsys, *words):
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_pulled_address_is_a_model_everywhere(site, capsys, tmp_path):
    name = f"{site.address}/m.gguf"
    code, out, err = puna(capsys, "pull", name)
    assert code == 0
    assert out.startswith(name)
    assert "#sha256=" in err
    assert puna(capsys, "inspect", name)[0] == 0
    code, out, _ = puna(
        capsys, "generate", name, "--prompt", "The", "--max-tokens", 3, "--backend", "numpy"
    )
    assert (code, out.strip() != "") == (0, True)
    assert puna(capsys, "convert", name, tmp_path / "hf", "--to", "hf")[0] == 0
    code, out, _ = puna(capsys, "cache", "list")
    assert name in out
    assert str(tmp_path / "cache") in out
    code, out, _ = puna(capsys, "cache", "list", "--json")
    assert [model["name"] for model in json.loads(out)["models"]] == [name]
    assert puna(capsys, "cache", "rm", name)[0] == 0
    assert "no model was pulled yet" in puna(capsys, "cache", "list")[1]
    code, _, err = puna(capsys, "inspect", name)
    assert (code, "is not on this machine yet" in err) == (1, True)
    assert f"puna pull {name}" in err


def test_an_interrupted_pull_is_listed_and_goes_on(site, capsys):
    site.break_after = [5000, 0]
    name = f"{site.address}/m.gguf"
    code, _, err = puna(capsys, "pull", name)
    assert (code, "the same command goes on from there" in err) == (1, True)
    assert "unfinished" in puna(capsys, "cache", "list")[1]
    assert puna(capsys, "pull", name)[0] == 0
    assert "unfinished" not in puna(capsys, "cache", "list")[1]


@pytest.mark.parametrize("variable", ["PUNA_OFFLINE", "HF_HUB_OFFLINE", None])
def test_offline_is_one_clear_error(site, capsys, monkeypatch, variable):
    words = ["pull", f"{site.address}/m.gguf"]
    if variable:
        monkeypatch.setenv(variable, "1")
    else:
        words.append("--offline")
    code, _, err = puna(capsys, *words)
    assert (code, "Puna is offline" in err) == (1, True)
    assert site.requests == []


def test_the_names_are_listed_without_network(site, capsys):
    code, out, _ = puna(capsys, "pull", "--list")
    assert code == 0
    assert "smollm2 " in out
    assert "33B (30B in the release)" in out
    code, out, _ = puna(capsys, "pull", "--list", "--json")
    assert {"name", "summary", "licence", "is_here"} == set(json.loads(out)["models"][0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pull"], "puna pull wants a name"),
        (["pull", "smollm3"], "did you mean smollm2"),
        (["pull", "http://host/x.gguf"], "https:// or from a file://"),
        (["cache", "rm", "smollm2"], "no model smollm2 lies in"),
        (["cache"], "required: VERB"),
    ],
)
def test_mistakes_are_usage_errors(site, capsys, words, message):
    code, _, err = puna(capsys, *words)
    assert (code, message in err) == (2, True), err
