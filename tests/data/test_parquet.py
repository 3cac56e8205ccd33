"""Rows of parquet files, written with pyarrow as others write them."""

import builtins
from pathlib import Path

import pytest

from puna.data.document import Document, Dropped
from puna.data.sources.own import OwnText
from puna.errors import DataError, MachineError

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'puna[data]'")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path: Path, columns: dict, **options) -> Path:
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def test_a_row_is_a_document(tmp_path: Path):
    columns = {
        "content": ["one", "zwei é 😀", ""],
        "license": ["MIT", None, "CC0"],
        "id": [4, 5, 6],
        "vector": [[1.0], [2.0], []],
    }
    path = write(tmp_path / "a.parquet", columns)
    source = tmp_path.name
    assert list(OwnText([path], licence="mine")) == [
        Document("one", source, "MIT", "a.parquet#1"),
        Document("zwei é 😀", source, "mine", "a.parquet#2"),
        Document("", source, "CC0", "a.parquet#3"),
    ]


@pytest.mark.parametrize("type_name", ["large_string", "dictionary", "string_view"])
def test_any_type_of_text_column_is_read(tmp_path: Path, type_name):
    types = {
        "large_string": pyarrow.large_string(),
        "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        "string_view": pyarrow.string_view(),
    }
    column = pyarrow.array(["a", "b", "a"]).cast(types[type_name])
    path = write(tmp_path / "a.parquet", {"text": column})
    assert [one.text for one in OwnText([path])] == ["a", "b", "a"]


def test_many_row_groups_are_read_in_order_with_progress(tmp_path: Path):
    texts = [f"text {number}" for number in range(1000)]
    source = OwnText([write(tmp_path / "a.parquet", {"text": texts}, row_group_size=90)])
    places = []
    read = []
    for one in source:
        read.append(one.text)
        places.append(source.bytes_read)
    assert read == texts
    assert places == sorted(places)
    assert places[499] == pytest.approx(source.total_bytes / 2, abs=2)


def test_a_row_without_text_is_one_error_with_its_number(tmp_path: Path):
    path = write(tmp_path / "a.parquet", {"text": ["one", None, "three"]})
    with pytest.raises(DataError, match=r"a\.parquet row 2: text should be a text, found NoneType"):
        list(OwnText([path]))
    kinds = [type(item) for item in OwnText([path], skip_bad=True)]
    assert kinds == [Document, Dropped, Document]


def test_text_that_is_not_utf8_is_one_error_with_its_number(tmp_path: Path):
    raw = pyarrow.array([b"fine", b"b\xff"], pyarrow.binary())
    column = pyarrow.StringArray.from_buffers(2, *raw.buffers()[1:])
    path = write(tmp_path / "a.parquet", {"text": column})
    with pytest.raises(DataError, match=r"a\.parquet row 2 is not UTF-8 at byte 1"):
        list(OwnText([path]))


def test_a_table_without_a_text_column_names_its_columns(tmp_path: Path):
    path = write(tmp_path / "a.parquet", {"body": ["x"], "url": ["y"]})
    with pytest.raises(DataError, match="no column text or content, found body, url"):
        list(OwnText([path]))


@pytest.mark.parametrize("damage", ["cut", "change", "other"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, damage):
    path = write(tmp_path / "a.parquet", {"text": [f"text {number}" for number in range(5000)]})
    content = bytearray(path.read_bytes())
    if damage == "change":
        content[1000:1100] = bytes(100)
    path.write_bytes({"cut": content[:-50], "change": content, "other": b"PAR1"}[damage])
    with pytest.raises(DataError, match=r"a\.parquet is damaged after row \d+: "):
        list(OwnText([path]))


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch):
    path = write(tmp_path / "a.parquet", {"text": ["x"]})
    real_import = builtins.__import__

    def without_pyarrow(name, *arguments, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(MachineError, match="needs the package pyarrow") as caught:
        list(OwnText([path], skip_bad=True))
    assert caught.value.hint == "pip install 'puna[data]'"
