"""Lists and files on a small server, laid out as their hosts lay them."""

import gzip
import hashlib
import json
from pathlib import Path

from file_server import Site

CRAWL = "CC-MAIN-2019-30"


def add_crawl(site: Site, count: int) -> list[str]:
    """A crawl of `count` WET files; their names below the folder that is fetched to."""
    names = [
        f"CC-MAIN-20190715175205-2019071520-{number:05d}.warc.wet.gz" for number in range(count)
    ]
    paths = [f"crawl-data/{CRAWL}/segments/15631/wet/{name}" for name in names]
    for number, path in enumerate(paths):
        site.files[f"/{path}"] = gzip.compress(b"WARC/1.0 %d\r\n" % number * 1000)
    listed = gzip.compress("".join(f"{path}\n" for path in paths).encode())
    site.files[f"/crawl-data/{CRAWL}/wet.paths.gz"] = listed
    return [f"{CRAWL}/wet/{name}" for name in names]


def add_dump(site: Site, wiki: str, date: str, parts: dict[str, bytes], status="done") -> None:
    """A dump of a wiki, with its status and its folder's page."""
    files = {}
    for part, content in parts.items():
        name = f"{wiki}-{date}-pages-articles{part}.bz2"
        site.files[f"/{wiki}/{date}/{name}"] = content
        files[name] = {
            "size": len(content),
            "url": f"/{wiki}/{date}/{name}",
            "md5": hashlib.md5(content).hexdigest(),
            "sha1": hashlib.sha1(content).hexdigest(),
        }
    jobs = {"articlesdump": {"status": status, "files": files}, "other": {"status": "waiting"}}
    site.files[f"/{wiki}/{date}/dumpstatus.json"] = json.dumps({"jobs": jobs}).encode()
    page = site.files.get(f"/{wiki}/", b"") + f'<a href="{date}/">{date}/</a>\n'.encode()
    site.files[f"/{wiki}/"] = page


def paths_asked(site: Site) -> list[str]:
    """What the server was asked for, in order."""
    return [path for path, _headers in site.requests]


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for the record of what was fetched."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".fetched.jsonl"
    }
