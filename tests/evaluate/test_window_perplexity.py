"""llama-perplexity's protocol against its formula written out, and against llama.cpp itself."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prefix_backend import PrefixBackend
from small_vocabulary import smollm2_gguf

from puna.errors import CheckpointError, DataError
from puna.evaluate.window_perplexity import (
    estimate,
    read_text,
    scored_nats,
    text_windows,
    window_chunks,
)
from puna.infer.backends.base import pages_for

VOCABULARY = 40


class Letters:
    """A tokenizer of one token a character, with a BOS."""

    bos_id = 0

    def __init__(self, *, adds_bos: bool) -> None:
        self.adds_bos = adds_bos

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        return [0] * bos + [1 + ord(letter) % (VOCABULARY - 1) for letter in text]


def their_formula(backend: PrefixBackend, ids: list[int], context: int, bos: int | None):
    """Perplexity and its error as tools/perplexity/perplexity.cpp computes them."""
    nll = nll2 = 0.0
    count = 0
    first = context // 2
    for start in range(0, len(ids) - context + 1, context):
        window = ids[start : start + context]
        if bos is not None:
            window[0] = bos
        for position in range(first, context - 1):
            logits = backend.logits(window[: position + 1]).astype(np.float64)
            value = math.log(np.exp(logits).sum()) - logits[window[position + 1]]
            nll, nll2, count = nll + value, nll2 + value * value, count + 1
    mean = nll / count
    error = math.sqrt((nll2 / count - mean**2) / (count - 1))
    return math.exp(mean), math.exp(mean) * error, count


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("context", [4, 7, 64, 1300])
def test_the_estimate_is_llama_perplexity_s(adds_bos: bool, context: int):
    tokenizer = Letters(adds_bos=adds_bos)
    text = "".join(chr(65 + (n * n + n // 7) % 26) for n in range(2700))
    backend = PrefixBackend(VOCABULARY)
    backend.reserve(pages_for(context))
    windows = text_windows(tokenizer, text, context)
    assert windows.shape == ((2700 + adds_bos) // context, context)
    found = estimate(np.concatenate([scored_nats(backend, window) for window in windows]))
    ids = tokenizer.encode(text, bos=adds_bos)
    wanted = their_formula(backend, ids, context, 0 if adds_bos else None)
    assert (found.perplexity, found.standard_error, found.tokens) == pytest.approx(wanted, rel=1e-5)


def test_a_long_window_is_read_in_pieces_and_every_scored_token_comes_once():
    window = np.arange(1000, 2000)
    chunks = list(window_chunks(window, rows=300))
    assert [(one.start, len(one.ids), one.wanted_rows) for one, _ in chunks] == [
        (0, 300, 0),
        (300, 300, 100),
        (600, 300, 300),
        (900, 99, 99),
    ]
    np.testing.assert_array_equal(np.concatenate([ids for _, ids in chunks]), window[501:])


def test_a_text_shorter_than_a_window_is_an_error():
    with pytest.raises(DataError, match="a window of 8 tokens is wanted, the text has 3"):
        text_windows(Letters(adds_bos=False), "abc", 8)


def test_scores_that_are_not_finite_are_an_error():
    backend = PrefixBackend(VOCABULARY)
    backend.table[3] = np.nan
    backend.reserve(1)
    with pytest.raises(CheckpointError, match="not finite"):
        scored_nats(backend, np.full(8, 3))


def test_a_text_is_read_as_it_is_less_one_line_end(tmp_path: Path):
    text = "\ufeffa\r\nü\n\n"
    (tmp_path / "a.raw").write_bytes(text.encode())
    (tmp_path / "a.raw.gz").write_bytes(gzip.compress(text.encode()))
    assert read_text(tmp_path / "a.raw") == read_text(tmp_path / "a.raw.gz") == text[:-1]


def test_a_text_that_cannot_be_read_is_an_error(tmp_path: Path):
    (tmp_path / "half.gz").write_bytes(gzip.compress(b"abc" * 99)[:-9])
    (tmp_path / "plain.gz").write_bytes(b"abc")
    (tmp_path / "latin.txt").write_bytes(b"\xfc\xfc")
    for name, message in (
        ("half.gz", "should be gzip, found it damaged"),
        ("plain.gz", "should be gzip, found it damaged"),
        ("latin.txt", "should be UTF-8 text"),
        ("nothing.txt", "should be a text file: No such file"),
        ("", "should be a text file: Is a directory"),
    ):
        with pytest.raises(DataError, match=message):
            read_text(tmp_path / name)


WIKITEXT = Path(__file__).parents[3] / "shared" / "benchmarks" / "wikitext2" / "wiki.test.raw.gz"
WINDOWS = 2
# llama.cpp rounds activations to eight bits, ours is float32: measured 0.1 % on these windows.
LARGEST_DIFFERENCE = 0.005
THEIRS = """
import gzip, json, sys
import numpy as np
from llama_cpp import Llama
path, text, count = sys.argv[1], gzip.open(sys.argv[2]).read()[:20000], int(sys.argv[3])
model = Llama(path, logits_all=True, n_ctx=512, n_batch=512, n_threads=1, verbose=False)
ids = model.tokenize(text, add_bos=True, special=False)
nats = []
for start in range(0, 512 * count, 512):
    model.reset()
    model.eval(ids[start : start + 512])
    logits = np.array(model.scores[256:511], dtype=np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    nats += (-logits[np.arange(255), ids[start + 257 : start + 512]]).tolist()
print(json.dumps({"ids": ids[: 512 * count], "nats": nats}))
"""


def test_smollm2_on_wikitext_is_llama_cpp_s():
    if not WIKITEXT.is_file():
        pytest.skip("needs WikiText-2 in ../shared/benchmarks")
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("needs llama.cpp: pip install 'puna[peers]' (it compiles for some minutes)")
    from puna.infer.engine import load_engine

    path = smollm2_gguf()
    command = [sys.executable, "-c", THEIRS, path, WIKITEXT, str(WINDOWS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    engine = load_engine(path, "numpy")
    windows = text_windows(engine.tokenizer, read_text(WIKITEXT)[:20000], 512)[:WINDOWS]
    assert windows.reshape(-1).tolist() == theirs["ids"]
    engine.backend.reserve(pages_for(512))
    ours = estimate(np.concatenate([scored_nats(engine.backend, one) for one in windows]))
    wanted = estimate(np.array(theirs["nats"]))
    assert ours.tokens == wanted.tokens == 255 * WINDOWS
    assert ours.perplexity == pytest.approx(wanted.perplexity, rel=LARGEST_DIFFERENCE)
    assert ours.standard_error == pytest.approx(wanted.standard_error, rel=0.02)
