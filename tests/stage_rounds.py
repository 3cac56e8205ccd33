"""Runs the rounds of a stage over many files in this process."""

from pathlib import Path

from puna.data import files
from puna.data.build.stages import Context
from puna.data.build.task import run_task
from puna.data.document import Document, read_documents, write_documents


def run_rounds(module, texts: list[list[str]], folder: Path, rules) -> list[list[Document]]:
    """The documents that are left of each file's texts; the text `at` of a file has the id N.at."""
    inputs = []
    for number, of_file in enumerate(texts):
        path = folder / f"{number}.jsonl.zst"
        written = [Document(text, "s", "l", f"{number}.{at}") for at, text in enumerate(of_file)]
        write_documents(path, written)
        inputs.append(files.File(str(path), path.stat().st_size))
    rounds = module.rounds(inputs, rules, Context(str(folder / "stage"), "stage", 0))
    answer = None
    while True:
        try:
            tasks = next(rounds) if answer is None else rounds.send(answer)
        except StopIteration as done:
            return [list(read_documents(Path(file.path))) for file in done.value]
        for task in tasks:
            run_task(task)
        answer = [files.find(task.output)[0] for task in tasks]


def duplicates_told(folder: Path) -> dict[str, str]:
    """The ids of the examples of what went, each with the id of what stays, of the last round."""
    reports = map(files.read_json, map(str, (folder / "stage").glob("documents-*.report.json")))
    return {
        example["id"]: example["detail"]
        for report in reports
        for reason, examples in report["stages"][0]["examples"].items()
        if reason != "kept"
        for example in examples
    }
