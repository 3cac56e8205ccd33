"""Benchmark sets as they are published: archives of every kind, and the real ones counted."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from puna.data.benchmarks import Compiled, compile_sets
from puna.errors import DataError

SETS = Path(__file__).resolve().parents[3] / "shared" / "benchmarks"
TEXT = "Which of these thirteen birds is the one that never sings in the old town?"
ROWS = f"{TEXT},a,b\nToo short?,c,d\n".encode()

# Examples as the collection counts them, and what else is a line of a text or a table's heading.
COUNTS = {
    "arc": 2376 + 570 + 1172 + 299,
    "boolq": 3270,
    "crows_pairs": 1508 + 1,
    "gsm8k": 1319 + 7473 + 8,
    "hellaswag": 6 * 10_042 + 1000,
    "humaneval": 164,
    "lambada": 2 * 5153,
    "math": 5000 + 7500 + 4,
    "mbpp": 974 + 427,
    "mmlu": 285 + 1531 + 14_042 + 123,  # addresses that may be contaminated
    "naturalquestions": 3610 + 8757,
    "obqa": 2 * 500,
    "piqa": 1838,
    "race": 362 + 1045 + 368 + 1021,
    "realtoxicityprompts": 5000,
    "siqa": 1954,
    "triviaqa": 11_313 + 8837,
    "truthfulqa": 817 + 1 + 817 + 12,
    "wikitext2": 2 * 2891,
    "winogender": 720 + 120 + 60 + 3,
    "winogrande": 1267,
}


def tar(members: dict[str, bytes], mode: str, link: str = "") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return packed.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


MEMBERS = {
    "dev/a.csv": ROWS, "test/b.csv.gz": gzip.compress(ROWS), "README.txt": TEXT.encode() * 9,
    "image.png": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar", tar(MEMBERS, "w")),
        ("a.tar.gz", tar(MEMBERS, "w:gz")),
        ("a.tgz", tar(MEMBERS, "w:gz")),
        ("a.tar.bz2", tar(MEMBERS, "w:bz2")),
        ("a.zip", zipped(MEMBERS)),
    ],
)
def test_a_set_may_come_in_an_archive(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    facts = compile_sets({"set": [str(tmp_path)]}, str(tmp_path / "out.npz"))
    assert facts == {"set": Compiled(4, 2, 6)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar({"a.csv": ROWS}, "w:gz", "b.csv"), "b.csv a link"),
        (tar({"../a.csv": ROWS}, "w:gz"), r"\.\./a\.csv its name leads out of the archive"),
        (tar({"a.csv": ROWS}, "w:gz")[:-30], "the archive is broken"),
        (gzip.compress(b"no tar" * 999), "no header of a tar"),
    ],
)
def test_an_archive_that_is_broken_or_unsafe_is_refused(tmp_path: Path, content, message):
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.tar\.gz cannot be read: .*{message}"):
        compile_sets({"set": [str(tmp_path / "a.tar.gz")]}, str(tmp_path / "out.npz"))


@pytest.mark.slow
@pytest.mark.skipif(not SETS.is_dir(), reason="../shared/benchmarks, in no clone, is absent")
def test_every_set_of_the_paper_compiles_with_all_its_examples(tmp_path: Path):
    assert sorted(COUNTS) == sorted(path.name for path in SETS.iterdir() if path.is_dir())
    facts = compile_sets({name: [str(SETS / name)] for name in COUNTS}, str(tmp_path / "out.npz"))
    assert {name: one.examples for name, one in facts.items()} == COUNTS
    assert facts["boolq"].too_short == 2
