"""The small files beside a tokenizer in a Hugging Face folder: what its tokens are for.

tokenizer_config.json      names of BOS and EOS, whether they are added, added tokens, template
special_tokens_map.json    the same names, in older folders
added_tokens.json          added tokens of older folders: content -> id
generation_config.json     every id that ends a text
chat_template.jinja        the template, where it is not in the config
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from puna.errors import TokenizerError
from puna.tokens.formats.json_text import read_object
from puna.tokens.formats.tokenizer_json import added_token
from puna.tokens.vocabulary import MARK_NAMES, AddedToken, Vocabulary, checked, shown, with_added

CONFIG_NAME = "tokenizer_config.json"
NAMES = (
    CONFIG_NAME,
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
)
LARGEST_BYTES = 64 << 20


def with_companions(vocabulary: Vocabulary, folder: Path) -> Vocabulary:
    """`vocabulary` with what the small files in `folder` say about it.

    Raises TokenizerError for a broken file, or one that names a token which is not there.
    """
    path = folder / CONFIG_NAME
    config = _object(path)
    listed = config.get("added_tokens_decoder")
    added = _decoder_tokens(listed, path) if listed is not None else _older_tokens(folder)
    vocabulary = with_added(vocabulary, added, path)
    names = {**_object(folder / "special_tokens_map.json"), **_present(config)}
    rules: dict[str, Any] = _marks(vocabulary, names, path)
    for name, rule in (
        ("add_bos_token", "adds_bos"),
        ("add_eos_token", "adds_eos"),
        ("legacy", "prefix_after_marks"),
        ("add_prefix_space", "dummy_prefix"),
    ):
        value = config.get(name)
        if value is None or (rule in ("prefix_after_marks", "dummy_prefix") and _has_rules(folder)):
            continue
        if not isinstance(value, bool):
            raise TokenizerError(f"{path}: {name} should be true or false")
        rules[rule] = value
    rules["extra_stop_ids"] = _stop_ids(folder / "generation_config.json")
    rules["chat_template"] = _template(folder, config) or vocabulary.chat_template
    return checked(replace(vocabulary, **rules), path)


def read_limited(path: Path, limit: int) -> bytes:
    """A file's bytes. Raises TokenizerError when it is no file or is larger than `limit`."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise TokenizerError(f"{path} cannot be read: it is no regular file")
    try:
        size = path.stat().st_size
        if size > limit:
            raise TokenizerError(f"{path} has {size:,} bytes, too many for what it is")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file."""
    return read_object(read_limited(path, LARGEST_BYTES), path) if path.is_file() else {}


def _has_rules(folder: Path) -> bool:
    """Whether a tokenizer.json says where spaces go; the config's older words then do not count."""
    return (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file()


def _present(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in MARK_NAMES.values() if config.get(name) is not None}


def _marks(vocabulary: Vocabulary, names: dict[str, Any], path: Path) -> dict[str, int]:
    """The ids of the tokens that have a part to play."""
    result = {}
    ids = {piece: token for token, piece in enumerate(vocabulary.pieces)}
    for field, name in MARK_NAMES.items():
        found = names.get(name)
        content = found.get("content") if isinstance(found, dict) else found
        if content is None:
            continue
        if not isinstance(content, str):
            raise TokenizerError(f"{path}: {name} should be text")
        if content in ids:
            result[field] = ids[content]
        elif field in ("bos_id", "eos_id"):
            raise TokenizerError(f"{path}: {name} is {shown(content)}, which is no token")
    return result


def _decoder_tokens(listed: Any, path: Path) -> list[AddedToken]:
    if not isinstance(listed, dict):
        raise TokenizerError(f"{path}: added_tokens_decoder should be an object")
    tokens = []
    for key, facts in listed.items():
        if not key.isascii() or not key.isdigit() or len(key) > 9 or not isinstance(facts, dict):
            raise TokenizerError(f"{path}: added_tokens_decoder should go from ids to tokens")
        tokens.append(added_token(int(key), facts, path))
    return tokens


def _older_tokens(folder: Path) -> list[AddedToken]:
    path = folder / "added_tokens.json"
    return [
        added_token(token, {"content": content, "special": True}, path)
        for content, token in _object(path).items()
    ]


def _stop_ids(path: Path) -> tuple[int, ...]:
    found = _object(path).get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(token) is int for token in ids):
        raise TokenizerError(f"{path}: eos_token_id should be an id or a list of them")
    return tuple(ids)


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template; of several in a list, the one called default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return read_limited(path, LARGEST_BYTES).decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path}: byte {error.start}: not UTF-8") from None
    found = config.get("chat_template")
    if isinstance(found, list):
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[-1].get("template") if named else None
    if found is not None and not isinstance(found, str):
        raise TokenizerError(f"{folder / CONFIG_NAME}: chat_template should be text")
    return found
