"""Coverage-guided attacks on every parser, as long as you like: run by hand, no part of the tests.

    pip install atheris
    python tests/attacks/fuzz_atheris.py pickle -max_total_time=3600
    python tests/attacks/fuzz_atheris.py gguf corpus/ some/more/seeds/

Whatever follows the target's name goes to libFuzzer: folders of inputs to begin with and to keep
finds in, -runs=, -max_len=, -jobs=. A crash file it leaves is one input that did not end well.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

USAGE = "usage: python tests/attacks/fuzz_atheris.py TARGET [libFuzzer's arguments]"
LONGEST_INPUT = 65_536


def read_pickle(path: Path) -> None:
    """A .pth file: the zip, its pickle, every tensor."""
    from puna.weights.pickle_file import open_pickle

    for tensor in open_pickle(path).values():
        tensor.array()


def read_pickle_program(path: Path) -> None:
    """Only the pickle: the input is data.pkl in a zip whose checksums are right."""
    from attacks.torch_zip import with_program

    path.write_bytes(with_program(path.read_bytes()))
    read_pickle(path)


def read_params(path: Path) -> None:
    """Meta's params.json."""
    from puna.weights.meta_params import Evidence, read_config

    read_config(path, Evidence(vocabulary_size=512))


def read_llama2c(path: Path) -> None:
    """llama2.c's .bin."""
    from puna.weights.llama2c import open_llama2c

    model = open_llama2c(path)
    for name in model.tensors:
        model.read(name)


def read_safetensors(path: Path) -> None:
    """A .safetensors file."""
    from puna.weights.safetensors_file import open_safetensors

    for tensor in open_safetensors(path).values():
        tensor.array()


def read_gguf(path: Path) -> None:
    """A .gguf file, its tensors and its tokenizer."""
    from puna.tokens.tokenizer import Tokenizer
    from puna.weights.gguf import open_gguf

    model = open_gguf(path)
    for name in model.tensors:
        model.read(name)
    if model.tokenizer_files.gguf is not None:
        Tokenizer.from_gguf(model.tokenizer_files.gguf, path)


def read_hf_config(path: Path) -> None:
    """Hugging Face's config.json, with no weights beside it."""
    from puna.weights.huggingface import open_huggingface

    config = path.with_name("config.json")
    config.write_bytes(path.read_bytes())
    open_huggingface(config.parent)


def read_tokenizer(path: Path) -> None:
    """A tokenizer's file of any kind; it then encodes and decodes a little."""
    from puna.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    tokenizer.decode(tokenizer.encode("A llama, 1 llama 🦙\n", bos=False, eos=False))


TARGETS: dict[str, Callable[[Path], None]] = {
    "pickle": read_pickle,
    "pickle-program": read_pickle_program,
    "params": read_params,
    "llama2c": read_llama2c,
    "safetensors": read_safetensors,
    "gguf": read_gguf,
    "hf-config": read_hf_config,
    "tokenizer": read_tokenizer,
}


def seeds(target: str) -> list[bytes]:
    """Small good inputs to begin with."""
    from attacks import gguf_attacks, llama2c_attacks, safetensors_attacks
    from attacks.test_tokenizer_flips import TARGETS as TOKENIZERS
    from attacks.torch_zip import GOOD, with_program

    params = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 4, "vocab_size": 512}
    return {
        "pickle": [with_program(GOOD)],
        "pickle-program": [GOOD],
        "params": [json.dumps(params).encode()],
        "llama2c": [llama2c_attacks.GOOD_FILE],
        "safetensors": [safetensors_attacks.GOOD_FILE],
        "gguf": [gguf_attacks.GOOD, gguf_attacks.RICH],
        "hf-config": [safetensors_attacks.config()],
        "tokenizer": [next(iter(files().values())) for files in TOKENIZERS.values()],
    }[target]


def main(arguments: list[str]) -> int:
    """Fuzz one target until libFuzzer stops; 2 when none is named or atheris is missing."""
    if not arguments or arguments[0] not in TARGETS:
        sys.stderr.write(f"{USAGE}\ntargets: {', '.join(TARGETS)}\n")
        return 2
    try:
        import atheris
    except ImportError:
        sys.stderr.write("atheris is not installed: pip install atheris (Linux, Python <= 3.13)\n")
        return 2
    from puna.errors import PunaError

    read, rest = TARGETS[arguments[0]], arguments[1:]
    with tempfile.TemporaryDirectory() as name:
        corpus, path = Path(name) / "seeds", Path(name) / "input"
        corpus.mkdir()

        def one_input(data: bytes) -> None:
            path.write_bytes(data)
            with contextlib.suppress(PunaError):
                read(path)

        with atheris.instrument_imports(include=["puna"]):  # parsers are imported when used
            for index, seed in enumerate(seeds(arguments[0])):
                (corpus / f"{index}").write_bytes(seed)
                one_input(seed)
        atheris.Setup([sys.argv[0], f"-max_len={LONGEST_INPUT}", *rest, str(corpus)], one_input)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
