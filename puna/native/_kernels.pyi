"""The extension module built from csrc/ (signatures in csrc/module.cpp)."""

from typing import Any

# Arrays of any library that speaks DLPack: NumPy's, torch's.
_Array = Any

def builds() -> list[str]: ...
def isas() -> list[str]: ...
def use_team(address: int) -> None: ...
def attention_forward(
    isa: str,
    threads: int,
    joined: _Array,
    cosines: _Array,
    sines: _Array,
    mixed: _Array,
    log_sum: _Array,
) -> None: ...
def attention_backward(
    isa: str,
    threads: int,
    joined: _Array,
    cosines: _Array,
    sines: _Array,
    mixed: _Array,
    log_sum: _Array,
    mixed_gradient: _Array,
    joined_gradient: _Array,
) -> None: ...
def weight_gradient(
    isa: str, threads: int, left: _Array, right: _Array, out: _Array, add: bool
) -> None: ...
