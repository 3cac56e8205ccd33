"""The proof finds what goes wrong in conversions, and tells loss from mistakes."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from memory_source import MemorySource
from peak_memory import peak_of
from tiny_model import random_arrays, tiny_config

from puna.console import silent
from puna.errors import CheckpointError
from puna.infer.backends.base import Chunk
from puna.infer.backends.numpy_backend import NumpyBackend
from puna.weights.prove import MOST_TOKENS, proof_ids, prove
from puna.weights.source import bf16_to_float32, float32_to_bf16


def model(dtype: str = "F32", **changes) -> MemorySource:
    config = tiny_config(**changes)
    return MemorySource(config, random_arrays(config), dtype)


def changed(source: MemorySource, name: str, array: np.ndarray, dtype: str | None = None):
    return replace(source, arrays={**source.arrays, name: array}, dtype=dtype or source.dtype)


def half_split(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Hugging Face's order of rows, forgotten to be undone."""
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def in_bf16(source: MemorySource) -> MemorySource:
    arrays = {
        name: bf16_to_float32(float32_to_bf16(array)) for name, array in source.arrays.items()
    }
    return replace(source, arrays=arrays, dtype="BF16")


def test_the_same_weights_differ_by_nothing():
    proof = prove(model(), model(), None, silent())
    assert (proof.is_lossless, proof.largest_difference, proof.kl_nats) == (True, 0.0, 0.0)
    assert proof.agreement == 1.0
    assert "largest difference of logits 0 " in proof.shown()


def test_the_logits_are_those_of_the_numpy_backend():
    source = model()
    ids = proof_ids(source, None)
    backend = NumpyBackend(source.config, source.arrays)
    backend.reserve(1)
    logits = backend.step([Chunk(np.zeros(1, dtype=np.int32), 0, ids, len(ids))])
    proof = prove(source, source, None, silent())
    assert proof.largest_logit == np.abs(logits).max()
    assert proof.tokens == MOST_TOKENS == len(ids)


def test_a_loss_is_measured_and_named_a_loss():
    proof = prove(model(), in_bf16(model()), None, silent())
    assert not proof.is_lossless
    assert 0 < proof.largest_difference < 0.1 * proof.largest_logit
    assert 0 < proof.mean_difference < proof.largest_difference
    assert 0 <= proof.kl_nats < 0.01
    assert 0.0005 < proof.worst_rows < 0.004  # bf16 keeps 8 bits
    assert "lossy" in proof.shown()
    assert "KL divergence" in proof.shown()


@pytest.mark.parametrize("name", ["layers.0.attention.wq.weight", "layers.1.attention.wk.weight"])
@pytest.mark.parametrize("is_lossy", [False, True])
def test_the_forgotten_permutation_is_found_even_under_quantisation(name, is_lossy):
    source = model()
    result = changed(source, name, half_split(source.arrays[name], source.config.head_dim))
    if is_lossy:
        result = in_bf16(result)
    with pytest.raises(CheckpointError, match=f"the proof failed: .*{name}") as caught:
        prove(source, result, None, silent())
    assert "not kept" in str(caught.value.hint)


def test_a_permutation_is_found_where_attention_is_too_flat_to_show_it():
    config = tiny_config()
    arrays = random_arrays(config, scale=1e-4)
    name = "layers.0.attention.wq.weight"
    source = MemorySource(config, arrays)
    result = changed(source, name, half_split(arrays[name], config.head_dim), "BF16")
    with pytest.raises(CheckpointError, match="which no rounding explains"):
        prove(source, result, None, silent())


@pytest.mark.parametrize("pair", [("wq", "wo"), ("wo", "wq")])
def test_swapped_tensors_are_found(pair):
    source = model()
    one, other = (f"layers.0.attention.{name}.weight" for name in pair)
    with pytest.raises(CheckpointError, match="the proof failed"):
        prove(source, changed(source, one, source.arrays[other]), None, silent())


def test_a_single_changed_number_of_a_lossless_result_is_found_where_it_counts():
    source = model()
    array = source.arrays["output.weight"].copy()
    array[7, -1] += 0.5  # in no row that is compared: the logits have to tell
    with pytest.raises(CheckpointError, match="logits differ by"):
        prove(source, changed(source, "output.weight", array), None, silent())


def test_another_theta_or_epsilon_is_found():
    source = model()
    for change in ({"rope_theta": 500000.0}, {"norm_epsilon": 1e-3}):
        result = replace(source, config=replace(source.config, **change))
        with pytest.raises(CheckpointError, match="logits differ by"):
            prove(source, result, None, silent())


def test_a_result_that_is_not_finite_is_refused():
    source = model()
    array = np.full_like(source.arrays["norm.weight"], 3e38)
    result = replace(changed(source, "norm.weight", array), dtype="F16")
    with pytest.raises(CheckpointError, match="the proof failed"), np.errstate(all="ignore"):
        prove(source, result, None, silent())


def test_tied_and_untied_models_are_the_same_when_their_weights_are():
    tied = model(tied_embeddings=True)
    untied = MemorySource(
        replace(tied.config, tied_embeddings=False),
        {**tied.arrays, "output.weight": tied.arrays["tok_embeddings.weight"]},
    )
    assert prove(tied, untied, None, silent()).largest_difference == 0


def test_ids_stay_in_the_vocabulary_and_the_context():
    source = model(context_length=8, vocabulary_size=5)
    ids = proof_ids(source, None)
    assert len(ids) == 8
    assert ids.max() < 5


PEAK = """
import sys
import numpy as np
from peak_memory import peak_bytes
from puna.console import silent
from puna.model.sizes import ModelConfig
from puna.weights.prove import prove
from puna.weights.source import StoredTensor, TokenizerFiles, tensor_names

class Made:
    '''Tensors made when they are read.'''
    format, notes, path, tokenizer_files = "puna", (), "made", None
    config = ModelConfig(dim=1024, layers=int(sys.argv[1]), heads=8, vocabulary_size=16000)
    tensors = {n: StoredTensor(n, s, "F32", 0) for n, s in tensor_names(config).items()}
    def read(self, name):
        return np.full(self.tensors[name].shape, 0.01, dtype=np.float32)

prove(Made(), Made(), None, silent())
print(peak_bytes())
"""


def test_the_peak_of_memory_does_not_grow_with_the_layers():
    one, six = (peak_of([sys.executable, "-c", PEAK, str(layers)]) for layers in (1, 6))
    layer_bytes = 4 * (4 * 1024**2 + 3 * 1024 * 2752)
    assert six - one < layer_bytes / 2
