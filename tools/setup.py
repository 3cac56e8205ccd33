"""Make .venv ready: resolve first, say what will be installed, stop before unwanted gigabytes.

Run by make (`python3 tools/setup.py train,data`); needs only the standard library. It never touches
the system Python, and it does nothing when the last run installed the same things.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
# pip 23.3 is the first whose --dry-run reads metadata only; older ones download every wheel.
OLDEST_PIP = (23, 3)


class SetupError(Exception):
    """What is wrong and what to do, for the terminal."""


def main() -> int:
    """Parse, check, install; 0 when .venv is ready, 1 with one message when it is not."""
    parser = argparse.ArgumentParser(description="Create or update .venv for Puna.")
    parser.add_argument("extras", help="extras to install, for example train,data")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", default="", help="another torch, for example torch==2.13.0+cpu")
    parser.add_argument("--torch-index", default="", help="a package index that has that torch")
    parser.add_argument("--gpu", default="", help="yes: install nvidia-* packages without a GPU")
    arguments = parser.parse_args()
    try:
        check_python(sys.version_info[:2])
        prepare(arguments)
    except SetupError as error:
        print(f"\nset-up stopped: {error}", file=sys.stderr)
        return 1
    return 0


def check_python(found: tuple) -> None:
    """Refuse a Python that is too old, naming newer ones that are on this machine."""
    if found >= OLDEST_PYTHON:
        return
    newer = [f"python3.{minor}" for minor in range(20, OLDEST_PYTHON[1] - 1, -1)]
    here = [name for name in newer if shutil.which(name)]
    todo = f"make demo PYTHON={here[0]}" if here else "install a newer Python first"
    oldest = ".".join(map(str, OLDEST_PYTHON))
    raise SetupError(
        f"Puna needs Python {oldest} or newer, found {found[0]}.{found[1]}\nhint: {todo}"
    )


def prepare(arguments: argparse.Namespace) -> None:
    """Bring the environment to what pyproject.toml, constraints.txt and the options ask for."""
    extras = {name.strip() for name in arguments.extras.split(",") if name.strip()}
    wanted = expand_extras(extras, declared_extras(ROOT / "pyproject.toml"))
    fingerprint = wanted_fingerprint(ROOT, arguments.torch, arguments.torch_index)
    stamp_path = arguments.venv / "puna-setup.json"
    installed = read_stamp(stamp_path, fingerprint)
    if wanted <= installed:
        return
    python = create_environment(arguments.venv)
    constraints = arguments.venv / "constraints.txt"
    constraints.write_text(
        constraints_text((ROOT / "constraints.txt").read_text(encoding="utf-8"), arguments.torch),
        encoding="utf-8",
    )
    options = ["--constraint", str(constraints)]
    if arguments.torch_index:
        options += ["--extra-index-url", arguments.torch_index]
    names = ",".join(sorted(extras))
    target = ["--editable", f"{ROOT}[{names}]"]
    print(f"set-up: resolving puna[{names}]", flush=True)
    plan = planned_packages(resolve(python, options + target))
    refuse_unwanted_gpu_packages(plan, has_gpu=has_nvidia_gpu() or arguments.gpu == "yes")
    print(f"set-up: {describe(plan)}", flush=True)
    # Bars for a person; a log keeps only pip's errors.
    talk = [] if sys.stdout.isatty() else ["-qq"]
    run_pip(python, ["install", *talk, *options, *target])
    stamp = {"fingerprint": fingerprint, "extras": sorted(wanted | installed)}
    stamp_path.write_text(json.dumps(stamp), encoding="utf-8")
    print(f"set-up: {arguments.venv} is ready", flush=True)


def wanted_fingerprint(root: Path, torch: str, torch_index: str) -> str:
    """A hash of everything that decides what gets installed."""
    digest = hashlib.sha256()
    names = ["pyproject.toml", "constraints.txt", "tools/setup.py", "CMakeLists.txt"]
    sources = (root / "puna/native/csrc").rglob("*")  # compiled by the installation
    kernels = sorted(path for path in sources if path.is_file())
    for path in [*(root / name for name in names), *kernels]:
        digest.update(path.read_bytes() + b"\0")
    facts = [str(root), torch, torch_index, sys.version, *compiler_facts()]
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()


def compiler_facts() -> list:
    """What decides whether the kernels can be compiled: a compiler, and Python's headers."""
    compilers = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    header = Path(sysconfig.get_path("include"), "Python.h")
    return [*(str(shutil.which(name)) for name in compilers), str(header.exists())]


