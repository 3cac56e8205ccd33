"""Finding and choosing the builds of the kernels; what they refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from puna import hardware
from puna.errors import MachineError
from puna.native import kernels

CSRC = Path(kernels.__file__).parent / "csrc"


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Each test chooses anew, and leaves nothing chosen behind."""
    monkeypatch.delenv("PUNA_ISA", raising=False)
    kernels.isa.cache_clear()
    yield
    kernels.isa.cache_clear()


def built() -> bool:
    try:
        kernels.extension()
    except MachineError:
        return False
    return True


needs_build = pytest.mark.skipif(not built(), reason="the kernels were not built here")


def test_the_best_usable_build_is_taken_unless_another_is_named(monkeypatch):
    usable = kernels.usable_isas()
    assert kernels.isa() == (usable[0] if usable else None)
    kernels.isa.cache_clear()
    monkeypatch.setenv("PUNA_ISA", "none")
    assert kernels.isa() is None
    if built():
        assert kernels.missing_reason() == "PUNA_ISA=none"


def test_a_build_that_cannot_run_is_refused_not_replaced(monkeypatch):
    monkeypatch.setenv("PUNA_ISA", "quantum")
    with pytest.raises(MachineError, match=r"asks for the kernels 'quantum', this machine runs"):
        kernels.isa()


def test_without_the_extension_puna_says_why_and_goes_on(monkeypatch):
    monkeypatch.setattr(kernels, "_extension", lambda: (None, "not built"))
    assert kernels.usable_isas() == ()
    assert kernels.isa() is None
    assert kernels.missing_reason() == "not built"
    with pytest.raises(MachineError, match="kernels are missing: not built"):
        kernels.extension()


@pytest.mark.parametrize(
    ("flags", "builds", "reason"),
    [
        ({"avx512f"}, ["amx"], "this processor has no AMX"),
        ({"amx_bf16"}, [], "not built for AMX, which takes g++ 11 or newer"),
        ({"amx_bf16"}, ["amx"], "the operating system does not grant AMX"),
    ],
)
def test_the_reason_for_no_kernels_is_the_true_one(flags, builds, reason, monkeypatch):
    module = SimpleNamespace(isas=list, builds=lambda: builds)
    monkeypatch.setattr(kernels, "_extension", lambda: (module, ""))
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset(flags))
    assert kernels.missing_reason() == reason


@needs_build
def test_what_runs_here_is_among_what_was_built():
    assert set(kernels.usable_isas()) <= set(kernels.extension().builds())


def test_importing_them_does_not_import_torch():
    code = "import sys, puna.native.kernels as k; k.isa(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def arrays(batch=1, time=5, heads=2, kv_heads=1, head_dim=32, **other) -> list[np.ndarray]:
    """joined, cosines, sines, mixed, log_sum"""
    found = {
        "joined": np.zeros((batch, time, (heads + 2 * kv_heads) * head_dim), np.int16),
        "cosines": np.ones((time, head_dim // 2), np.float32),
        "sines": np.zeros((time, head_dim // 2), np.float32),
        "mixed": np.zeros((batch, time, heads * head_dim), np.int16),
        "log_sum": np.zeros((batch, heads, time), np.float32),
    }
    return list({**found, **other}.values())


@needs_build
@pytest.mark.skipif(not kernels.usable_isas(), reason="no kernels run on this machine")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head_dim": 48}, "head_dim should be a multiple of 32"),
        ({"head_dim": 288}, "at most 256"),
        ({"joined": np.zeros((1, 5, 100), np.int16)}, "whole heads"),
        ({"joined": np.zeros((2, 5, 128), np.int16)}, "mixed should be"),
        ({"heads": 3, "kv_heads": 2}, "kv_heads dividing heads"),
        ({"heads": 0, "kv_heads": 2}, "kv_heads dividing heads"),
        ({"cosines": np.ones((4, 16), np.float32)}, "every position"),
        ({"sines": np.ones((5, 8), np.float32)}, "every position"),
        ({"mixed": np.zeros((1, 4, 64), np.int16)}, "mixed should be"),
        ({"log_sum": np.zeros((1, 2, 4), np.float32)}, "log_sum should be"),
    ],
)
def test_arrays_of_other_shapes_are_refused(wrong, message):
    isa = kernels.usable_isas()[0]
    with pytest.raises(ValueError, match=message):
        kernels.extension().attention_forward(isa, 1, *arrays(**wrong))


@needs_build
@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 5, 128)), np.zeros((128, 5, 1), np.int16).T[..., :]]
)
def test_another_dtype_or_layout_is_refused_not_copied(wrong):
    with pytest.raises(TypeError):
        kernels.extension().attention_forward("amx", 1, *arrays(joined=wrong))


@needs_build
def test_an_unknown_build_is_refused():
    with pytest.raises(ValueError, match="cannot run kernels built for none such"):
        kernels.extension().attention_forward("none such", 1, *arrays())


SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".cpp", ".h"))
# Compiled once; the others once for each instruction set.
OUTSIDE = {"module", "isa", "team", "engine", "crew", "packing"}


def test_sources_of_an_instruction_set_use_no_shared_library_code():
    """An inline function of the C++ library would be linked once for all builds.

    `type_traits` has only types, `string.h` only functions of C.
    """
    assert len(SOURCES) > 30
    for path in (path for path in SOURCES if path.stem not in OUTSIDE):
        found = set(re.findall(r"#include <([^>]+)>", path.read_text(encoding="utf-8")))
        assert found <= {"immintrin.h", "math.h", "stdint.h", "string.h", "type_traits"}, path.name


def test_sources_keep_the_size_rules():
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 500, path.name
        assert max(map(len, lines)) <= 100, path.name
