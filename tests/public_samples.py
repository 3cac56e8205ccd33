"""Real samples of public text beside the checkout, and the mark of tests that need them."""

from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "raw"
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="../shared/corpus/raw, which no clone carries, is absent"
)
