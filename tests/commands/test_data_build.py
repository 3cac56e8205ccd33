"""`puna data` on recipes, builds and public sources, as a user types it."""

import json
from pathlib import Path

import pytest
from token_texts import documents

from puna import cli
from puna.data.document import Document, write_documents


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with text, a recipe, and a build of both in `out`."""
    folder = tmp_path_factory.mktemp("built")
    texts = [Document(text, "", "CC0", name) for name, text in documents(300)]
    write_documents(folder / "text" / "a.jsonl.zst", [*texts, texts[0]])
    (folder / "own.toml").write_text(
        f"""
        out = "{folder}/out"
        heldout_every = 10
        [sources.own]
        inputs = ["{folder}/text"]
        [tokenizer.train]
        vocabulary_size = 400
        """
    )
    assert cli.main(["data", "build", str(folder / "own.toml"), "--workers", "1", "--quiet"]) == 0
    return folder


def test_a_build_says_what_came_of_each_source(built, capsys):
    assert cli.main(["data", "build", str(built / "own.toml"), "--workers", "0", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sources"]["own"]["stages"][1]["documents"] == 300
    assert record["out"] == f"{built}/out"
    assert cli.main(["data", "report", str(built / "out")]) == 0
    out = capsys.readouterr().out
    assert "own exact" in out
    assert "exact duplicate 1" in out
    assert "100.0%" in out
    assert cli.main(["data", "report", str(built / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"] == record["sources"]


def test_look_shows_a_build_s_sources_its_shards_and_its_stages_files(built, capsys):
    (shards,) = (built / "out" / "shards").glob("own-*")
    (kept,) = (built / "out" / "work" / "own").glob("01-exact-*/documents-00000.jsonl.zst")
    texts = dict(documents(300))
    for folder, words, split in (
        (built / "out", ["--split", "heldout"], "heldout"),
        (built / "out", ["--split", "own"], "own"),
        (shards, [], shards.name),
        (kept, [], kept.name),
    ):
        assert cli.main(["data", "look", str(folder), "--number", "2", "--json", *words]) == 0
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [one["split"] for one in shown] == [split] * 2
        assert all(one["text"] in texts.values() for one in shown)
    assert cli.main(["data", "look", str(kept), "--id", "a.jsonl.zst#7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == documents(300)[6][1]
    assert cli.main(["data", "look", str(kept), "--id", "none"]) == 1
    assert cli.main(["data", "look", str(built / "out"), "--split", "web"]) == 2
    assert "known: own, heldout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none.toml"], 1, "there is no recipe none.toml"),
        (["own.toml", "--workers", "-1"], 2, "--workers must be at least 0"),
        (["own.toml", "--tokenizer", "t"], 2, "--set tokenizer.path=t"),
        (["own.toml", "--set", "out="], 2, "give --out FOLDER"),
        (["own.toml", "--set", "source.own.share=1"], 1, "did you mean sources"),
        (["text", "--out", "x", "--tokenizer", "t", "--workers", "2"], 2, "--workers is for a rec"),
        (["text", "--out", "x"], 2, "a corpus needs --tokenizer"),
        (["own.toml", "--out", "https://example.org/x", "--workers", "0"], 1, "http is read only"),
    ],
)
def test_each_mistake_is_one_clear_error(built, capsys, monkeypatch, words, code, message):
    monkeypatch.chdir(built)
    assert cli.main(["data", "build", *words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_add_takes_a_public_source_from_anywhere(built, tmp_path, capsys):
    words = ["data", "add", "own", str(built / "text"), "--out", str(tmp_path / "corpus"), "--json"]
    settings = ["--set", "read.source=web", "--set", "heldout_every=12"]
    assert cli.main([*words, *settings]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sources"]["web"]["train_documents"] == 275
    assert record["dropped"]["exact duplicate"]["documents"] == 1
    assert cli.main([*words, *settings]) == 0
    assert "kept as it is" in capsys.readouterr().err
    assert cli.main([*words, "--set", "read.sauce=web"]) == 1
    assert "did you mean source?" in capsys.readouterr().err


def test_add_counts_what_is_damaged_with_its_place_unless_it_is_strict(tmp_path, capsys):
    lines = [json.dumps({"text": f"line {number} of many. " * 9}) for number in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0], '{"text": "cut', *lines[1:]]))
    words = ["data", "add", "own", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "corpus")]
    assert cli.main([*words, "--strict"]) == 1
    assert "a.jsonl is damaged: a.jsonl line 2 is not JSON" in capsys.readouterr().err
    assert not (tmp_path / "corpus").exists()
    assert cli.main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["dropped"]["damaged"]["documents"] == 1
    assert "left out 1 damaged files or lines, the first being\n  a.jsonl line 2" in said.err
    assert cli.main(["data", "add", str(tmp_path / "a.jsonl"), "--out", "x", "--strict"]) == 2
    assert "--strict is for a public source" in capsys.readouterr().err


def test_add_names_the_file_of_what_is_damaged_in_a_dump(tmp_path, capsys):
    page = "<page><title>A</title><ns>0</ns><revision><text>Some text.</text></revision></page>"
    (tmp_path / "cut.xml").write_text(f"<mediawiki>{page}<page><title>B")
    words = ["data", "add", "wikipedia", str(tmp_path / "cut.xml")]
    assert cli.main([*words, "--out", str(tmp_path / "corpus")]) == 0
    said = capsys.readouterr().err
    assert f"  cut.xml: byte {11 + len(page)} unpacked: <page>: the file ends within it" in said
    assert "no known licence\n" in said  # a public source takes no --licence
