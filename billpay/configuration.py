"""Configuration files: TOML into one frozen, validated value, or one line that says what is wrong.

Decides: how a mistake in a file is named (file, key, problem, what to do).
Refuses to know: what any configuration means; the value types (msgspec structs that forbid unknown fields) say what is
possible.
Source: STYLE ("Config"); TOML 1.0.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from billpay.errors import ConfigurationError

FILE_BYTES_MAX: Final = 1 << 20
"""A file that people write is small; more is a mistake (a log, a device)."""

StructT = TypeVar("StructT", bound=msgspec.Struct)

_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(.*)`$", re.DOTALL)
_SHOWN_CHARACTERS: Final = 40


def load_toml(path: Path | str, expected: type[StructT]) -> StructT:
    """The file's value. Raises ConfigurationError: one line with the file, the key, what is wrong and what to do."""
    path = Path(path)
    return decode_toml(_read(path), expected, file=path)


def decode_toml(text: str, expected: type[StructT], *, file: Path | str) -> StructT:
    """As `load_toml`, for a text that is already in memory; `file` is what an error names."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            file, "", f"not TOML: {error}", "strings need quotes, tables are written [name]"
        ) from error
    except RecursionError as error:
        raise ConfigurationError(file, "", "brackets are nested too deeply", "is this the right file?") from error
    try:
        return msgspec.convert(table, type=expected, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(error, table, expected, file) from error


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigurationError(path, "", f"larger than {FILE_BYTES_MAX} bytes", "is this the right file?")
        return data.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(
            path, "", "no such file", "create it from the commented sample, or name another file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(path, "", f"not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
    except OSError as error:
        raise ConfigurationError(
            path, "", error.strerror or str(error), "check the path and its permissions"
        ) from error


def _explain(
    error: msgspec.ValidationError, table: dict[str, Any], expected: type, file: Path | str
) -> ConfigurationError:
    problem, _, at = str(error).partition(" - at `")
    path = at.removesuffix("`") or "$"
    if match := _UNKNOWN.match(problem):
        name = match[1]
        return ConfigurationError(file, _key(path, name), "unknown key", _nearest(name, _known_keys(expected, path)))
    if match := _MISSING.match(problem):
        return ConfigurationError(file, _key(path, match[1]), "missing", "add it; it has no default")
    value = _value_at(table, path)
    shown = "" if value is None else f"is {_shown(value)}: "
    choices = _choices(expected, path)
    remedy = f"write one of {', '.join(choices)}" if choices else "correct the value"
    return ConfigurationError(file, _key(path), shown + problem[:1].lower() + problem[1:], remedy)


def _key(path: str, name: str = "") -> str:
    """msgspec's `$.links[0]` and a name below it, as a person writes it: `links[0].name`."""
    parts = [part for part in (path.removeprefix("$").lstrip("."), name) if part]
    return ".".join(parts)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known keys: {', '.join(known)}" if known else "remove it"


def _known_keys(expected: type, path: str) -> list[str]:
    """The keys that the struct at msgspec's `path` has; empty if the path leads through something without keys."""
    nodes = _nodes_at(expected, path)
    return [field.encode_name for node in nodes if isinstance(node, inspect.StructType) for field in node.fields]


def _choices(expected: type, path: str) -> list[str]:
    """What may be written at msgspec's `path`, as in the file; empty if that is no matter of a few words."""
    found: list[object] = []
    for node in _nodes_at(expected, path):
        if isinstance(node, inspect.LiteralType):
            found += node.values
        elif isinstance(node, inspect.EnumType):
            found += [member.value for member in node.cls]
        else:
            return []
    return [f'"{value}"' if isinstance(value, str) else str(value) for value in found]


def _nodes_at(expected: type, path: str) -> list[inspect.Type]:
    nodes: list[inspect.Type] = [inspect.type_info(expected)]
    for step in _steps(path):
        nodes = [child for node in _flat(nodes) for child in _children(node, step)]
    return _flat(nodes)


def _steps(path: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]|[^.\[\]]+", path.removeprefix("$"))


def _flat(nodes: list[inspect.Type]) -> list[inspect.Type]:
    """Unions and metadata opened up."""
    out: list[inspect.Type] = []
    for node in nodes:
        if isinstance(node, inspect.UnionType):
            out += _flat(list(node.types))
        elif isinstance(node, inspect.Metadata):
            out += _flat([node.type])
        else:
            out.append(node)
    return out


def _children(node: inspect.Type, step: str) -> list[inspect.Type]:
    if isinstance(node, inspect.StructType):
        return [field.type for field in node.fields if field.encode_name == step]
    if isinstance(node, inspect.DictType):
        return [node.value_type]
    if isinstance(node, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType):
        return [node.item_type]
    if isinstance(node, inspect.TupleType):
        index = step.strip("[]")
        return [node.item_types[int(index)]] if index.isdigit() and int(index) < len(node.item_types) else []
    return []


def _value_at(table: object, path: str) -> object:
    """What the file says there; None if the path cannot be followed (msgspec names no key in a table of free names)."""
    value = table
    for step in _steps(path):
        index = step.strip("[]")
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and index.isdigit() and int(index) < len(value):
            value = value[int(index)]
        else:
            return None
    return value


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
