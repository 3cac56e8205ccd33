"""Members of tars and zips, from archives that Python's own modules write, whole and hostile."""

import bz2
import gzip
import io
import tarfile
import zipfile
import zlib

import pytest
from archive_files import tar, tar_gz, zip_of
from hypothesis import given
from hypothesis import strategies as st

from puna.data.sources import archives
from puna.data.sources.archives import Member, Refused, members

FILES = {"a.txt": "one", "b/c.txt": "two" * 1000, "b/d.bin": "no", "e.txt": ""}


def found(data: bytes, *, largest_bytes: int = 1 << 20) -> list[Member | Refused]:
    is_text = lambda name: name.endswith(".txt")  # noqa: E731
    return list(members(io.BytesIO(data), is_text, largest_bytes=largest_bytes))


@pytest.mark.parametrize(
    "data",
    [tar(FILES), tar_gz(FILES), bz2.compress(tar(FILES)), zip_of(FILES)],
    ids=["tar", "gzip", "bzip2", "zip"],
)
def test_the_wanted_files_come_in_order(data: bytes):
    wanted = [Member(name, text.encode()) for name, text in FILES.items() if name != "b/d.bin"]
    assert found(data) == wanted


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_whole(style: int):
    name = "/".join(["folder-" + "é" * 8] * 6) + ".txt"
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=style) as archive:
        archive.addfile(tarfile.TarInfo(name))
        archive.addfile(tarfile.TarInfo("b.txt"))
    assert found(target.getvalue()) == [Member(name, b""), Member("b.txt", b"")]


@pytest.mark.parametrize(
    "name", ["/etc/passwd.txt", "../a.txt", "a/../../b.txt", "C:/a.txt", "..\\a.txt", "a\x07.txt"]
)
def test_names_that_lead_out_are_refused_and_the_rest_is_read(name: str):
    for data in (tar({name: "x", "b.txt": "y"}), zip_of({name: "x", "b.txt": "y"})):
        first, second = found(data)
        assert isinstance(first, Refused)
        assert second == Member("b.txt", b"y")


def test_links_and_devices_are_refused():
    data = tar({"b.txt": "y"}, links={"a.txt": "/etc/passwd"})
    assert found(data) == [Member("b.txt", b"y"), Refused("a.txt", "a link")]
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        device = tarfile.TarInfo("a.txt")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    assert found(target.getvalue()) == [Refused("a.txt", "neither a file nor a folder")]
    linked = zipfile.ZipInfo("a.txt")
    linked.external_attr = 0o120777 << 16
    with zipfile.ZipFile(target := io.BytesIO(), "w") as archive:
        archive.writestr(linked, "/etc/passwd")
    assert found(target.getvalue()) == [Refused("a.txt", "a link")]


def test_a_large_member_is_passed_over():
    for data in (tar_gz({"a.txt": b"0" * 3000, "b.txt": "y"}), zip_of({"a.txt": b"0" * 3000})):
        first = found(data, largest_bytes=2000)[0]
        assert first == Refused("a.txt", "longer than 2000 bytes")


def test_a_bomb_ends_the_archive(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "_FREE_BYTES", 1 << 20)
    zeros = {f"{number}.txt": bytes(1 << 20) for number in range(4)}
    for data in (tar_gz(zeros), zip_of(zeros)):
        last = found(data)[-1]
        assert isinstance(last, Refused)
        assert "more than 100 times its size" in last.what


def test_a_huge_extra_header_takes_no_memory():
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    assert found(header.tobuf(tarfile.GNU_FORMAT) + b"1" * 2048) == []


def test_after_a_broken_header_the_rest_is_read():
    data = bytearray(tar({"a.txt": "1", "b.txt": "2", "c.txt": "3"}))
    data[1024 + 150] ^= 1  # the second header's checksum
    first, second, third = found(bytes(data))
    assert (first, third) == (Member("a.txt", b"1"), Member("c.txt", b"3"))
    assert second == Refused("", "byte 1024 unpacked: no header of a tar: bad checksum")


def test_what_is_cut_or_broken_is_told():
    import random

    noise = random.Random(1).randbytes(40_000)
    data = gzip.compress(tar({"a.txt": "1", "b.txt": noise}))
    first, second = found(data[:-20_000])
    assert first == Member("a.txt", b"1")
    assert isinstance(second, Refused)
    assert found(tar({"b.txt": noise})[:9000]) == [Refused("b.txt", "the archive ends within it")]
    packed = bytearray(zip_of({"a.txt": "1" * 99, "b.txt": "2"}))
    packed[40] ^= 255
    first, second = found(bytes(packed))
    assert isinstance(first, Refused)
    assert second == Member("b.txt", b"2")


def test_an_encrypted_member_is_refused():
    packed = bytearray(zip_of({"a.txt": "1"}))
    packed[packed.find(b"PK\x01\x02") + 8] |= 1
    assert found(bytes(packed)) == [Refused("a.txt", "encrypted")]


@given(st.binary(max_size=2000), st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh9"]))
def test_nothing_raises_on_noise(data: bytes, magic: bytes):
    found(magic + data)


@given(st.integers(0, 3000), st.integers(0, 255))
def test_nothing_raises_on_a_changed_byte(place: int, value: int):
    for data in (tar(FILES), tar_gz(FILES), zip_of(FILES), zlib.compress(tar(FILES))):
        changed = bytearray(data)
        changed[place % len(changed)] = value
        found(bytes(changed))
