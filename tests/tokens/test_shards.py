"""Shards on disk: what was put in comes out, and nothing broken is read."""

import errno
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_texts import documents

from puna.console import Console, silent
from puna.errors import ConfigError, DataError, SchemaError, TokenizerError
from puna.tokens import shards as shards_module
from puna.tokens.shards import ShardsConfig, ShardSet, write_shards
from puna.tokens.tokenizer import Tokenizer

DOCUMENTS = [*documents(60), ("empty", ""), ("hard", "\0\r\n\t 🦙 <s> ")]


def write(out: Path, tokenizer: Tokenizer, shard_bytes: int = 2000, given=DOCUMENTS) -> ShardSet:
    return write_shards(iter(given), tokenizer, out, ShardsConfig(shard_bytes), silent())


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory) -> ShardSet:
    return write(tmp_path_factory.mktemp("shards") / "out", tokenizer)


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    return Path(shutil.copytree(shards.folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def expected(tokenizer) -> np.ndarray:
    """All tokens, put together here."""
    return np.concatenate([tokenizer.encode(text, bos=True, eos=True) for _, text in DOCUMENTS])


def test_documents_come_back_in_order(shards, tokenizer):
    assert shards.documents == len(DOCUMENTS)
    for index, (_, text) in enumerate(DOCUMENTS):
        ids = shards.document(index).tolist()
        assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
        assert tokenizer.decode(ids) == text


def test_counts_are_exact(shards, tokenizer, expected):
    assert shards.tokens == len(expected)
    assert shards.text_bytes == sum(len(text.encode()) for _, text in DOCUMENTS)
    assert shards.bytes_per_token == pytest.approx(shards.text_bytes / len(expected))
    assert shards.vocabulary_size == tokenizer.vocabulary_size
    assert shards.tokenizer_sha256 == tokenizer.sha256


def test_the_files_are_plain_little_endian_uint16(shards, expected):
    names = sorted(path.name for path in shards.folder.glob("tokens-*.bin"))
    assert len(names) == 5
    assert names == [f"tokens-{i:05d}.bin" for i in range(len(names))]
    parts = [np.fromfile(shards.folder / name, "<u2") for name in names]
    assert np.array_equal(np.concatenate(parts), expected)
    assert {len(part) for part in parts[:-1]} == {1000}
    assert 0 < len(parts[-1]) <= 1000


@settings(max_examples=200)
@given(start=st.integers(-(10**6), 10**12), count=st.integers(0, 20_000))
def test_reading_goes_round_in_a_circle(shards, expected, start, count):
    wanted = expected[np.arange(start, start + count) % len(expected)]
    assert np.array_equal(shards.read(start, count), wanted)


@given(data=st.data(), length=st.integers(1, 2500))
def test_windows_are_the_rows_that_read_gives(shards, data, length):
    starts = data.draw(st.lists(st.integers(0, 3 * shards.tokens), max_size=12))
    windows = shards.windows(np.array(starts, dtype=np.int64), length)
    assert windows.dtype == np.int64
    assert windows.shape == (len(starts), length)
    for start, row in zip(starts, windows, strict=True):
        assert np.array_equal(row, shards.read(start, length))


@pytest.mark.parametrize("shard_bytes", [4, 6, 1 << 29])
def test_the_shard_limit_changes_files_not_tokens(tokenizer, expected, tmp_path, shard_bytes):
    given = DOCUMENTS[:2] if shard_bytes < 100 else DOCUMENTS
    shards = write(tmp_path / "out", tokenizer, shard_bytes, given)
    sizes = [path.stat().st_size for path in shards.folder.glob("tokens-*.bin")]
    assert max(sizes) <= shard_bytes
    assert np.array_equal(shards.read(0, shards.tokens), expected[: shards.tokens])


def test_a_vocabulary_above_65536_takes_uint32(tokenizer, expected, tmp_path):
    large = Tokenizer(tokenizer.path.read_bytes(), tokenizer.path)
    large.vocabulary_size = (1 << 16) + 1
    shards = write(tmp_path / "out", large)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["dtype"] == "uint32"
    assert (tmp_path / "out" / "tokens-00000.bin").stat().st_size == 2000
    assert np.array_equal(shards.read(0, shards.tokens), expected)


def test_batches_do_not_change_the_result(shards, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "_BATCH_CHARACTERS", 100)
    assert write(tmp_path / "out", tokenizer).fingerprint == shards.fingerprint


def test_the_fingerprint_follows_the_content(shards, tokenizer, tmp_path):
    assert write(tmp_path / "same", tokenizer).fingerprint == shards.fingerprint
    other = write(tmp_path / "other", tokenizer, given=DOCUMENTS[::-1])
    assert other.tokens == shards.tokens
    assert other.fingerprint != shards.fingerprint


def test_the_same_inputs_are_not_written_again(tokenizer, tmp_path):
    first = write(tmp_path / "out", tokenizer)
    written = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    stderr = io.StringIO()
    console = Console(stderr=stderr)
    config = ShardsConfig(2000)
    again = write_shards(iter(DOCUMENTS), tokenizer, tmp_path / "out", config, console)
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == written
    assert "using it" in stderr.getvalue()


def test_other_inputs_are_an_error_that_names_what_differs(
    shards, tokenizer, llama_tokenizer, copy
):
    with pytest.raises(DataError, match=r"config\.shard_bytes is 2000 there, 4000 here\n"):
        write(copy, tokenizer, shard_bytes=4000)
    with pytest.raises(DataError, match=r"other inputs: text_sha256 is "):
        write(copy, tokenizer, given=DOCUMENTS[1:])
    with pytest.raises(DataError, match=r"other inputs: tokenizer_sha256 is "):
        write(copy, llama_tokenizer)
    renamed = [("another", DOCUMENTS[0][1]), *DOCUMENTS[1:]]
    with pytest.raises(DataError, match="text_sha256"):
        write(copy, tokenizer, given=renamed)


def test_a_folder_of_other_things_is_left_alone(tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(DataError, match="should be a new or empty folder"):
            write(out, tokenizer)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_empty_folder_is_used(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    assert write(Path("out"), tokenizer).documents == len(DOCUMENTS)


def test_an_interrupted_writing_leaves_nothing(tokenizer, tmp_path):
    def interrupted():
        yield from DOCUMENTS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", tokenizer, given=interrupted())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_away(tokenizer, tmp_path):
    leftover = tmp_path / ".out.partial-1234"
    leftover.mkdir()
    (leftover / "tokens-00000.bin").write_bytes(b"half")
    write(tmp_path / "out", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    def full(self, values):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards_module._HashedFile, "write", full)
    with pytest.raises(DataError, match=r"cannot write .*out: No space left"):
        write(tmp_path / "out", tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_no_documents_are_an_error(tokenizer, tmp_path):
    with pytest.raises(DataError, match="no documents"):
        write(tmp_path / "out", tokenizer, given=[])
    assert list(tmp_path.iterdir()) == []


def test_a_lone_surrogate_names_its_document(tokenizer, tmp_path):
    with pytest.raises(TokenizerError, match="letter-7: character 2 is a lone surrogate"):
        write(tmp_path / "out", tokenizer, given=[*DOCUMENTS, ("letter-7", "ab\udc80")])


def test_a_missing_folder_says_how_to_build_one(tmp_path):
    with pytest.raises(DataError, match="there are no token shards in") as raised:
        ShardSet.open(tmp_path)
    assert "puna data build" in str(raised.value.hint)


@pytest.mark.parametrize("name", ["tokens-00000.bin", "tokens-00003.bin", "documents.bin"])
def test_a_file_cut_off_or_missing_is_found_at_once(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-2])
    with pytest.raises(DataError, match=rf"{name} should have [\d,]+ bytes, found [\d,]+: "):
        ShardSet.open(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        ShardSet.open(copy)


@pytest.mark.parametrize("name", ["tokens-00002.bin", "documents.bin"])
def test_a_changed_byte_is_found_by_verify(copy, name):
    ShardSet.open(copy, verify=True)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    ShardSet.open(copy)
    with pytest.raises(DataError, match=f"{name} was changed: SHA-256"):
        ShardSet.open(copy, verify=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("tokens", 5), ("documents", None), ("dtype", "int8"), ("files", {}), ("tokens", 0)],
)
def test_a_damaged_manifest_is_refused(copy, key, value):
    record = json.loads((copy / "manifest.json").read_text())
    record[key] = value
    (copy / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        ShardSet.open(copy)


def test_another_kind_or_a_newer_version_is_refused(copy):
    record = json.loads((copy / "manifest.json").read_text())
    for changes, message in (({"version": 99}, "version 99"), ({"schema": "x"}, "puna.shards")):
        (copy / "manifest.json").write_text(json.dumps({**record, **changes}))
        with pytest.raises(SchemaError, match=message):
            ShardSet.open(copy)


def test_the_wrong_tokenizer_is_refused(shards, tokenizer, llama_tokenizer):
    shards.require_tokenizer(tokenizer)
    with pytest.raises(DataError, match="made with another tokenizer than"):
        shards.require_tokenizer(llama_tokenizer)


@pytest.mark.parametrize("index", [-1, len(DOCUMENTS)])
def test_a_document_that_is_not_there_is_refused(shards, index):
    with pytest.raises(DataError, match=f"documents 0 to {len(DOCUMENTS) - 1}, {index} was asked"):
        shards.document(index)


def test_a_shard_too_small_for_a_token_is_refused():
    with pytest.raises(ConfigError, match=r"shards\.shard_bytes must be at least 4, got 3"):
        ShardsConfig(3)
