"""A server on this machine, short pauses, and the command."""

from dataclasses import dataclass

import pytest
from file_server import serving

from puna.cli import main
from puna.politeness import Manner


@pytest.fixture
def site():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Pauses of ours are 5 ms instead of seconds; those that a server asks for stay."""
    begin = Manner.__init__

    def quick(self, **settings):
        begin(self, **{**settings, "first_pause_seconds": 0.005})

    monkeypatch.setattr(Manner, "__init__", quick)


@dataclass(frozen=True)
class Printed:
    """What a command said."""

    status: int
    out: str
    err: str


@pytest.fixture
def puna(capsys):
    """Runs `puna data fetch ...` in this process."""

    def run(*words: object) -> Printed:
        status = main(["data", "fetch", *map(str, words)])
        printed = capsys.readouterr()
        return Printed(status, printed.out, printed.err)

    return run
