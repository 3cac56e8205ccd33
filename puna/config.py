"""Recipes: TOML files and `--set a.b=c` become frozen dataclasses, or one clear error.

Each folder owns its dataclasses; this file only loads, checks, overrides and writes them.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from puna import schema
from puna.errors import ConfigError

Config = TypeVar("Config")
_RECIPE_FOLDERS = ((), ("recipes",), ("recipes", "data"), ("data",))


def load(kind: type[Config], path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """The dataclass `kind`, read from a TOML recipe (or defaults), with `a.b=c` overrides on top.

    Raises ConfigError for a missing file, bad TOML, an unknown key (naming the nearest), a value
    of the wrong type, or a combination that the dataclass itself refuses.
    """
    path = find_recipe(path) if path is not None else None
    table = read_toml(path) if path is not None else {}
    where = str(path) if path is not None else "the defaults"
    return from_table(kind, overridden(table, overrides), where)


def overridden(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tables with each `a.b=c` put into them. Raises ConfigError for what is no such word."""
    for override in overrides:
        _apply(table, override)
    return table


def find_recipe(path: Path) -> Path:
    """`path`, or the recipe of that name that comes with Puna where no such file is here.

    So that `recipes/demo.toml` and `demo.toml` work from any folder, installed or in a clone.
    """
    if path.exists() or path.is_absolute() or path.parts[:-1] not in _RECIPE_FOLDERS:
        return path
    name = path.relative_to("recipes") if path.parts[0] == "recipes" else path
    found = _shipped_recipes() / name
    return found if found.exists() else path


def _shipped_recipes() -> Path:
    """In a wheel inside the package; in a clone the folder lies beside it."""
    package = Path(__file__).resolve().parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; its schema stamp, where it has one, is checked and taken off."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        shipped = _shipped_recipes()
        names = [f"recipes/{one.relative_to(shipped)}" for one in sorted(shipped.rglob("*.toml"))]
        raise ConfigError(
            f"there is no recipe {path}", hint=f"these come with Puna: {', '.join(names)}"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} should be a TOML recipe, found a folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a readable TOML recipe: {error}") from None
    if "schema" in table:
        schema.check(table, "puna.recipe", path)
    table.pop("schema", None)
    table.pop("version", None)
    return table


def from_table(kind: type[Config], table: Mapping[str, Any], where: str) -> Config:
    """Build the dataclass `kind` from nested tables, refusing unknown keys and wrong types."""
    return typing.cast(Config, _build(kind, table, where, ""))


def to_table(config: Any) -> dict[str, Any]:
    """Nested plain values of a dataclass; None is left out, since TOML has no null."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None:
            result[field.name] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def write(config: Any, path: Path) -> None:
    """Write the resolved config as a recipe that `load` reads back to an equal value."""
    import tomli_w

    text = tomli_w.dumps({**schema.stamp("puna.recipe"), **to_table(config)})
    schema.write_atomic(path, text.encode("utf-8"))


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint that names the closest known words, or all of them."""
    import difflib  # 10 ms, needed for mistakes alone

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def _apply(table: dict[str, Any], override: str) -> None:
    """Put one `a.b=c` into the tables; `c` is TOML, or a bare string where it is not."""
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise ConfigError(
            f"--set wants name=value, got {override!r}", hint="example: --set train.steps=200"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {key}: {name} is a value, not a section")
    table[names[-1]] = value


def _build(kind: type, table: Any, where: str, prefix: str) -> Any:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {prefix.rstrip('.')} should be a section, got {table!r}")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    for key in table:
        if key not in names:
            raise ConfigError(
                f"{where}: unknown key {prefix}{key}", hint=_meant(key, hints, prefix)
            )
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    for name in required:
        if name not in table:
            raise ConfigError(f"{where}: {prefix}{name} is missing")
    values = {
        key: _convert(hints[key], value, where, f"{prefix}{key}") for key, value in table.items()
    }
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None


def _meant(key: str, hints: Mapping[str, Any], prefix: str) -> str:
    """The nearest keys of a section, or of those in it where `key` stands outside its own."""
    inner = [
        f"{prefix}{name}.{key}"
        for name, hint in hints.items()
        if dataclasses.is_dataclass(hint) and key in {one.name for one in dataclasses.fields(hint)}
    ]
    return f"did you mean {' or '.join(inner)}?" if inner else nearest(key, list(hints))


def _convert(hint: Any, value: Any, where: str, name: str) -> Any:
    """`value` as the annotated type; numbers widen from int to float, nothing else is guessed.

    TOML has no null: a section that may be None is switched off by `false`, on by `true`.
    """
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    options = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = next(option for option in options if option is not type(None))
        if dataclasses.is_dataclass(inner) and isinstance(value, bool):
            return _build(inner, {}, where, f"{name}.") if value else None  # type: ignore[arg-type]
        return _convert(inner, value, where, name)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where, f"{name}.")
    if origin is typing.Literal:
        if value not in options:
            known = [str(option) for option in options]
            raise ConfigError(
                f"{where}: {name} should be one of {', '.join(known)}, got {value!r}",
                hint=nearest(str(value), known),
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: {name} should be a list, got {value!r}")
        return tuple(_convert(options[0], item, where, name) for item in value)
    if origin is Mapping:
        return _mapping(options, value, where, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        wanted = getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{where}: {name} should be {wanted}, got {value!r}")
    return value


def _mapping(kinds: tuple[type, type], value: Any, where: str, name: str) -> dict[Any, Any]:
    """A table as a mapping; TOML's keys are texts, so `{ 13 = -1.5 }` is one of the number 13."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {name} should be a table, got {value!r}")
    key_kind, value_kind = kinds
    result = {}
    for key, item in value.items():
        try:
            result[key_kind(key)] = _convert(value_kind, item, where, f"{name}.{key}")
        except ValueError:
            raise ConfigError(
                f"{where}: a key of {name} should be {key_kind.__name__}, got {key!r}"
            ) from None
    return result
