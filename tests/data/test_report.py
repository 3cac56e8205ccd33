"""The page of a build tells what report.json holds, and runs nothing that documents say."""

import copy
import json
import re
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
from html_page import Page
from token_texts import documents

from puna import cli
from puna.console import human_bytes, human_count, silent
from puna.data.build import recipe as recipes
from puna.data.build.executor import Here
from puna.data.build.funnel import Funnel, add_stages
from puna.data.build.run import build
from puna.data.build.work import Options
from puna.data.document import Document, Dropped, write_documents
from puna.data.report import gather, render
from puna.data.report.examples import choose
from puna.data.report.facts import Count
from puna.errors import DataError, SchemaError

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"
MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A build of two sources: one loses repeated lines, equal texts, short ones; one is whole."""
    folder = tmp_path_factory.mktemp("report")
    texts = [f"{text}\nThis line is on every page." for _, text in documents(60)]
    written = [Document(text, "", "CC0", f"{n}", language="en") for n, text in enumerate(texts)]
    written += [Document(texts[3], "", "CC BY 4.0", "copy", "https://example.org/3", "fr")]
    written += [Document("too few", "", "CC0", "short")]
    for number in range(4):
        path = folder / "web" / f"{number}.jsonl"
        write_documents(path, written[number::4])
    with (folder / "web" / "3.jsonl").open("a") as file:
        file.write('{"text": cut\n')
    write_documents(folder / "note" / "a.jsonl", [Document(texts[9] + " Note.", "", "CC0", "a")])
    path = folder / "recipe.toml"
    path.write_text(
        f"""
        heldout_every = 10
        task_bytes = 1
        tokens = 1e5
        [sources.web]
        reader = "own"
        inputs = ["{folder}/web"]
        share = 3
        stages = ["rules", "exact", "lines"]
        [sources.web.settings.rules.quality]
        min_words = 10
        min_stop_words = 0
        [sources.note]
        reader = "own"
        inputs = ["{folder}/note"]
        share = 1
        stages = []
        [tokenizer.train]
        vocabulary_size = 360
        """
    )
    recipe = recipes.load(path)
    build(recipe, Options(str(folder / "out")), Here(), silent())
    return folder / "out"


@pytest.fixture
def record(built) -> dict:
    """The build's report.json, to be changed."""
    return json.loads((built / "report.json").read_text())


def page_of(record: dict, folder: Path) -> str:
    """The page of a changed record."""
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(record))
    return render(gather(str(folder)))


def test_at_every_stage_what_comes_in_is_kept_or_dropped(built, record):
    facts = gather(str(built))
    assert [step.stage for step in facts.steps] == ["read", "rules", "exact", "lines", "read"]
    for source in facts.sources:
        stages = record["sources"][source.name]["stages"]
        for before, step in zip([None, *source.steps], source.steps, strict=False):
            lost = sum((count.documents for count in step.dropped.values()), 0)
            assert step.found.documents == step.kept.documents + lost
            if before is not None:
                assert step.found == before.kept
            parts = step.kept.text_bytes + step.lost.text_bytes + step.cut_bytes
            assert step.found.text_bytes == parts
        assert source.kept.documents == stages[-1]["documents"]
        assert source.kept == source.trained + source.heldout
        for groups in (source.languages, source.licences):
            assert sum(groups.values(), Count()) == source.kept
    lines = facts.sources[0].steps[3]
    assert lines.lines["dropped"] > 0
    assert lines.cut_bytes > 0


