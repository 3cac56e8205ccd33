"""`puna tokenizer` as a person types it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from token_texts import documents

from puna import cli
from puna.console import silent
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.training import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    out = tmp_path_factory.mktemp("tokenizer")
    texts = [text for _, text in documents(100)]
    return train_tokenizer(texts, out, TokenizerConfig(vocabulary_size=400), silent())


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of text files."""
    for name, text in documents(100):
        path = tmp_path / "texts" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = cli.main(["tokenizer", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_train_on_a_folder_and_show_it(folder, capsys):
    out = str(folder / "out")
    code, stdout, stderr = run(
        capsys, "train", str(folder / "texts"), "--out", out, "--vocabulary-size", "400"
    )
    assert code == 0
    assert "400 pieces: 3 control tokens, 256 bytes" in stdout
    assert "tokenizer: 400 pieces from 100 documents" in stderr
    code, shown, _ = run(capsys, "show", out)
    assert (code, shown) == (0, stdout)
    code, stdout, stderr = run(capsys, "show", out, "--json", "--quiet")
    record = json.loads(stdout)
    assert stderr == ""
    assert record["vocabulary_size"] == 400
    assert record["trained_on"]["documents"] == 100
    assert record["pieces"]["bytes"] == 256


def test_train_on_a_corpus_leaves_its_heldout_split_out(folder, capsys):
    from puna.data.corpus import CorpusConfig, build_corpus
    from puna.data.sources.own import OwnText

    own = OwnText([folder / "texts"])
    corpus = build_corpus(own, folder / "corpus", CorpusConfig(), silent())
    train, heldout = corpus.count("train")[0], corpus.count("heldout")[0]
    assert heldout > 0
    code, stdout, _ = run(
        capsys,
        *("train", str(folder / "corpus"), "--out", str(folder / "out")),
        *("--vocabulary-size", "400", "--json"),
    )
    assert code == 0
    assert json.loads(stdout)["trained_on"]["documents"] == train


def test_settings_by_name(folder, capsys):
    out = str(folder / "out")
    words = ("train", str(folder / "texts"), "--out", out, "--json")
    settings = ("--set", "tokenizer.vocabulary_size=390", "--set", "tokenizer.split_digits=false")
    code, stdout, _ = run(capsys, *words, *settings)
    assert code == 0
    config = json.loads(stdout)["config"]
    assert (config["vocabulary_size"], config["split_digits"]) == (390, False)
    code, _, stderr = run(capsys, *words, "--set", "tokenizer.vocabulary=390")
    assert code == 1
    assert "unknown key tokenizer.vocabulary" in stderr
    assert "did you mean vocabulary_size?" in stderr


def test_the_tokens_of_a_text(tokenizer, capsys, monkeypatch):
    path = str(tokenizer.path)
    text = "the llama\t🦙"
    code, stdout, _ = run(capsys, "show", path, "--text", text)
    ids = tokenizer.encode(text)
    *lines, summary = stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(token) for token in ids]
    assert [line.split()[1] for line in lines] == [tokenizer.piece(token) for token in ids]
    assert summary.startswith(f"{len(ids)} tokens, 14 bytes")
    assert summary.endswith("they decode to the same text")

    stdin = io.TextIOWrapper(io.BytesIO(b"two\r\nlines\0"))
    monkeypatch.setattr(sys, "stdin", stdin)
    code, stdout, _ = run(capsys, "show", path, "--text", "-", "--json")
    record = json.loads(stdout)
    assert code == 0
    assert record["ids"] == tokenizer.encode("two\r\nlines\0")
    assert record["decodes_to_the_same_text"]


def test_the_space_mark_is_said_to_decode_to_another_text(tokenizer, capsys):
    _, stdout, _ = run(capsys, "show", str(tokenizer.path), "--text", "a\u2581b")
    assert "they decode to ANOTHER text" in stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "nothing", "--out", "x"], 1, "there is no file or folder nothing"),
        (["train", "nothing"], 2, "--out"),
        (["show", "nothing"], 1, "there is no tokenizer at nothing"),
        (["show"], 2, "required: tokenizer"),
        ([], 2, "ACTION"),
    ],
)
def test_mistakes_are_one_clear_error(tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    found, stdout, stderr = run(capsys, *words)
    assert (found, stdout) == (code, "")
    assert stderr.startswith("error: ")
    assert message in stderr


def test_input_that_is_not_utf8_is_refused(tokenizer, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    code, _, stderr = run(capsys, "show", str(tokenizer.path), "--text", "-")
    assert code == 1
    assert "found the byte 0xFF at offset 2" in stderr


@pytest.fixture
def every_kind(tmp_path) -> dict[str, Path]:
    """A small tokenizer of each format, under names that say nothing."""
    from small_tokenizers import ranks, sentencepiece_model, tokenizer_bin, tokenizer_json

    contents = {
        "SentencePiece": sentencepiece_model(),
        "tiktoken": ranks(),
        "llama2.c": tokenizer_bin(),
        "tokenizer.json": tokenizer_json("smollm"),
    }
    paths = {kind: tmp_path / f"file{index}" for index, kind in enumerate(contents)}
    for kind, path in paths.items():
        path.write_bytes(contents[kind])
    return paths


@pytest.mark.parametrize("kind", ["SentencePiece", "tiktoken", "llama2.c", "tokenizer.json"])
def test_every_kind_of_file_is_shown_whatever_its_name(kind, every_kind, capsys):
    code, stdout, _ = run(capsys, "show", str(every_kind[kind]))
    assert code == 0
    assert f"format           {kind}: " in stdout
    assert "encoding         words are encoded once and remembered" in stdout
    code, stdout, _ = run(capsys, "show", str(every_kind[kind]), "--json")
    record = json.loads(stdout)
    assert (code, record["format"]) == (0, kind)
    assert record["pieces"]["bytes"] == 256


def test_a_gguf_s_tokenizer_is_shown(tmp_path, capsys):
    from attacks.gguf_attacks import GOOD

    path = tmp_path / "model.gguf"
    path.write_bytes(GOOD)
    code, stdout, _ = run(capsys, "show", str(path))
    assert code == 0
    assert "format           GGUF: SentencePiece BPE" in stdout


def test_markup_is_read_when_asked_for(every_kind, capsys):
    words = ("show", str(every_kind["tokenizer.json"]), "--text", "<|im_end|>", "--json")
    plain, special = (json.loads(run(capsys, *words, *more)[1]) for more in ((), ("--special",)))
    assert plain["tokens"] > 1
    assert special["pieces"] == ["<|im_end|>"]
    assert special["decodes_to_the_same_text"]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["show", "--help"]])
def test_help_has_examples(capsys, words):
    code, stdout, _ = run(capsys, *words)
    assert code == 0
    assert "examples:\n  puna tokenizer" in stdout


def test_looking_at_the_verb_imports_nothing_heavy():
    code = (
        "import sys, puna.commands.tokenizer\n"
        "heavy = {'numpy', 'sentencepiece', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
