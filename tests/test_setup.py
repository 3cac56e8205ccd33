"""The set-up script reads pip's plan, stops before useless gigabytes, does nothing twice."""

import argparse
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_setup():
    """tools/setup.py as a module; it lies outside the package."""
    spec = importlib.util.spec_from_file_location("puna_setup", ROOT / "tools" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = load_setup()


def pip_report(*packages: tuple[str, str]) -> dict:
    """What `pip install --dry-run --report` writes, in the fields that are read."""
    return {
        "version": "1",
        "install": [{"metadata": {"name": name, "version": version}} for name, version in packages],
    }


CUDA_PLAN = pip_report(
    ("torch", "2.13.0"), ("nvidia-cudnn-cu13", "9"), ("nvidia-nccl-cu13", "2"), ("numpy", "2.4.6")
)
CPU_PLAN = pip_report(("torch", "2.13.0+cpu"), ("numpy", "2.4.6"), ("puna", "0.1.0"))


def test_the_plan_is_read_from_pip_s_report():
    assert setup.planned_packages(CPU_PLAN) == [
        ("numpy", "2.4.6"),
        ("puna", "0.1.0"),
        ("torch", "2.13.0+cpu"),
    ]
    assert setup.planned_packages({"version": "1"}) == []


def test_gpu_packages_without_a_gpu_stop_the_set_up_and_say_what_to_do():
    with pytest.raises(setup.SetupError) as raised:
        setup.refuse_unwanted_gpu_packages(setup.planned_packages(CUDA_PLAN), has_gpu=False)
    message = str(raised.value)
    assert "2 nvidia-* packages" in message
    assert "GB" in message
    assert "make demo TORCH=torch==2.13.0+cpu TORCH_INDEX=https://" in message


def test_gpu_packages_are_welcome_where_there_is_a_gpu():
    setup.refuse_unwanted_gpu_packages(setup.planned_packages(CUDA_PLAN), has_gpu=True)


def test_a_cpu_build_passes_everywhere():
    for has_gpu in (True, False):
        setup.refuse_unwanted_gpu_packages(setup.planned_packages(CPU_PLAN), has_gpu=has_gpu)


def test_the_plan_is_described_in_plain_words():
    assert setup.describe(setup.planned_packages(CPU_PLAN)) == (
        "installing 3 packages, torch 2.13.0+cpu"
    )
    only_puna = setup.planned_packages(pip_report(("puna", "0.1.0")))
    assert setup.describe(only_puna) == "every package is there already"


@pytest.mark.parametrize("found", [(3, 8), (3, 10)])
def test_an_old_python_is_refused_with_both_versions(found: tuple[int, int]):
    with pytest.raises(setup.SetupError, match=r"needs Python 3\.11 or newer, found 3\.\d+\nhint"):
        setup.check_python(found)


def test_a_newer_python_on_the_machine_is_offered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(setup.shutil, "which", lambda name: name == "python3.12")
    with pytest.raises(setup.SetupError, match=r"make demo PYTHON=python3\.12"):
        setup.check_python((3, 10))
    setup.check_python((3, 11))


def test_the_oldest_python_agrees_with_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = ".".join(map(str, setup.OLDEST_PYTHON))
    assert f'requires-python = ">={wanted}"' in text


def test_another_torch_replaces_the_constraint():
    text = "# a comment\ntorch==2.13.0\ntransformers==5.23.0\n"
    assert setup.constraints_text(text, "") == text
    replaced = setup.constraints_text(text, "torch==2.12.1+cpu")
    assert replaced == "# a comment\ntransformers==5.23.0\ntorch==2.12.1+cpu\n"
    with pytest.raises(setup.SetupError, match=r"found '2\.12\.1'"):
        setup.constraints_text(text, "2.12.1")


def test_every_package_that_puna_names_has_the_version_it_is_checked_with():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {re.split(r"[\[<>=]", one)[0] for names in lists for one in names} - {"puna"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("==")[0] for line in lines if not line.startswith("#")]
    assert sorted(pinned) == sorted(wanted)


def test_extras_include_those_they_name():
    declared = {"train": ["torch"], "data": ["pyarrow"], "all": ["puna[train,data]"], "other": []}
    assert setup.expand_extras({"all"}, declared) == {"all", "train", "data"}
    with pytest.raises(setup.SetupError, match=r"no extra 'tarin'; known: all, data"):
        setup.expand_extras({"tarin"}, declared)


def test_the_tests_environment_covers_the_demo_s():
    declared = setup.declared_extras(ROOT / "pyproject.toml")
    assert setup.expand_extras({"train", "data"}, declared) < setup.expand_extras({"dev"}, declared)


def test_nothing_is_run_when_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*words, **options):
        raise AssertionError(f"ran {words}")

    monkeypatch.setattr(setup.subprocess, "run", refuse)
    wanted = argparse.Namespace(extras="data", venv=tmp_path, torch="", torch_index="", gpu="")
    fingerprint = setup.wanted_fingerprint(ROOT, "", "")
    stamp = '{"fingerprint": "%s", "extras": ["train", "data"]}'
    (tmp_path / "puna-setup.json").write_text(stamp % fingerprint)
    setup.prepare(wanted)
    wanted.torch = "torch==2.12.0"
    with pytest.raises(AssertionError, match="ran"):
        setup.prepare(wanted)


def test_a_compiler_that_came_later_builds_the_kernels(tmp_path: Path, monkeypatch):
    before = setup.wanted_fingerprint(ROOT, "", "")
    monkeypatch.setattr(setup.shutil, "which", lambda name: name and f"/opt/bin/{name}")
    with_compiler = setup.wanted_fingerprint(ROOT, "", "")
    monkeypatch.setattr(setup.sysconfig, "get_path", lambda _: str(tmp_path))
    without_headers = setup.wanted_fingerprint(ROOT, "", "")
    assert len({before, with_compiler, without_headers}) == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": "x"}', "\x00"])
def test_a_broken_stamp_counts_as_none(content: str, tmp_path: Path):
    (tmp_path / "stamp").write_text(content)
    assert setup.read_stamp(tmp_path / "stamp", "x") == set()
    assert setup.read_stamp(tmp_path / "absent", "x") == set()


def test_a_python_without_venv_gets_a_clear_message(tmp_path: Path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="No module named venv\n")
    monkeypatch.setattr(setup.subprocess, "run", lambda *words, **options: failed)
    with pytest.raises(setup.SetupError) as raised:
        setup.create_environment(tmp_path / "venv")
    assert "(No module named venv)" in str(raised.value)
    assert "apt-get install python3-venv" in str(raised.value)
    assert not (tmp_path / "venv").exists()


def test_a_failing_pip_is_one_clear_error():
    with pytest.raises(setup.SetupError, match="pip could not do its part"):
        setup.run_pip(Path(sys.executable), ["no-such-command"])


def test_a_nvidia_machine_is_known_by_its_driver_s_tool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert setup.has_nvidia_gpu()


def test_the_script_stops_with_one_message_and_code_1(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "setup.py", "no-such-extra", "--venv", tmp_path / "v"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("\nset-up stopped: there is no extra 'no-such-extra'")
    assert not (tmp_path / "v").exists()
