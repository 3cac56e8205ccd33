"""The cache of pulled models: one folder a model, there whole or not at all.

`models/KEY/` holds the model's files and `pulled.json`, which says where they came from, with size
and SHA-256 of each. `unfinished/KEY/` holds what an interrupted pull has so far; the next one goes
on from there. KEY is made of the model's name, so that the folder tells a person what it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna import hardware, schema
from puna.config import nearest
from puna.errors import CheckpointError, MachineError, PunaError, UsageError
from puna.weights.registry import canonical, find

KIND = "puna.pulled"
RECORD_NAME = "pulled.json"


@dataclass(frozen=True)
class CachedModel:
    """A pulled model: `path` is what to open, the one file or the folder of several."""

    name: str
    folder: Path
    path: Path
    record: dict[str, Any]

    @property
    def bytes(self) -> int:
        """What its files take on the disk."""
        return sum(int(file["bytes"]) for file in self.record["files"])


class Cache:
    """The models in one folder, this machine's by default. Making it writes nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or hardware.cache_folder()

    def models(self) -> list[CachedModel]:
        """Every whole model, by name; what is no folder of ours is passed over."""
        found = []
        for record in sorted((self.folder / "models").glob(f"*/{RECORD_NAME}")):
            model = _read(record)
            if self._models(model.name) == record.parent:
                found.append(model)
        return sorted(found, key=lambda model: model.name)

    def unfinished(self) -> list[tuple[str, int]]:
        """Names of interrupted pulls, and the bytes that they have so far."""
        found = []
        for folder in sorted((self.folder / "unfinished").glob("*/")):
            name = folder / ".name"
            if name.is_file():
                found.append((name.read_text(encoding="utf-8"), _size(folder)))
        return found

    def find(self, name: str) -> CachedModel | None:
        """The whole model of this name, None where it was not pulled.

        Raises CheckpointError when its files are not those that were pulled, by size.
        """
        record = self._models(name) / RECORD_NAME
        if not record.is_file():
            return None
        model = _read(record)
        for file in model.record["files"]:
            path = model.folder / file["name"]
            found = path.stat().st_size if path.is_file() else None
            if found != file["bytes"]:
                has = "is missing" if found is None else f"has {found} bytes"
                raise CheckpointError(
                    f"{path} {has}, {file['bytes']} bytes were pulled",
                    hint=f"puna cache rm {name}, then puna pull {name}",
                )
        return model

    def locate(self, name: str) -> CachedModel:
        """The model `name`, for verbs that never download.

        Raises UsageError for an unknown name, CheckpointError when it was not pulled.
        """
        find(name)
        model = self.find(name)
        if model is None:
            raise CheckpointError(
                f"{canonical(name)} is not on this machine yet", hint=f"puna pull {name}"
            )
        return model

    @contextmanager
    def filling(self, name: str) -> Iterator[Path]:
        """The folder to download `name` into, for this process alone; kept when the block fails.

        Raises MachineError when the cache cannot be written or another process is at it.
        """
        folder = self._unfinished(name)
        descriptor = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".name").write_text(canonical(name), encoding="utf-8")
            descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor or -1)
            raise MachineError(
                f"another process is pulling {name} into {self.folder}", hint="let it finish"
            ) from None
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        try:
            yield folder
        finally:
            os.close(descriptor)

    def keep(self, name: str, record: dict[str, Any]) -> CachedModel:
        """Make the filled folder of `name` a whole model, in place of an earlier one.

        `record` has `model` (the file to open, or "."), `files` and where they came from.
        """
        folder, final = self._unfinished(name), self._models(name)
        try:
            wanted = {str(file["name"]) for file in record["files"]}
            for path in folder.iterdir():
                if path.name not in wanted:
                    path.unlink()
            schema.write_json(folder / RECORD_NAME, KIND, {"name": canonical(name), **record})
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                shutil.rmtree(final)
            folder.rename(final)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        return _read(final / RECORD_NAME)

    def remove(self, name: str) -> int:
        """Remove a model and what an interrupted pull of it left; returns the bytes made free.

        Raises UsageError when there is neither.
        """
        folders = [path for path in (self._models(name), self._unfinished(name)) if path.is_dir()]
        if not folders:
            known = [model.name for model in self.models()] + [one for one, _ in self.unfinished()]
            raise UsageError(
                f"no model {name} lies in {self.folder}",
                hint=nearest(name, known) if known else "nothing was pulled yet",
            )
        freed = sum(map(_size, folders))
        try:
            for folder in folders:
                shutil.rmtree(folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        return freed

    def _models(self, name: str) -> Path:
        return self.folder / "models" / _key(name)

    def _unfinished(self, name: str) -> Path:
        return self.folder / "unfinished" / _key(name)


def _key(name: str) -> str:
    """A folder's name for a model's: readable, and different for different names."""
    whole = canonical(name)
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", whole).strip("-.")
    if plain == whole:
        return plain
    return f"{plain[-80:].strip('-.')}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _read(path: Path) -> CachedModel:
    """The model that a record describes. Raises CheckpointError for a damaged record."""
    try:
        record = schema.read_json(path, KIND)
        names = [str(file["name"]) for file in record["files"] if int(file["bytes"]) >= 0]
        model = str(record["model"])
        if any(name != Path(name).name for name in names) or model not in [".", *names]:
            raise ValueError("it names files of another folder")
        return CachedModel(str(record["name"]), path.parent, path.parent / model, record)
    except (KeyError, TypeError, ValueError, PunaError) as error:
        raise CheckpointError(
            f"{path} should describe a pulled model, it does not: {error}",
            hint=f"remove {path.parent} and pull the model again",
        ) from None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _unwritable(folder: Path, error: OSError) -> MachineError:
    return MachineError(
        f"the cache {folder} cannot be written: {error.strerror or error}",
        hint="set PUNA_CACHE to a folder you may write to, with room",
    )
