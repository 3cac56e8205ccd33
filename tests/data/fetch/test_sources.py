"""Each source's list, laid out as its host does: which files it means, with which hashes."""

import gzip
import hashlib
import json

import pytest
from data_fetch_sites import CRAWL, add_crawl, add_dump, files_in, paths_asked

from puna.data.fetch.sources import SOURCES
from puna.data.sources import arxiv, c4, commoncrawl, wikipedia


def test_commoncrawl_s_list_of_paths_gives_the_files_that_are_asked_for(site, puna, tmp_path):
    names = add_crawl(site, 12)
    done = puna("commoncrawl", CRAWL, "--files", "2:4", "--out", tmp_path, "--mirror", site.address)
    assert done.status == 0
    assert list(files_in(tmp_path)) == names[2:4]
    assert paths_asked(site)[0] == f"/crawl-data/{CRAWL}/wet.paths.gz"
    assert len(site.requests) == 3


def test_c4_s_pages_of_the_hub_give_names_sizes_and_sha256(site, puna, tmp_path):
    contents = {f"en/c4-train.0000{n}-of-01024.json.gz": gzip.compress(b"%d" % n) for n in range(3)}
    contents["en/c4-validation.00000-of-00008.json.gz"] = gzip.compress(b"held out")
    rows = []
    for path, content in contents.items():
        site.files[f"/datasets/allenai/c4/resolve/main/{path}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        rows.append({"type": "file", "path": path, "size": len(content), "lfs": {"oid": sha256}})
    tree = "/api/datasets/allenai/c4/tree/main/en"
    link = {"Link": f'<{site.address}/page2>; rel="next"'}
    site.answers[tree] = (200, link, json.dumps(rows[:2]).encode())
    site.answers["/page2"] = (200, {}, json.dumps(rows[2:]).encode())
    assert puna("c4", "en", "--out", tmp_path, "--mirror", site.address).status == 0
    assert list(files_in(tmp_path)) == sorted(contents)[:3]
    site.answers[tree] = (200, {"Link": '<https://other.net/2>; rel="next"'}, b"[]")
    done = puna("c4", "en", "--out", tmp_path / "b", "--mirror", site.address)
    assert "goes on at another server" in done.err


def test_wikipedia_s_newest_finished_dump_is_taken_in_the_order_of_its_parts(site, puna, tmp_path):
    parts = {f"{n}.xml-p{n}p{n}": b"BZh%d" % n * 50 for n in (1, 2, 10)}
    add_dump(site, "simplewiki", "20220601", parts)
    add_dump(site, "simplewiki", "20220701", {".xml": b"half"}, status="in-progress")
    done = puna("wikipedia", "simple", "--out", tmp_path, "--mirror", site.address, "--json")
    assert done.status == 0
    assert json.loads(done.out)["fetched"] == 3
    statuses = [path for path in paths_asked(site) if path.endswith("json")]
    assert statuses == [f"/simplewiki/{day}/dumpstatus.json" for day in (20220701, 20220601)]
    first = [path for path in paths_asked(site) if path.endswith("bz2")][:2]
    assert sorted(path[-13:] for path in first) == ["1.xml-p1p1.bz2"[-13:], "2.xml-p2p2.bz2"[-13:]]
    assert list(files_in(tmp_path).values()) == [
        content for _part, content in sorted(parts.items(), key=lambda one: one[0])
    ]
    missing = puna(
        "wikipedia", "simple", "--date", "20010101", "--out", tmp_path, "--mirror", site.address
    )
    assert "no finished dump of simplewiki of 20010101" in missing.err


def test_books_are_texts_in_the_languages_asked_for_and_missing_ones_are_counted(
    site, puna, tmp_path, monkeypatch
):
    rows = [
        "Text#,Type,Issued,Title,Language",
        '1,Text,1971-12-01,"A title, with a comma",en',
        "2,Text,1972-12-01,Un titre,fr",
        "3,Sound,1973-12-01,A voice,en",
        '4,Text,1974-12-01,"Two\nlines",en; fr',
        "5,Text,1975-12-01,Gone,en",
    ]
    catalogue = tmp_path / "pg_catalog.csv"
    catalogue.write_text("\n".join(rows))
    for book in (1, 2, 4):
        site.files[f"/cache/epub/{book}/pg{book}.txt"] = b"book %d" % book
    words = ("en", "--list", catalogue, "--out", tmp_path / "raw", "--mirror", site.address)
    monkeypatch.setattr("puna.data.fetch.sources.SOURCES", {"books": _hurried("books")})
    done = puna("books", *words, "--json")
    assert done.status == 0
    assert files_in(tmp_path / "raw") == {"pg1.txt": b"book 1", "pg4.txt": b"book 4"}
    record = json.loads(done.out)
    assert record["missing"] == ["pg5.txt"]
    assert "1 of the listed files are not there: pg5.txt" in done.err


def test_arxiv_s_manifest_gives_the_tars_of_a_month(site, puna, tmp_path):
    contents = {"2301_001": b"one" * 99, "2301_002": b"two" * 99, "2302_001": b"three"}
    elements = []
    for name, content in contents.items():
        path = f"src/arXiv_src_{name}.tar"
        site.files[f"/{path}"] = content
        elements.append(
            f"<file><content_md5sum>0</content_md5sum><filename>{path}</filename>"
            f"<md5sum>{hashlib.md5(content).hexdigest()}</md5sum><num_items>9</num_items>"
            f"<size>{len(content)}</size><yymm>{name[:4]}</yymm></file>"
        )
    manifest = f"<?xml version='1.0'?><arXivSRC>{''.join(elements)}</arXivSRC>"
    site.files["/src/arXiv_src_manifest.xml"] = manifest.encode()
    words = ("arxiv", "2301", "--pay", "--out", tmp_path, "--mirror", site.address)
    planned = puna(*words, "--dry-run")
    assert "594 B at $0.09 a GB: about $0.00" in planned.out
    assert puna(*words).status == 0
    assert list(files_in(tmp_path)) == ["arXiv_src_2301_001.tar", "arXiv_src_2301_002.tar"]
    payers = {headers.get("x-amz-request-payer") for _path, headers in site.requests}
    assert payers == {"requester"}


def test_arxiv_without_a_word_on_who_pays_is_told_how(puna, tmp_path):
    done = puna("arxiv", "--out", tmp_path / "raw")
    assert done.status == 0
    assert "aws s3 cp s3://arxiv/src/arXiv_src_manifest.xml . --request-payer requester" in done.out
    assert "'arXiv_src_1706_*.tar'" in puna("arxiv", "1706", "--out", tmp_path / "raw").out
    malformed = puna("arxiv", "201706", "--out", tmp_path / "raw")
    assert malformed.status == 2
    assert "a month as yymm is wanted, got '201706'" in malformed.err
    assert not (tmp_path / "raw").exists()


def test_stackexchange_takes_the_archive_of_posts_and_names_the_nearest_site(site, puna, tmp_path):
    names = (
        "stackoverflow.com-Posts.7z",
        "stackoverflow.com-Votes.7z",
        "beer.stackexchange.com.7z",
    )
    elements = []
    for name in names:
        content = name.encode() * 20
        site.files[f"/download/stackexchange/{name}"] = content
        elements.append(
            f'<file name="{name}" source="original"><size>{len(content)}</size>'
            f"<md5>{hashlib.md5(content).hexdigest()}</md5>"
            f"<sha1>{hashlib.sha1(content).hexdigest()}</sha1></file>"
        )
    listed = f"<files>{''.join(elements)}<file name='x_files.xml'/></files>"
    site.files["/download/stackexchange/stackexchange_files.xml"] = listed.encode()
    where = ("--out", tmp_path, "--mirror", site.address)
    sites = ("stackoverflow.com", "beer.stackexchange.com")
    assert puna("stackexchange", *sites, *where).status == 0
    assert sorted(files_in(tmp_path)) == [names[2], names[0]]
    wrong = puna("stackexchange", "bear.stackexchange.com", *where)
    assert "beer.stackexchange.com" in wrong.err


def test_github_s_archives_are_named_by_repository_and_revision(site, puna, tmp_path, monkeypatch):
    monkeypatch.setattr("puna.data.fetch.sources.SOURCES", {"github": _hurried("github")})
    site.redirects["/a/b/archive/HEAD.tar.gz"] = "/codeload/HEAD"
    site.files["/codeload/HEAD"] = gzip.compress(b"tar")
    site.files["/c/d/archive/v1/x.tar.gz"] = gzip.compress(b"other")
    listed = tmp_path / "repositories.txt"
    listed.write_text("# mine\nc/d@v1/x\n\n")
    done = puna(
        "github", "a/b", "--list", listed, "--out", tmp_path / "raw", "--mirror", site.address
    )
    assert done.status == 0
    assert list(files_in(tmp_path / "raw")) == ["a_b.tar.gz", "c_d@v1+x.tar.gz"]
    wrong = puna("github", "../../etc", "--out", tmp_path, "--mirror", site.address)
    assert (wrong.status, "a repository is OWNER/NAME" in wrong.err) == (2, True)


def test_github_without_a_repository_is_bigquery_s_query(puna, tmp_path):
    done = puna("github", "--out", tmp_path)
    assert "bigquery-public-data.github_repos.contents" in done.out


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_says_its_terms_and_asks_over_https(name):
    source = SOURCES[name]
    assert source.terms.startswith("terms: https://")
    assert source.base.startswith("https://") or name == "arxiv"
    assert 1 <= source.most_connections <= 2


def test_licences_begin_as_the_readers_have_them():
    assert SOURCES["commoncrawl"].licence == commoncrawl.LICENCE
    assert SOURCES["c4"].licence == c4.LICENCE
    assert SOURCES["wikipedia"].licence == wikipedia.LICENCE
    assert SOURCES["arxiv"].licence.startswith(arxiv.LICENCE)


def _hurried(name):
    """A source without the seconds between requests."""
    from dataclasses import replace

    return replace(SOURCES[name], between_seconds=0.0)
