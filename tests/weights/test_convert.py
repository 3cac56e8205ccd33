"""Every format to every other and back, byte by byte where the type allows; and what is refused."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from memory_source import MemorySource
from peak_memory import peak_of
from tiny_model import random_arrays, tiny_config

from puna.console import Console, silent
from puna.errors import CheckpointError, DataError, MachineError, PunaError, UsageError
from puna.weights import convert as conversions
from puna.weights.convert import Conversion, convert
from puna.weights.open_model import load_tokenizer, open_model
from puna.weights.source import bf16_to_float32, float32_to_bf16

SHARED = Path(__file__).parents[3] / "shared" / "weights"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared/weights, which no clone carries, is absent"
)
TARGETS = ("hf", "meta", "gguf", "puna")


def place(folder: Path, target: str, name: str = "model") -> Path:
    return folder / (f"{name}.gguf" if target == "gguf" else f"{name}-{target}")


def made(source, target: str, folder: Path, name: str = "model", **wishes):
    """`source` converted, and opened again."""
    tokenizer = load_tokenizer(source) if has_tokenizer(source) else None
    destination = place(folder, target, name)
    proof = convert(source, destination, Conversion(target, **wishes), silent(), tokenizer)
    if not (destination.exists()):  # split
        destination = min(destination.parent.glob(f"{destination.stem}-*.gguf"))
    return open_model(destination), proof


def has_tokenizer(source) -> bool:
    files = source.tokenizer_files
    return bool(files.files) or files.gguf is not None


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {path.name: path.read_bytes()}
    files = sorted(one for one in path.rglob("*") if one.is_file())
    return {str(one.relative_to(path)): one.read_bytes() for one in files}


def assert_same_weights(one, other) -> None:
    assert set(one.tensors) == set(other.tensors)
    for name in one.tensors:
        assert one.read(name).tobytes() == other.read(name).tobytes(), name


@pytest.mark.parametrize(
    ("first", "second", "dtype"),
    [
        (first, second, dtype)
        for first, second in itertools.permutations(TARGETS, 2)
        for dtype in (("f32",) if first == "puna" else ("f32", "f16", "bf16"))
    ],
)
def test_there_and_back_gives_the_same_bytes(tiny_run, tmp_path: Path, first, second, dtype):
    """Weights, and tokenizers: a GGUF holds no file of one, so there it is what they say."""
    one, proof = made(open_model(tiny_run), first, tmp_path, dtype=dtype)
    assert proof.largest_difference <= proof.tolerance or dtype != "f32"
    assert {t.dtype for t in one.tensors.values() if len(t.shape) == 2} == {dtype.upper()}
    between, proof = made(one, second, tmp_path)
    assert (proof.is_lossless, proof.largest_difference <= proof.tolerance) == (True, True)
    again, proof = made(between, first, tmp_path, "again", dtype=dtype)
    assert_same_weights(one, between)
    assert_same_weights(one, again)
    assert one.tensors == again.tensors
    before, after = contents(one.path), contents(again.path)
    exact = [".pth", ".safetensors"] + ["tokenizer.model"] * ("gguf" not in (first, second))
    names = [name for name in before if name.endswith(tuple(exact))]
    assert names or first == "gguf"
    for name in names:
        assert before[name] == after[name], name
    for name in one.tensors if first == "gguf" else ():
        assert one.raw(name).tobytes() == again.raw(name).tobytes(), name
    assert load_tokenizer(one).vocabulary == load_tokenizer(again).vocabulary


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_any_number_of_meta_s_files(tiny_run, tmp_path: Path, shards):
    config = tiny_config(kv_heads=4)
    source = MemorySource(config, random_arrays(config))
    result, proof = made(source, "meta", tmp_path, shards=shards)
    assert len(list(result.path.glob("consolidated.*.pth"))) == shards
    assert proof.is_lossless
    again, _ = made(result, "meta", tmp_path, "again", shards=1)
    assert_same_weights(source, again)


@pytest.mark.parametrize(
    ("dtype", "largest_error"),
    [("q8_0", 0.01), ("q4_0", 0.12), ("q4_1", 0.12), ("q4_k", 0.1), ("q6_k", 0.03)],
)
def test_quantised_results_tell_their_loss(tmp_path: Path, dtype, largest_error):
    config = tiny_config(dim=256, heads=4, kv_heads=2)
    source = MemorySource(config, random_arrays(config, scale=0.05))
    tokens = load_tokenizer(open_model(tokenizer_run(tmp_path)))
    wish = Conversion("gguf", dtype=dtype)
    proof = convert(source, tmp_path / "m.gguf", wish, silent(), tokens)
    assert not proof.is_lossless
    assert 0 < proof.worst_rows < largest_error
    assert 0 < proof.mean_difference <= proof.largest_difference
    assert "lossy" in proof.shown()
    back, proof = made(open_model(tmp_path / "m.gguf"), "hf", tmp_path, dtype="f32")
    assert proof.is_lossless
    assert_same_weights(open_model(tmp_path / "m.gguf"), back)


def tokenizer_run(folder: Path) -> Path:
    from tiny_model import write_run, write_tokenizer

    config = tiny_config()
    return write_run(
        folder / "run", write_tokenizer(folder / "tokens"), config, random_arrays(config)
    )


def test_quantised_blocks_pass_through_as_they_are(tiny_run, tmp_path: Path):
    source = open_model(tiny_run)
    first, _ = made(source, "gguf", tmp_path, dtype="q8_0")
    second, proof = made(first, "gguf", tmp_path, "again")
    assert proof.is_lossless
    for name, tensor in first.tensors.items():
        assert second.tensors[name].dtype == tensor.dtype
        assert second.raw(name).tobytes() == first.raw(name).tobytes()


def test_the_tokenizer_and_its_ids_go_along(tiny_run, tmp_path: Path):
    source = open_model(tiny_run)
    text = "The llama 🦙 lives\n\n  here: 高原"
    wanted = load_tokenizer(source).encode(text)
    around = source
    for index, target in enumerate(("gguf", "hf", "puna", "meta", "gguf", "puna", "hf")):
        around, _ = made(around, target, tmp_path, f"model{index}", is_proved=False)
        assert load_tokenizer(around).encode(text) == wanted, target


def test_a_file_of_the_source_s_tokenizer_is_carried_as_it_is(tiny_run, tmp_path: Path):
    source = open_model(tiny_run)
    wanted = source.tokenizer_files.files["tokenizer.model"].read_bytes()
    for target in ("hf", "meta", "puna"):
        result, _ = made(source, target, tmp_path)
        assert (result.path / "tokenizer.model").read_bytes() == wanted


def test_a_tied_model_stays_tied_and_an_untied_one_untied(tmp_path: Path):
    for tied in (True, False):
        config = tiny_config(tied_embeddings=tied)
        source = MemorySource(config, random_arrays(config))
        for target in ("hf", "meta"):
            result, _ = made(source, target, tmp_path, f"{tied}")
            assert result.config.tied_embeddings is tied
            assert ("output.weight" in result.tensors) is not tied


def test_large_results_are_split_and_read_as_one(tiny_run, tmp_path: Path):
    source = open_model(tiny_run)
    for target in ("hf", "gguf"):
        result, proof = made(source, target, tmp_path, file_bytes=40_000)
        assert proof.is_lossless
        assert_same_weights(source, result)
    assert len(list(tmp_path.glob("model-*-of-*.gguf"))) > 1
    assert len(list((tmp_path / "model-hf").glob("model-*.safetensors"))) > 1


@pytest.mark.parametrize(("target", "what"), [("gguf", "GGUF"), ("puna", "checkpoint")])
def test_a_source_without_a_tokenizer_becomes_nothing_that_holds_one(tmp_path: Path, target, what):
    source = MemorySource(tiny_config(), random_arrays(tiny_config()))
    with pytest.raises(UsageError, match=f"a {what} holds its tokenizer") as caught:
        made(source, target, tmp_path)
    assert "--tokenizer-path" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


class Lying(MemorySource):
    """Weights that are other ones at each reading: what a broken writer would make of them."""

    def read(self, name: str) -> np.ndarray:
        if name == "layers.0.attention.wq.weight":
            self.arrays[name] = np.roll(self.arrays[name], 1, axis=0)
        return self.arrays[name]


@pytest.mark.parametrize("target", TARGETS)
def test_a_result_that_is_not_the_source_is_not_kept(tiny_run, tmp_path: Path, target):
    source = Lying(tiny_config(), random_arrays(tiny_config()))
    tokenizer = load_tokenizer(open_model(tiny_run))
    with pytest.raises(CheckpointError, match="the proof failed"):
        convert(source, place(tmp_path, target), Conversion(target), silent(), tokenizer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_there_is_kept_unless_told_otherwise(tiny_run, tmp_path: Path, target):
    source = open_model(tiny_run)
    first, _ = made(source, target, tmp_path)
    before = contents(first.path)
    dtype = "f32" if target == "puna" else "f16"
    with pytest.raises(CheckpointError, match="is there already") as caught:
        made(source, target, tmp_path, dtype=dtype)
    assert "--overwrite" in str(caught.value.hint)
    assert contents(first.path) == before
    second, _ = made(source, target, tmp_path, dtype=dtype, overwrites=True)
    assert dtype.upper() in {one.dtype for one in second.tensors.values()}
    assert [one.name for one in tmp_path.iterdir()] == [place(tmp_path, target).name]


def test_parts_of_an_earlier_result_are_replaced_too(tiny_run, tmp_path: Path):
    source = open_model(tiny_run)
    made(source, "gguf", tmp_path, file_bytes=40_000)
    with pytest.raises(CheckpointError, match=r"model-00001-of-\d+\.gguf is there already"):
        made(source, "gguf", tmp_path)
    made(source, "gguf", tmp_path, overwrites=True)
    assert [one.name for one in tmp_path.iterdir()] == ["model.gguf"]


def test_a_folder_with_other_things_is_never_overwritten(tiny_run, tmp_path: Path):
    (tmp_path / "model-hf").mkdir()
    (tmp_path / "model-hf" / "diary.txt").write_text("dear diary")
    with pytest.raises(CheckpointError, match="holds other things than a model"):
        made(open_model(tiny_run), "hf", tmp_path, overwrites=True)
    assert (tmp_path / "model-hf" / "diary.txt").read_text() == "dear diary"
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(UsageError, match="a GGUF is a file"):
        made(open_model(tiny_run), "gguf", tmp_path)
    (tmp_path / "model-meta").write_text("a file")
    with pytest.raises(DataError, match="should be a folder to write, found a file"):
        made(open_model(tiny_run), "meta", tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_killed_conversion_left_is_cleared_away(tiny_run, tmp_path: Path, target):
    final = place(tmp_path, target)
    leftover = tmp_path / f".{final.name}.partial-123"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"x" * 1000)
    made(open_model(tiny_run), target, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [final.name]


@pytest.mark.parametrize("target", TARGETS)
def test_an_interruption_leaves_nothing_behind(tiny_run, tmp_path: Path, target, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversions, "prove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(open_model(tiny_run), target, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_disk_that_is_full_or_fills_up_is_told(tiny_run, tmp_path: Path, target, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PunaError, match="No space left on device"):
        made(open_model(tiny_run), target, tmp_path)
    monkeypatch.setattr("puna.whole_folder.SPARE_BYTES", 1 << 60)
    with pytest.raises(MachineError, match=r"the model needs .* are free"):
        made(open_model(tiny_run), target, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"target": "hf", "dtype": "q8_0"}, "hf is written as f32, f16, bf16, got 'q8_0'"),
        ({"target": "gguf", "dtype": "q9_9"}, "got 'q9_9'"),
        ({"target": "hf", "shards": 2}, "only Meta's format"),
        ({"target": "meta", "shards": 0}, "at least 1"),
        ({"target": "meta", "file_bytes": 5}, "not by their size"),
        ({"target": "puna", "file_bytes": 5}, "a checkpoint's weights are one file"),
        ({"target": "puna", "dtype": "bf16"}, "puna is written as f32, got 'bf16'"),
    ],
)
def test_wishes_that_cannot_be_are_refused_before_anything_is_read(wishes, message):
    with pytest.raises(UsageError, match=message):
        Conversion(**wishes)


def test_meta_s_shards_must_divide_the_model(tiny_run, tmp_path: Path):
    with pytest.raises(PunaError, match="3"):
        made(open_model(tiny_run), "meta", tmp_path, shards=3)
    assert list(tmp_path.iterdir()) == []


def test_a_number_too_big_for_f16_is_refused_with_the_tensor_s_name(tmp_path: Path):
    arrays = random_arrays(tiny_config())
    arrays["layers.1.feed_forward.w2.weight"][3, 3] = 1e6
    source = MemorySource(tiny_config(), arrays)
    for target in ("hf", "meta"):
        with pytest.raises(CheckpointError, match=r"1\.feed_forward\.w2.*1e\+06, too big for F16"):
            made(source, target, tmp_path, dtype="f16")
    assert list(tmp_path.iterdir()) == []


def test_without_the_proof_the_result_is_the_same(tiny_run, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(conversions, "prove", None)
    result, proof = made(open_model(tiny_run), "hf", tmp_path, is_proved=False)
    assert proof is None
    assert_same_weights(open_model(tiny_run), result)


def test_a_bf16_source_is_not_widened(tmp_path: Path):
    config = tiny_config()
    arrays = {
        name: bf16_to_float32(float32_to_bf16(array))
        for name, array in random_arrays(config).items()
    }
    source = MemorySource(config, arrays, "BF16")
    for target in ("hf", "meta"):
        result, proof = made(source, target, tmp_path)
        assert {one.dtype for one in result.tensors.values()} == {"BF16"}
        assert proof.is_lossless


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        "stories260K/stories260K.bin",
        "stories260K/stories260K.gguf",
        "derived/stories260K-meta",
        "derived/stories260K-hf",
        "derived/executorch-demo-meta-mp1",
        "derived/executorch-demo-meta-mp2",
        "derived/executorch-demo-hf",
        "basaran-tiny-random-llama",
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_files_of_others_become_every_format_and_stay_the_same(tmp_path: Path, name, target):
    source = open_model(SHARED / name)
    tokenizer = load_tokenizer(
        source,
        None if has_tokenizer(source) else SHARED / "derived" / "tok512.model",
    )
    destination = place(tmp_path, target)
    proof = convert(source, destination, Conversion(target), silent(), tokenizer)
    assert proof.is_lossless
    result = open_model(destination)
    # Meta's files hold an output that is the embedding's copy once.
    assert set(source.tensors) - set(result.tensors) <= {"output.weight"}
    for tensor in result.tensors:
        assert source.read(tensor).tobytes() == result.read(tensor).tobytes(), tensor
    assert result.config.norm_epsilon == pytest.approx(source.config.norm_epsilon)
    assert load_tokenizer(result).vocabulary_size >= tokenizer.vocabulary_size


def test_progress_and_notes_go_to_stderr(tiny_run, tmp_path: Path, capsys):
    source = open_model(tiny_run)
    wish = Conversion("gguf", dtype="q4_k")  # rows of 32 fit no block of 256
    convert(source, tmp_path / "m.gguf", wish, Console(), load_tokenizer(source))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "warning" in printed.err


def test_a_model_is_copied_under_another_name_with_its_own_format(tiny_run, tmp_path: Path):
    first, _ = made(open_model(tiny_run), "hf", tmp_path)
    second, _ = made(first, "hf", tmp_path, "copy")
    before, after = contents(first.path), contents(second.path)
    assert before == after
    shutil.rmtree(first.path)
    assert_same_weights(open_model(tiny_run), second)


PEAK = """
import sys
from pathlib import Path
from peak_memory import peak_bytes
from puna.console import silent
from puna.weights.convert import Conversion, convert
from puna.weights.open_model import load_tokenizer, open_model

