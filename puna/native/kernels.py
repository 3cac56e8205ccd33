"""The C++ kernels of csrc/: whether they were built, which of their builds run here.

One source is built once for each instruction set; today for AMX, whose tiles multiply bf16.
Where there is no compiler, or no such processor, Puna works without them, slower, and says so.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from pathlib import Path
from types import ModuleType

from puna import hardware
from puna.errors import MachineError

NONE = "none"  # PUNA_ISA=none: as if no kernels had been built
INSTALL_THEM = (
    "install g++ 11 or newer and python3-dev, then Puna again: training on a CPU gets faster"
)


@functools.cache
def isa() -> str | None:
    """The build that runs here: the one that PUNA_ISA names, else the best one; None without any.

    Raises MachineError when PUNA_ISA names one that does not run here.
    """
    usable = usable_isas()
    wish = hardware.isa_wish()
    if wish is None:
        return usable[0] if usable else None
    if wish == NONE or wish in inference_isas():
        return wish if wish in usable else None
    if wish not in usable:
        runs = ", ".join(usable) or NONE
        raise MachineError(
            f"PUNA_ISA asks for the kernels {wish!r}, this machine runs {runs}",
            hint=f"unset it, or set it to {NONE} to do without kernels",
        )
    return wish


def inference_isas() -> tuple[str, ...]:
    """The builds of the inference kernels that run here, best first; none without kernels."""
    extension, _ = _extension()
    return tuple(extension.inference_isas()) if extension else ()


@functools.cache
def inference_isa() -> str:
    """The build of the inference kernels that runs here, PUNA_ISA's or else the best one.

    Raises MachineError when there is none, or PUNA_ISA names one that does not run here.
    """
    usable = inference_isas() or tuple(extension().inference_isas())
    wish = hardware.isa_wish() or usable[0]
    if wish not in usable:
        raise MachineError(
            f"PUNA_ISA asks for the kernels {wish!r}, this machine runs {', '.join(usable)}",
            hint="unset it, or choose --backend numpy to do without kernels",
        )
    return wish


def usable_isas() -> tuple[str, ...]:
    """The builds that this processor and operating system run, best first."""
    extension, _ = _extension()
    return tuple(extension.isas()) if extension else ()


def missing_reason() -> str | None:
    """Why there are no kernels to use, in a few words; None when there are."""
    extension, problem = _extension()
    if extension is None:
        return problem
    if isa() is not None:
        return None
    if hardware.isa_wish() == NONE:
        return "PUNA_ISA=none"
    if "amx_bf16" not in hardware.instruction_sets():
        return "this processor has no AMX"
    if not extension.builds():
        return "not built for AMX, which takes g++ 11 or newer"
    return "the operating system does not grant AMX"


def extension() -> ModuleType:
    """The extension module. Raises MachineError when it was not built or does not load."""
    found, problem = _extension()
    if found is None:
        raise MachineError(
            f"the C++ kernels are missing: {problem}",
            hint=INSTALL_THEM,
        )
    return found


@functools.cache
def _extension() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("puna.native._kernels"), ""
    except ModuleNotFoundError:
        return None, "not built: no C++ compiler or no Python.h when Puna was installed"
    except ImportError as error:
        return None, f"not loadable ({error})"


def work_on_openmp_threads() -> bool:
    """Let the kernels use the threads of the OpenMP run time that torch has loaded.

    Its threads spin while they wait for work: others beside them would get half a core each.
    False when there is none; the kernels then start threads of their own.
    """
    for path in _loaded_libraries():
        if path.name.startswith(("libgomp", "libiomp", "libomp")):
            library = ctypes.CDLL(str(path))
            if hasattr(library, "GOMP_parallel"):
                address = ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
                extension().use_team(address)
                return True
    return False


def _loaded_libraries() -> list[Path]:
    """Shared libraries mapped into this process, torch's own first; none off Linux."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    fields = (line.split(maxsplit=5) for line in maps.read_text(encoding="utf-8").splitlines())
    paths = {Path(field[5]) for field in fields if len(field) == 6 and ".so" in field[5]}
    return sorted(paths, key=lambda path: ("torch" not in path.parts, path))
