"""What `import puna` promises: a small, lazy, typed API."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import puna
from puna.errors import CheckpointError, ConfigError

IMPORT_SECONDS = 0.1


def in_fresh_python(code: str) -> str:
    """What a new interpreter prints after running the code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_puna_is_quick_and_imports_nothing_heavy():
    code = """
import sys, time
before = set(sys.modules); began = time.perf_counter()
import puna
seconds = time.perf_counter() - began
heavy = {"torch", "numpy", "sentencepiece", "tqdm", "safetensors"} & set(sys.modules)
print(seconds, sorted(heavy), sorted(m for m in set(sys.modules) - before if m.startswith("puna")))
"""
    found = [in_fresh_python(code).split(" ", 1) for _ in range(3)]
    assert {rest for _, rest in found} == {"[] ['puna']"}
    assert min(float(seconds) for seconds, _ in found) < IMPORT_SECONDS


def test_the_public_names_are_these_sorted_and_there():
    assert puna.__all__ == ["Model", "Tokenizer", "__version__", "load"]
    assert puna.__all__ == sorted(puna.__all__)
    assert set(puna.__all__) <= set(dir(puna))
    for name in puna.__all__:
        assert getattr(puna, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = puna.lod


def test_every_public_function_is_documented_and_typed():
    methods = [member for name, member in vars(puna.Model).items() if not name.startswith("_")]
    for member in [puna, puna.load, puna.Model, puna.Tokenizer, *methods]:
        assert inspect.getdoc(member)
        function = getattr(member, "fget", member)
        if inspect.isfunction(function):
            signature = inspect.signature(function)
            assert signature.return_annotation is not signature.empty


def test_a_loaded_model_generates_and_streams_the_same_text(tiny_run):
    model = puna.load(tiny_run)
    text = model.generate("The llama", max_tokens=12, temperature=0.9, seed=3)
    stream = model.stream("The llama", max_tokens=12, temperature=0.9, seed=3)
    assert "".join(stream) == text != ""
    assert stream.result.generated_tokens == 12
    assert puna.load(str(tiny_run)).generate("The llama", max_tokens=12, seed=3, temperature=0.9)


def test_a_loaded_model_shows_its_config_and_tokenizer(tiny_run):
    model = puna.load(tiny_run, backend="numpy")
    assert (model.config.context_length, model.config.vocabulary_size) == (64, 320)
    assert isinstance(model.tokenizer, puna.Tokenizer)
    assert model.tokenizer.decode(model.tokenizer.encode("¡Hola!")) == "¡Hola!"
    assert "step-000007" in repr(model)


def test_stop_may_be_one_text_or_several(tiny_run):
    model = puna.load(tiny_run)
    text = model.generate("The", max_tokens=20, temperature=0)
    cut = model.generate("The", max_tokens=20, temperature=0, stop=text[3])
    assert cut == text[: text.index(text[3])]
    assert model.generate("The", max_tokens=20, temperature=0, stop=[text[3]]) == cut


def test_wrong_use_gives_our_errors(tiny_run, tmp_path):
    with pytest.raises(CheckpointError, match="should hold a model"):
        puna.load(tmp_path)
    with pytest.raises(ConfigError, match="temperature"):
        puna.load(tiny_run).generate("The", temperature=-1)


def test_generating_with_numpy_never_imports_torch(tiny_run):
    code = (
        f"import sys, puna; puna.load({str(tiny_run)!r}, backend='numpy').generate('The');"
        "print('torch' in sys.modules)"
    )
    assert in_fresh_python(code) == "False"