def read_stamp(path: Path, fingerprint: str) -> set:
    """The extras that the last set-up of this very fingerprint installed; none after a change."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
        return set(stamp["extras"]) if stamp["fingerprint"] == fingerprint else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def declared_extras(pyproject: Path) -> dict:
    """The optional dependencies of pyproject.toml: extra -> requirements."""
    import tomllib

    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    return dict(table["project"]["optional-dependencies"])


def expand_extras(extras: set, declared: dict) -> set:
    """`extras` and those they include (`all = ["puna[train,data]"]`), all the way down."""
    found = set()
    waiting = sorted(extras)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in declared:
            known = ", ".join(sorted(declared))
            raise SetupError(f"there is no extra {name!r}; known: {known}")
        found.add(name)
        for requirement in declared[name]:
            inner = re.fullmatch(r"puna\[([\w,\s-]+)\]", requirement)
            waiting += [part.strip() for part in inner.group(1).split(",")] if inner else []
    return found


def create_environment(folder: Path) -> Path:
    """The environment's Python; made with the standard venv module when it is not there yet."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not works(python):
        print(f"set-up: creating {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False
        )
        if made.returncode or not works(python):
            shutil.rmtree(folder, ignore_errors=True)
            raise SetupError(no_venv_message((made.stdout + made.stderr).strip()))
    if pip_version(python) < OLDEST_PIP:
        run_pip(python, ["install", "-qq", "--upgrade", "pip"])
    return python


def works(python: Path) -> bool:
    """Is this a Python of the right version with pip in it?"""
    if not python.exists():
        return False
    check = f"import sys, pip; sys.exit(sys.version_info[:2] < {OLDEST_PYTHON!r})"
    done = subprocess.run([str(python), "-c", check], capture_output=True, check=False)
    return done.returncode == 0


def no_venv_message(output: str) -> str:
    """Why `python -m venv` failed and what to install, in plain words."""
    lines = output.splitlines() or ["it gave no reason"]
    return (
        f"this Python cannot create virtual environments ({lines[-1].strip()})\n"
        "hint: on Debian and Ubuntu: apt-get install python3-venv; elsewhere install a full Python"
    )


def pip_version(python: Path) -> tuple:
    """(major, minor) of the environment's pip."""
    command = [str(python), "-c", "import pip; print(pip.__version__)"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def constraints_text(text: str, torch: str) -> str:
    """The constraints, with torch's line replaced where the user chose another torch."""
    if not torch:
        return text
    if not re.match(r"torch\s*[=<>!~]=?", torch):
        raise SetupError(f"TORCH should be a requirement such as torch==2.13.0, found {torch!r}")
    kept = [line for line in text.splitlines() if not re.match(r"torch\s*[=<>!~]", line)]
    return "\n".join([*kept, torch]) + "\n"


def resolve(python: Path, wanted: list) -> dict:
    """pip's own plan (its --report), without installing anything."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        run_pip(python, ["install", "-qq", "--dry-run", "--report", str(report), *wanted])
        return dict(json.loads(report.read_text(encoding="utf-8")))


def planned_packages(report: dict) -> list:
    """(name, version) of each package that pip would install, sorted by name."""
    found = [item["metadata"] for item in report.get("install", [])]
    return sorted((item["name"].lower(), item["version"]) for item in found)


def has_nvidia_gpu() -> bool:
    """Does this machine show an NVIDIA GPU (its driver's tool, or its device file)?"""
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()


def refuse_unwanted_gpu_packages(plan: list, has_gpu: bool) -> None:
    """Stop when the plan holds NVIDIA's libraries and no NVIDIA GPU could use them."""
    unwanted = [name for name, _version in plan if name.startswith("nvidia-")]
    if has_gpu or not unwanted:
        return
    version = dict(plan).get("torch", "2.13.0").partition("+")[0]
    raise SetupError(
        f"this machine shows no NVIDIA GPU, but the plan holds {len(unwanted)} nvidia-* packages "
        "(2 to 3 GB to download, about 5 GB on disk)\n"
        "hint: choose a CPU build of torch, for example from the index that pytorch.org names:\n"
        f"  make demo TORCH=torch=={version}+cpu TORCH_INDEX=https://download.pytorch.org/whl/cpu\n"
        "or, to install them all the same: make demo GPU=yes"
    )


def describe(plan: list) -> str:
    """One line for the terminal: how many packages, and which torch."""
    if not [name for name, _version in plan if name != "puna"]:
        return "every package is there already"
    torch = dict(plan).get("torch")
    return f"installing {len(plan)} packages" + (f", torch {torch}" if torch else "")


def run_pip(python: Path, arguments: list) -> None:
    """Run the environment's pip; its own words go to the terminal."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode:
        raise SetupError(
            "pip could not do its part; its reason is above\n"
            "hint: check the network and the versions in constraints.txt, then run make again"
        )


if __name__ == "__main__":
    sys.exit(main())
