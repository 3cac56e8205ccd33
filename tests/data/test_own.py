"""A user's own files: every kind, every encoding trouble, and what is left alone."""

import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from puna.console import silent
from puna.data.document import Document, Dropped
from puna.data.sources import own
from puna.data.sources.own import UNREADABLE, OwnText, Settings, read
from puna.errors import DataError


def test_every_kind_of_file_is_read_in_the_order_of_names(write_files):
    line = b'{"text": "from a line"}\n'
    folder = write_files({
        "z.txt": "a text",
        "b/notes.md": "# notes",
        "b/code.PY": "print()",
        "c.jsonl": line,
        "c.jsonl.gz": gzip.compress(line + line),
        "c.jsonl.zst": zstandard.compress(line),
    })  # fmt: skip
    documents = list(OwnText([folder]))
    assert [one.id for one in documents] == [
        "b/code.PY", "b/notes.md", "c.jsonl#1", "c.jsonl.gz#1", "c.jsonl.gz#2", "c.jsonl.zst#1",
        "z.txt",
    ]  # fmt: skip
    assert documents[1] == Document("# notes", "text", "unknown", "b/notes.md")
    assert documents[2] == Document("from a line", "text", "unknown", "c.jsonl#1")


def test_source_and_licence_come_from_the_line_else_the_user_else_the_folder(write_files):
    folder = write_files({
        "a.jsonl": '{"text": "x", "source": "web", "license": "MIT"}\n{"text": "y"}',
        "b.txt": "z",
    })  # fmt: skip
    given_both = OwnText([folder], source="mine", licence="CC0")
    assert [(one.source, one.licence) for one in given_both] == [
        ("web", "MIT"), ("mine", "CC0"), ("mine", "CC0"),
    ]  # fmt: skip
    assert [(one.source, one.licence) for one in OwnText([folder])][1:] == [
        ("text", "unknown"), ("text", "unknown"),
    ]  # fmt: skip


def test_the_record_of_a_fetched_folder_gives_source_and_licence(write_files):
    record = {"schema": "puna.source", "version": 1, "source": "sotu", "licence": "public domain"}
    folder = write_files({
        "raw/a.txt": "a", "raw/source.json": json.dumps(record), "other/b.txt": "b",
        "other/source.json": '{"schema": 5}',
    })  # fmt: skip
    text = OwnText([folder])
    assert [(one.id, one.source, one.licence) for one in text] == [
        ("other/b.txt", "text", "unknown"), ("raw/a.txt", "sotu", "public domain"),
    ]  # fmt: skip
    assert text.not_read == {".json": 1}
    assert [one.source for one in OwnText([folder / "raw" / "a.txt"])] == ["sotu"]
    assert [one.source for one in OwnText([folder / "raw"], source="mine")] == ["mine"]


def test_several_paths_have_ids_that_differ(write_files):
    folder = write_files({"one/same/a.txt": "1", "two/same/a.txt": "2", "b.txt": "3"})
    paths = [folder / "two" / "same", folder / "one" / "same", folder / "b.txt"]
    assert [(one.id, one.source) for one in OwnText([*paths, folder / "two"])] == [
        ("b.txt", "text"), ("one/same/a.txt", "same"), ("two/same/a.txt", "two"),
    ]  # fmt: skip
    assert [(one.id, one.source) for one in OwnText([folder / "b.txt"])] == [("b.txt", "text")]


def test_a_path_may_be_relative(write_files, monkeypatch):
    monkeypatch.chdir(write_files({"a.txt": "a", "sub/b.txt": "b"}))
    assert [(one.id, one.source) for one in OwnText([Path()])] == [
        ("a.txt", "text"), ("sub/b.txt", "text"),
    ]  # fmt: skip
    assert [one.id for one in OwnText([Path("sub/../a.txt"), Path("sub")])] == [
        "a.txt",
        "sub/b.txt",
    ]


