"""What goes wrong on the way: failures, cuts, lies, a stop; and what a rerun does."""

import gzip
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from email.utils import formatdate
from pathlib import Path

import pytest
from data_fetch_sites import CRAWL, add_crawl, add_dump, files_in, paths_asked

from puna import download as downloads

PART = b"BZh9" + bytes(range(256)) * 400


@pytest.fixture
def dump(site, puna, tmp_path):
    """A dump of three parts, and a command that fetches it."""
    add_dump(site, "simplewiki", "20220601", {f"{n}.xml": PART + b"%d" % n for n in (1, 2, 3)})

    def fetch(*words: object):
        where = ("--out", tmp_path / "raw", "--mirror", site.address)
        return puna("wikipedia", "simple", "--date", "20220601", *where, *words)

    return fetch


def address(number: int) -> str:
    return f"/simplewiki/20220601/{name(number)}"


def name(number: int) -> str:
    return f"simplewiki-20220601-pages-articles{number}.xml.bz2"


def recorded(folder: Path) -> list[dict]:
    lines = (folder / ".fetched.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_what_came_is_recorded_and_a_rerun_asks_for_the_list_alone(site, dump, tmp_path):
    first = dump()
    assert "licence: CC BY-SA" in first.err
    assert "terms: https://dumps.wikimedia.org/legal.html" in first.err
    head, *files = recorded(tmp_path / "raw")
    assert (head["schema"], head["source"]) == ("puna.fetched", "wikipedia")
    assert sorted(one["name"] for one in files) == [name(1), name(2), name(3)]
    for one in files:
        content = (tmp_path / "raw" / one["name"]).read_bytes()
        assert one["bytes"] == len(content)
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["promised"]["sha1"] == hashlib.sha1(content).hexdigest()
        assert one["url"] == f"{site.address}/simplewiki/20220601/{one['name']}"
    site.requests.clear()
    again = dump()
    assert "terms" not in again.err
    assert paths_asked(site) == ["/simplewiki/20220601/dumpstatus.json"]
    (tmp_path / "raw" / name(2)).unlink()
    dump()
    assert paths_asked(site)[2:] == [address(2)]


def test_a_kill_in_the_middle_of_a_record_s_line_costs_nothing_but_a_hash(site, dump, tmp_path):
    dump()
    record = tmp_path / "raw" / ".fetched.jsonl"
    record.write_bytes(record.read_bytes()[:-30])
    site.requests.clear()
    assert dump().status == 0
    assert paths_asked(site) == ["/simplewiki/20220601/dumpstatus.json"]
    assert len(recorded_whole(record)) == 3


def recorded_whole(record: Path) -> set[str]:
    found = set()
    for line in record.read_text().splitlines()[1:]:
        try:
            found.add(json.loads(line)["name"])
        except ValueError:
            continue
    return found


def test_who_we_are_is_told(site, dump):
    dump()
    assert all(headers["user-agent"].startswith("puna/") for _path, headers in site.requests)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_failures_that_pass_are_waited_out_also_of_the_list(site, dump, tmp_path, status):
    site.failures = {address(2): [(status, {})] * 5}
    site.failures["/simplewiki/20220601/dumpstatus.json"] = [(status, {})] * 2
    assert dump().status == 0
    assert len(files_in(tmp_path / "raw")) == 3


def test_failures_that_stay_end_it_and_the_same_command_goes_on(site, dump, tmp_path):
    site.failures = {address(3): [(500, {})] * 7}
    done = dump()
    assert done.status == 1
    assert "the server says 500" in done.err
    site.failures.clear()
    assert dump().status == 0
    assert len(files_in(tmp_path / "raw")) == 3


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_that_asks_to_wait_is_waited_for(site, dump, as_date):
    asked = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    site.failures = {"/simplewiki/20220601/dumpstatus.json": [(429, {"Retry-After": asked})]}
    begin = time.monotonic()
    assert dump().status == 0
    assert time.monotonic() - begin >= 0.9


def test_a_server_that_asks_to_wait_for_hours_is_left(site, dump):
    site.failures = {"/simplewiki/20220601/dumpstatus.json": [(503, {"Retry-After": "7200"})]}
    done = dump()
    assert done.status == 1
    assert "it asks to wait 2 h 00 min; then the same command" in done.err


@pytest.mark.parametrize("cuts", [[0], [1], [50_000], [102_404], [1, 1, 1, 70_000], [0, 9, 0, 0]])
def test_a_connection_cut_anywhere_is_gone_on_with(site, dump, tmp_path, cuts):
    dump("--dry-run")
    site.break_after = [10**9, *cuts]  # the list comes whole
    assert dump("--connections", 1).status == 0
    assert list(files_in(tmp_path / "raw").values()) == [PART + b"%d" % n for n in (1, 2, 3)]
    ranges = [headers["range"] for _path, headers in site.requests if "range" in headers]
    begun = [f"bytes={sum(cuts[: n + 1])}-" for n in range(len(cuts)) if sum(cuts[: n + 1])]
    assert ranges == begun


def test_a_file_that_changed_since_its_part_came_is_begun_anew(site, puna, tmp_path):
    names = add_crawl(site, 1)
    words = ("commoncrawl", CRAWL, "--out", tmp_path, "--mirror", site.address)
    site.break_after = [10**9, 40, *[0] * 7]
    assert "broke off after 40 B" in puna(*words).err
    path = next(path for path in site.files if path.endswith("0.warc.wet.gz"))
    site.files[path] = gzip.compress(b"a new version of it")
    assert puna(*words).status == 0
    assert files_in(tmp_path) == {names[0]: site.files[path]}
    assert site.requests[-1][1]["if-range"].startswith('"')


def test_a_server_without_ranges_sends_it_all_again(site, dump, tmp_path):
    site.has_ranges = False
    site.break_after = [10**9, 60_000]
    assert dump().status == 0
    assert len(files_in(tmp_path / "raw")) == 3


def test_a_wrong_file_is_set_aside_and_fetched_once_more(site, dump, tmp_path):
    site.earlier = {address(2): [PART + b"!"]}
    assert dump().status == 0
    assert list(files_in(tmp_path / "raw")) == [name(1), name(2), name(3)]


def test_a_file_that_is_wrong_twice_is_told_and_the_others_come(site, dump, tmp_path):
    site.files[address(2)] = PART + b"!"
    done = dump()
    assert done.status == 1
    assert "1 files came wrong twice" in done.err
    assert "should have SHA-1" in done.err
    assert list(files_in(tmp_path / "raw")) == [name(1), f"{name(2)}.wrong", name(3)]
    site.files[address(2)] = PART + b"2"
    assert dump().status == 0
    assert list(files_in(tmp_path / "raw")) == [name(1), name(2), name(3)]


def test_a_file_with_another_size_than_the_list_s_is_not_taken(site, dump, tmp_path):
    site.files[address(1)] = PART
    done = dump()
    assert "should have 102,405 bytes, the server has 102,404" in done.err
    assert list(files_in(tmp_path / "raw")) == [name(2), name(3)]


def test_a_file_that_never_ends_is_cut_at_the_size_that_was_told(site, dump, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 10_000)
    site.endless.add(address(1))
    done = dump()
    assert "should have 102,405 bytes, more came" in done.err
    assert list(files_in(tmp_path / "raw")) == [name(2), name(3)]


def test_a_list_that_never_ends_is_cut(site, puna, tmp_path):
    site.endless.add(f"/crawl-data/{CRAWL}/wet.paths.gz")
    done = puna("commoncrawl", CRAWL, "--out", tmp_path, "--mirror", site.address)
    assert done.status == 1
    assert "should be a list of at most 64.0 MiB, it is longer" in done.err


def test_without_a_hash_a_gzip_that_is_broken_is_found_by_its_own(site, puna, tmp_path):
    names = add_crawl(site, 2)
    first = next(path for path in site.files if path.endswith("0.warc.wet.gz"))
    good = site.files[first]
    site.files[first] = good[:40] + b"\0\0\0\0" + good[44:]
    done = puna("commoncrawl", CRAWL, "--out", tmp_path, "--mirror", site.address)
    assert "should be a whole gzip file" in done.err
    assert list(files_in(tmp_path)) == [f"{names[0]}.wrong", names[1]]


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_counted_and_the_others_come(site, dump, tmp_path, status):
    site.answers[address(1)] = (status, {}, b"")
    done = dump("--json")
    assert done.status == 0
    record = json.loads(done.out)
    assert (record["fetched"], record["missing"]) == (2, [name(1)])


def test_a_refusal_stops_all_since_it_may_be_meant_for_us(site, dump):
    site.answers[address(1)] = (403, {}, b"SlowDown")
    done = dump("--connections", 1)
    assert done.status == 1
    assert "the server says 403" in done.err
    assert address(3) not in paths_asked(site)


@pytest.mark.parametrize("target", ["http://example.org/a", "file:///etc/passwd", "ftp://a/b"])
def test_a_redirect_to_another_scheme_is_refused(site, dump, tmp_path, target):
    site.redirects[address(1)] = target
    assert "downloads come over https://" in dump("--connections", 1).err
    assert files_in(tmp_path / "raw") == {}


def test_https_never_goes_back_to_http_even_of_this_machine():
    with pytest.raises(downloads.UsageError, match="downloads come over https"):
        downloads.require_safe("http://127.0.0.1/a", is_only_https=True)


def test_a_dry_run_counts_and_measures_and_writes_nothing(site, dump, tmp_path):
    record = json.loads(dump("--dry-run", "--json").out)
    assert (record["files"], record["here"], record["bytes"]) == (3, 0, 3 * (len(PART) + 1))
    assert record["bytes_per_second"] > 0
    assert record["seconds"] == pytest.approx(record["bytes"] / record["bytes_per_second"])
    assert not (tmp_path / "raw").exists()
    assert "measured now" in dump("--dry-run", "--files", 2).out


def test_a_rate_is_kept(site, dump):
    begin = time.monotonic()
    assert dump("--rate", "300K").status == 0  # 307 kB
    assert time.monotonic() - begin > 0.6


def test_a_full_disk_is_found_before_the_first_file(site, dump, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, 16 << 20))
    done = dump()
    assert "needs 300.0 KiB" in done.err
    assert paths_asked(site) == ["/simplewiki/20220601/dumpstatus.json"]


