"""llama.cpp's own tools as peers: built from the sources inside llama-cpp-python, run once a trial.

Two builds with every instruction set that this processor has and ggml has an option for: one
without AMX and one with it. The second needs one line more: `_tile_loadconfig` of GCC 12 (and
older) tells the compiler that it reads 8 bytes of the 64, so the optimiser drops the rest of the
tiles' shape and the first tile load is an illegal instruction. That line keeps them.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from puna import hardware
from puna.errors import MachineError

REQUIREMENT = "llama-cpp-python==0.3.36"
BUILDS = ("llama.cpp", "llama.cpp AMX")
TOOLS = (
    "llama-bench",
    "llama-batched-bench",
    "llama-perplexity",
    "llama-quantize",
    "llama-server",
)
TRIAL_SECONDS = 900
_OPTIONS = {  # ggml's option -> Linux's name for what it needs
    "GGML_SSE42": "sse4_2",
    "GGML_AVX": "avx",
    "GGML_AVX2": "avx2",
    "GGML_BMI2": "bmi2",
    "GGML_FMA": "fma",
    "GGML_F16C": "f16c",
    "GGML_AVX_VNNI": "avx_vnni",
    "GGML_AVX512": "avx512bw",
    "GGML_AVX512_VBMI": "avx512vbmi",
    "GGML_AVX512_VNNI": "avx512_vnni",
    "GGML_AVX512_BF16": "avx512_bf16",
}
_AMX_OPTIONS = {
    "GGML_AMX_TILE": "amx_tile",
    "GGML_AMX_INT8": "amx_int8",
    "GGML_AMX_BF16": "amx_bf16",
}
_LEFT_OUT = (
    "GGML_NATIVE",
    "BUILD_SHARED_LIBS",
    "GGML_CCACHE",
    "LLAMA_OPENSSL",
    *(f"LLAMA_BUILD_{part}" for part in ("TESTS", "EXAMPLES", "UI", "APP")),
)


class Crashed(Exception):
    """A tool ended without an answer; the message says how."""


def build(folder: Path) -> None:
    """Download the sources into `folder` and build both peers there, one after the other.

    Raises MachineError when pip, cmake or the compiler fail; their output stands above.
    """
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"building llama.cpp of {REQUIREMENT} in {folder}: about 10 minutes on 2 cores", flush=True
    )
    source = _sources(folder)
    for name in installable():
        options = [f"-D{option}=OFF" for option in _LEFT_OUT]
        options += [f"-D{option}=ON" for option in build_options(name)]
        options += [f"-D{option}=OFF" for option in _AMX_OPTIONS if name == BUILDS[0]]
        tree = folder / "tree"
        _call(["cmake", "-S", source, "-B", tree, "-DCMAKE_BUILD_TYPE=Release", *options])
        cores = str(hardware.usable_cores())
        _call(["cmake", "--build", tree, "--parallel", cores, "--target", *TOOLS])
        place = tool(folder, name, "").parent
        place.mkdir(exist_ok=True)
        for one in TOOLS:
            shutil.copy2(tree / "bin" / one, place / one)
        print(f"{name}: {' '.join(build_options(name))}", flush=True)


def installable() -> tuple[str, ...]:
    """The builds that this processor runs."""
    has_amx = set(_AMX_OPTIONS.values()) <= hardware.instruction_sets()
    return BUILDS if has_amx else BUILDS[:1]


def installed(folder: Path) -> tuple[str, ...]:
    """The builds that lie in `folder`. Raises MachineError when there are none."""
    found = tuple(name for name in BUILDS if tool(folder, name, "llama-bench").exists())
    if not found:
        raise MachineError(
            f"{folder} holds no build of llama.cpp",
            hint=f"python bench/cpu_engine.py --build-peers {folder}",
        )
    return found


def build_options(name: str) -> list[str]:
    """ggml's options that are on in a build on this processor."""
    options = _OPTIONS | _AMX_OPTIONS if name == BUILDS[1] else _OPTIONS
    return [option for option, flag in options.items() if flag in hardware.instruction_sets()]