def test_the_numbers_of_the_page_are_those_of_report_json(built, record):
    text = Page(render(gather(str(built)))).text
    for source in record["sources"].values():
        before = None
        for stage in source["stages"]:
            lost = sum(one["documents"] for one in stage["dropped"].values())
            found = stage["documents"] + lost
            assert before in (None, found)
            before = stage["documents"]
            assert f"{before:,} of {found:,} documents kept" in text
            for reason, one in stage["dropped"].items():
                row = f"{reason} {one['documents']:,} documents {human_bytes(one['text_bytes'])}"
                assert row in text
        assert f"{source['tokens']:,} of {source['documents']:,} documents to train on" in text
        assert f"{source['heldout']['tokens']:,} of {source['heldout']['documents']:,} held" in text
        for group, one in {**source["languages"], **source["licences"]}.items():
            assert re.search(rf"{group} (web|note|web, note) \d", text), one
    mixed = record["mixture"]["sources"]
    for name, share in (("web", "75.0 %"), ("note", "25.0 %")):
        row = rf"{name} {record['sources'][name]['tokens']:,} \S+ % {share} "
        assert re.search(row + rf"{mixed[name]['epochs']:.2f} ", text)
    assert f"en web {record['sources']['web']['languages']['en']['documents']:,} " in text
    lines = record["sources"]["web"]["stages"][3]["lines"]
    assert f"{lines['dropped']:,} of {lines['in']:,} lines dropped" in text
    total = sum(one["tokens"] for one in record["sources"].values())
    assert f"{human_count(total)} tokens from 2 sources, 5 files" in text
    assert "1 items could not be read" in text
    assert "3.jsonl line 16 is not JSON" in text
    assert "vocabulary_size = 360" in text


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(built):
    html = render(gather(str(built)))
    page = Page(html)
    assert "script" not in [tag for tag, _ in page.elements]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    assert policy[1] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not re.search(r"url\(|@import|@font-face", html)
    outside = [
        (tag, name, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset", "data") and not re.match("#|data:", value)
    ]
    assert {(tag, name) for tag, name, _ in outside} <= {("a", "href")}
    targets = {attributes.get("id") for _, attributes in page.elements}
    jumps = [a["href"] for tag, a in page.elements if tag == "a" and a["href"][0] == "#"]
    assert jumps == ["#source-0", "#source-1"]
    assert {jump[1:] for jump in jumps} <= targets


def test_whatever_documents_hold_is_shown_as_text(tmp_path):
    record = _made(1, [ATTACK], url="javascript:alert(1)")
    one = record["sources"].pop("source 0")
    record["sources"][ATTACK] = one
    one["languages"] = one["licences"] = {ATTACK: {"documents": 1, "text_bytes": 1}}
    one["stages"][0]["stage"] = ATTACK
    one["stages"][0]["damaged"] = [{"id": ATTACK, "detail": ATTACK}]
    record["recipe"] = {ATTACK: ATTACK}
    html = page_of(record, tmp_path / ("out" + ATTACK.replace("/", "")))
    page = Page(html)
    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags
    assert "img" not in tags
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    assert page.text.count(ATTACK) >= 12


@pytest.mark.parametrize(
    ("url", "is_link"),
    [
        ("https://example.org/a?b=1&c=%20#d", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        (" javascript:alert(1)", False),
        ("java\tscript:alert(1)", False),
        ("JAVASCRIPT:alert(1)//https://a.b", False),
        ("data:text/html,<script>alert(1)</script>", False),
        ('https://a.b/"onclick="alert(1)', False),
        ("https://a.b/\nx", False),
        ("//example.org", False),
        ("file:///etc/passwd", False),
        ("https://" + "a" * 1000, False),
    ],
)
def test_only_addresses_of_the_web_become_links(tmp_path, url, is_link):
    page = Page(page_of(_made(1, ["text"], url=url), tmp_path))
    links = [a for tag, a in page.elements if tag == "a" and a["href"][0] != "#"]
    assert {a["href"] for a in links} == ({url} if is_link else set())
    assert all("noreferrer" in a["rel"] for a in links)


def test_control_characters_and_halves_of_characters_do_no_harm(tmp_path):
    html = page_of(_made(1, ["a\x00b\x1b[2Jc\x7fd\ud800e\u202e"]), tmp_path)
    assert "a␀b␛[2Jc␡d" in html
    assert "?e" in html


def test_a_build_of_nothing_has_a_page(tmp_path):
    record = _made(1, [])
    source = record["sources"]["source 0"]
    empty = Funnel("read", 0).record()
    counts = {"tokens": 0, "documents": 0, "text_bytes": 0}
    record["sources"]["source 0"] = {**source, "stages": [empty], **counts, "heldout": counts}
    text = Page(page_of(record, tmp_path)).text
    assert "0 tokens from 1 source, 1 files" in text
    assert "The build did not come to its mixture" in text
    record["sources"] = {}
    assert "from 0 sources" in Page(page_of(record, tmp_path)).text


def test_one_source_of_a_build_that_goes_on_is_shown_without_a_mixture(record, tmp_path):
    del record["mixture"], record["sources"]["note"]
    html = page_of(record, tmp_path)
    assert 'id="mixture"' not in html
    assert "The build did not come to its mixture" in Page(html).text


@pytest.mark.parametrize("character", ["a", "&", "\u4e2d"])
def test_the_page_of_500_tasks_of_28_sources_stays_small(tmp_path, character):
    record = _made(28, [character * 500], tasks=500, reasons=30)
    html = page_of(record, tmp_path)
    assert len(html.encode()) < MOST_BYTES
    page = Page(html)
    assert [tag for tag, _ in page.elements].count("details") > 28 * 6
    assert "23 other reasons" in page.text


def test_every_reason_has_an_example_before_any_has_two(tmp_path):
    page_of(_made(3, ["text"], tasks=5, reasons=12), tmp_path)
    steps = gather(str(tmp_path)).steps
    every = choose(steps, 12)
    assert len(every) == 3 * 6 * 13
    assert {len(found) for found in every.values()} == {3}
    room = sum(len(found[0]) for found in every.values())
    assert {len(found) for found in choose(steps, 12, room).values()} == {1}
    assert choose(steps, 12, 10) == {}


def test_the_same_build_gives_the_same_bytes_wherever_it_lies(record, tmp_path):
    pages = [page_of(copy.deepcopy(record), tmp_path / name / "out") for name in _folders(tmp_path)]
    assert pages[0] == pages[1]
    assert str(tmp_path) not in pages[0]


def _folders(root: Path) -> list[str]:
    for name in ("a", "b"):
        (root / name).mkdir()
    return ["a", "b"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (None, DataError, "there is no file"),
        ("[1", DataError, "should be a JSON object"),
        ('{"schema": "puna.corpus", "version": 1}', SchemaError, "should be a puna.build file"),
        ('{"schema": "puna.build", "version": 9}', SchemaError, "newer Puna"),
        ('{"schema": "puna.build", "version": 1}', SchemaError, "KeyError: 'sources'"),
        ('{"schema": "puna.build", "version": 1, "sources": {"a": 1}}', SchemaError, "TypeError"),
    ],
)
def test_what_is_no_build_is_one_clear_error(tmp_path, text, kind, message):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(kind, match=message):
        gather(str(tmp_path))


def test_the_command_writes_the_page_and_prints_the_same_numbers(
    built, record, tmp_path, capsys, monkeypatch
):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not opened.append(address))
    assert cli.main(["data", "report", str(built)]) == 0
    assert capsys.readouterr().out.startswith(f"{built}/report.html (")
    page = built / "report.html"
    assert page.read_text("utf-8") == render(gather(str(built)))
    out = tmp_path / "pages" / "today.html"
    words = ["data", "report", str(built), "--out", str(out), "--open", "--json"]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"report": str(out), "bytes": out.stat().st_size} | record
    assert opened == [out.as_uri()]