def test_a_folder_of_another_source_is_left_alone(site, dump, puna, tmp_path):
    dump()
    add_crawl(site, 1)
    done = puna("commoncrawl", CRAWL, "--out", tmp_path / "raw", "--mirror", site.address)
    assert "should be for files of commoncrawl, it has those of wikipedia" in done.err


def test_a_file_that_its_list_has_renewed_is_fetched_again(site, dump, tmp_path):
    dump()
    add_dump(
        site, "simplewiki", "20220601", {f"{n}.xml": PART + b"%d" % (n % 3) for n in (1, 2, 3)}
    )
    site.requests.clear()
    assert dump().status == 0
    assert paths_asked(site)[1:] == [address(3)]
    assert (tmp_path / "raw" / name(3)).read_bytes() == PART + b"0"
    site.requests.clear()
    dump()
    assert len(site.requests) == 1


def test_a_folder_that_cannot_be_made_is_one_error(dump, tmp_path):
    (tmp_path / "raw").write_bytes(b"a file")
    done = dump()
    assert done.status == 1
    assert "cannot be written" in done.err


def test_a_sample_of_which_nothing_comes_leaves_the_time_unknown(site, dump):
    site.break_after = [10**9, 0]
    done = dump("--dry-run")
    assert done.status == 0
    assert "takes         unknown" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_leaves_parts_that_are_gone_on_with(site, dump, tmp_path, number):
    """A slow fetch in a process of its own, stopped by Ctrl-C or killed while a file comes."""
    words = ["wikipedia", "simple", "--date", "20220601", "--out", str(tmp_path / "raw")]
    words += ["--mirror", site.address, "--connections", "1", "--rate", "20K"]
    code = (
        "import signal, sys; from puna import download; from puna.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "download.CHUNK_BYTES = 5000; sys.exit(main(['data', 'fetch', *sys.argv[1:]]))"
    )
    root = Path(downloads.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=root, stderr=subprocess.PIPE
    )
    part = tmp_path / "raw" / f"{name(1)}.part"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size):
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGKILL)
    begun = part.stat().st_size
    assert 0 < begun < len(PART)
    site.requests.clear()
    assert dump().status == 0
    assert dict(site.requests)[address(1)]["range"] == f"bytes={begun}-"
    assert list(files_in(tmp_path / "raw").values()) == [PART + b"%d" % n for n in (1, 2, 3)]
