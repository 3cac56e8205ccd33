"""Weights that other projects made, and the mark of tests that need them."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "weights"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared/weights, which no clone carries, is absent"
)
