"""The named sizes: the paper's to the last parameter, our own by what their names say."""

from __future__ import annotations

import dataclasses

import pytest

from puna.errors import ConfigError
from puna.model import count
from puna.model.sizes import SIZES, ModelConfig, RopeScaling, named

# Table 2 of the paper, and the exact counts of the released checkpoints.
PAPER = {
    "7B": (4096, 32, 32, 11008, 6_738_415_616),
    "13B": (5120, 40, 40, 13824, 13_015_864_320),
    "33B": (6656, 52, 60, 17920, 32_528_943_616),
    "65B": (8192, 64, 80, 22016, 65_285_660_672),
}
UNITS = {"M": 1e6, "B": 1e9}
SMALL = [name for name in SIZES if name not in PAPER]
NAME_TOLERANCE = 0.1  # a name is rounded: 110M stands for 109.5 million


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_sizes_have_its_shapes_and_the_releases_counts(name):
    config = named(name)
    assert (config.dim, config.heads, config.layers, config.ffn_dim) == PAPER[name][:4]
    assert count.parameters(config) == PAPER[name][4]
    assert (config.vocabulary_size, config.head_dim, config.context_length) == (32000, 128, 2048)
    assert not config.tied_embeddings
    assert config.kv_head_count == config.heads


@pytest.mark.parametrize("name", SIZES)
def test_a_model_built_without_memory_has_as_many_parameters_as_counted(name):
    torch = pytest.importorskip("torch")
    from puna.model.llama import Llama

    with torch.device("meta"):
        model = Llama(named(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == count.parameters(
        named(name)
    )


def test_our_own_sizes_are_the_ones_promised():
    assert SMALL == ["3M", "15M", "42M", "110M", "350M", "1B"]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_size_has_about_the_parameters_its_name_says(name):
    wanted = float(name[:-1]) * UNITS[name[-1]]
    assert count.parameters(named(name)) == pytest.approx(wanted, rel=NAME_TOLERANCE)


@pytest.mark.parametrize(("name", "wanted"), [("15M", 15.2e6), ("42M", 42.1e6), ("110M", 109.5e6)])
def test_three_small_sizes_are_the_known_stories_models(name, wanted):
    """llama2.c's shapes (dim, layers, heads): 288/6/6, 512/8/8 and 768/12/12, embeddings tied."""
    assert count.parameters(named(name)) == pytest.approx(wanted, rel=0.002)


def test_smollm2_135m_has_its_published_count():
    """Grouped queries and tied embeddings, counted by others: 134,515,008."""
    config = ModelConfig(
        dim=576,
        layers=30,
        heads=9,
        kv_heads=3,
        hidden_dim=1536,
        vocabulary_size=49152,
        tied_embeddings=True,
    )
    assert count.parameters(config) == 134_515_008


@pytest.mark.parametrize("dim", [8, 32, 250, 256, 4096, 5120, 6656, 8192])
@pytest.mark.parametrize("multiple_of", [1, 32, 256])
def test_the_hidden_size_is_the_next_multiple_above_two_thirds_of_4d(dim, multiple_of):
    hidden = ModelConfig(dim=dim, heads=1, multiple_of=multiple_of).ffn_dim
    assert hidden % multiple_of == 0
    assert hidden >= int(8 * dim / 3) > hidden - multiple_of


def test_names_are_found_however_they_are_written():
    assert named("7b") is named("LLaMA-7B") is named("6.7B")
    assert named("30B") is named("33B")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        named("14M")
    assert "'14M'" in caught.value.message
    assert "15M" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "named_key"),
    [
        ({"dim": 0}, "dim"),
        ({"layers": 0}, "layers"),
        ({"layers": -1}, "layers"),
        ({"heads": 0}, "heads"),
        ({"vocabulary_size": 0}, "vocabulary_size"),
        ({"context_length": 0}, "context_length"),
        ({"multiple_of": 0}, "multiple_of"),
        ({"hidden_dim": 0}, "hidden_dim"),
        ({"norm_epsilon": -1e-5}, "norm_epsilon"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"dim": 100, "heads": 3}, "heads times an even head size"),
        ({"dim": 12, "heads": 4}, "heads times an even head size"),
        ({"kv_heads": 3}, "kv_heads"),
        ({"kv_heads": 0}, "kv_heads"),
        ({"kv_heads": -2}, "kv_heads"),
        ({"kv_heads": 8}, "kv_heads"),
    ],
)
def test_impossible_shapes_are_refused_by_name(changes, named_key):
    with pytest.raises(ConfigError, match=named_key):
        ModelConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "named_key"),
    [
        ({"factor": 0.0}, "factor"),
        ({"low_frequency_factor": 4.0, "high_frequency_factor": 4.0}, "high_frequency_factor"),
        ({"original_context_length": 0}, "original_context_length"),
    ],
)
def test_impossible_rope_scaling_is_refused_by_name(changes, named_key):
    with pytest.raises(ConfigError, match=named_key):
        RopeScaling(**{"kind": "llama3", "factor": 8.0, **changes})


def test_dynamic_scaling_needs_more_than_one_pair_a_head():
    scaling = RopeScaling("dynamic", 2.0, original_context_length=16)
    with pytest.raises(ConfigError, match="at least 4 values, got 2"):
        ModelConfig(dim=8, heads=4, rope_scaling=scaling)


@pytest.mark.parametrize(
    ("kind", "original", "wanted"),
    [("linear", 16, 256), ("llama3", 16, 256), ("dynamic", 16, 16), ("dynamic", 512, 256)],
)
def test_only_dynamic_scaling_goes_by_the_length_of_a_sequence(kind, original, wanted):
    scaling = RopeScaling(kind, 4.0, original_context_length=original)
    assert ModelConfig(rope_scaling=scaling).unstretched_length == wanted
    assert ModelConfig().unstretched_length == 256


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        named("7B").dim = 1  # type: ignore[misc]
