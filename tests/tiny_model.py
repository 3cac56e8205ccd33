"""A small random model and a small real tokenizer, in memory or as a run folder: no download."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from puna.model.sizes import ModelConfig

TEXTS = (
    "The llama lives on the high grassland of the Andes, where the air is thin and cold. ",
    "Un río corre por la puna; les lamas boivent l'eau froide. 高原の草を食べる。 ",
    "In 1532 the herds were counted: 1, 22, 333 and 4,444 head. Prices rose by 7.5 %.\n",
    "def herd(count):\n\treturn [f'llama {i}' for i in range(count)]  # 🦙\r\n",
)


def tiny_config(vocabulary_size: int = 320, **changes) -> ModelConfig:
    """Two layers of grouped-query attention, a context of 64."""
    values = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "context_length": 64, **changes}
    return ModelConfig(vocabulary_size=vocabulary_size, **values)


def random_arrays(config: ModelConfig, seed: int = 0, scale: float = 0.3) -> dict[str, np.ndarray]:
    """Float32 weights under Meta's names, large enough to give logits worth comparing."""
    random = np.random.default_rng(seed)
    kv_dim = config.kv_head_count * config.head_dim
    sizes = {"tok_embeddings": (config.vocabulary_size, config.dim), "norm": (config.dim,)}
    if not config.tied_embeddings:
        sizes["output"] = (config.vocabulary_size, config.dim)
    for layer in range(config.layers):
        sizes |= {
            f"layers.{layer}.{name}": size
            for name, size in {
                "attention_norm": (config.dim,),
                "attention.wq": (config.dim, config.dim),
                "attention.wk": (kv_dim, config.dim),
                "attention.wv": (kv_dim, config.dim),
                "attention.wo": (config.dim, config.dim),
                "ffn_norm": (config.dim,),
                "feed_forward.w1": (config.ffn_dim, config.dim),
                "feed_forward.w2": (config.dim, config.ffn_dim),
                "feed_forward.w3": (config.ffn_dim, config.dim),
            }.items()
        }
    return {
        f"{name}.weight": (random.normal(len(size) == 1, scale, size)).astype(np.float32)
        for name, size in sizes.items()
    }


@dataclass(frozen=True)
class TinyRecipe:
    """As much of a recipe as a checkpoint needs."""

    model: ModelConfig = field(default_factory=ModelConfig)


def write_tokenizer(folder: Path, vocabulary_size: int = 320) -> Path:
    """A tokenizer trained on TEXTS; its `tokenizer.model`."""
    from puna.console import silent
    from puna.tokens.training import TokenizerConfig, train_tokenizer

    config = TokenizerConfig(vocabulary_size=vocabulary_size)
    return train_tokenizer([text * 3 for text in TEXTS], folder, config, silent()).path


def write_run(
    folder: Path, tokenizer: Path, config: ModelConfig, arrays: dict[str, np.ndarray], step: int = 7
) -> Path:
    """A run folder with one checkpoint of these weights."""
    from puna.weights.checkpoint import CheckpointContent, write_checkpoint

    content = CheckpointContent(
        weights=arrays,
        optimizer={"none": np.zeros(1, dtype=np.float32)},
        state={"tokens": step * 4096},
        recipe=TinyRecipe(config),
        tokenizer_path=tokenizer,
    )
    write_checkpoint(folder / "checkpoints", step, content)
    return folder
