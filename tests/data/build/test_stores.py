"""Builds from and to object stores that run here; the oracle is the build on this disk.

Apart from the others (`make test-stores`): what they need is larger than all the rest.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_runs import command, environment, results
from fake_google_storage import google_storage

from puna.data import files
from puna.errors import DataError

# aiohttp warns of what gcsfs gives it.
quiet = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
pytestmark = [pytest.mark.stores, quiet]
SECONDS = 120.0
PART_BYTES = 50 << 20  # of s3fs, which sends more than two of them part by part


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    """A bucket of moto's server, as Amazon's and Puna's processes reach it by the environment."""
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'puna[stores]'")
    server = pytest.importorskip("moto.server", reason="needs moto: pip install 'puna[stores]'")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    urllib.request.urlopen(f"{address}/moto-api/reset", b"").close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    filesystem_of("s3").mkdir("bucket")
    yield "s3://bucket"
    running.stop()


@pytest.fixture
def gs(monkeypatch) -> Iterator[str]:
    """A bucket of our own small stand-in for Google's, as gcsfs finds it by the environment."""
    # Else it asks Google of which kind the bucket is, by another interface.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs", reason="needs gcsfs: pip install 'puna[stores]'")
    with google_storage("bucket") as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield "gs://bucket"


@pytest.fixture
def store(request) -> str:
    """The bucket of one of the stores."""
    return request.getfixturevalue(request.param)


def filesystem_of(protocol: str):
    """A new file system, which remembers nothing of the server of a test before."""
    import fsspec

    fsspec.get_filesystem_class(protocol).clear_instance_cache()
    return fsspec.filesystem(protocol)


def start(words: list[object], out: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command([*words, "--out", out, "--json"]), env=environment())


def results_of(out: str, folder: Path) -> dict[str, bytes]:
    """What a build wrote, brought here."""
    for name, file in files.find_all([out]).items():
        files.copy(file.path, str(folder / name))
    return results(folder)


def tokens_of(found: dict[str, bytes]) -> list[bytes]:
    """The shards without the digests in their folders' names: a digest knows an input's ETag."""
    shards = [name for name in found if name.startswith("shards/") and "tokens-" in name]
    named = [(Path(name).parts[1].rpartition("-")[0], name) for name in shards]
    return [found[name] for _, name in sorted(named)]


@pytest.mark.parametrize("store", ["s3", "gs"], indirect=True)
def test_a_build_in_a_store_whose_driver_is_killed_ends_as_the_one_here(
    store, recipe, tree, tmp_path
):
    filesystem = filesystem_of(store.partition(":")[0])
    for path in tree.rglob("*.*"):
        filesystem.put_file(str(path), f"bucket/text/{path.relative_to(tree).as_posix()}")
    seen = tmp_path / "seen"
    seen.mkdir()
    words = [recipe, "--workers", "2", "--quiet", '--set=stages=["slow", "exact"]']
    words += ['--set=sources.notes.stages=["slow"]', f"--set=settings.slow.folder={seen}"]
    here = start(words, str(tmp_path / "here"))
    words += [f'--set=sources.lines.inputs=["{store}/text/lines"]']
    words += [f'--set=sources.notes.inputs=["{store}/text/notes/*.txt"]']
    words += ["--set=settings.slow.seconds=0.5"]
    killed = start(words, f"{store}/killed")
    ends = time.monotonic() + SECONDS
    while not len(files_of(f"{store}/killed/work", "01-slow")) >= 2:
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.2)
    killed.kill()
    killed.wait()
    done = files_of(f"{store}/killed/work", "01-slow")
    assert start(words, f"{store}/killed").wait(SECONDS) == 0
    after = files_of(f"{store}/killed/work", "01-slow")
    assert {path: after[path] for path in done} == done
    assert here.wait(SECONDS) == 0
    expected = tokens_of(results(tmp_path / "here"))
    assert len(expected) > 3
    assert tokens_of(results_of(f"{store}/killed", tmp_path / "fetched")) == expected


def files_of(folder: str, part: str) -> dict[str, str]:
    """The finished files of a stage, with their versions."""
    filesystem_of(folder.partition(":")[0])
    try:
        found = files.find(folder)
    except DataError:
        return {}
    return {
        one.path: one.version for one in found if part in one.path and one.path.endswith(".zst")
    }


@pytest.mark.parametrize("store", ["s3", "gs"], indirect=True)
def test_a_file_that_goes_up_in_parts_is_seen_whole_or_not_at_all(store):
    content = os.urandom(1 << 20) * (2 * PART_BYTES + 5 >> 20) + b"the end"
    path = f"{store}/folder/large"
    with pytest.raises(TypeError), files.write_whole(path) as file:
        file.writelines([content, None])
    assert files.in_folder(f"{store}/folder") == {}
    files.write_bytes(path, content)
    (found,) = files.find(path)
    assert found.bytes == len(content)
    assert files.read_bytes(path) == content


def test_an_upload_whose_process_is_killed_leaves_nothing_to_see(s3):
    script = (
        "from puna.data import files;"
        f"files.write_bytes('{s3}/folder/large', bytes({2 * PART_BYTES + 5}))"
    )
    filesystem = filesystem_of("s3")
    writer = subprocess.Popen([sys.executable, "-c", script], env=environment())
    ends = time.monotonic() + SECONDS
    while not (left := filesystem.list_multipart_uploads("bucket")):
        assert time.monotonic() < ends, "it did not begin"
        time.sleep(0.01)
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    assert files.in_folder(f"{s3}/folder") == {}
    assert [one["Key"] for one in left] == ["folder/large"]


def test_a_bucket_that_is_not_there_is_one_clear_error_and_none_is_made(s3):
    with pytest.raises(DataError, match=r"s3://typo/a cannot be reached.*bucket does not exist"):
        files.find("s3://typo/a")
    with pytest.raises(FileNotFoundError):
        files.write_bytes("s3://typo/a", b"")
    assert filesystem_of("s3").ls("") == ["bucket"]


def test_without_keys_the_error_says_where_they_are_looked_for(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    filesystem_of("s3")
    with pytest.raises(DataError, match=r"Unable to locate credentials(?s:.*)AWS_ACCESS_KEY_ID"):
        files.in_folder("s3://bucket/out")
