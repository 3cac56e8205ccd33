"""A build from a recipe to a mixture of shards; a rerun does only what is missing.

  OUT/mixture.json      each source's shards and share, written last; `puna train --shards OUT`
  OUT/shards/NAME-DIGEST/  a source's training shards; heldout-DIGEST/ those of all held-out text
  OUT/corpus/           the documents as text, where the recipe wants it (puna.data.corpus)
  OUT/tokenizer.model, OUT/recipe.toml, OUT/report.json
  WORK/SOURCE/NN-STAGES-DIGEST/  what is between; may be deleted when the build is done
A digest stands for all that decides a folder's content: inputs, settings, code. So what is in a
folder of that name is right, whoever wrote it and when.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from puna.console import Console, human_bytes, human_count, human_duration
from puna.data import files
from puna.data.build import documents, models, reading, stages
from puna.data.build.documents import READ, SUFFIX, Chain, Stage
from puna.data.build.executor import Executor
from puna.data.build.finish import finish
from puna.data.build.models import Before
from puna.data.build.recipe import DataRecipe, Plan, plan, together
from puna.data.build.stages import Context, Rounds
from puna.data.build.task import Task, digest_of
from puna.data.build.work import Build, Options, code_version
from puna.errors import DataError

Result = TypeVar("Result")
ALL = "all"  # the folder of stages over all sources


def build(
    recipe: DataRecipe, options: Options, executor: Executor, console: Console
) -> dict[str, Any]:
    """Run a recipe; the record that is also in OUT/report.json.

    Raises ConfigError before anything is read where the recipe cannot be, DataError for inputs
    that are missing, for the first damaged item when the build is strict, and for failed tasks.
    """
    began = time.monotonic()
    files.require_writable(options.out)
    work = recipe.work or files.join(options.out, "work")
    state = Build(recipe, options, executor, console, work)
    state.plans = {one.name: one for one in plan(recipe)}
    chosen = _chosen(state.plans, options.only)
    joined = together(recipe)
    needed = _with_needed(state.plans, chosen)
    _run_all(state, {name: _chain(state, state.plans[name]) for name in needed})
    ready = {name: state.ready[name] for name in chosen}
    if joined and options.only:
        raise DataError(
            f"{', '.join(options.only)}: done up to the stages over all sources together",
            hint="run it again without --only",
        )
    for stage in joined:
        ready = _over_all(state, stage, ready)
    record = finish(state, ready)
    record["seconds"] = round(time.monotonic() - began, 2)
    record["workers"] = executor.workers
    record["ended"] = round(time.time())  # seconds since 1970
    files.write_json(files.join(options.out, "report.json"), record, "puna.build")
    _say(record, console)
    return record


def _chosen(plans: Mapping[str, Plan], only: Sequence[str]) -> list[str]:
    for name in only:
        if name not in plans:
            hint = f"known: {', '.join(plans)}"
            raise DataError(f"--only {name}: the recipe has no such source", hint=hint)
    return [name for name in plans if not only or name in only]


def _with_needed(plans: Mapping[str, Plan], chosen: Sequence[str]) -> list[str]:
    """The sources chosen, and those that their models are made of."""
    found, waiting = set(), list(chosen)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += plans[name].needs
    return [name for name in plans if name in found]


def _chain(state: Build, source: Plan) -> Rounds:
    """The rounds of one source, from its input files to its last documents."""
    recipe, strict = state.recipe, state.options.is_strict
    wanted = reading.inputs_of(source, state.console)
    state.inputs[source.name] = wanted
    state.sizes.update({file.path: file.bytes for file in wanted.values()})
    versions = [[name, file.bytes, file.version] for name, file in wanted.items()]
    digest = digest_of(code_version(), versions)
    ready: list[files.File] = []
    for number, part in enumerate(_parts(source.stages, recipe.keep)):
        reader = source.reader if number == 0 else None
        names = "+".join([*([READ] if reader else []), *(stage.name for stage in part)])
        asked, needed = part, models.versions([*([reader] if reader else []), *part])
        if part and stages.made_of(part[0]) is not None:
            making = models.made(state, source.name, part[0], Before(ready, digest))
            first, digest = yield from _noted(state, source.name, making)
            part = [first, *part[1:]]
        sizes = [recipe.task_bytes, recipe.part_bytes]
        digest = digest_of(digest, reader, asked, needed, strict, recipe.seed, sizes)
        folder = files.join(state.work, source.name, f"{number:02d}-{names[:60]}-{digest}")
        if not reader and stages.sees_all(part[0]):
            rounds = _rounds(part[0], ready, folder, recipe.seed)
            ready = yield from _noted(state, source.name, rounds)
            continue
        chain = Chain(tuple(part), is_strict=strict, seed=recipe.seed)
        tasks = (
            reading.tasks(wanted, reader, chain, folder, recipe)
            if reader
            else _tasks(ready, chain, folder)
        )
        ready = yield from _noted(state, source.name, _once(tasks))
    return ready


def _parts(chain: Sequence[Stage], keep: Sequence[str]) -> list[list[Stage]]:
    """The stages that run in one task: up to one that sees all, whose model is made of what comes
    to it, or whose output is kept.

    The first part begins with reading, and may have no stages.
    """
    parts: list[list[Stage]] = [[]]
    is_open = READ not in keep
    for stage in chain:
        if not is_open or stages.sees_all(stage) or stages.made_of(stage) is not None:
            parts.append([])
        parts[-1].append(stage)
        is_open = stage.name not in keep and not stages.sees_all(stage)
    return parts


def _tasks(inputs: Sequence[files.File], chain: Chain, folder: str) -> list[Task]:
    return [
        Task(
            f"{documents.__name__}:run",
            (file.path,),
            chain,
            files.join(folder, f"{number:05d}{SUFFIX}"),
        )
        for number, file in enumerate(inputs)
    ]


def _rounds(stage: Stage, inputs: Sequence[files.File], folder: str, seed: int) -> Rounds:
    context = Context(folder, stage.name, seed)
    result: Rounds = stages.rounds_of(stage)(inputs, stage.settings, context)
    return result


def _once(tasks: list[Task]) -> Rounds:
    return (yield tasks)


def _noted(
    state: Build, name: str, rounds: Generator[list[Task], list[files.File], Result]
) -> Generator[list[Task], list[files.File], Result]:
    """The same rounds; their tasks are remembered as the source's, for the report."""
    answer: list[files.File] | None = None
    while True:
        try:
            tasks = next(rounds) if answer is None else rounds.send(answer)
        except StopIteration as done:
            return cast(Result, done.value)
        state.tasks.setdefault(name, []).extend(tasks)
        answer = yield tasks


