"""Meta's params.json: the shape of a model, and what has to be concluded because it is not said.

No params.json tells how long a context the model was trained for: Meta's programs are told on the
command line. Its own families can be recognised; for other models a `puna.json` lies beside the
params.json that Puna writes, which Meta's programs do not look at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from puna import schema
from puna.errors import CheckpointError
from puna.model.sizes import SIZES, ModelConfig, RopeScaling
from puna.weights.untrusted import Table, read_json_object, shape_of

PARAMS, BESIDE = "params.json", "puna.json"
LLAMA3_VOCABULARY = 128_000  # its tokens without the special ones
LLAMA1_SIZES = ("7B", "13B", "33B", "65B")
LLAMA2_SHAPES = {(4096, 32, 11008), (5120, 40, 13824), (8192, 80, 28672)}  # dim, layers, ffn_dim
LLAMA3_FACTOR, SMALL_LLAMA3_FACTOR = 8.0, 32.0  # LLaMA 3.1; 3.2, which ties its embedding

_KNOWN = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "vocab_size", "hidden_dim",
    "head_dim", "max_seq_len", "sliding_window", "norm_eps", "rope_theta", "ffn_dim_multiplier",
    "rope_scaling_factor", "use_scaled_rope",
    "max_batch_size",  # of the program: nothing about the model
}  # fmt: skip
_OTHER_MODELS = {
    "moe": "a mixture of experts",
    "moe_args": "a mixture of experts",
    "quantization_args": "weights quantised by torchao",
    "lora_args": "LoRA adapters",
    "attention_chunk_size": "chunked attention",
    "use_qk_norm": "normalised queries and keys",
    "nope_layer_interval": "layers without positions",
    "vision_chunk_size": "images",
}


@dataclass(frozen=True)
class Evidence:
    """What the tensors tell beside params.json."""

    vocabulary_size: int | None = None  # rows of the embedding
    tied: bool = False
    mask_length: int | None = None  # of a stored attention mask, which is as long as the context


def read_config(
    path: Path, evidence: Evidence | None = None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The shape that a params.json and the `evidence` give, and notes on what was concluded.

    Raises CheckpointError for JSON that is none, a value that cannot be, a vocabulary that neither
    tells, and a model that is no LLaMA.
    """
    evidence = evidence or Evidence()
    values = read_json_object(path, wanted="tell the model's shape")
    params = Table({name: value for name, value in values.items() if value is not None}, path)
    for name, what in _OTHER_MODELS.items():
        if params.values.get(name, -1) not in (False, -1):
            raise CheckpointError(
                f"{path}: {name} means {what}, which a LLaMA of Puna's lacks",
                hint="LLaMA 1 to 3 can be read, as text models",
            )
    unknown = sorted(set(params.values) - _KNOWN - set(_OTHER_MODELS))
    told = ", ".join(map(repr, unknown))[:200]
    notes = [f"keys of params.json that Puna does not know: {told}"] if unknown else []
    beside = _read_beside(path.with_name(BESIDE))
    tied = beside.flag("tied_embeddings") if "tied_embeddings" in beside.values else evidence.tied
    with shape_of(path):
        config = ModelConfig(
            dim=params.whole("dim"),
            layers=params.whole("n_layers"),
            heads=params.whole("n_heads"),
            kv_heads=params.optional_whole("n_kv_heads", None),
            vocabulary_size=_vocabulary(params, evidence),
            hidden_dim=_hidden_dim(params),
            multiple_of=params.whole("multiple_of", 256),
            norm_epsilon=params.number("norm_eps", 1e-5),
            rope_theta=params.number("rope_theta", 10000.0),
            rope_scaling=_rope_scaling(params, tied),
            tied_embeddings=tied,
        )
    if params.whole("head_dim", config.head_dim) != config.head_dim:
        hint = "heads of another width are not LLaMA's; Puna cannot run this model"
        raise params.wrong("head_dim", f"dim / n_heads = {config.head_dim}", hint)
    length, why = _context(params, config, evidence)
    if "context_length" in beside.values:
        length, why = beside.whole("context_length"), ""
    window = params.optional_whole("sliding_window", None)
    if window is not None and window < length:
        length, why = window, f"the context is cut to the sliding window of {window} tokens"
    return replace(config, context_length=length), (*notes, *([why] if why else []))


def params_of(config: ModelConfig) -> dict[str, Any]:
    """The params.json of a shape, with the keys that Meta's programs know, and no more than needed.

    Raises CheckpointError for a scaling of positions that Meta's programs do not have.
    """
    params: dict[str, Any] = {"dim": config.dim}
    multiple_of, multiplier = _ffn_formula(config)
    if multiplier is not None:
        params["ffn_dim_multiplier"] = multiplier
    params |= {"multiple_of": multiple_of, "n_heads": config.heads}
    if config.kv_head_count != config.heads:
        params["n_kv_heads"] = config.kv_head_count
    params |= {"n_layers": config.layers, "norm_eps": config.norm_epsilon}
    scaling = config.rope_scaling
    if scaling is not None:
        if scaling != RopeScaling("llama3", scaling.factor):
            raise CheckpointError(
                f"Meta's format has no {scaling.kind} scaling of positions like this model's",
                hint="convert it to hf or gguf, which have",
            )
        usual = SMALL_LLAMA3_FACTOR if config.tied_embeddings else LLAMA3_FACTOR
        if scaling.factor != usual:
            params["rope_scaling_factor"] = scaling.factor
    if config.rope_theta != 10000.0:
        params["rope_theta"] = config.rope_theta
    if scaling is not None:
        params["use_scaled_rope"] = True
    return {**params, "vocab_size": config.vocabulary_size}


