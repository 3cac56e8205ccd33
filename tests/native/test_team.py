"""The kernels on threads: the same bits on any number, from several callers, after a fork."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from puna.native import kernels

ISAS = kernels.usable_isas()
CSRC = Path(kernels.__file__).parent / "csrc"
pytestmark = pytest.mark.skipif(not ISAS, reason="no kernels run on this machine")


def weight_gradient(threads: int, rows: int = 70, seed: int = 0) -> np.ndarray:
    """The product of two matrices of small whole numbers, exact in float32, in 12 units or more."""
    generator = np.random.default_rng(seed)
    left, right = (generator.integers(-8, 8, (rows, width)) * 1.0 for width in (768, 512))
    operands = (np.ascontiguousarray(bf16(one)) for one in (left, right))
    out = np.empty((768, 512), np.float32)
    kernels.extension().weight_gradient(ISAS[0], threads, *operands, out, False)
    assert np.array_equal(out, left.T @ right)
    return out


def bf16(values: np.ndarray) -> np.ndarray:
    """Under the name of int16; whole numbers below 256 fit without rounding."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)


def attention_arrays(time: int, width: int) -> list[np.ndarray]:
    """joined, cosines, sines, mixed and log_sum of one head, all zeros."""
    return [
        np.zeros((1, time, 3 * width), np.int16),
        *np.zeros((2, time, width // 2), np.float32),
        np.zeros((1, time, width), np.int16),
        np.zeros((1, 1, time), np.float32),
    ]


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """Run a script without torch, where the kernels start threads of their own."""
    script = f"from test_team import *\n{code}"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],  # fork with threads
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_any_number_of_threads_gives_the_exact_product():
    for threads in (1, 2, 3, 5, 8, 64):
        weight_gradient(threads)


def test_threads_of_our_own_do_as_well_and_after_a_fork_too():
    done = alone(
        "import os, sys\n"
        "for threads in (1, 2, 8): weight_gradient(threads)\n"
        "child = os.fork()\n"
        "weight_gradient(2)\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "os._exit(0)"
    )
    assert done.returncode == 0, done.stderr


def test_a_fork_of_a_process_with_torch_goes_on_with_one_thread():
    """With more, OpenMP's run time waits for threads that the child does not have, as in torch."""
    pytest.importorskip("torch")
    code = "import os, torch, puna.model.flash\nweight_gradient(2)\nchild = os.fork()\n"
    code += "weight_gradient(1 if child == 0 else 2)\n"
    code += "if child: os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\nos._exit(0)"
    done = alone(code)
    assert done.returncode == 0, done.stderr


def test_several_callers_at_once_do_not_share_scratch():
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(weight_gradient, [1, 2, 3] * 8, range(1, 400, 17), range(24)):
            pass


def test_the_interpreter_is_free_while_the_kernels_run():
    """A signal's handler, which runs in the main thread, does not wait for another thread."""
    beats, arrays = [], attention_arrays(time=20_000, width=32)

    def call() -> tuple[float, float]:
        began = time.perf_counter()
        kernels.extension().attention_forward(ISAS[0], 1, *arrays)
        return began, time.perf_counter()

    before = signal.signal(signal.SIGALRM, lambda *_: beats.append(time.perf_counter()))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        with ThreadPoolExecutor(1) as pool:
            began, ended = pool.submit(call).result()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    share = (ended - began) / 10
    assert [beat for beat in beats if began + share < beat < ended - share]


def test_no_threads_and_no_rows():
    with pytest.raises(ValueError, match="threads should be at least 1"):
        weight_gradient(0)
    assert not weight_gradient(1, rows=0).any()


def test_running_out_of_memory_is_an_exception():
    done = alone(
        "import resource\n"
        "arrays = attention_arrays(time=20_000, width=256)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**20,) * 2)\n"
        "try: kernels.extension().attention_forward(ISAS[0], 1, *arrays)\n"
        "except MemoryError: print('told')"
    )
    assert done.stdout == "told\n", done.stderr


@pytest.mark.skipif(not shutil.which("g++") or not shutil.which("nm"), reason="needs g++ and nm")
def test_a_build_for_an_instruction_set_exports_its_table_alone(tmp_path: Path):
    """A function that the linker shares with other code would run there without being asked."""
    out = tmp_path / "amx.o"
    flags = ["-std=c++17", "-O0", "-march=sapphirerapids", "-fno-exceptions", "-fno-rtti"]
    subprocess.run(["g++", *flags, "-c", CSRC / "amx.cpp", "-o", out], check=True)
    listing = subprocess.run(
        ["nm", "--defined-only", "--extern-only", "--format=posix", out],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[0] for line in listing.stdout.splitlines()] == ["kernels_amx"]
