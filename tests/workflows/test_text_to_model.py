"""A folder of one's own text becomes a model, in one go; what is done is reused."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from tiny_training import VOCABULARY, inputs, learnt, recipe_text, stop_at
from token_texts import documents

from puna import config as recipes
from puna import hardware
from puna.console import Console, silent
from puna.errors import ConfigError, DataError, MachineError
from puna.train.metrics import read_metrics
from puna.weights.checkpoint import find_checkpoint, read_model
from puna.workflows.recipe import Recipe, load_recipe

torch = pytest.importorskip("torch")

from puna.workflows.text_to_model import (  # noqa: E402
    Text,
    open_shards,
    train_on_shards,
    train_on_text,
)


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch):
    rate = hardware.Rate(1e12, "not measured")
    monkeypatch.setattr(hardware, "matmul_rate", lambda *_: rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 documents as a user has them: files of four kinds, one below another folder."""
    import zstandard

    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'puna[data]'")
    from pyarrow import parquet

    root = tmp_path / "my texts"
    (root / "more").mkdir(parents=True)
    texts = documents(60)
    for name, text in texts[:20]:
        (root / "more" / f"{name}.txt").write_text(text)
    for name, text in texts[20:22]:
        (root / f"{name}.md").write_text(text)
    (root / "code.py").write_text("def count(self):\n    return 1\n" * 20)
    lines = [json.dumps({"content": text, "license": "CC0"}) for _, text in texts[22:40]]
    compressed = zstandard.ZstdCompressor().compress("\n".join(lines).encode())
    (root / "lines.jsonl.zst").write_bytes(compressed)
    rows = pyarrow.table({"text": [text for _, text in texts[40:]]})
    parquet.write_table(rows, root / "rows.parquet")
    (root / "picture.png").write_bytes(b"\x89PNG")
    return root


def recipe(tmp_path: Path, **train) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(**{"sample_tokens": 4, "sample_prompt": "the llama", **train}))
    return load_recipe(path)


def text(folder: Path, **facts) -> Text:
    return Text([folder], **facts)


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def test_a_folder_becomes_a_model_that_generates(folder, tmp_path):
    out = tmp_path / "run"
    plan = recipe(tmp_path)
    outcome = train_on_text(plan, text(folder, licence="mine"), out, silent(), "puna train ...")
    assert (outcome.step, outcome.reason, outcome.exit_code) == (12, "finished", 0)
    run = read_metrics(out / "metrics.jsonl")
    # 20 .txt, 2 .md, 1 .py, 18 lines, 20 rows; one in twenty is held out.
    assert run.session.corpus["documents"] == 61 - 3
    assert set(run.session.corpus["licences"]) == {"mine", "CC0"}
    assert set(run.session.corpus["sources"]) == {"my texts"}
    assert run.session.command == "puna train ..."
    assert [sample.step for sample in run.samples] == [5, 10, 12]
    assert all(sample.prompt == "the llama" and sample.text for sample in run.samples)
    assert run.validations
    stored = read_model(out)
    assert stored.config.vocabulary_size == VOCABULARY

    from puna.infer.engine import load_engine
    from puna.infer.sampling_params import SamplingParams

    engine = load_engine(out, "numpy")
    assert "".join(engine.stream("the llama", SamplingParams(max_tokens=5)))


def test_heldout_text_is_never_trained_on(folder, tmp_path):
    out = tmp_path / "run"
    train_on_text(recipe(tmp_path), text(folder), out, silent())
    shards = open_shards(out / "shards")
    decoded = [
        [shards.tokenizer.decode(part.document(i).tolist()) for i in range(part.documents)]
        for part in (shards.train, shards.heldout)
    ]
    assert len(decoded[1]) == 3
    assert not set(decoded[0]) & set(decoded[1])


def test_given_again_it_says_what_it_keeps_and_changes_no_file(folder, tmp_path):
    out = tmp_path / "run"
    train_on_text(recipe(tmp_path), text(folder), out, silent())
    before, said = files(out), io.StringIO()
    outcome = train_on_text(recipe(tmp_path), text(folder), out, Console(stderr=said))
    assert (outcome.steps_now, outcome.exit_code) == (0, 0)
    assert files(out) == before
    for words in ("kept as it is", "using it", "already trained"):
        assert words in said.getvalue()


