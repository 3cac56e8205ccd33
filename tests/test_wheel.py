"""The wheel installs and runs without compiler, torch or network (downloads its packages first).

Run it with `.venv/bin/python -m pytest -m network`; about half a minute.
"""

import json
import os
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

import puna

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.network, pytest.mark.slow]

LARGEST_INSTALL_BYTES = 170e6  # docs: the base install stays below about 170 MB


def run(*command: object, **options) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that holds the wheel and its base packages."""
    folder = tmp_path_factory.mktemp("wheel")
    wheels = folder / "wheels"
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", wheels, ROOT)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run(
        sys.executable, "-m", "pip", "download", "--only-binary", ":all:", "--dest", wheels,
        *project["dependencies"],
    )  # fmt: skip
    run(sys.executable, "-m", "venv", folder / "environment")
    binaries = folder / "environment" / "bin"
    run(binaries / "pip", "install", "--no-index", "--find-links", wheels, "puna")
    return binaries


def bare(binaries: Path, folder: Path) -> dict[str, object]:
    """How the installed command runs far from the clone, with nothing but itself on PATH."""
    environment = {"PATH": str(binaries), "HOME": str(folder), "NO_PROXY": "*"}
    return {"cwd": folder, "env": environment}


def offline(binaries: Path, folder: Path, *words: object) -> str:
    return run(binaries / "puna", *words, **bare(binaries, folder))


def test_the_installed_command_runs_far_from_the_clone(installed: Path, tmp_path: Path):
    said = offline(installed, tmp_path, "--version")
    assert said.startswith(f"puna {puna.__version__} (native: ")
    sizes = json.loads(offline(installed, tmp_path, "sizes", "7B", "--json"))
    assert sizes["parameters"] == 6_738_415_616
    record = json.loads(offline(installed, tmp_path, "doctor", "--json"))
    assert record["versions"]["torch"] is None


def test_it_generates_with_numpy_alone(installed: Path, tmp_path: Path, tiny_run: Path):
    text = offline(installed, tmp_path, "generate", tiny_run, "--prompt", "a", "--max-tokens", 4)
    assert text.strip()


def test_it_plans_with_numpy_alone(installed: Path, tmp_path: Path):
    said = offline(installed, tmp_path, "plan", "ask", "--as-good-as", "llama-7b", "--json")
    assert json.loads(said)["plan"]["loss"] == pytest.approx(2.086, abs=1e-3)
    assert json.loads(said)["band"]["loss"][0] > 2


def test_the_recipes_come_along(installed: Path, tmp_path: Path):
    code = "import puna.config as c, pathlib; print(c.find_recipe(pathlib.Path('demo.toml')))"
    found = Path(run(installed / "python", "-c", code, cwd=tmp_path).strip())
    assert found.read_bytes() == (ROOT / "recipes" / "demo.toml").read_bytes()


def test_it_serves_the_page(installed: Path, tmp_path: Path, tiny_run: Path):
    command = [str(installed / "puna"), "serve", str(tiny_run), "--port", "0", "--json"]
    options = {"stdout": subprocess.PIPE, **bare(installed, tmp_path)}
    with subprocess.Popen(command, **options) as server:
        try:
            url = json.loads(server.stdout.readline())["url"]
            page = urllib.request.Request(url, headers={"Accept": "text/html"})
            assert b"<title>Puna</title>" in urllib.request.urlopen(page).read()
            for path in (ROOT / "puna" / "serve" / "page").iterdir():
                with urllib.request.urlopen(f"{url}/static/{path.name}") as response:
                    assert response.read() == path.read_bytes()
        finally:
            server.terminate()


def test_the_base_install_is_small(installed: Path):
    folder = next((installed.parent / "lib").glob("python*/site-packages"))
    ours = [
        path for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in ("pip", "setuptools")
    ]  # fmt: skip
    assert sum(os.path.getsize(path) for path in ours) < LARGEST_INSTALL_BYTES
