"""One crafted zip file for every class of attack on its structure, with the error it must give."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from attacks.torch_zip import (
    GOOD,
    STORAGE_BYTES,
    End,
    Entry,
    archive,
    members,
    with_changed,
    with_program,
)

STORAGE = 2  # which of `members()` holds the numbers
FULL = 0xFFFFFFFF


def _wide(*values: int) -> bytes:
    """The extra field that holds 64-bit sizes."""
    return struct.pack("<2H", 1, 8 * len(values)) + b"".join(struct.pack("<Q", n) for n in values)


def _raw_deflate(data: bytes) -> bytes:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeezed.compress(data) + squeezed.flush()


def _compressed(data: bytes, **changes: int) -> bytes:
    packed = _raw_deflate(data)
    return with_changed(
        STORAGE,
        **{
            "data": packed,
            "crc": zlib.crc32(data),
            "size": len(data),
            "stored_size": len(packed),
            "method": 8,
            **changes,
        },
    )


def compression() -> dict[str, tuple[bytes, str]]:
    """Members that are not as they lie."""
    return {
        "a deflated member": (_compressed(STORAGE_BYTES), "this one is compressed"),
        "a deflate bomb of 1 to 1000": (_compressed(bytes(20 << 20)), "this one is compressed"),
        "a bomb that claims 2^32 - 2 bytes": (_compressed(b"", size=FULL - 1), "is compressed"),
        "deflate only in the local header": (with_changed(STORAGE, local_method=8), "compressed"),
        "deflate only in the directory": (with_changed(STORAGE, method=8, local_method=0), "compr"),
        "bzip2": (with_changed(STORAGE, method=12), "this one is compressed"),
        "encrypted": (with_changed(STORAGE, flags=1), "encrypted or patched"),
        "a patch": (with_changed(STORAGE, flags=1 << 5), "encrypted or patched"),
        "masked headers": (with_changed(STORAGE, flags=1 << 13), "encrypted or patched"),
        "two sizes": (with_changed(STORAGE, stored_size=20), "should have one size"),
    }


def places() -> dict[str, tuple[bytes, str]]:
    """Members that lie elsewhere than they say, on one another, or beyond the file."""
    first, _, third, _ = members()
    inner = archive([Entry("model/data/0", STORAGE_BYTES)])
    whole = [Entry("model/data.pkl", GOOD), Entry("model/data/1", inner)]
    within = 30 + len(b"model/data.pkl") + len(GOOD) + 30 + len(b"model/data/1")
    return {
        "a member past the end": (with_changed(STORAGE, size=10**9, local_size=10**9), "end befo"),
        "a member into the directory": (with_changed(3, size=40, local_size=40), "end before"),
        "a local header past the end": (with_changed(STORAGE, offset=10**9), "local header of"),
        "a local header at 2^32 - 2": (with_changed(STORAGE, offset=FULL - 1), "local header of"),
        "a local header in the data": (with_changed(STORAGE, offset=50), "local header of"),
        "no local header": (with_changed(STORAGE, local_mark=b"PK\3\5"), "local header of"),
        "another name in the local header": (
            with_changed(STORAGE, local_name=b"model/data/1"),
            "calls this member 'model/data/0'",
        ),
        "another size in the local header": (with_changed(STORAGE, local_size=20), "another size"),
        "another CRC in the local header": (with_changed(STORAGE, local_crc=1), "another size"),
        "two members in one place": (
            archive([first, third, Entry("model/data/0", STORAGE_BYTES, offset=0)]),
            "calls this member|comes twice",
        ),
        "the same member listed twice": (
            archive([first, third, Entry("model/data/0", STORAGE_BYTES, is_written=False)]),
            "comes twice",
        ),
        "two members of one name": (archive([first, third, third]), "comes twice"),
        "a member within another": (
            archive(
                [*whole, Entry("model/data/0", STORAGE_BYTES, offset=within, is_written=False)]
            ),
            "lies within",
        ),
        "a hidden beginning": (archive(members(), prefix=b"#!/bin/sh\n"), "a zip file of torch"),
        "a hidden zip before": (
            archive(members(), prefix=archive(members()), end=End(offset=0)),
            "should end here",
        ),
    }


def directories() -> dict[str, tuple[bytes, str]]:
    """End records and directories that lie."""
    here, last = "should end here", "last 22 bytes"
    good = archive(members())

    def ended(**changes: object) -> bytes:
        return archive(members(), End(**changes))  # type: ignore[arg-type]

    def wide(**lies: int) -> bytes:
        return archive(members(), End(FULL & 0xFFFF, FULL, FULL, zip64=lies))

    attacks = {
        "only its first four bytes": (b"PK\3\4", last),
        "only an end record": (b"PK\3\4" + archive([]), here),
        "bytes after the end": (ended(after=b"\0"), last),
        "a comment": (ended(comment=b"weights"), last),
        "a comment that is an end record": (ended(comment=archive([])), here),
        "a comment that is told but not there": (
            good[:-2] + struct.pack("<H", 7),
            "one disk and no comment",
        ),
        "another disk": (ended(disk=1), "one disk"),
        "a directory past the end": (ended(offset=10**9), here),
        "a directory of 4 GB": (ended(size=FULL - 1), here),
        "a directory at 0": (ended(offset=0), here),
        "fewer entries than there are": (ended(entries=3), "holds more than"),
        "more entries than there are": (ended(entries=5), "ends within|should be here"),
        "65,534 entries": (ended(entries=0xFFFE), here),
        "zip64 told, no record": (ended(entries=0xFFFF, size=FULL, offset=FULL), here),
        "bytes before the end record": (ended(before=b"1234"), here),
        "a member on another disk": (with_changed(STORAGE, disk=1), "the one disk"),
        "a directory entry of another kind": (good.replace(b"PK\1\2", b"PK\1\3", 1), "be here"),
        "a comment that leaves the directory": (
            with_changed(3, comment=b"").replace(
                struct.pack("<3H", 0, 0, 0) + bytes(6), struct.pack("<3H", 0, 999, 0) + bytes(6)
            ),
            "should be here",
        ),
    }
    plain = "56 bytes and tell of one disk"
    for label, lies, says in (
        ("a zip64 record of another size", {"record": 2**60}, plain),
        ("a zip64 record of another disk", {"disk": 1}, plain),
        ("zip64 with two disks", {"disks": 2}, plain),
        ("a zip64 record elsewhere", {"at": 0}, "zip64 end record should be here"),
        ("a zip64 record at 2^63", {"at": 2**63}, "zip64 end record should be here"),
        ("2^63 entries", {"entries": 2**63}, "at most 100000"),
        ("a zip64 directory of 2^63", {"size": 2**63}, here),
        ("a zip64 directory at 2^64 - 1", {"offset": 2**64 - 1}, here),
    ):
        attacks[label] = (wide(**lies), says)
    attacks["two end records that disagree"] = (
        archive(members(), End(entries=3, zip64={})),
        "should agree",
    )
    return attacks


def sizes() -> dict[str, tuple[bytes, str]]:
    """64-bit sizes that are missing, short or enormous."""

    def stored(extra: bytes, **changes: int) -> bytes:
        return with_changed(STORAGE, **{"size": FULL, "extra": extra, **changes})

    return {
        "a wide size that is missing": (stored(b""), "it is missing"),
        "a wide size that is short": (stored(struct.pack("<2H", 1, 4) + bytes(4)), "is missing"),
        "only one of two wide sizes": (stored(_wide(24)), "it is missing"),
        "a wide size of 2^63": (stored(_wide(2**63, 2**63), local_size=FULL), "end before"),
        "two wide sizes that differ": (stored(_wide(24, 25)), "one size"),
        "a wide offset of 2^63": (
            with_changed(STORAGE, offset=FULL, extra=_wide(2**63)),
            "local header of",
        ),
        "an extra field that is longer than it is": (
            with_changed(STORAGE, extra=struct.pack("<2H", 1, 999)),
            "do not fit",
        ),
        "two zip64 fields": (
            with_changed(STORAGE, extra=_wide(24) + _wide(24)),
            "do not fit",
        ),
    }


def names() -> dict[str, tuple[bytes, str]]:
    """Member names that reach elsewhere, and folders that are not one."""

    def renamed(name: str | bytes) -> bytes:
        return archive([*members()[:3], Entry(name, b"3\n")])

    unfit = "is no name of a member"
    attacks = {
        f"the name {name!r}": (renamed(name), unfit)
        for name in (
            "/etc/passwd",
            "../data.pkl",
            "model/../../data.pkl",
            "model/./data.pkl",
            "model//data",
            "model/data/",
            "C:\\model",
            "model/\0data",
            "model/\x1b[2J",
            "",
        )
    }
    return attacks | {
        "a name that is not UTF-8": (renamed(b"model/\xff"), "should be UTF-8"),
        "a name of 65,535 bytes": (
            archive([Entry("a" * 65_535, b"")]),
            "data.pkl, it does not",
        ),
        "two folders": (renamed("other/version"), "lie in one folder, found 2"),
        "two pickles in two folders": (
            archive([*members(), Entry("other/data.pkl", GOOD)]),
            "lie in one folder, found 2",
        ),
        "no pickle": (archive(members()[1:]), "data.pkl, it does not"),
        "no storage": (archive(members()[:2]), "which is missing"),
        "a pickle in no folder": (archive([Entry("data.pkl", GOOD)]), "data.pkl, it does not"),
        "TorchScript": (
            archive([*members(), Entry("model/constants.pkl", b"\x80\x02).")]),
            "is a TorchScript program",
        ),
    }


def damage() -> dict[str, tuple[bytes, str]]:
    """Right structure, wrong bytes."""
    crc = "should have the CRC"
    entries: Sequence[Entry] = members()
    return {
        "a wrong CRC of the pickle": (with_changed(0, crc=1), crc),
        "a wrong CRC of the byte order": (with_changed(1, crc=1), crc),
        "a wrong CRC of the numbers": (with_changed(STORAGE, crc=1), crc),
        "CRCs that are all zero": (
            archive([Entry(one.name, one.data, crc=0) for one in entries]),
            "they are all zero",
        ),
        "an unknown byte order": (with_changed(1, data=b"middle"), "little or big"),
        "a byte order of 1 MB": (with_changed(1, data=bytes(1 << 20)), "little or big"),
        "numbers that are not finite": (
            with_changed(STORAGE, data=struct.pack("<6f", 1, 2, float("nan"), 4, 5, 6)),
            "should be finite, 1 of 6",
        ),
        "an infinite number": (
            with_changed(STORAGE, data=struct.pack("<6f", 1, 2, float("inf"), 4, 5, 6)),
            "should be finite, 1 of 6",
        ),
    }


def formats() -> dict[str, tuple[bytes, str]]:
    """Files of other kinds."""
    tar = bytearray(1024)
    tar[257:262] = b"ustar"
    return {
        "an empty file": (b"", "found an empty file"),
        "a bare pickle, as torch wrote before 1.6": (
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
            "the format before torch 1.6",
        ),
        "a tar file, as torch wrote before 0.1.10": (bytes(tar), "found a tar file"),
        "an HTML page": (b"<!DOCTYPE html><html>", "found something else"),
        "a Git LFS pointer": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13476939516\n",
            "found something else",
        ),
        "an empty zip": (archive([]), "found something else"),
        "a good one in a row of good ones": (with_program(GOOD) * 2, "should end here"),
    }


ARCHIVES = {
    **compression(),
    **places(),
    **directories(),
    **sizes(),
    **names(),
    **damage(),
    **formats(),
}
