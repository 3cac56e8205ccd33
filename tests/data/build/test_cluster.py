"""Builds on a Ray cluster of two nodes; the oracle is the same build on one machine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_runs import ROOT, command, environment, results

from puna import cli

SANDBOX = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork"]
SANDBOX += ["--kill-child", "--mount-proc"]


@pytest.fixture
def sandbox() -> list[str]:
    """What a command begins with to run among network namespaces of its own."""
    pytest.importorskip("ray")
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs unshare and ip (util-linux, iproute2)")
    words = [*SANDBOX, "ip", "netns", "list"]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, which this kernel or container forbids")
    return SANDBOX


@pytest.mark.cluster
def test_a_cluster_and_one_machine_give_the_same_bytes_whoever_is_killed(
    sandbox, recipe, tmp_path: Path
):
    seen = tmp_path / "seen"
    seen.mkdir()
    settings = ['--set=stages=["slow", "exact"]', '--set=sources.notes.stages=["slow"]']
    settings += ["--set=settings.slow.seconds=0.5", f"--set=settings.slow.folder={seen}"]
    words = [recipe, "--json", *settings]
    here = [*command([*words, "--workers", "2", "--out", tmp_path / "here"])]
    subprocess.run(here, check=True, env=environment(), stdout=subprocess.DEVNULL)
    for path in seen.iterdir():
        path.unlink()
    plan = {"folder": str(tmp_path), "words": list(map(str, words))}
    script = f"import cluster_builds; cluster_builds.main({json.dumps(plan)})"
    two_nodes = [sys.executable, str(ROOT / "tests" / "two_nodes.py"), str(tmp_path), script]
    subprocess.run([*sandbox, *two_nodes], check=True, env=environment(), timeout=400)
    expected = results(tmp_path / "here")
    assert results(tmp_path / "cluster") == expected
    assert results(tmp_path / "killed") == expected
    networks = {path.read_text() for path in seen.iterdir()}
    assert len(networks) == 2


def test_a_cluster_that_is_not_there_is_one_clear_error(recipe, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["data", "build", str(recipe), "--out", "x", "--on", "auto"]) == 1
    assert "pip install 'puna[cluster]'" in capsys.readouterr().err