def test_what_is_left_alone_is_counted(write_files, tmp_path: Path):
    folder = write_files({
        ".git/a.txt": "hidden", ".venv/lib/b.py": "hidden", "._c.txt": "hidden",
        "d.DOCX": "%", "e.docx": "%", "Makefile": "all:", "f.json": "{}", "kept.txt": "kept",
        "corpus/manifest.json": '{"schema": "puna.corpus", "version": 1}',
        "corpus/train.jsonl": '{"text": "from a corpus"}',
        "web/manifest.json": '["not ours"]', "web/page.md": "kept too",
    })  # fmt: skip
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    (folder / "link.txt").symlink_to(folder / "kept.txt")
    (folder / "broken.txt").symlink_to(folder / "none")
    os.mkfifo(folder / "pipe.txt")
    text = OwnText([folder])
    assert [file.id for file in text.files] == ["kept.txt", "link.txt", "web/page.md"]
    assert text.not_read == {
        "hidden": 3, ".docx": 2, "no suffix": 1, ".json": 2, "folder written by puna": 1,
        "linked folder": 1, "not a file": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "should hold text files, found nothing"),
        ({"a.docx": "", "b.docx": "", ".c": ""}, "found only 2 .docx, 1 hidden"),
        ({"manifest.json": '{"schema": "puna.shards"}'}, "found a puna.shards folder"),
    ],
)
def test_a_folder_without_text_is_one_clear_error(write_files, tmp_path: Path, files, message):
    (tmp_path / "text").mkdir()
    write_files(files)
    with pytest.raises(DataError, match=message) as caught:
        OwnText([tmp_path / "text"])
    assert caught.value.hint


def test_a_path_that_is_not_there_is_one_clear_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no file or folder .*none"):
        OwnText([tmp_path / "none"])


def test_text_is_kept_as_it_is_but_for_a_byte_order_mark(write_files):
    exact = "\ttab\r\nline\rold\n\x00\x0c \u2028 é 漢 😀 \ufeff end \n\n"
    folder = write_files({"a.txt": exact, "b.txt": b"\xef\xbb\xbf" + exact.encode(), "c.txt": ""})
    assert [one.text for one in OwnText([folder])] == [exact, exact, ""]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("é".encode("latin-1"), "found 0xE9 at byte 0"),
        (b"fine, then \xff", "found 0xFF at byte 11"),
        ("cut é".encode()[:-1], "found 0xC3 at byte 4"),
        (b"\xed\xa0\x80", "found 0xED at byte 0"),
        ("text".encode("utf-16"), "found UTF-16"),
        ("text" * 10 + "é", None),
    ],
)
def test_a_file_that_is_not_utf8_is_refused_with_its_place(write_files, content, found):
    folder = write_files({"a.txt": "good", "b.txt": content})
    if found is None:
        assert len(list(OwnText([folder]))) == 2
        return
    with pytest.raises(DataError, match=rf"text/b\.txt should be UTF-8, {found}") as caught:
        list(OwnText([folder]))
    assert "iconv -f" in str(caught.value.hint)
    assert "--skip-bad" in str(caught.value.hint)


def test_skip_bad_gives_what_is_wrong_as_dropped_and_goes_on(write_files):
    folder = write_files({
        "a.txt": b"\xff",
        "b.jsonl": '{"text": "one"}\nnot json\n{"text": "two"}\n{"body": 1}\n',
        "c.jsonl.gz": gzip.compress(b'{"text": "three"}\n' * 9999)[:-9],
        "d.txt": "good",
    })  # fmt: skip
    items = list(OwnText([folder], skip_bad=True))
    dropped = [item for item in items if isinstance(item, Dropped)]
    assert [(item.id, item.source, item.reason) for item in dropped] == [
        ("a.txt", "text", UNREADABLE), ("b.jsonl", "text", UNREADABLE),
        ("b.jsonl", "text", UNREADABLE), ("c.jsonl.gz", "text", UNREADABLE),
    ]  # fmt: skip
    assert "b.jsonl line 2 is not JSON" in dropped[1].detail
    assert "c.jsonl.gz is damaged or cut short after line" in dropped[3].detail
    kept = [item.id for item in items if isinstance(item, Document)]
    assert kept[:2] == ["b.jsonl#1", "b.jsonl#3"]
    assert len([name for name in kept if name.startswith("c.jsonl.gz")]) > 5000
    assert kept[-1] == "d.txt"


