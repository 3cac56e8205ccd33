"""Documents and their JSON lines; the oracle is the json module reading what was written."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.data import document as documents_module
from puna.data.document import Document, DocumentWriter, read_documents, write_documents
from puna.errors import DataError

valid_text = st.text(st.characters(exclude_categories=["Cs"]))
documents = st.lists(
    st.builds(
        Document,
        text=valid_text,
        source=valid_text.filter(bool),
        licence=valid_text.filter(bool),
        id=valid_text,
    ),
    max_size=5,
)


@given(documents=documents, suffix=st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"]))
def test_any_valid_text_comes_back_as_it_was(tmp_path_factory, documents, suffix):
    path = tmp_path_factory.mktemp("documents") / f"a{suffix}"
    assert write_documents(path, documents) == len(documents)
    assert list(read_documents(path)) == documents


def test_a_line_has_exactly_our_keys(tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    write_documents(path, [Document("é\n\x00\u2028", "books", "CC0", "1")])
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    assert json.loads(lines[0]) == {
        "id": "1", "source": "books", "licence": "CC0", "text": "é\n\x00\u2028",
    }  # fmt: skip
    assert lines[1:] == [b""]


def test_foreign_lines_are_read_and_what_they_lack_is_filled_in(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        b'{"content": "one", "license": "MIT", "stars": 3}\r\n'
        b"\n"
        b'{"text": "two", "content": "not this", "licence": null, "id": 7, "source": "web"}'
    )
    assert list(read_documents(path, source="mine", licence="mine too")) == [
        Document("one", "mine", "MIT", "a.jsonl#1"),
        Document("two", "web", "mine too", "7"),
    ]
    assert next(read_documents(path)) == Document("one", "a.jsonl", "MIT", "a.jsonl#1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{'text': 'no'}", "is not JSON"),
        (b'{"text": "cut', "is not JSON"),
        (b'"text"', "should be a JSON object, found str"),
        (b'{"body": "x", "title": "y"}', "wanted the key text or content, found body, title"),
        (b"{}", "found none"),
        (b'{"text": null}', "text should be a text, found NoneType"),
        (b'{"text": "x", "source": {"name": "web"}}', "source should be a text, found dict"),
        (b'{"text": "x", "license": ["MIT"]}', "licence should be a text, found list"),
        (b'{"text": "a\xff"}', "is not UTF-8: found 0xFF at its byte 11"),
        (b'{"text": "a\\ud83d"}', r"lone surrogate, U\+D83D at character 1"),
        (b'{"text": "x", "id": "\\udc00"}', "id holds a lone surrogate"),
        (b"[" * 200_000, "is not JSON"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_a_bad_line_is_one_error_with_file_and_line(tmp_path: Path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    reader = read_documents(path)
    assert next(reader).text == "fine"
    with pytest.raises(DataError, match=rf"a\.jsonl line 2.*{message}"):
        next(reader)


def test_of_many_keys_only_some_are_named(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({f"key{number:02d}": 1 for number in range(30)}))
    with pytest.raises(DataError, match=r"key00, .*, key07, and 22 more"):
        next(read_documents(path))


def test_a_line_above_the_limit_is_an_error(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(documents_module, "LONGEST_LINE_BYTES", 20)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "short"}\n{"text": "longer than that"}\n')
    with pytest.raises(DataError, match="line 2 is longer than 0 MiB"):
        list(read_documents(path))


def test_a_missing_file_is_one_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl: No such file"):
        next(read_documents(tmp_path / "none.jsonl"))


def test_a_lone_surrogate_is_refused_before_it_reaches_a_file():
    with pytest.raises(DataError, match=r"text holds a lone surrogate, U\+DC80 at character 3"):
        Document("abc\udc80", "s", "l", "1")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.jsonl.zst"
    write_documents(path, [Document("old", "s", "l", "1")])

    def failing():
        yield Document("new", "s", "l", "1")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_documents(path, failing())
    assert [document.text for document in read_documents(path)] == ["old"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl.zst"]


def test_a_writer_that_was_not_closed_leaves_a_file_that_is_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl.zst"
    writer = DocumentWriter(path)
    for number in range(10_000):
        writer.write(Document(f"text {number}", "s", "l", str(number)))
    killed = tmp_path / "killed.jsonl.zst"
    killed.write_bytes(path.read_bytes())
    writer.close()
    with pytest.raises(DataError, match="damaged or cut short"):
        list(read_documents(killed))
    assert len(list(read_documents(path))) == 10_000


def test_a_url_and_a_language_come_back_and_are_left_out_where_not_known(tmp_path):
    known = Document("Hallo", "web", "unknown", "1", "https://example.org/a", "de")
    plain = Document("Ciao", "web", "unknown", "2")
    path = tmp_path / "documents.jsonl"
    write_documents(path, [known, plain])
    assert list(read_documents(path)) == [known, plain]
    assert "url" not in path.read_text(encoding="utf-8").splitlines()[1]


def test_a_foreign_language_that_is_no_text_is_not_known(tmp_path):
    path = tmp_path / "foreign.jsonl"
    path.write_text('{"text": "Hallo", "language": ["de"], "url": null}\n', encoding="utf-8")
    (document,) = read_documents(path)
    assert (document.url, document.language) == ("", "")
