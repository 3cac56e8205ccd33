"""The rules of the house: sizes of files and functions, who imports what, who reads and prints."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "puna"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CODE = [*SOURCES, *sorted((ROOT / "tools").glob("*.py")), *sorted((ROOT / "bench").glob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FILE_LINES, FUNCTION_LINES, LINE_COLUMNS, POSITIONAL_PARAMETERS, NESTING = 500, 60, 100, 5, 3
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
Function = ast.FunctionDef | ast.AsyncFunctionDef

# An exception needs its reason: "path" or "path:function" -> why it may be longer or deeper.
ALLOWED: dict[str, str] = {}

TORCH_AT_IMPORT = (
    "puna/train/",
    "puna/infer/backends/torch_",
    "puna/model/llama.py",
    "puna/model/attention.py",
    "puna/model/flash.py",
    "puna/model/linear.py",
    "puna/model/rmsnorm.py",
    "puna/model/rotary.py",
    "puna/model/swiglu.py",
)
READS_THE_ENVIRONMENT = ("puna/cli.py", "puna/hardware.py")
WRITES_TO_STREAMS = ("puna/cli.py", "puna/console.py")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, Function):
            yield f"{name_of(path)}:{node.name}", node


def depth(node: ast.AST) -> int:
    """The deepest nesting of blocks below `node`; an `elif` stands beside its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def not_allowed(found: dict[str, int], limit: int) -> dict[str, int]:
    return {name: size for name, size in found.items() if size > limit and name not in ALLOWED}


def test_a_file_is_at_most_500_lines():
    lines = {name_of(path): len(lines_of(path)) for path in [*CODE, *TESTS]}
    assert not_allowed(lines, FILE_LINES) == {}


def test_a_function_is_at_most_60_lines():
    lines = {
        name: (node.end_lineno or node.lineno) - node.lineno + 1
        for path in [*CODE, *TESTS]
        for name, node in functions(path)
    }
    assert not_allowed(lines, FUNCTION_LINES) == {}


def test_a_line_is_at_most_100_columns():
    texts = [*CODE, *TESTS, *sorted((ROOT / "recipes").glob("*.toml"))]
    pragma = re.compile(r"  # (type: ignore|noqa|fmt:).*")  # has to stand on its line
    widest = {
        name_of(path): max((len(pragma.sub("", line)) for line in lines_of(path)), default=0)
        for path in texts
    }
    assert not_allowed(widest, LINE_COLUMNS) == {}


def test_a_function_takes_at_most_5_positional_parameters():
    counts = {}
    for path in CODE:
        for name, node in functions(path):
            names = [one.arg for one in [*node.args.posonlyargs, *node.args.args]]
            counts[name] = len([one for one in names if one not in ("self", "cls", "ctx")])
    assert not_allowed(counts, POSITIONAL_PARAMETERS) == {}


def test_blocks_nest_at_most_3_deep():
    depths = {name: depth(node) for path in CODE for name, node in functions(path)}
    assert not_allowed(depths, NESTING) == {}


def test_every_exception_is_still_needed():
    known = {name_of(path) for path in CODE} | {
        name for path in CODE for name, _node in functions(path)
    }
    assert set(ALLOWED) <= known


def test_no_file_is_called_after_nothing():
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base_utils"}
    assert [name_of(path) for path in CODE if path.stem in vague] == []


def test_every_module_and_public_function_says_what_it_is():
    silent = [name_of(path) for path in CODE if not ast.get_docstring(parsed(path))]
    for path in SOURCES:
        for node in parsed(path).body:
            public = isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                silent.append(f"{name_of(path)}:{node.name}")
    assert silent == []


def imports_at_module_level(path: Path) -> set[str]:
    """Top-level packages imported when the module is imported (not under TYPE_CHECKING)."""
    names: set[str] = set()
    waiting: list[ast.stmt] = list(parsed(path).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            waiting += node.body
    return names


def test_torch_is_imported_only_where_the_mathematics_is():
    found = [name_of(path) for path in SOURCES if "torch" in imports_at_module_level(path)]
    assert [name for name in found if not name.startswith(TORCH_AT_IMPORT)] == []


def test_only_the_command_and_the_hardware_read_the_environment():
    readers = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers <= set(READS_THE_ENVIRONMENT)


def test_only_the_console_prints():
    printers = []
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            prints = isinstance(node, ast.Name) and node.id == "print"
            streams = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
            if prints or (streams and ast.unparse(node).startswith("sys.")):
                printers.append(name_of(path))
    assert set(printers) <= set(WRITES_TO_STREAMS)


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running `code`."""
    script = f"{code}\nimport json, sys\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stderr)}


HEAVY = {"torch", "numpy", "scipy", "sentencepiece", "pyarrow", "transformers", "tqdm"}


@pytest.mark.parametrize(
    "code",
    [
        "import puna",
        "from puna.cli import main; main(['--help'])",
        "import puna.config, puna.console, puna.errors, puna.hardware, puna.schema",
        "import puna.model.sizes, puna.model.count",
        "import puna.serve.server",  # the HTTP process knows no model
        "from puna.cli import main; main(['sizes'])",
    ],
)
def test_light_things_import_nothing_heavy(code: str):
    assert modules_after(code) & HEAVY == set()


def test_no_verb_needs_torch_to_explain_itself():
    verbs = "from puna.cli import main, VERBS\nfor verb in VERBS: main([verb, '--help'])"
    assert "torch" not in modules_after(verbs)