source, destination, target, dtype = sys.argv[1:]
opened = open_model(source)
wish = Conversion(target, dtype=dtype or None)
convert(opened, Path(destination), wish, silent(), load_tokenizer(opened))
print(peak_bytes())
"""


def test_the_peak_of_memory_does_not_grow_with_the_layers(tiny_run, tmp_path: Path):
    tokenizer = load_tokenizer(open_model(tiny_run))
    steps = [("meta", "hf", ""), ("hf", "gguf", "q8_0"), ("gguf", "puna", ""), ("puna", "meta", "")]
    peaks = {}
    for layers in (1, 8):
        config = tiny_config(dim=512, layers=layers, context_length=64)
        source = MemorySource(config, random_arrays(config))
        folder = tmp_path / str(layers)
        wish = Conversion("meta", dtype="f32", is_proved=False)
        convert(source, folder / "meta", wish, silent(), tokenizer)
        for first, target, dtype in steps:
            out = folder / f"{target}-new"
            command = [sys.executable, "-c", PEAK, str(folder / first), str(out), target, dtype]
            peaks[layers, target] = peak_of(command)
            if target != "meta":
                out.rename(folder / target)
    layer_bytes = 4 * (2 * 512**2 + 2 * 512 * 256 + 3 * 512 * config.ffn_dim)
    for _first, target, _dtype in steps:
        assert peaks[8, target] - peaks[1, target] < layer_bytes, target
