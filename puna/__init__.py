"""Puna: the whole LLaMA system in one package, from public text to the person who asked.

    import puna

    model = puna.load("demo/run")
    print(model.generate("The state of the Union is", max_tokens=50, seed=1))

`load` gives a `Model`; `Tokenizer` turns text to ids and back. Importing this imports nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puna.infer.model import Model, load
    from puna.tokens.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = ["Model", "Tokenizer", "__version__", "load"]

_HOMES = {
    "Model": "puna.infer.model",
    "Tokenizer": "puna.tokens.tokenizer",
    "load": "puna.infer.model",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'puna' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
