"""The documents are true: links resolve, pages are up to date, and every command block runs.

A ```bash block in README.md, docs/tutorial or docs/how-to is run as it stands, with two exceptions:
lines that start with `make` (make demo and make test have CI), and, outside the README, blocks
under a line `<!-- not run: reason -->`. Training is shortened by settings that the test appends.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
GUIDES = [
    *sorted((ROOT / "docs" / "tutorial").glob("*.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<above>[^\n]*)\n```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)

# What makes the demo's recipe small enough for a test; everything else stays as it is written.
SMALL_TRAINING = (
    "--set model.dim=32 --set model.heads=2 --set model.layers=2 --set model.context_length=64 "
    "--set train.steps=6 --set train.warmup_steps=2 --set train.batch_tokens=256 "
    "--set train.validate_every=3 --set tokenizer.vocabulary_size=320 "
    "--set train.checkpoint_every=3 --set train.sample_every=3 --set train.sample_tokens=8"
)
SMALL_VOCABULARY = "--vocabulary-size 320"


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language and text, and why it is not run, if so."""

    page: Path
    line: int
    language: str
    body: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = "\n" + page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        reason = re.search(r"<!-- not run: (.+?) -->", match["above"])
        line = text.count("\n", 0, match.start("language"))
        why = reason[1] if reason else None
        found.append(Block(page, line, match["language"], match["body"], why))
    return found


def commands(block: Block) -> list[str]:
    """The block's commands: continued lines joined, comments and make targets left out."""
    joined = block.body.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "make"))]


def shortened(command: str) -> str:
    """The command as written, with settings appended where it would train for minutes."""
    words = shlex.split(command)
    if words[:2] == ["puna", "train"]:
        return f"{command} {SMALL_TRAINING}"
    if words[:3] == ["puna", "tokenizer", "train"] and "--vocabulary-size" in words:
        return f"{command} {SMALL_VOCABULARY}"
    return command


class Workspace:
    """A folder with `my_folder/`, a small finished `demo/`, and the command `puna` on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        binaries = folder / "bin"
        binaries.mkdir()
        script = binaries / "puna"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m puna "$@"\n')
        script.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PUNA_DEBUG": "1",
            "PUNA_CACHE": str(folder / "cache"),
        }

    def run(self, command: str) -> str:
        """Run one line in a shell; its output, or a failure that shows it."""
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{command}"],
            cwd=self.folder,
            env=self.environment,
            input="What is a republic?\n",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def write_texts(folder: Path) -> None:
    """Forty small texts in the kinds of files a person has, all different."""
    folder.mkdir()
    subjects = ("union", "congress", "people", "treasury", "commerce", "army", "peace", "harvest")
    for number in range(40):
        words = [subjects[(number * 7 + step * (number % 5 + 1)) % 8] for step in range(60)]
        text = f"Message {number}.\n" + " ".join(f"the {word} of {number}" for word in words)
        suffix = (".txt", ".md", ".py")[number % 3]
        (folder / f"text_{number:02}{suffix}").write_text(text + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The demo's own verbs on a small corpus; what the documents' commands start from."""
    pytest.importorskip("torch")
    place = Workspace(tmp_path_factory.mktemp("documents"))
    write_texts(place.folder / "my_folder")
    for command in (
        "puna data build recipes/data/demo.toml --out demo/data "
        "--set 'sources.sotu.inputs=[\"my_folder\"]' --set tokenizer.train.vocabulary_size=320",
        "puna train recipes/demo.toml --shards demo/data --corpus demo/data/corpus --out demo/run",
    ):
        place.run(shortened(command))
    return place


@pytest.mark.parametrize("block", blocks(README), ids=lambda block: block.place)
def test_every_command_block_of_the_readme_runs(block: Block, workspace: Workspace):
    assert block.not_run is None, "the README has no exceptions"
    run_block(block, workspace)


GUIDE_BLOCKS = [block for page in GUIDES for block in blocks(page) if block.not_run is None]


@pytest.mark.parametrize("block", GUIDE_BLOCKS, ids=lambda block: block.place)
def test_every_command_block_of_the_guides_runs(block: Block, workspace: Workspace):
    run_block(block, workspace)


def run_block(block: Block, workspace: Workspace) -> None:
    if block.language == "bash":
        for command in commands(block):
            workspace.run(shortened(command))
    elif block.language == "python":
        (workspace.folder / "example.py").write_text(block.body, encoding="utf-8")
        workspace.run(f"{shlex.quote(sys.executable)} example.py")


def test_the_readme_is_at_most_200_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path):
    broken = []
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_every_guide_is_reached_from_the_list_of_documents():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = {(ROOT / "docs" / name).resolve() for name in re.findall(r"\]\(([^)#\s]+)\)", index)}
    pages = set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "README.md"}
    assert {str(page.relative_to(ROOT)) for page in pages - listed} == set()


@pytest.mark.parametrize("name", ["cli", "http"])
def test_a_generated_page_is_up_to_date(name: str):
    code = f"import {name}_reference as made, sys; sys.stdout.write(made.page())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    written = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert written == done.stdout, "make docs writes it again"


def test_the_numbers_in_the_readme_are_the_newest_measured():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "readme_numbers.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_environment_variable_we_read_is_documented():
    text = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    read = re.compile(r"environ(?:\.get\(|\[)\s*\"(\w+)\"|\"(PUNA_[A-Z]+)\"")
    sources = (ROOT / "puna").rglob("*.py")
    found = {name for path in sources for pair in read.findall(path.read_text()) for name in pair}
    assert {"PUNA_ISA", "PUNA_CACHE"} <= found
    assert [name for name in sorted(found - {""}) if f"`{name}" not in text] == []


def paper_rows() -> list[str]:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if "`" in row]


def test_every_row_of_the_paper_s_map_points_to_a_file_and_a_test():
    rows = paper_rows()
    assert rows
    for row in rows:
        names = re.findall(r"`((?:puna|tests|recipes|bench)/[^`]*)`", row)
        assert any(not name.startswith("tests/") for name in names), f"no file in {row}"
        assert any(name.startswith("tests/") for name in names), f"no test in {row}"
        for name in names:
            path, _, test = name.partition("::")
            assert (ROOT / path).exists(), f"{path} in {row}"
            if test:
                assert re.search(
                    rf"^\s*(?:async )?def {re.escape(test)}\(", (ROOT / path).read_text(), re.M
                ), f"{name} in {row}"


def test_every_kind_of_file_we_write_is_documented():
    from puna.schema import VERSIONS

    text = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    for kind, version in VERSIONS.items():
        assert f"`{kind}` version {version}" in text
