"""Which model is meant: a size by name, a published shape, a folder or file, a parameter count."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from puna.config import find_recipe, from_table, nearest, read_toml
from puna.console import parse_count
from puna.errors import CheckpointError, ConfigError
from puna.model import count
from puna.model.sizes import ALIASES, SIZES, ModelConfig, RopeScaling, named

HEAD_DIM = 128
LAYER_DIM = 120  # dim / layers of the paper's sizes: 128, 128, 111, 102


def _published(
    dim: int, layers: int, hidden_dim: int, kv_heads: int, *, pieces: int, context: int
) -> ModelConfig:
    return ModelConfig(
        dim=dim,
        layers=layers,
        heads=dim // HEAD_DIM,
        kv_heads=kv_heads,
        hidden_dim=hidden_dim,
        vocabulary_size=pieces,
        context_length=context,
    )


_STRETCHED = RopeScaling("llama3", 8.0)
# From the models' own config.json.
PUBLISHED: dict[str, ModelConfig] = {
    "SmolLM2-135M": ModelConfig(
        dim=576,
        layers=30,
        heads=9,
        kv_heads=3,
        hidden_dim=1536,
        vocabulary_size=49152,
        context_length=8192,
        tied_embeddings=True,
    ),
    "TinyLlama-1.1B": ModelConfig(
        dim=2048,
        layers=22,
        heads=32,
        kv_heads=4,
        hidden_dim=5632,
        vocabulary_size=32000,
        context_length=2048,
    ),
    "Llama2-7B": _published(4096, 32, 11008, 32, pieces=32000, context=4096),
    "Llama2-13B": _published(5120, 40, 13824, 40, pieces=32000, context=4096),
    "Llama2-70B": _published(8192, 80, 28672, 8, pieces=32000, context=4096),
    "Llama3-8B": _published(4096, 32, 14336, 8, pieces=128256, context=8192),
    "Llama3-70B": _published(8192, 80, 28672, 8, pieces=128256, context=8192),
    "Llama3.1-405B": replace(
        _published(16384, 126, 53248, 8, pieces=128256, context=131072), rope_scaling=_STRETCHED
    ),
}


def model(name: str) -> ModelConfig:
    """The shape that a name means: a size (7B), a published model (llama2-70b), a recipe, a
    model's folder or file (a config.json alone will do), or a LLaMA-like one of any count (3B).

    Raises ConfigError that names the nearest where there is none of these, CheckpointError for a
    model that cannot be read.
    """
    published = {_plain(key): config for key, config in PUBLISHED.items()}
    if _plain(name) in published:
        return published[_plain(name)]
    size = name.upper().removeprefix("LLAMA-")
    if size in SIZES or size in ALIASES:
        return named(name)
    if re.fullmatch(r"\d+(\.\d+)?[MBT]", size):
        return shape_of(parse_count(size))
    if name.endswith(".toml"):
        return _of_recipe(find_recipe(Path(name)))
    return _on_disk(name)


def _of_recipe(path: Path) -> ModelConfig:
    """The shape that a recipe trains, with its tokenizer's vocabulary."""
    table = read_toml(path)
    if "sizes" in table:
        raise ConfigError(f"{path} is a ladder of many models", hint=f"puna plan sweep {path}")
    if not isinstance(table.get("model"), dict):
        raise ConfigError(f"{path} should be a recipe with a [model], found none")
    vocabulary = {
        key: value for key, value in table.get("tokenizer", {}).items() if key == "vocabulary_size"
    }
    return from_table(ModelConfig, {**vocabulary, **table["model"]}, str(path))


def _on_disk(name: str) -> ModelConfig:
    from puna.weights.huggingface_config import read_config
    from puna.weights.open_model import open_model

    try:
        return open_model(name).config
    except CheckpointError:
        described = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
        if described.name == "config.json" and described.is_file():
            return read_config(described)[0]
        if Path(name).exists():
            raise
        raise ConfigError(
            f"there is no size, published shape, recipe, folder or pulled model {name!r}",
            hint=nearest(name, [*SIZES, *PUBLISHED]),
        ) from None


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]", "", name.lower())


def shape_of(parameters: float, vocabulary_size: int = 32000, group: int = 1) -> ModelConfig:
    """A LLaMA-like shape with about that many parameters, embeddings included.

    Heads of 128 (fewer values where the model is small), dim / layers as in the paper's sizes;
    up to `group` heads share keys and values (1: none do, as in the paper). Within 5 % of the
    count from 15M parameters on. Raises ConfigError below 1 million.
    """
    if parameters < 1e6:
        raise ConfigError(f"a model of {parameters:,.0f} parameters is no LLaMA: at least 1M")
    best: ModelConfig | None = None
    ideal = (parameters * LAYER_DIM / 12) ** (1 / 3)
    step = HEAD_DIM if ideal > 8 * HEAD_DIM else 64
    for dim in range(step, int(1.3 * ideal) + 2 * step, step):
        one = _like(dim, vocabulary_size, group)
        if 2 * (one.heads // one.kv_head_count) < min(group, one.heads):
            continue  # a number of heads that has no such groups: 11, 13, 22
        layer = count.parameters(replace(one, layers=2)) - count.parameters(one)
        layers = round((parameters - count.parameters(one)) / layer) + 1
        config = replace(one, layers=max(1, layers))
        if best is None or _misfit(config, parameters) < _misfit(best, parameters):
            best = config
    assert best is not None
    return best


def _like(dim: int, vocabulary_size: int, group: int) -> ModelConfig:
    """One layer of the shape."""
    heads = max(1, dim // HEAD_DIM) if dim % HEAD_DIM == 0 else dim // 64
    return ModelConfig(
        dim=dim,
        layers=1,
        heads=heads,
        kv_heads=_fewest(heads, group) if group > 1 else None,
        vocabulary_size=vocabulary_size,
        context_length=2048,
        multiple_of=256 if dim > 1024 else 64,
        tied_embeddings=dim <= 768,
    )


def _fewest(heads: int, group: int) -> int:
    """The fewest heads of keys and values, each for up to `group` of the queries'."""
    return next(one for one in range(-(-heads // group), heads + 1) if heads % one == 0)


def shape_words(config: ModelConfig) -> str:
    """A shape in a few words: 32 layers of 4096."""
    group = config.heads // config.kv_head_count
    shared = f", {group} heads a key" if group > 1 else ""
    return f"{config.layers} layers of {config.dim}{shared}"


def _misfit(config: ModelConfig, parameters: float) -> float:
    """How far a shape is from the count, and (much less) from the paper's dim / layers."""
    away = abs(count.parameters(config) / parameters - 1)
    aspect = config.dim / config.layers / LAYER_DIM
    return 10 * away + max(aspect, 1 / aspect)
