"""Lines of plain, gzip and zstd files; the oracles are gzip and zstandard themselves."""

import gzip
import io
import struct
from pathlib import Path
from unittest.mock import patch

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from puna.data import lines
from puna.data.lines import is_lines_file, open_writer, read_lines
from puna.errors import DataError

compress = zstandard.ZstdCompressor(write_checksum=True).compress
SKIPPABLE_FRAME = struct.pack("<II", 0x184D2A50, 5) + b"abcde"


def lines_of(content: bytes, name: str) -> list[bytes]:
    return list(read_lines(io.BytesIO(content), name))


@given(
    content=st.binary(max_size=60).map(lambda data: data.replace(b"\xff", b"\n")),
    at_once=st.integers(1, 9),
    name=st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"]),
)
def test_lines_are_those_between_newlines_however_they_are_read(content, at_once, name):
    pack = {"a.jsonl": bytes, "a.jsonl.gz": gzip.compress, "a.jsonl.zst": compress}[name]
    wanted = content.split(b"\n")
    if not wanted[-1]:
        wanted.pop()
    with patch.object(lines, "_READ_BYTES", at_once), patch.object(lines, "_ZSTD_READ_BYTES", 3):
        assert lines_of(pack(content), name) == wanted


def test_several_zstd_frames_are_read_as_one_file():
    packed = SKIPPABLE_FRAME + compress(b"one\ntw") + compress(b"o\n") + SKIPPABLE_FRAME
    assert lines_of(packed, "a.jsonl.zst") == [b"one", b"two"]


def test_several_gzip_members_are_read_as_one_file():
    packed = gzip.compress(b"one\ntw") + gzip.compress(b"o\n")
    assert lines_of(packed, "a.jsonl.gz") == [b"one", b"two"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_an_empty_file_has_no_lines(name):
    assert lines_of(b"", name) == []


@pytest.mark.parametrize(
    ("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", compress)]
)
def test_a_file_cut_anywhere_is_refused_and_its_last_whole_line_named(name, pack):
    whole = pack(b"".join(b"line %d\n" % number for number in range(50)))
    for length in range(1, len(whole)):
        with pytest.raises(DataError, match=rf"{name} is damaged or cut short after line \d+"):
            lines_of(whole[:length], name)


@pytest.mark.parametrize(
    ("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", compress)]
)
def test_a_changed_byte_in_the_content_is_found(name, pack):
    whole = bytearray(pack(bytes(range(256)) * 40))
    whole[len(whole) // 2] ^= 1
    with pytest.raises(DataError, match="damaged"):
        lines_of(bytes(whole), name)


def test_a_file_of_another_kind_than_its_name_says_is_refused():
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        with pytest.raises(DataError, match=f"{name} is damaged or cut short after line 0"):
            lines_of(b'{"text": "plain"}\n', name)


def test_a_line_without_end_is_cut_one_byte_above_the_limit():
    with patch.object(lines, "LONGEST_LINE_BYTES", 10), patch.object(lines, "_READ_BYTES", 4):
        assert lines_of(b"x" * 1000 + b"\nnext\n", "a.jsonl") == [b"x" * 11, b"next"]
        assert lines_of(b"x" * 1000, "a.jsonl") == [b"x" * 11]


@pytest.mark.parametrize(
    ("name", "unpack"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.decompress),
        ("A.JSONL.ZST", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ],
)
def test_what_is_written_is_what_other_tools_read_and_always_the_same(tmp_path: Path, name, unpack):
    written = []
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        file = open_writer(folder / name)
        file.write(b"one\n")
        file.write(b"two\n")
        file.close()
        written.append((folder / name).read_bytes())
    assert unpack(written[0]) == b"one\ntwo\n"
    assert written[0] == written[1]


def test_other_kinds_of_files_are_not_written(tmp_path: Path):
    with pytest.raises(DataError, match=r"\.jsonl, \.jsonl\.gz, \.jsonl\.zst files, got .* a\.csv"):
        open_writer(tmp_path / "a.csv")
    assert not is_lines_file("a.json")
    assert is_lines_file("A.jsonl.ZST")
