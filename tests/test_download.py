"""Downloads from a server on this machine that breaks off, lies, and sends people elsewhere."""

import hashlib
import random
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from file_server import serving

from puna import download as downloads
from puna.download import Refused, Wanted, copy_local, download
from puna.errors import CheckpointError, MachineError, UsageError

CONTENT = random.Random(5).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Bar:
    """Counts."""

    def __init__(self):
        self.total = 0

    def update(self, amount: float = 1):
        self.total += amount

    def set_postfix_str(self, text: str, refresh: bool = True):
        pass


@pytest.fixture
def site():
    with serving() as running:
        running.files["/a.bin"] = CONTENT
        yield running


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 10_000)


def wanted(site, path: str = "/a.bin", **facts) -> Wanted:
    return Wanted(site.address + path, **facts)


def ranges(site) -> list[str | None]:
    return [headers.get("range") for _path, headers in site.requests]


def test_a_file_comes_whole_and_its_hash_is_told(site, tmp_path: Path):
    bar = Bar()
    assert download(wanted(site), tmp_path / "a", bar) == SHA256
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert bar.total == len(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_broken_connection_goes_on_where_it_stopped(site, tmp_path: Path):
    site.break_after = [100_000, 50_000]
    bar = Bar()
    assert download(wanted(site, sha256=SHA256), tmp_path / "a", bar) == SHA256
    assert ranges(site) == [None, "bytes=100000-", "bytes=150000-"]
    assert bar.total == len(CONTENT)


def test_a_second_command_goes_on_after_one_that_gave_up(site, tmp_path: Path):
    site.break_after = [40_000, 0]
    with pytest.raises(MachineError, match=r"broke off after 39\.1 KiB") as caught:
        download(wanted(site), tmp_path / "a", Bar())
    assert "goes on from there" in str(caught.value.hint)
    assert download(wanted(site), tmp_path / "a", Bar()) == SHA256
    assert ranges(site)[-1] == "bytes=40000-"


def test_a_changed_file_is_not_glued_to_the_old_one_s_beginning(site, tmp_path: Path):
    site.break_after = [40_000, 0]
    with pytest.raises(MachineError):
        download(wanted(site), tmp_path / "a", Bar())
    site.files["/a.bin"] = CONTENT[::-1]
    download(wanted(site), tmp_path / "a", Bar())
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_without_marks_or_hash_the_file_is_begun_anew(site, tmp_path: Path):
    site.has_marks = False
    site.break_after = [40_000, 40_000]
    with pytest.raises(MachineError):
        download(wanted(site), tmp_path / "a", Bar())
    assert download(wanted(site), tmp_path / "a", Bar()) == SHA256
    assert ranges(site)[-1] is None


def test_a_server_without_ranges_sends_it_all_again(site, tmp_path: Path):
    site.has_ranges = False
    site.break_after = [40_000]
    assert download(wanted(site), tmp_path / "a", Bar()) == SHA256


def test_a_part_that_was_complete_is_taken_as_it_is(site, tmp_path: Path):
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert download(wanted(site, sha256=SHA256), tmp_path / "a", Bar()) == SHA256
    assert ranges(site) == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_thrown_away(site, tmp_path: Path):
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    assert download(wanted(site, sha256=SHA256), tmp_path / "a", Bar()) == SHA256


@pytest.mark.parametrize("known", ["sha256", "git_blob"])
def test_another_content_is_removed_and_said(site, tmp_path: Path, known):
    with pytest.raises(CheckpointError, match=r"should have (SHA-256|git hash) 00") as caught:
        download(wanted(site, **{known: "0" * 64}), tmp_path / "a", Bar())
    assert "removed" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_the_git_hash_is_git_s(site, tmp_path: Path):
    # printf 'hello\n' | git hash-object --stdin
    site.files["/h"] = b"hello\n"
    blob = "ce013625030ba8dba906f756967f9e9ca394464a"
    download(wanted(site, "/h", git_blob=blob), tmp_path / "h", Bar())


def test_another_size_than_promised_is_refused_before_a_byte_is_kept(site, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"should have 7 bytes, the server has 300,000"):
        download(wanted(site, size=7), tmp_path / "a", Bar())
    assert not (tmp_path / "a.part").exists()


def test_a_server_that_sends_more_than_it_was_asked_for_is_cut_off(site, tmp_path: Path):
    site.has_length = False
    with pytest.raises(CheckpointError, match="should have 100,000 bytes, more came"):
        download(wanted(site, size=100_000), tmp_path / "a", Bar())
    assert not (tmp_path / "a.part").exists()


def test_a_full_disk_is_found_before_the_first_byte(site, tmp_path: Path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, 16 << 20))
    with pytest.raises(MachineError, match=r"needs 293\.0 KiB in .*, 16\.0 MiB are free") as caught:
        download(wanted(site), tmp_path / "a", Bar())
    assert "PUNA_CACHE" in str(caught.value.hint)


def test_redirects_are_followed_and_credentials_stay_with_their_host(site, tmp_path: Path):
    other = site.address.replace("127.0.0.1", "localhost")
    site.redirects = {"/x": "/y", "/y": f"{other}/a.bin"}
    headers = {"Authorization": "Bearer secret"}
    download(wanted(site, "/x", headers=headers), tmp_path / "a", Bar())
    sent = {path: headers.get("authorization") for path, headers in site.requests}
    assert sent == {"/x": "Bearer secret", "/y": "Bearer secret", "/a.bin": None}


def test_a_circle_of_redirects_ends(site, tmp_path: Path):
    site.redirects = {"/x": "/y", "/y": "/x"}
    with pytest.raises(MachineError, match="6th redirect"):
        download(wanted(site, "/x"), tmp_path / "a", Bar())
    assert len(site.requests) == 6


@pytest.mark.parametrize("target", ["http://example.org/a", "file:///etc/passwd", "ftp://h/a"])
def test_a_redirect_to_an_unsafe_address_is_refused(site, tmp_path: Path, target):
    site.redirects = {"/x": target}
    with pytest.raises(UsageError, match="https:// or from a file://"):
        download(wanted(site, "/x"), tmp_path / "a", Bar())


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_refusal_tells_its_status_without_the_query(site, tmp_path: Path, status):
    site.answers["/a"] = (status, {"X-Error-Code": "GatedRepo"}, b"no")
    with pytest.raises(Refused, match=f"the server says {status}") as caught:
        download(wanted(site, "/a?token=secret"), tmp_path / "a", Bar())
    assert caught.value.headers["X-Error-Code"] == "GatedRepo"
    assert "secret" not in str(caught.value)


def test_no_server_is_one_error(tmp_path: Path):
    with pytest.raises(MachineError, match=r"127\.0\.0\.1 cannot be reached"):
        download(Wanted("http://127.0.0.1:9/a"), tmp_path / "a", Bar())


def test_a_local_file_is_copied_and_checked(tmp_path: Path):
    (tmp_path / "a").write_bytes(CONTENT)
    target = tmp_path / "b"
    assert copy_local(Wanted("file:///a", sha256=SHA256), tmp_path / "a", target, Bar()) == SHA256
    with pytest.raises(CheckpointError, match="should have SHA-256 00"):
        copy_local(Wanted("file:///a", sha256="0" * 64), tmp_path / "a", target, Bar())
    with pytest.raises(CheckpointError, match="there is none"):
        copy_local(Wanted("file:///c"), tmp_path / "c", target, Bar())
