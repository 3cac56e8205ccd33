"""A task: a function, what it reads, its settings, and the one file that it writes.

  NAME            the output; that it is there means that the task is done
  NAME.report.json  beside it: what went in and out, what was dropped and why, seconds
The output gets its name last, so a task that is killed leaves nothing that counts as done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from puna.data import files
from puna.hardware import peak_resident_bytes

REPORT_SUFFIX = ".report.json"
_SHOWN_INPUTS = 100  # names in a report: a join reads all files, and has as many tasks


@dataclass(frozen=True)
class Task:
    """One piece of work that needs nothing but files, and can be done again with the same result.

    `function` is `module:name` of a TaskFunction. `settings` is a frozen dataclass, or plain data.
    """

    function: str
    inputs: tuple[str, ...]
    settings: Any
    output: str
    report: str = ""  # where its report goes: beside the output unless said

    @property
    def report_path(self) -> str:
        """The full name of the task's report."""
        return self.report or self.output + REPORT_SUFFIX


# Reads the task's inputs, writes the output's bytes, notes in the report what is worth counting.
TaskFunction = Callable[[Task, BinaryIO, dict[str, Any]], None]


def run_task(task: Task) -> None:
    """Do a task: its report, then its output under its final name. Raises what its function does.

    What a killed run left half written is not read, but written anew.
    """
    module, _, name = task.function.partition(":")
    function = cast(TaskFunction, getattr(importlib.import_module(module), name))
    shown = list(task.inputs[:_SHOWN_INPUTS])
    report: dict[str, Any] = {"function": task.function, "inputs": shown}
    report["input_files"] = len(task.inputs)
    began, core_began = time.perf_counter(), time.process_time()
    with files.write_whole(task.output) as output:
        function(task, output, report)
        report["output_bytes"] = output.tell()
        report["seconds"] = round(time.perf_counter() - began, 4)
        report["core_seconds"] = round(time.process_time() - core_began, 4)
        report["peak_bytes"] = peak_resident_bytes()  # of the process, with its tasks before
        files.write_json(task.report_path, report)


def digest_of(*parts: Any) -> str:
    """12 hex digits that change when any part does: dataclasses and plain data."""
    content = json.dumps(parts, sort_keys=True, default=_as_data)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:12]


def _as_data(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, {f.name: getattr(value, f.name) for f in _fields(value)}]
    raise TypeError(f"{value!r} is not plain data")


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(value)
