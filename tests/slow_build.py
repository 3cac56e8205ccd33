"""`puna` with the stage `slow` beside its own, for tests that kill it in the middle."""

from __future__ import annotations

import sys

from puna.cli import main as puna
from puna.data.build import stages


def main() -> None:
    """Run the command line's words."""
    stages.STAGES["slow"] = "slow_stage"
    sys.exit(puna(sys.argv[1:]))
