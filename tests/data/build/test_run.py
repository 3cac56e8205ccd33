"""Builds of small trees; the oracle is the text itself, read back from the shards."""

import bz2
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import zstandard
from build_runs import results

from puna.console import silent
from puna.data.benchmarks import compile_sets
from puna.data.build import recipe as recipes
from puna.data.build.executor import Here
from puna.data.build.run import build
from puna.data.build.work import Options
from puna.data.corpus import open_corpus
from puna.data.document import Document, read_documents, write_documents
from puna.data.report import gather, render
from puna.data.split import HoldOut
from puna.errors import ConfigError, DataError
from puna.tokens.mixture import Mixture
from puna.tokens.shards import ShardSet
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.training import TokenizerConfig, train_tokenizer


def run(recipe: Path, out: object, *settings: str, **options) -> dict:
    chosen = Options(str(out), **options)
    return build(recipes.load(recipe, settings), chosen, Here(), silent())


def texts_of(shards: ShardSet, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(shards.document(at).tolist()) for at in range(shards.documents)]


def held(text: str) -> bool:
    """Whether the recipe holds a text out."""
    return HoldOut(10).split(0, text) == "heldout"


def test_every_text_of_a_tree_is_in_the_shards_once(recipe, tree, tokenizer_path, tmp_path):
    out = tmp_path / "out"
    record = run(recipe, out)
    mixed = Mixture.open(out, verify=True)
    tokenizer = Tokenizer.load(out / "tokenizer.model")
    assert tokenizer.sha256 == Tokenizer.load(tokenizer_path).sha256
    lines = [
        document.text
        for path in sorted((tree / "lines").iterdir())
        for document in read_documents(path)
    ]
    notes = [path.read_text("utf-8") for path in sorted((tree / "notes").iterdir())]
    unique = list(dict.fromkeys(lines))
    assert len(unique) == len(lines) - 7
    for name, given in (("lines", unique), ("notes", notes)):
        kept = [text for text in given if not held(text)]
        assert texts_of(mixed.sources[name], tokenizer) == kept
    assert mixed.heldout is not None
    assert texts_of(mixed.heldout, tokenizer) == [one for one in [*unique, *notes] if held(one)]
    assert mixed.shares == {"lines": 0.75, "notes": 0.25}
    sizes = {path.stat().st_size for path in mixed.sources["lines"].folder.glob("tokens-*")}
    assert len(sizes) == 2
    assert max(sizes) == 20_000
    _check_record(record, mixed, json.loads((out / "report.json").read_text()))


def _check_record(record: dict, mixed: Mixture, written: dict) -> None:
    reading, exact = record["sources"]["lines"]["stages"]
    assert (reading["documents"], exact["documents"]) == (407, 400)
    assert exact["dropped"]["exact duplicate"]["documents"] == 7
    assert len(exact["examples"]["exact duplicate"]) == 3
    assert exact["examples"]["exact duplicate"][0]["detail"].split("#")[0].endswith(".jsonl.zst")
    assert record["sources"]["lines"]["licences"]["CC0"]["documents"] == 400
    assert [one["stage"] for one in record["sources"]["notes"]["stages"]] == ["read"]
    unique = mixed.sources["lines"].tokens
    assert record["mixture"]["sources"]["lines"]["epochs"] == pytest.approx(0.75 * 1e5 / unique)
    assert written == {"schema": "puna.build", "version": 1} | written
    assert written["mixture"] == record["mixture"]


def test_a_rerun_does_nothing_and_a_changed_rule_only_what_follows_it(recipe, tmp_path):
    run(recipe, tmp_path / "out")
    first = results(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "work").rglob("*")}
    run(recipe, tmp_path / "out")
    assert results(tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in times} == times
    run(recipe, tmp_path / "out", "sources.lines.stages=[]")
    new = set((tmp_path / "out" / "work").glob("*/*")) - set(times)
    assert {path.name.rpartition("-")[0] for path in new} == {"99-tokenise", "lines", "heldout"}


class OtherDisk(Here):
    """A node whose disk is its own: what it writes, the driver does not see."""

    def run(self, tasks):
        for done in super().run(tasks):
            Path(done.task.output).unlink()
            yield done


