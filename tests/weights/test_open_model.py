"""A model is found by what its bytes say: in folders and files of any name, and by pulled names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from memory_source import MemorySource
from shared_weights import SHARED, needs_shared
from tiny_model import random_arrays, tiny_config

from puna.console import silent
from puna.errors import CheckpointError, PunaError, TokenizerError, UsageError
from puna.tokens.tokenizer import Tokenizer
from puna.weights.cache import Cache
from puna.weights.convert import Conversion, convert
from puna.weights.open_model import find_tokenizer, is_llama2c, load_tokenizer, open_model
from puna.weights.pull import pull


@pytest.fixture(scope="module")
def made(tiny_run, tmp_path_factory) -> dict[str, Path]:
    """One model in every format that Puna writes."""
    folder = tmp_path_factory.mktemp("made")
    source = open_model(tiny_run)
    tokenizer = load_tokenizer(source)
    places = {"hf": folder / "hf", "meta": folder / "meta", "gguf": folder / "model.gguf"}
    for target, place in places.items():
        convert(source, place, Conversion(target, is_proved=False), silent(), tokenizer)
    return {"puna": tiny_run, **places}


@pytest.mark.parametrize("form", ["puna", "hf", "meta", "gguf"])
def test_every_format_is_known_by_its_content(made, form):
    source = open_model(str(made[form]))
    assert source.format == form
    assert source.config.dim == 32
    assert load_tokenizer(source).vocabulary_size == 320


def test_only_runs_have_a_best_checkpoint(made):
    with pytest.raises(UsageError, match="only runs of Puna's have several"):
        open_model(made["gguf"], which="best")


def test_names_of_files_mean_nothing(made, tmp_path: Path):
    for name in ("model.safetensors", "x", "weights.pth"):
        (tmp_path / name).write_bytes(made["gguf"].read_bytes())
        assert open_model(tmp_path / name).format == "gguf"


def test_a_part_of_a_folder_stands_for_it(made):
    for form, names in {
        "hf": ("model.safetensors", "config.json"),
        "meta": ("consolidated.00.pth", "params.json"),
    }.items():
        for name in names:
            assert open_model(made[form] / name).format == form
    checkpoint = made["puna"] / "checkpoints" / "step-000007"
    for place in (checkpoint, checkpoint / "manifest.json", checkpoint / "model.safetensors"):
        assert open_model(place).format == "puna"


def test_a_gguf_in_a_folder_is_the_folder_s_model(made, tmp_path: Path):
    shutil.copy(made["gguf"], tmp_path / "a.gguf")
    (tmp_path / "README.md").write_text("hello")
    assert open_model(tmp_path).format == "gguf"
    shutil.copy(made["gguf"], tmp_path / "b.gguf")
    with pytest.raises(UsageError, match=r"holds 2 models: a\.gguf; b\.gguf") as caught:
        open_model(tmp_path)
    assert "name the file" in str(caught.value.hint)
    assert open_model(tmp_path / "b.gguf").format == "gguf"


def test_the_parts_of_a_split_gguf_are_one_model(tiny_run, tmp_path: Path):
    source = open_model(tiny_run)
    wish = Conversion("gguf", file_bytes=100_000, is_proved=False)
    convert(source, tmp_path / "m.gguf", wish, silent(), load_tokenizer(source))
    assert len(list(tmp_path.glob("m-*-of-*.gguf"))) > 1
    assert open_model(tmp_path).format == "gguf"


def test_two_formats_in_one_folder_are_two_models(made, tmp_path: Path):
    for form in ("hf", "meta"):
        shutil.copytree(made[form], tmp_path, dirs_exist_ok=True)
    with pytest.raises(UsageError, match="holds 2 models"):
        open_model(tmp_path)
    assert open_model(tmp_path / "params.json").format == "meta"
    assert open_model(tmp_path / "config.json").format == "hf"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "found an empty folder"),
        ({"README.md": b"hello"}, r"found only README\.md"),
        ({"config.json": b"[1, 2"}, r"found only config\.json"),
        ({"config.json": b'{"some": "config"}'}, r"found only config\.json"),
        ({"tokenizer.model": b"\n\x07\n\x03a"}, r"found only tokenizer\.model"),
    ],
)
def test_a_folder_without_a_model_says_what_it_holds(tmp_path: Path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file"),
        (b"<html>not found</html>", r"found a file that begins with b'<html>no'"),
        (b"PK\x03\x04 and more", r"holds weights \(torch\), but no params\.json or config\.json"),
        (b"\x02\0\0\0\0\0\0\0{}", r"holds weights \(safetensors\), but no config\.json"),
    ],
)
def test_a_file_that_is_no_model_says_what_it_is(tmp_path: Path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_model(tmp_path / "file")


def test_a_place_where_nothing_is_says_what_may_be_given(tmp_path: Path):
    with pytest.raises(CheckpointError, match="should be a model's folder, file or name") as caught:
        open_model(tmp_path / "none")
    assert "puna pull --list" in str(caught.value.hint)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_closed_file_is_said(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        open_model(tmp_path / "file")


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="should be a folder or a file, found neither"):
        open_model(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match=r"found only pipe"):
        open_model(tmp_path)


def test_a_name_too_long_for_a_file_is_one_error():
    with pytest.raises(CheckpointError, match="found nothing there"):
        open_model("x" * 5000)


def test_a_pulled_model_is_found_by_its_name(made, tmp_path: Path):
    cache = Cache(tmp_path)
    name = f"file://{made['gguf']}"
    with pytest.raises(CheckpointError, match="is not on this machine yet"):
        open_model(name, cache=cache)
    pull(name, cache, silent())
    assert open_model(name, cache=cache).format == "gguf"


def test_what_lies_on_the_disk_goes_before_a_name(made, tmp_path: Path, monkeypatch):
    shutil.copytree(made["hf"], tmp_path / "smollm2")
    monkeypatch.chdir(tmp_path)
    assert open_model("smollm2").format == "hf"


@pytest.mark.parametrize(("there", "asked"), [("30B", "33B"), ("33B", "30B"), ("30B", "33b")])
def test_30b_and_33b_are_found_under_either_name(made, tmp_path: Path, there, asked):
    shutil.copytree(made["meta"], tmp_path / there)
    assert open_model(tmp_path / asked).format == "meta"


def test_a_tokenizer_can_be_given(made, tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("params.json", "consolidated.00.pth"):
        shutil.copy(made["meta"] / name, bare)
    source = open_model(bare)
    assert find_tokenizer(source) is None
    with pytest.raises(TokenizerError, match="holds a model but no tokenizer") as caught:
        load_tokenizer(source)
    assert "--tokenizer-path" in str(caught.value.hint)
    given = load_tokenizer(source, made["meta"] / "tokenizer.model")
    assert isinstance(given, Tokenizer)


def test_a_checkpoint_as_a_source_gives_its_weights_and_how_far_it_was(tiny_run):
    source = open_model(tiny_run)
    assert (source.step, source.tokens) == (7, 7 * 4096)
    arrays = random_arrays(tiny_config())
    assert set(source.tensors) == set(arrays)
    for name, array in arrays.items():
        assert source.read(name).tobytes() == array.tobytes() == source.raw(name).tobytes()
        assert source.tensors[name].shape == array.shape


def test_weights_that_are_not_the_recipe_s_are_refused(tiny_run, tmp_path: Path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    folder = run / "checkpoints" / "step-000007"
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("layers = 2", "layers = 3"))
    manifest = json.loads((folder / "manifest.json").read_text())
    from puna.schema import sha256_file

    manifest["files"]["recipe.toml"] = {
        "bytes": recipe.stat().st_size,
        "sha256": sha256_file(recipe),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"layers\.2\.attention\.wk\.weight should be F32"):
        open_model(run)


def test_seven_numbers_that_make_no_llama_are_not_llama2c_s():
    def header(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "little", signed=True) for value in values)

    assert is_llama2c(header(64, 172, 5, 8, 4, 512, 512))
    assert is_llama2c(header(64, 172, 5, 8, 4, -512, 512))
    for wrong in (
        (64, 172, 5, 7, 7, 512, 512),
        (64, 172, 5, 8, 3, 512, 512),
        (64, 172, 0, 8, 4, 512, 512),
        (64, 172, 5, 8, 4, 512, -1),
        (1 << 25, 172, 5, 8, 4, 512, 512),
    ):
        assert not is_llama2c(header(*wrong))
    assert not is_llama2c(b"short")


@needs_shared
@pytest.mark.parametrize(
    ("place", "form", "parameters"),
    [
        ("stories260K/stories260K.bin", "llama2c", 260_032),
        ("stories260K/stories260K.gguf", "gguf", 292_800),  # its output is a copy
        ("derived/stories260K-meta", "meta", 260_032),
        ("derived/stories260K-hf", "hf", 260_032),
        ("derived/executorch-demo-meta-mp2", "meta", None),
        ("executorch-demo", "meta", None),
        ("basaran-tiny-random-llama", "hf", None),
    ],
)
def test_files_of_others_are_known(place, form, parameters):
    source = open_model(SHARED / place)
    assert source.format == form
    if parameters:
        assert sum(source.read(name).size for name in source.tensors) == parameters


@needs_shared
@pytest.mark.parametrize("size", [0, 1, 7, 8, 27, 28, 100, 600])
@pytest.mark.parametrize("name", ["stories260K/stories260K.bin", "stories260K/stories260K.gguf"])
def test_a_file_that_is_cut_off_is_one_error(tmp_path: Path, name, size):
    (tmp_path / "cut").write_bytes((SHARED / name).read_bytes()[:size])
    with pytest.raises(PunaError):
        open_model(tmp_path / "cut")


def test_a_model_in_memory_is_a_source_like_any_other(tmp_path: Path):
    config = tiny_config()
    source = MemorySource(config, random_arrays(config))
    convert(source, tmp_path / "hf", Conversion("hf"), silent())
    assert open_model(tmp_path / "hf").config.kv_heads == config.kv_heads == 2
