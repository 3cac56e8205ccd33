"""Repositories of Hugging Face's hub: what they hold, which files a model needs, and their hashes.

huggingface_hub says what is there, finds the user's token and knows gates; the bytes come through
our own download, since the library starts an interrupted file anew (version 2.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from puna.download import Refused, Wanted
from puna.errors import CheckpointError, MachineError, UsageError, missing_package
from puna.weights.registry import HubSource

# What may lie beside weights and belongs to the model.
_BESIDE = re.compile(
    r"config\.json|generation_config\.json|params\.json|tokenizer\.(json|model)|tokenizer_config"
    r"\.json|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja|LICEN[CS]E(\.\w+)?"
)
# Weights, the most wanted kind first; a repository that holds several gives the first.
_WEIGHTS = (
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json",
    r"pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json",
    r"consolidated\.\d\d\.pth",
    r".*\.gguf",
)
_SPLIT = re.compile(r"(.*)-\d{5}-of-\d{5}\.gguf")


@dataclass(frozen=True)
class Repository:
    """One revision of a repository: its commit, the files a model needs, its licence if told."""

    commit: str
    files: tuple[tuple[str, Wanted], ...]  # name on our disk, what to download
    licence: str | None


def look(source: HubSource, endpoint: str | None = None) -> Repository:
    """What to download of a repository. `endpoint` None is the hub, or HF_ENDPOINT's server.

    Raises MachineError without huggingface_hub or network, CheckpointError for a repository that
    is not there, closed, or holds no model that we read, UsageError where it holds several.
    """
    try:
        from huggingface_hub import HfApi, get_token, hf_hub_url
    except ImportError:
        raise missing_package("huggingface_hub", "hub", "a model of Hugging Face's hub") from None
    api = HfApi(endpoint=endpoint)
    with _lookup_explained(source, api.endpoint):
        info = api.model_info(source.repository, revision=source.revision, files_metadata=True)
    siblings = {one.rfilename: one for one in info.siblings or ()}
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    files = []
    for name in choose(source, list(siblings)):
        found = siblings[name]
        url = hf_hub_url(
            source.repository, name, revision=info.sha or source.revision, endpoint=api.endpoint
        )
        wanted = Wanted(url, size=found.size, headers=headers)
        if found.lfs is not None:
            wanted = replace(wanted, sha256=found.lfs.sha256, size=found.lfs.size)
        elif found.blob_id is not None:
            wanted = replace(wanted, git_blob=found.blob_id)
        files.append((Path(name).name, wanted))
    card = info.card_data
    return Repository(str(info.sha), tuple(files), str(card.license) if card else None)


def choose(source: HubSource, names: Sequence[str]) -> list[str]:
    """The files of a repository that make up one model: weights of one kind, and what goes along.

    Raises CheckpointError when there are none, UsageError when there are several GGUF models.
    """
    at_root = [name for name in names if "/" not in name]
    beside = [name for name in at_root if _BESIDE.fullmatch(name)]
    if source.file is not None:
        if source.file not in names:
            raise CheckpointError(
                f"hf:{source.repository} should hold {source.file}, it does not",
                hint="it holds " + ", ".join(sorted(names)[:20]),
            )
        return [source.file]
    for kind in _WEIGHTS:
        weights = [name for name in at_root if re.fullmatch(kind, name)]
        if weights and kind is _WEIGHTS[-1]:
            return _only_one(source, weights)
        if weights:
            return sorted(weights) + sorted(beside)
    raise CheckpointError(
        f"hf:{source.repository} should hold the weights of a LLaMA, found none that Puna reads",
        hint="it holds " + (", ".join(sorted(names)[:20]) or "nothing"),
    )


def _only_one(source: HubSource, names: list[str]) -> list[str]:
    """The GGUF files of a repository when they are one model, or the parts of one."""
    models = {match[1] if (match := _SPLIT.fullmatch(name)) else name for name in names}
    if len(models) > 1:
        raise UsageError(
            f"hf:{source.repository} holds {len(models)} models, one has to be chosen",
            hint="name it: "
            + " or ".join(f"hf:{source.repository}/{name}" for name in sorted(names)[:12]),
        )
    return sorted(names)


@contextmanager
def _lookup_explained(source: HubSource, endpoint: str) -> Iterator[None]:
    """Turns what the hub's library raises into one error that says what to do."""
    from huggingface_hub import errors

    name, page = _name_and_page(source, endpoint)
    try:
        yield
    except errors.GatedRepoError:
        raise _gated(name, page, endpoint) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{name} has no revision {source.revision}", hint=f"{page}/tree/main lists them"
        ) from None
    except errors.RepositoryNotFoundError:
        raise _closed(name, page, endpoint) from None
    except Exception as error:  # its HTTP library, another one in each of its versions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MachineError(
            f"{name} cannot be looked up at {endpoint}: {reason}",
            hint="is there a network? Models pulled before work without (puna cache list)",
        ) from None


@contextmanager
def refusal_explained(source: HubSource, url: str) -> Iterator[None]:
    """Turns the hub's refusal to give a file into one error that says what to do."""
    parts = urlsplit(url)
    endpoint = f"{parts.scheme}://{parts.netloc}"
    name, page = _name_and_page(source, endpoint)
    try:
        yield
    except Refused as refused:
        if refused.headers.get("X-Error-Code") == "GatedRepo":
            raise _gated(name, page, endpoint) from None
        if refused.status in (401, 403):
            raise _closed(name, page, endpoint) from None
        raise


def _name_and_page(source: HubSource, endpoint: str) -> tuple[str, str]:
    return f"hf:{source.repository}", f"{endpoint}/{source.repository}"


def _gated(name: str, page: str, endpoint: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is gated: its owner asks everyone to accept a licence first",
        hint=f"accept it at {page}, make a token at {endpoint}/settings/tokens, give it to this "
        "machine with `hf auth login` or HF_TOKEN=..., and pull again",
    )


def _closed(name: str, page: str, endpoint: str) -> CheckpointError:
    return CheckpointError(
        f"there is no {name}, or it is closed to you",
        hint=f"look at {page}; for a private one make a token at {endpoint}/settings/tokens and "
        "give it with `hf auth login` or HF_TOKEN=...",
    )