def test_nodes_that_do_not_share_the_folder_are_one_clear_error(recipe, tmp_path):
    options = Options(str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"outputs are not here(?s:.*)hint: all nodes must reach"):
        build(recipes.load(recipe, ()), options, OtherDisk(), silent())


def folders(out: Path) -> set[str]:
    return {path.name for path in (out / "work").glob("*/*")}


@pytest.mark.parametrize("package", ["resiliparse", "pypdf", "fasttext-predict", "sentencepiece"])
def test_another_version_of_what_decides_texts_makes_all_anew(
    recipe, tmp_path, monkeypatch, package
):
    run(recipe, tmp_path / "out")
    before = folders(tmp_path / "out")
    found = metadata.version

    def version(name: str) -> str:
        return "999" if name == package else found(name)

    monkeypatch.setattr(metadata, "version", version)
    run(recipe, tmp_path / "out")
    after = folders(tmp_path / "out")
    assert len(after) == 2 * len(before)


def test_another_list_or_model_under_the_same_name_is_seen(recipe, tmp_path):
    benchmarks, text = tmp_path / "sets.npz", tmp_path / "set.txt"
    settings = ('stages=["decontaminate"]', f"settings.decontaminate.benchmarks={benchmarks}")
    text.write_text("one two three four five six seven eight nine ten eleven twelve thirteen")
    compile_sets({"set": [str(text)]}, str(benchmarks))
    run(recipe, tmp_path / "out", *settings)
    before = folders(tmp_path / "out")
    text.write_text(text.read_text() + " fourteen")
    compile_sets({"set": [str(text)]}, str(benchmarks))
    run(recipe, tmp_path / "out", *settings)
    new = folders(tmp_path / "out") - before
    assert {name.rpartition("-")[0] for name in new} >= {"01-decontaminate", "99-tokenise"}
    assert not any(name.startswith("00-read") for name in new)
    benchmarks.unlink()
    with pytest.raises(DataError, match=r"there is no file .*sets\.npz"):
        run(recipe, tmp_path / "out", *settings)


@pytest.mark.parametrize("part_bytes", [300, 5000])
def test_a_large_dump_is_read_in_parts_and_gives_the_same_text(recipe, tree, tmp_path, part_bytes):
    texts = [document.text for document in read_documents(tree / "lines" / "0.jsonl.zst")]
    pages = [
        f"<page><title>T{at}</title><ns>0</ns><id>{at}</id><revision><text>{text}</text>"
        "</revision></page>\n"
        for at, text in enumerate(texts)
    ]
    head = '<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname></siteinfo>\n'
    streams = [head, *("".join(pages[at : at + 3]) for at in range(0, len(pages), 3))]
    (tree / "wiki.xml.bz2").write_bytes(b"".join(bz2.compress(one.encode()) for one in streams))
    inputs = f'sources.lines={{reader="wikipedia",share=3,inputs=["{tree}/wiki.xml.bz2"]}}'
    whole = run(recipe, tmp_path / "whole", inputs)
    parts = run(recipe, tmp_path / "parts", inputs, f"part_bytes={part_bytes}")
    read_in = next((tmp_path / "parts" / "work" / "lines").glob("00-read-*"))
    assert len(list(read_in.glob("*.zst"))) > 1
    stages = [record["sources"]["lines"]["stages"][0] for record in (whole, parts)]
    assert stages[0]["documents"] == stages[1]["documents"] == len(texts)
    tokens = [
        [path.read_bytes() for path in sorted((tmp_path / name / "shards").rglob("tokens-*"))]
        for name in ("whole", "parts")
    ]
    assert sorted(tokens[0]) == sorted(tokens[1])


def test_input_and_output_may_be_anywhere_that_fsspec_reaches(recipe, tree, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(tree) + "/", "/given/", recursive=True)
    run(recipe, tmp_path / "here")
    inputs = (
        'sources.lines.inputs=["memory://given/lines"]',
        'sources.notes.inputs=["memory://given/notes/*.txt"]',
    )
    run(recipe, "memory://made/out", *inputs)
    tokens = sorted(path for path in memory.find("/made/out/shards") if "tokens-" in path)
    local = sorted((tmp_path / "here" / "shards").rglob("tokens-*"))
    assert [memory.cat(path) for path in tokens] == [path.read_bytes() for path in local]
    assert len(tokens) > 3
    memory.rm("/given", recursive=True)
    memory.rm("/made", recursive=True)