def test_stopped_and_given_again_it_goes_on(folder, tmp_path, monkeypatch):
    out, whole = tmp_path / "run", tmp_path / "whole"
    train_on_text(recipe(tmp_path), text(folder), whole, silent())
    with monkeypatch.context() as patch:
        stopping = stop_at(5)["sample"]
        patch.setattr("puna.workflows.text_to_model._writer", lambda *_: stopping)
        outcome = train_on_text(recipe(tmp_path, sample_every=1), text(folder), out, silent())
    assert (outcome.step, outcome.exit_code) == (5, 143)
    outcome = train_on_text(recipe(tmp_path), text(folder), out, silent())
    assert (outcome.step, outcome.steps_now) == (12, 7)
    assert learnt(out) == learnt(whole)


def test_changed_text_is_refused_and_nothing_is_lost(folder, tmp_path):
    out = tmp_path / "run"
    train_on_text(recipe(tmp_path), text(folder), out, silent())
    before = files(out)
    (folder / "new.txt").write_text("one more text")
    with pytest.raises(DataError, match="the text it is made from changed"):
        train_on_text(recipe(tmp_path), text(folder), out, silent())
    assert files(out) == before


def test_the_recipe_beside_the_run_is_whole_and_makes_the_same_run_again(folder, tmp_path):
    out, again = tmp_path / "run", tmp_path / "again"
    plan = recipe(tmp_path)
    plan = dataclasses.replace(plan, corpus=dataclasses.replace(plan.corpus, heldout_every=15))
    train_on_text(plan, text(folder), out, silent())
    written = load_recipe(out / "recipe.toml")
    assert written.corpus.heldout_every == 15
    assert written.tokenizer.vocabulary_size == written.model.vocabulary_size == VOCABULARY
    train_on_text(written, text(folder), again, silent())
    assert learnt(again) == learnt(out)


def test_what_cannot_be_is_refused_before_any_text_is_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "run"
    for changes, kind, message in (
        ({"device": "cuda"}, MachineError, "device cuda was asked for"),
        ({"precision": "bf16"}, MachineError, "precision bf16 was asked for"),
        ({"model": {"dim": 65536, "layers": 64}}, MachineError, "even with one sequence"),
    ):
        with pytest.raises(kind, match=message):
            train_on_text(recipe(tmp_path, **changes), text(folder), out, silent())
    asked = recipes.load(Recipe, tmp_path / "recipe.toml", ["model.vocabulary_size=999"])
    with pytest.raises(ConfigError, match=r"vocabulary_size is 999, the tokenizer has 320 pieces"):
        train_on_text(asked, text(folder), out, silent())
    assert not out.exists()


def test_more_passes_than_teach_anything_are_warned_of(tiny_shards, tmp_path):
    said = io.StringIO()
    plan = recipe(tmp_path, steps=2000)
    taken = inputs(tiny_shards)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("puna.workflows.text_to_model.pretrain", stop)
        with pytest.raises(Stop):
            train_on_shards(plan, open_shards(tiny_shards), tmp_path / "run", Console(stderr=said))
    epochs = 2000 * 128 / taken.train.tokens
    assert f"reads this text {epochs:.1f} times" in said.getvalue()
    fitting = int(said.getvalue().split("train.steps=")[1].split()[0])
    assert fitting * 128 / taken.train.tokens == pytest.approx(4, rel=0.01)


def test_a_sample_is_what_the_checkpoint_generates(tiny_shards, tmp_path):
    """The live model and the stored one are the same."""
    out = tmp_path / "run"
    plan = recipe(tmp_path)
    train_on_shards(plan, open_shards(tiny_shards), out, silent())
    told = read_metrics(out / "metrics.jsonl").samples[-1]

    from puna.infer.engine import load_engine
    from puna.infer.sampling_params import SamplingParams

    engine = load_engine(find_checkpoint(out), "torch")
    params = SamplingParams(max_tokens=4, seed=plan.train.seed, temperature=0.8)
    assert "".join(engine.stream("the llama", params)) == told.text


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_shards_is_refused(tmp_path, made):
    if made:
        (tmp_path / "shards").mkdir()
    found = "another folder" if made else "nothing"
    with pytest.raises(DataError, match=f"should hold token shards .* found {found}"):
        open_shards(tmp_path / "shards")


def test_damaged_shards_are_refused_before_a_run(tiny_shards, tmp_path):
    import shutil

    copy = shutil.copytree(tiny_shards, tmp_path / "shards")
    path = copy / "train" / "tokens-00000.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokens-00000\.bin was changed"):
        open_shards(copy)
