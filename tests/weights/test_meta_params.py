"""params.json: published sizes, what is concluded where it says nothing, and refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shared_weights import SHARED, needs_shared

from puna.errors import CheckpointError, PunaError
from puna.model.count import parameters
from puna.model.sizes import SIZES, ModelConfig, RopeScaling
from puna.weights.meta_params import Evidence, params_of, read_config, write_config

PUBLISHED = SHARED / "meta-v1-params"
PLAIN = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 4, "norm_eps": 1e-5}
LLAMA2_7B = {
    "dim": 4096,
    "multiple_of": 256,
    "n_heads": 32,
    "n_layers": 32,
    "norm_eps": 1e-05,
    "vocab_size": -1,
}
LLAMA2_70B = {
    "dim": 8192,
    "multiple_of": 4096,
    "ffn_dim_multiplier": 1.3,
    "n_heads": 64,
    "n_kv_heads": 8,
    "n_layers": 80,
    "norm_eps": 1e-05,
    "vocab_size": -1,
}
CODE_LLAMA_34B = {
    "dim": 8192,
    "n_layers": 48,
    "n_heads": 64,
    "n_kv_heads": 8,
    "multiple_of": 256,
    "ffn_dim_multiplier": 1.0,
    "norm_eps": 1e-5,
    "rope_theta": 1000000,
    "vocab_size": -1,
}
LLAMA3_8B = {
    "dim": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 128256,
    "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
}
LLAMA32_1B = {
    "dim": 2048,
    "ffn_dim_multiplier": 1.5,
    "multiple_of": 256,
    "n_heads": 32,
    "n_kv_heads": 8,
    "n_layers": 16,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
    "vocab_size": 128256,
}
MISTRAL_7B = {
    "dim": 4096,
    "n_layers": 32,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "sliding_window": 4096,
    "max_seq_len": 32768,
    "vocab_size": 32000,
}
SENTENCEPIECE = Evidence(vocabulary_size=32000)


def read(folder: Path, params: Any, evidence: Evidence | None = None):
    path = folder / "params.json"
    path.write_text(params if isinstance(params, str) else json.dumps(params))
    return read_config(path, evidence)


@needs_shared
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("7B", 6_738_415_616),
        ("13B", 13_015_864_320),
        ("30B", 32_528_943_616),
        ("65B", 65_285_660_672),
    ],
)
def test_llama_1_s_files_yield_the_exact_sizes(name: str, wanted: int):
    config, notes = read_config(PUBLISHED / name / "params.json", SENTENCEPIECE)
    assert parameters(config) == wanted
    assert config == SIZES["33B" if name == "30B" else name]
    assert config.context_length == 2048
    assert "LLaMA 1's" in notes[0]


@pytest.mark.parametrize(
    ("params", "evidence", "size", "hidden", "context"),
    [
        (LLAMA2_7B, SENTENCEPIECE, 6_738_415_616, 11008, 4096),
        (LLAMA2_70B, SENTENCEPIECE, 68_976_648_192, 28672, 4096),
        (CODE_LLAMA_34B, SENTENCEPIECE, 33_743_970_304, 22016, 16384),
        (LLAMA3_8B, None, 8_030_261_248, 14336, 8192),
        ({**LLAMA3_8B, "use_scaled_rope": True}, None, 8_030_261_248, 14336, 131_072),
        (LLAMA32_1B, Evidence(tied=True), 1_235_814_400, 8192, 131_072),
        (MISTRAL_7B, None, 7_241_732_096, 14336, 4096),
    ],
    ids="2-7B 2-70B code-34B 3-8B 3.1-8B 3.2-1B mistral".split(),  # noqa: SIM905
)
def test_later_models_have_their_published_sizes(params, evidence, size, hidden, context, tmp_path):
    config, notes = read(tmp_path, params, evidence)
    assert (parameters(config), config.ffn_dim) == (size, hidden)
    assert config.context_length == context
    assert len(notes) == 1
    assert str(context) in notes[0]


def test_llama_3_1_and_3_2_stretch_positions_by_their_own_factors(tmp_path: Path):
    for tied, factor in ((False, 8.0), (True, 32.0)):
        config, _ = read(tmp_path, LLAMA32_1B, Evidence(tied=tied))
        assert config.rope_scaling == RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    config, _ = read(tmp_path, {**LLAMA32_1B, "rope_scaling_factor": 16}, Evidence(tied=True))
    assert config.rope_scaling == RopeScaling("llama3", 16.0)


def test_an_unknown_model_gets_the_first_context_and_a_note(tmp_path: Path):
    config, notes = read(tmp_path, PLAIN, Evidence(512))
    assert config.context_length == 2048
    assert "nothing tells" in notes[0]
    config, notes = read(tmp_path, {**PLAIN, "max_seq_len": 333}, Evidence(512))
    assert (config.context_length, notes) == (333, ())
    config, notes = read(tmp_path, PLAIN, Evidence(512, mask_length=128))
    assert (config.context_length, notes) == (128, ())


def test_unknown_keys_are_told(tmp_path: Path):
    _, notes = read(
        tmp_path, {**PLAIN, "max_seq_len": 9, "colour": 1, "max_batch_size": 2}, Evidence(512)
    )
    assert notes == ("keys of params.json that Puna does not know: 'colour'",)


@pytest.mark.parametrize(
    "config",
    [
        *(replace(config, context_length=333) for config in SIZES.values()),
        *SIZES.values(),
        ModelConfig(hidden_dim=14336, dim=4096, heads=32, kv_heads=8),
        ModelConfig(hidden_dim=1536, dim=576, heads=9, kv_heads=3, tied_embeddings=True),
        ModelConfig(hidden_dim=5632, dim=2048, heads=32, kv_heads=4),
        ModelConfig(hidden_dim=97, dim=64),
        ModelConfig(hidden_dim=1, dim=64),
        ModelConfig(rope_theta=1e6),
        ModelConfig(rope_scaling=RopeScaling("llama3", 8.0)),
        ModelConfig(rope_scaling=RopeScaling("llama3", 12.5), tied_embeddings=True),
    ],
    ids=lambda config: f"{config.dim}-{config.ffn_dim}-{config.context_length}",
)
def test_every_shape_reads_back(config: ModelConfig, tmp_path: Path):
    evidence = Evidence(config.vocabulary_size, config.tied_embeddings)
    write_config(config, tmp_path, evidence)
    found, _ = read_config(tmp_path / "params.json", evidence)
    same = {"kv_heads": config.kv_heads, "hidden_dim": config.hidden_dim}
    assert replace(found, multiple_of=config.multiple_of, **same) == config
    assert (found.ffn_dim, found.kv_head_count) == (config.ffn_dim, config.kv_head_count)


@needs_shared
def test_what_is_written_of_llama_1_is_what_meta_wrote(tmp_path: Path):
    for name in ("7B", "13B", "30B", "65B"):
        wanted = json.loads((PUBLISHED / name / "params.json").read_text())
        config, _ = read_config(PUBLISHED / name / "params.json", SENTENCEPIECE)
        write_config(config, tmp_path, SENTENCEPIECE)
        text = (tmp_path / "params.json").read_text()
        assert text.strip() == json.dumps({**wanted, "vocab_size": 32000})
        assert not (tmp_path / "puna.json").exists()


@pytest.mark.parametrize(
    "scaling",
    [RopeScaling("linear", 2.0), RopeScaling("dynamic", 2.0), RopeScaling("llama3", 8.0, 2.0)],
    ids=["linear", "dynamic", "another llama3"],
)
def test_a_scaling_that_meta_s_programs_lack_is_refused(scaling: RopeScaling):
    with pytest.raises(CheckpointError, match="Meta's format has no"):
        params_of(ModelConfig(rope_scaling=scaling))


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ("{", "should be JSON"),
        (" " * (4 << 20) + "{}", "should have at most"),
        ({}, "dim should be a whole number from 1, found nothing"),
        ({**PLAIN, "n_heads": None}, "n_heads should be a whole number from 1, found"),
        ({**PLAIN, "dim": 0}, "dim should be a whole number from 1, found 0"),
        ({**PLAIN, "dim": -64}, "found -64"),
        ({**PLAIN, "dim": 64.0}, r"found 64\.0"),
        ({**PLAIN, "dim": "64"}, "found '64'"),
        ({**PLAIN, "dim": True}, "found True"),
        ({**PLAIN, "dim": 2**40}, "found 1099511627776"),
        ({**PLAIN, "dim": [64]}, "found list"),
        ({**PLAIN, "vocab_size": -2}, "vocab_size should be"),
        ({**PLAIN, "vocab_size": 0}, "vocab_size should be"),
        ({**PLAIN, "vocab_size": 500}, "vocab_size is 500, but the embedding has 512 rows"),
        ({**PLAIN, "n_heads": 7}, "heads times an even head size"),
        ({**PLAIN, "n_kv_heads": 3}, "kv_heads must divide"),
        ({**PLAIN, "head_dim": 16}, "head_dim should be dim / n_heads = 8"),
        ({**PLAIN, "norm_eps": 0}, "norm_eps should be a number above 0"),
        ({**PLAIN, "norm_eps": "1e-5"}, "norm_eps should be"),
        ({**PLAIN, "rope_theta": -1.0}, "rope_theta should be"),
        ({**PLAIN, "use_scaled_rope": 1}, "use_scaled_rope should be true or false"),
        ({**PLAIN, "moe": {"num_experts": 8}}, "moe means a mixture of experts"),
        ({**PLAIN, "quantization_args": {"group_size": 32}}, "quantised by torchao"),
        ({**PLAIN, "use_qk_norm": True}, "normalised queries and keys"),
    ],
)
def test_a_params_json_that_cannot_be_is_refused(params: Any, told: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=told) as error:
        read(tmp_path, params, Evidence(512))
    assert "params.json" in error.value.message


def test_a_missing_file_and_an_unknown_vocabulary_are_told(tmp_path: Path):
    with pytest.raises(CheckpointError, match="found nothing there"):
        read_config(tmp_path / "params.json")
    with pytest.raises(CheckpointError, match="no weights tell it"):
        read(tmp_path, PLAIN)
    (tmp_path / "params.json").unlink()
    (tmp_path / "params.json").mkdir()
    with pytest.raises(CheckpointError, match="no regular file"):
        read_config(tmp_path / "params.json")


@pytest.mark.parametrize(
    "content",
    [
        "nonsense",
        "{}",
        '{"schema": "puna.meta", "version": 99}',
        '{"schema": "puna.meta", "version": 1, "context_length": 0}',
        '{"schema": "puna.meta", "version": 1, "tied_embeddings": 1}',
    ],
)
def test_a_puna_json_that_is_none_of_ours_is_refused(content: str, tmp_path: Path):
    (tmp_path / "puna.json").write_text(content)
    with pytest.raises(PunaError, match=r"puna\.json"):
        read(tmp_path, PLAIN, Evidence(512))