def tool(folder: Path, name: str, program: str) -> Path:
    """Where a build's program lies."""
    return folder / name.replace(" ", "-").lower() / program


def decode(model: Path, bench: Path, tokens: int, threads: int) -> float:
    """Tokens a second of one sequence from an empty context. Raises Crashed."""
    return _llama_bench(bench, model, threads, ["-p", "0", "-n", str(tokens)])


def prefill(model: Path, bench: Path, tokens: int, threads: int) -> float:
    """Tokens a second of a prompt. Raises Crashed."""
    return _llama_bench(bench, model, threads, ["-p", str(tokens), "-n", "0"])


def batch(model: Path, bench: Path, tokens: int, threads: int, *, sequences: int = 16) -> float:
    """Tokens a second of all sequences together, each after a prompt of 16. Raises Crashed."""
    program = bench.with_name("llama-batched-bench")
    room = sequences * (16 + tokens)
    words = ["-npp", "16", "-ntg", str(tokens), "-npl", str(sequences), "-c", str(room)]
    row = _json_line([str(program), "-m", str(model), "-t", str(threads), *words,
                      "--output-format", "jsonl"])  # fmt: skip
    return float(row["speed_tg"])


def perplexity(model: Path, bench: Path, text: Path, windows: int, threads: int) -> float:
    """Perplexity on the first windows of 512 tokens of a text, plain or .gz. Raises Crashed."""
    with tempfile.NamedTemporaryFile() as plain:
        content = text.read_bytes()
        plain.write(gzip.decompress(content) if text.suffix == ".gz" else content)
        plain.flush()
        program = str(bench.with_name("llama-perplexity"))
        command = [program, "-m", str(model), "-f", plain.name, "-c", "512", "-t", str(threads)]
        done = subprocess.run(
            [*command, "--chunks", str(windows)],
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
        )
    found = re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)
    if found is None:
        raise Crashed(f"exit {done.returncode}: {done.stderr.strip()[-200:]}")
    return float(found[1])


def _llama_bench(bench: Path, model: Path, threads: int, words: list[str]) -> float:
    command = [str(bench), "-m", str(model), "-t", str(threads), "-r", "1", "-o", "jsonl", *words]
    return float(_json_line(command)["avg_ts"])


def _json_line(command: list[str]) -> dict[str, Any]:
    """The first JSON object that a program prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        raise Crashed(f"no answer within {TRIAL_SECONDS} s") from None
    if done.returncode < 0:
        raise Crashed(signal.Signals(-done.returncode).name)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            row: dict[str, Any] = json.loads(line)
            return row
    raise Crashed(f"exit {done.returncode}: {done.stderr.strip()[-200:]}")


def _sources(folder: Path) -> Path:
    """llama.cpp's source tree, downloaded and with the one line added."""
    name = REQUIREMENT.replace("-", "_").replace("==", "-")
    source = folder / name / "vendor" / "llama.cpp"
    if not source.exists():
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
        _call([*pip, "--no-binary", REQUIREMENT.partition("==")[0], REQUIREMENT])
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    kernels = source / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp"
    text = kernels.read_text(encoding="utf-8")
    if 'asm volatile("" : : "m"(tc));' not in text:
        load = re.compile(r"^( *)_tile_loadconfig\(&tc\);$", re.MULTILINE)
        text, count = load.subn(r'\1asm volatile("" : : "m"(tc));\n\g<0>', text)
        assert count == 1, f"{kernels} has changed"
        kernels.write_text(text, encoding="utf-8")
    return source


def _call(command: list[str | Path]) -> None:
    if subprocess.run(command).returncode != 0:
        raise MachineError(
            f"building llama.cpp failed at: {' '.join(map(str, command))[:200]}",
            hint="it takes pip, cmake and a C++ compiler",
        )
