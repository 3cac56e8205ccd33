"""Archives made in memory for tests: tars as they should be and as an attacker makes them."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping


def tar(files: Mapping[str, bytes | str], *, links: Mapping[str, str] | None = None) -> bytes:
    """A plain tar of these files and symbolic links."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, aim in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, aim
            archive.addfile(info)
    return target.getvalue()


def tar_gz(files: Mapping[str, bytes | str], *, links: Mapping[str, str] | None = None) -> bytes:
    """The same, packed."""
    return gzip.compress(tar(files, links=links), mtime=0)


def zip_of(files: Mapping[str, bytes | str]) -> bytes:
    """A zip of these files, in this order; `mimetype` is stored, as EPUB wants."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            kind = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return target.getvalue()