def test_a_file_that_may_not_be_read_is_one_clear_error(write_files, monkeypatch):
    folder = write_files({"a.txt": "a"})
    text = OwnText([folder])
    (folder / "a.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*a\.txt: No such file"):
        list(text)
    with pytest.raises(DataError, match=r"cannot read .*a\.txt: No such file"):
        text.fingerprint(silent())

    def forbidden(path: Path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(DataError, match=r"cannot read .*text: Permission denied"):
        OwnText([folder])


def test_a_name_that_is_not_utf8_gives_an_id_that_can_be_written(write_files):
    folder = write_files({"a.txt": "a"})
    name = os.fsencode(folder) + b"/b\xff.txt"
    Path(os.fsdecode(name)).write_text("b")
    assert [one.id for one in OwnText([folder])] == ["a.txt", r"b\xff.txt"]


@given(text=st.text(st.sampled_from("aé漢😀\n\r"), min_size=1, max_size=80))
def test_a_large_file_becomes_parts_that_join_to_its_text(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("parts") / "big.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "PART_BYTES", 7)
        parts = list(OwnText([path]))
    assert "".join(one.text for one in parts) == text
    if len(text.encode()) > 7:
        assert [one.id for one in parts] == [
            f"big.txt#part-{number:04d}" for number in range(1, len(parts) + 1)
        ]
        assert all(one.text for one in parts)


def test_parts_end_at_the_end_of_a_line(write_files, monkeypatch):
    monkeypatch.setattr(own, "PART_BYTES", 10)
    folder = write_files({"big.txt": "first line\nsecond line\nthird\n"})
    assert [one.text for one in OwnText([folder])] == [
        "first line\n", "second line\n", "third\n",
    ]  # fmt: skip


def test_the_place_of_a_bad_byte_counts_from_the_start_of_a_large_file(write_files, monkeypatch):
    monkeypatch.setattr(own, "PART_BYTES", 8)
    folder = write_files({"big.txt": b"one line\n" * 4 + b"then \xff\n"})
    with pytest.raises(DataError, match="found 0xFF at byte 41"):
        list(OwnText([folder]))


def test_the_fingerprint_changes_with_names_contents_and_labels_only(write_files):
    folder = write_files({"a.txt": "a", "b.txt": "b"})

    def fingerprint(**options) -> str:
        return OwnText([folder], **options).fingerprint(silent())

    first = fingerprint()
    os.utime(folder / "a.txt", (0, 0))
    (folder / "c.docx").write_text("not read")
    assert fingerprint() == first
    seen = {first, fingerprint(source="s"), fingerprint(licence="l"), fingerprint(skip_bad=True)}
    (folder / "a.txt").write_text("A")
    seen.add(fingerprint())
    (folder / "a.txt").rename(folder / "aa.txt")
    seen.add(fingerprint())
    assert len(seen) == 6


def test_bytes_read_grow_to_the_total(write_files):
    text = OwnText([write_files({
        "a.txt": "a" * 10, "b.jsonl": '{"text": "x"}\n' * 5, "c.jsonl.gz": gzip.compress(b""),
    })])  # fmt: skip
    seen = []
    for _ in text:
        seen.append(text.bytes_read)
        assert text.bytes_read <= text.total_bytes
    assert seen == sorted(seen)
    assert text.bytes_read == text.total_bytes


def test_rows_of_csv_and_pages_of_html_are_documents(write_files):
    pytest.importorskip("resiliparse")
    page = "<html><body><main><p>A page of some words.</p></main></body></html>"
    folder = write_files(
        {
            "a.csv": '\ufefftext,license\n"one, ""two""\nthree",MIT\nfour,\n',
            "b.html": page,
            "c.csv": "name\nx\n",
            "d.csv": 'text\n"cut',
            "e.csv": b"text\ncaf\xe9\n",
            "f.csv": "text,license\nonly one\nfine,CC0\n",
        }
    )
    found = list(OwnText([folder], skip_bad=True))
    kept = [(one.id, one.text, one.licence) for one in found if isinstance(one, Document)]
    assert kept == [
        ("a.csv#1", 'one, "two"\nthree', "MIT"),
        ("a.csv#2", "four", "unknown"),
        ("b.html", "A page of some words.", "unknown"),
        ("f.csv#2", "fine", "CC0"),
    ]
    wrong = {one.id: one.detail for one in found if isinstance(one, Dropped)}
    assert "has no column text or content, found name" in wrong["c.csv"]
    assert "is damaged after row 0: unexpected end of data" in wrong["d.csv"]
    assert "is damaged after row 0: 'utf-8' codec" in wrong["e.csv"]
    assert "row 1 should have 2 columns" in wrong["f.csv"]


def test_a_source_s_way_in_reads_what_the_folder_s_does(write_files):
    folder = write_files({"a.txt": "one", "b.jsonl": '{"text": "two"}\n{"text": 3}\n', "c.png": ""})
    found = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found += read(file, path.name, Settings("mine", "CC0"))
    assert found[:2] == [
        Document("one", "mine", "CC0", "a.txt"),
        Document("two", "mine", "CC0", "b.jsonl#1"),
    ]
    assert [(one.id, one.reason) for one in found[2:]] == [
        ("b.jsonl", "damaged"),
        ("c.png", "another kind of file"),
    ]
