"""Every file says what it is; newer and foreign ones are refused; writes are whole or absent."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from puna import schema
from puna.errors import SchemaError


def test_a_written_record_reads_back_equal(tmp_path: Path):
    record = {"speeches": 249, "name": "naïve \N{LLAMA}"}
    schema.write_json(tmp_path / "manifest.json", "puna.corpus", record)
    assert schema.read_json(tmp_path / "manifest.json", "puna.corpus") == {
        "schema": "puna.corpus",
        "version": 1,
        **record,
    }


@pytest.mark.parametrize("kind", list(schema.VERSIONS))
def test_every_kind_refuses_a_newer_version(kind: str, tmp_path: Path):
    newer = schema.VERSIONS[kind] + 1
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"schema": kind, "version": newer}))
    with pytest.raises(SchemaError) as raised:
        schema.read_json(path, kind)
    assert f"version {newer}, this Puna reads up to {newer - 1}" in raised.value.message
    assert "newer Puna" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"schema": "puna.shards", "version": 1}', "found puna.shards"),
        ('{"version": 1}', "found no schema field"),
        ("[1, 2]", "found no schema field"),
        ('{"schema": "puna.corpus", "version": "1"}', "found '1'"),
        ('{"schema": "puna.corpus", "version": 0}', "found 0"),
        ('{"schema": "puna.corpus"', "cannot be read"),
        ("\xff", "cannot be read"),
    ],
)
def test_what_is_not_ours_is_one_clear_error(content: str, found: str, tmp_path: Path):
    path = tmp_path / "file.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(SchemaError, match=found) as raised:
        schema.read_json(path, "puna.corpus")
    assert str(path) in raised.value.message


def test_an_absent_file_is_one_clear_error(tmp_path: Path):
    with pytest.raises(SchemaError, match="found nothing there"):
        schema.read_json(tmp_path / "manifest.json", "puna.corpus")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_half(tmp_path: Path, monkeypatch):
    path = tmp_path / "state.json"
    schema.write_atomic(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        schema.write_atomic(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_the_file_hash_is_sha_256(tmp_path: Path):
    content = bytes(range(256)) * 999
    (tmp_path / "file").write_bytes(content)
    assert schema.sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()