def _run_all(state: Build, chains: Mapping[str, Rounds]) -> None:
    """Every chain's rounds, each with those of the others that come at the same time.

    What they return is in `ready`; a chain that waits for another's yields no tasks.
    """
    ready = state.ready
    answers: dict[str, list[files.File] | None] = dict.fromkeys(chains)
    while waiting := [name for name in chains if name not in ready]:
        wave: dict[str, list[Task]] = {}
        for name in waiting:
            try:
                answer = answers[name]
                wave[name] = next(chains[name]) if answer is None else chains[name].send(answer)
            except StopIteration as done:
                ready[name] = done.value
        if not wave:
            continue
        tasks = [task for of_source in wave.values() for task in of_source]
        label = ", ".join(sorted({_label(task) for task in tasks}))
        outputs = iter(state.run(tasks, label[:40]))
        for name, of_source in wave.items():
            answers[name] = [next(outputs) for _ in of_source]


def _label(task: Task) -> str:
    """What a round does, from its folder's name: `00-read+language-0123456789ab`."""
    parts = task.output.rpartition("/")[0].rpartition("/")[2].split("-")
    return "-".join(parts[1:-1]) or parts[0]


def _over_all(
    state: Build, stage: Stage, ready: Mapping[str, list[files.File]]
) -> dict[str, list[files.File]]:
    """A stage over the documents of all sources, in the recipe's order; each source's again."""
    inputs = [file for of_source in ready.values() for file in of_source]
    _run_all(state, {ALL: _noted(state, ALL, _rounds_over_all(state, stage, inputs))})
    outputs = iter(state.ready.pop(ALL))
    last = {task.output: task for task in state.tasks.pop(ALL)}
    result = {}
    for name, of_source in ready.items():
        result[name] = [next(outputs) for _ in of_source]
        state.tasks[name] += [last[file.path] for file in result[name]]
    return result


def _rounds_over_all(state: Build, stage: Stage, inputs: Sequence[files.File]) -> Rounds:
    places = [file.path.removeprefix(state.work) for file in inputs]
    digest = digest_of(places, stage, models.versions([stage]), state.recipe.seed)
    made = stage
    if stages.made_of(stage) is not None:
        made, digest = yield from models.made(state, ALL, stage, Before(inputs, digest))
    folder = files.join(state.work, ALL, f"00-{stage.name}-{digest}")
    named = replace(made, name=f"{stage.name} of all")
    return (yield from _rounds(named, inputs, folder, state.recipe.seed))


def _say(record: Mapping[str, Any], console: Console) -> None:
    tokens = sum(source["tokens"] for source in record["sources"].values())
    text_bytes = sum(source["text_bytes"] for source in record["sources"].values())
    console.say(
        f"{human_count(tokens)} tokens of {human_bytes(text_bytes)} in "
        f"{human_duration(record['seconds'])} on {record['workers']} workers"
    )