def test_what_is_damaged_is_counted_with_its_place_unless_the_build_is_strict(
    recipe, tree, tmp_path
):
    broken = (tree / "lines" / "3.jsonl.zst").read_bytes()
    (tree / "lines" / "3.jsonl.zst").write_bytes(broken[: len(broken) // 2])
    (tree / "notes" / "9.txt").write_bytes(b"caf\xe9")
    (tree / "notes" / "10.txt").write_text(" \n")
    record = run(recipe, tmp_path / "out")
    reading = record["sources"]["lines"]["stages"][0]
    assert reading["dropped"]["damaged"]["documents"] == 1
    assert reading["damaged"] == [{"id": "3.jsonl.zst", "detail": reading["damaged"][0]["detail"]}]
    assert "cut short after line" in reading["damaged"][0]["detail"]
    assert record["sources"]["notes"]["stages"][0]["dropped"] == {
        "damaged": {"documents": 1, "text_bytes": 0},
        "empty": {"documents": 1, "text_bytes": 2},
    }
    with pytest.raises(DataError, match=r"3\.jsonl\.zst is damaged: .* cut short after line"):
        run(recipe, tmp_path / "strict", is_strict=True)


def test_texts_of_one_source_that_another_has_are_dropped_over_all_together(recipe, tree, tmp_path):
    first = next(read_documents(tree / "lines" / "0.jsonl.zst"))
    (tree / "notes" / "same.txt").write_text(first.text, "utf-8")
    record = run(recipe, tmp_path / "out", 'together=["exact"]')
    stages = record["sources"]["notes"]["stages"]
    assert [one["stage"] for one in stages] == ["read", "exact of all"]
    assert stages[1]["dropped"]["exact duplicate"]["documents"] == 1
    lines = record["sources"]["lines"]["stages"]
    assert [one["documents"] for one in lines] == [407, 400, 400]


def test_one_source_alone_gets_its_shards_and_no_mixture(recipe, tmp_path):
    record = run(recipe, tmp_path / "out", only=("notes",))
    assert list(record["sources"]) == ["notes"]
    assert not (tmp_path / "out" / "mixture.json").exists()
    whole = run(recipe, tmp_path / "out")
    assert whole["mixture"]["sources"]["notes"]["folder"] == record["sources"]["notes"]["folder"]


def test_a_tokenizer_is_trained_on_a_sample_where_none_is_given(recipe, tree, tmp_path):
    settings = ("tokenizer.path=", "tokenizer.train.vocabulary_size=380")
    run(recipe, tmp_path / "out", *settings)
    assert Tokenizer.load(tmp_path / "out" / "tokenizer.model").vocabulary_size == 380
    again = tmp_path / "again"
    run(recipe, again, *settings)
    assert results(again) == results(tmp_path / "out")
    for path in (tree / "lines").iterdir():
        path.write_bytes(zstandard.compress(b""))
    for path in (tree / "notes").iterdir():
        path.write_text(" ")
    with pytest.raises(DataError, match="no text is left to train a tokenizer on"):
        run(recipe, again, *settings)
    with pytest.raises(DataError, match="trained on all sources"):
        run(recipe, tmp_path / "only", *settings, only=("notes",))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            'sources.lines.stages=["exakt"]',
            r"lines.stages: there is no stage 'exakt'(?s:.*)mean exact",
        ),
        ('sources.lines.reader="won"', r"no source 'won'(?s:.*)did you mean own\?"),
        ("sources.lines.reed.licence=CC0", r"unknown key sources.lines.reed(?s:.*)mean read"),
        ("sources.lines.read.licens=CC0", r"unknown key licens(?s:.*)did you mean licence"),
        ("settings.exacd.x=1", r"settings.exacd: no stage of this name(?s:.*)mean exact"),
        ("sources.notes.settings.exact.x=1", r"notes.settings.exact: no stage of this name"),
        ("settings.exact.depth=1", r"unknown key depth"),
        ("sources.notes.share=0", "needs a share above 0"),
        ('together=["own"]', "no stage 'own'"),
        ('stages=["exact", "exact"]', "the stage exact comes twice"),
        ("heldout_every=1", "at least 2"),
    ],
)
def test_a_wrong_word_in_a_recipe_names_the_nearest(recipe, tmp_path, setting, message):
    with pytest.raises(ConfigError, match=message):
        run(recipe, tmp_path / "out", setting)
    assert not (tmp_path / "out").exists()