def test_a_page_that_cannot_be_written_is_one_clear_error(built, tmp_path, capsys):
    assert cli.main(["data", "report", str(built), "--out", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["data", "report", str(built), "--out", "https://example.org/x"]) == 1
    assert "http is read only" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_corpus_has_no_page(tmp_path, capsys):
    assert cli.main(["data", "report", str(tmp_path), "--out", "page.html"]) == 2
    assert "are for a build" in capsys.readouterr().err


def test_a_report_is_made_without_torch():
    code = "import sys, puna.data.report\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _made(
    sources: int, texts: list[str], *, url: str = "", tasks: int = 1, reasons: int = 2
) -> dict:
    """A record of many sources of six stages, as builds make them of their tasks' reports."""
    counts = {"documents": 5, "text_bytes": 100, "tokens": 30}
    source = {
        "inputs": {"files": 1, "bytes": 10},
        "stages": add_stages(_tasks(texts, url, tasks, reasons)),
        "languages": {f"l{number}": counts for number in range(40)},
        "licences": {f"licence {number}": counts for number in range(40)},
        "core_seconds": 1.5,
        "work_bytes": 10,
        **counts,
        "heldout": counts,
    }
    return {
        "schema": "puna.build",
        "version": 1,
        "recipe": {"sources": {"a": {"inputs": [f"file-{n}" for n in range(tasks)]}}},
        "sources": {f"source {number}": source for number in range(sources)},
        "seconds": 2.5,
        "workers": 2,
    }


def _tasks(texts: list[str], url: str, tasks: int, reasons: int) -> list[dict]:
    records = []
    for task in range(tasks):
        for stage in ("read", "language", "rules", "lines", "exact", "exact of all"):
            funnel = Funnel(stage, 0)
            for text in texts:
                name = f"{text[:70]} {task}"
                document = Document("a", "web", "CC0", "i", url)
                object.__setattr__(document, "text", text)
                funnel.keep(document, len(text))
                for number in range(reasons):
                    reason = f"{text[:70]} {number}"
                    funnel.drop(Dropped(name, "web", reason, text, len(text)), document)
            funnel.drop(Dropped(f"f{task}", "web", "damaged", "at byte 7"))
            records.append(funnel.record())
    return records