def write_config(config: ModelConfig, folder: Path, evidence: Evidence) -> None:
    """Write params.json, and puna.json where a reader could not conclude all of `config`."""
    text = json.dumps(params_of(config)) + "\n"
    schema.write_atomic(folder / PARAMS, text.encode())
    concluded, _ = read_config(folder / PARAMS, evidence)
    unsaid: dict[str, Any] = {}
    if concluded.context_length != config.context_length:
        unsaid["context_length"] = config.context_length
    if concluded.tied_embeddings != config.tied_embeddings:
        unsaid["tied_embeddings"] = config.tied_embeddings
    if unsaid:
        schema.write_json(folder / BESIDE, "puna.meta", unsaid)


def _context(params: Table, config: ModelConfig, evidence: Evidence) -> tuple[int, str]:
    """Tokens in a context, and a note where it had to be concluded."""
    told = params.optional_whole("max_seq_len", evidence.mask_length)
    if told is not None:
        return told, ""
    length, because = 2048, "nothing tells; this is what Meta's first programs take"
    shape = (config.dim, config.layers, config.ffn_dim)
    if replace(config, context_length=2048) in [SIZES[name] for name in LLAMA1_SIZES]:
        length, because = 2048, "shape and norm_eps are LLaMA 1's"
    elif params.flag("use_scaled_rope"):
        length, because = 131_072, "positions are scaled as in LLaMA 3.1"
    elif config.vocabulary_size >= LLAMA3_VOCABULARY:
        length, because = 8192, "the vocabulary is LLaMA 3's"
    elif config.rope_theta > 10000.0:
        length, because = 16_384, "rope_theta is that of Code LLaMA"
    elif shape in LLAMA2_SHAPES and config.norm_epsilon == 1e-5:
        length, because = 4096, "the shape is LLaMA 2's"
    return length, f"context of {length} tokens, which params.json does not say: {because}"


def _vocabulary(params: Table, evidence: Evidence) -> int:
    found = evidence.vocabulary_size
    if params.values.get("vocab_size", -1) == -1:  # it is the tokenizer's
        if found is None:
            hint = "put the consolidated.*.pth files beside it"
            raise params.wrong("vocab_size", "a number where no weights tell it", hint)
        return found
    said = params.whole("vocab_size")
    if found not in (None, said):
        raise CheckpointError(
            f"{params.path}: vocab_size is {said}, but the embedding has {found} rows",
            hint="the params.json must be the one that came with these weights",
        )
    return said


def _hidden_dim(params: Table) -> int | None:
    """The width of SwiGLU where something else than the plain formula gives it."""
    hidden_dim = params.optional_whole("hidden_dim", None)
    if hidden_dim is not None or "ffn_dim_multiplier" not in params.values:
        return hidden_dim
    plain = int(8 * params.whole("dim") / 3)
    wanted = int(params.number("ffn_dim_multiplier") * plain)
    return _rounded_up(wanted, params.whole("multiple_of", 256))


def _rounded_up(value: int, multiple_of: int) -> int:
    return multiple_of * -(-value // multiple_of)


def _ffn_formula(config: ModelConfig) -> tuple[int, float | None]:
    """The multiple_of and, where it needs one, the ffn_dim_multiplier that give `ffn_dim`."""
    wanted, plain = config.ffn_dim, int(8 * config.dim / 3)
    powers = [2**power for power in range(12, -1, -1) if wanted % 2**power == 0]
    for multiple_of in (config.multiple_of, 256, *powers):
        if _rounded_up(plain, multiple_of) == wanted:
            return multiple_of, None
    multiple_of = min(powers[0], 1024)
    middle = wanted + 1 - multiple_of / 2  # rounding up then forgives the last digits
    for digits in range(1, 17):
        multiplier = round(middle / plain, digits)
        if _rounded_up(int(multiplier * plain), multiple_of) == wanted:
            return multiple_of, multiplier
    raise CheckpointError(
        f"no multiple_of and ffn_dim_multiplier of Meta's give a hidden size of {wanted}",
        hint="convert it to hf or gguf, which write the size itself",
    )


def _rope_scaling(params: Table, tied: bool) -> RopeScaling | None:
    factor = params.number("rope_scaling_factor", SMALL_LLAMA3_FACTOR if tied else LLAMA3_FACTOR)
    return RopeScaling("llama3", factor) if params.flag("use_scaled_rope") else None


def _read_beside(path: Path) -> Table:
    """What puna.json adds, nothing where there is none."""
    if not path.exists():
        return Table({}, path)
    record = read_json_object(path, wanted="tell what params.json does not")
    schema.check(record, "puna.meta", path)
    return Table(record, path)