def test_documents_held_out_by_number_are_those_of_the_shards_and_of_the_corpus(recipe, tmp_path):
    """The same texts on both sides, whether read as tokens or as text, in the order of reading."""
    out = tmp_path / "out"
    settings = ("corpus=true", "heldout_offset=3", "task_bytes=1")
    run(recipe, out, *settings)
    mixed, tokenizer = Mixture.open(out, verify=True), Tokenizer.load(out / "tokenizer.model")
    corpus = open_corpus(out / "corpus")
    heldout = [document.text for document in corpus.heldout()]
    train = [document.text for document in corpus.train()]
    assert len(heldout) == len([n for n in range(405) if n % 10 == 3])
    assert len(heldout) + len(train) == 405
    assert not set(heldout) & set(train) - {""}
    assert texts_of(mixed.heldout, tokenizer) == heldout
    of_sources = [texts_of(one, tokenizer) for one in mixed.sources.values()]
    assert [text for texts in of_sources for text in texts] == train
    before = (out / "corpus" / "manifest.json").stat().st_mtime_ns
    run(recipe, out, *settings)
    assert (out / "corpus" / "manifest.json").stat().st_mtime_ns == before
    run(recipe, out, "corpus=true")
    assert open_corpus(out / "corpus").manifest["heldout_rule"] == "hash"


def test_a_tokenizer_never_learns_from_what_is_held_out(recipe, tmp_path):
    settings = ("tokenizer.path=", "tokenizer.train.vocabulary_size=400", "corpus=true")
    run(recipe, tmp_path / "out", *settings)
    trained = Tokenizer.load(tmp_path / "out" / "tokenizer.model")
    texts = (document.text for document in open_corpus(tmp_path / "out" / "corpus").train())
    alone = train_tokenizer(texts, tmp_path / "alone", TokenizerConfig(400), silent())
    assert trained.sha256 == alone.sha256


def test_inputs_that_are_not_there_are_one_clear_error(recipe, tmp_path):
    with pytest.raises(DataError, match=r"no file .*nowhere"):
        run(recipe, tmp_path / "out", f'sources.notes.inputs=["{tmp_path}/nowhere"]')
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"sources.notes: none of 1 file"):
        run(recipe, tmp_path / "out", f'sources.notes.inputs=["{tmp_path}/image.png"]')
    with pytest.raises(DataError, match="no such source"):
        run(recipe, tmp_path / "out", only=("books",))


def test_a_source_of_which_nothing_is_left_stops_the_mixture(recipe, tree, tmp_path):
    write_documents(tree / "none.jsonl", [Document("", "", "", "")][:0])
    with pytest.raises(DataError, match=r"sources.notes: nothing is left"):
        run(recipe, tmp_path / "out", f'sources.notes.inputs=["{tree}/none.jsonl"]')
    told = gather(str(tmp_path / "out"))
    assert [source.kept.documents for source in told.sources] == [400, 0]
    assert "did not come to its mixture" in render(told)


def test_shards_of_a_build_train(recipe, tmp_path):
    pytest.importorskip("torch")
    from tiny_training import run_config

    from puna.train.pretrain import Inputs, pretrain
    from puna.workflows.text_to_model import open_shards

    run(recipe, tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    inputs = Inputs(shards.train, shards.heldout, shards.tokenizer, {})
    config = run_config({"vocabulary_size": 400}, steps=3)
    outcome = pretrain(config, inputs, tmp_path / "run", silent(), None)
    assert outcome.step == 3
    assert np.isfinite(outcome.loss)
