"""The page's files and the runs' curves over HTTP, without a browser."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from serve.fake_pool import FakePool
from serve.live_server import client_of

from puna.serve import page_routes

PAGE = Path(page_routes.__file__).parent / "page"
NAMES = sorted(path.name for path in PAGE.iterdir())
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
# What turns text into markup or code, or asks other servers.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|"
    r"setTimeout\(['\"]|https?://(?!www\.w3\.org/2000/svg)[a-z]"
)


def test_the_page_and_its_files_come_with_headers_that_allow_nothing_foreign():
    client = client_of(FakePool())
    for path in ["/", *(f"/static/{name}" for name in NAMES)]:
        response = client.get(path, headers=BROWSER)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert "https:" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        known = {**BROWSER, "If-None-Match": response.headers["etag"]}
        again = client.get(path, headers=known)
        assert (again.status_code, again.content) == (304, b"")
    assert client.head("/", headers=BROWSER).headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", ["none.js", "../settings.py", "..%2fsettings.py", "page", "%00"])
def test_other_files_are_not_there(name: str):
    response = client_of(FakePool()).get(f"/static/{name}")
    assert response.status_code == 404
    assert "error" in response.json()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_page_follows_the_house_and_makes_no_markup_of_text(name: str):
    text = (PAGE / name).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 500
    assert max(len(line) for line in lines) <= 100
    assert FORBIDDEN.findall(text) == []


def test_what_the_page_refers_to_is_there():
    referred = set()
    for name in NAMES:
        text = (PAGE / name).read_text(encoding="utf-8")
        referred |= set(re.findall(r'static/([\w.]+)"', text))
        referred |= set(re.findall(r'from "\./([\w.]+)"', text))
        referred |= set(re.findall(r'url\("([\w.]+)"\)', text))
    assert referred | {"index.html"} == set(NAMES)


def written(folder: Path, *events: dict[str, Any], rest: str = "") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(event)}\n" for event in events)
    (folder / "metrics.jsonl").write_text(text + rest)
    return text


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a run, one below, and what must not be found."""
    folder = tmp_path / "runs"
    written(folder / "one", {"event": "start"}, {"event": "step"}, rest='{"event": "st')
    written(folder / "some" / "two", {"event": "start"})
    written(folder / ".hidden", {"event": "start"})
    written(folder / "a" / "b" / "c" / "deep", {"event": "start"})
    written(tmp_path / "elsewhere", {"event": "start"})
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    return folder


def test_runs_are_listed_and_told_in_whole_lines_from_where_one_was(runs: Path):
    client = client_of(FakePool(), runs=runs)
    assert {run["name"] for run in client.get("/runs").json()["data"]} == {"one", "some/two"}
    first = client.get("/runs/one/metrics")
    assert first.text == '{"event": "start"}\n{"event": "step"}\n'
    after = int(first.headers["puna-next"])
    assert client.get(f"/runs/one/metrics?after={after}").text == ""
    with (runs / "one" / "metrics.jsonl").open("a") as file:
        file.write('ep"}\n')
    more = client.get(f"/runs/one/metrics?after={after}")
    assert (more.text, more.headers["puna-from"]) == ('{"event": "step"}\n', str(after))
    written(runs / "one", {"event": "start"})  # another run by now, and shorter
    again = client.get(f"/runs/one/metrics?after={after}")
    assert (again.text, again.headers["puna-from"]) == ('{"event": "start"}\n', "0")


def test_a_long_run_comes_in_parts(runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_routes, "_PART_BYTES", 50)
    text = written(runs / "one", *({"event": "step", "step": n} for n in range(100)))
    client = client_of(FakePool(), runs=runs)
    told, parts = "", 0
    while part := client.get(f"/runs/one/metrics?after={len(told)}").text:
        assert part.endswith("\n")
        assert len(part) < 150
        told, parts = told + part, parts + 1
    assert told == text
    assert parts > 20


def test_a_folder_that_is_a_run_goes_by_its_own_name(runs: Path):
    client = client_of(FakePool(), runs=runs / "one")
    assert [run["name"] for run in client.get("/runs").json()["data"]] == ["one"]
    assert client.get("/runs/one/metrics").status_code == 200


@pytest.mark.parametrize("name", ["none", "../elsewhere", "link", ".hidden", "%2e%2e/elsewhere"])
def test_only_what_is_listed_is_told(runs: Path, name: str):
    response = client_of(FakePool(), runs=runs).get(f"/runs/{name}/metrics")
    assert response.status_code == 404
    assert "error" in response.json()


def test_without_runs_there_are_none():
    client = client_of(FakePool())
    assert client.get("/runs").json() == {"object": "list", "data": []}
    assert client.get("/runs/any/metrics").status_code == 404


def test_the_page_is_open_and_the_runs_need_the_key(runs: Path):
    client = client_of(FakePool(), runs=runs, api_keys=("k",))
    assert [client.get(path).status_code for path in ("/", "/static/main.js")] == [200, 200]
    assert [client.get(path).status_code for path in ("/runs", "/runs/one/metrics")] == [401, 401]
    key = {"Authorization": "Bearer k"}
    assert client.get("/runs/one/metrics", headers=key).status_code == 200
