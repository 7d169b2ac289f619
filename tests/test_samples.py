"""The sample configuration files: they load, and they say of every key what the code says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

import cartographer.campus.configuration
import gateway.configuration
import hostagent.configuration
import secretary.configuration
import secretary.ruling.rulefiles
from billpay.configuration import load_toml

SAMPLES = Path(__file__).parent.parent / "docs" / "samples"
PACKAGES = {
    "cartographer": cartographer.campus.configuration,
    "gateway": gateway.configuration,
    "hostagent": hostagent.configuration,
    "secretary": secretary.configuration,
    "rules": secretary.ruling.rulefiles,
}
DOLLAR = 10**9
LINE_CHARACTERS_MAX = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a configuration: where it stands, and what its struct says of it."""

    sample: str
    section: str  # "links.toll"
    field: inspect.Field

    def __str__(self) -> str:
        return f"{self.sample}: {self.section}.{self.field.encode_name}"


def plain(node: inspect.Type) -> inspect.Type:
    """Without metadata and None."""
    if isinstance(node, inspect.Metadata):
        return plain(node.type)
    if isinstance(node, inspect.UnionType):
        return plain(next(part for part in node.types if not isinstance(part, inspect.NoneType)))
    return node


def struct_in(node: inspect.Type) -> inspect.StructType | None:
    """The section that a field holds, one or many of them."""
    node = plain(node)
    if isinstance(node, inspect.VarTupleType):
        node = plain(node.item_type)
    return node if isinstance(node, inspect.StructType) else None


def keys_of(sample: str, struct: inspect.StructType, section: str = "") -> Iterator[Key]:
    for field in struct.fields:
        inner = struct_in(field.type)
        if inner is None:
            yield Key(sample=sample, section=section, field=field)
        else:
            yield from keys_of(sample, inner, f"{section}.{field.encode_name}".lstrip("."))


def configuration_type(sample: str) -> inspect.StructType:
    struct = inspect.type_info(PACKAGES[sample].Configuration)
    assert isinstance(struct, inspect.StructType)
    return struct


KEYS = [key for sample in PACKAGES for key in keys_of(sample, configuration_type(sample))]


def comments_on(key: Key) -> str:
    """What stands behind the key, and in the indented lines after it, wherever it is given in its own section."""
    section, name, found = "", "", []
    for line in (SAMPLES / f"{key.sample}.toml").read_text(encoding="utf-8").splitlines():
        if header := re.match(r"\[+([a-z_.]+)\]+", line):
            section, name = header[1], ""
        elif given := re.match(r"([a-z_]+) = ", line):
            name = given[1]
        comment = re.search(r"^(?!#).* # (.*)", line)
        if comment and (section, name) == (key.section, key.field.encode_name):
            found.append(comment[1])
    return " ".join(found)


def numbers_in(text: str) -> set[int]:
    """10^9, 1000000 and "100 dollars" alike."""
    numbers = {int(base) ** int(power) for base, power in re.findall(r"\b(\d+)\^(\d+)", text)}
    numbers |= {int(count) * DOLLAR for count in re.findall(r"\b(\d+) dollars?\b", text)}
    return numbers | {int(digits) for digits in re.findall(r"\b\d+\b", text)}


@pytest.mark.parametrize("sample", PACKAGES)
def test_sample_loads(sample: str) -> None:
    package = PACKAGES[sample]
    path = SAMPLES / f"{sample}.toml"
    assert package.load(path) == load_toml(path, package.Configuration)


@pytest.mark.parametrize("sample", PACKAGES)
def test_sample_has_short_lines(sample: str) -> None:
    lines = (SAMPLES / f"{sample}.toml").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= LINE_CHARACTERS_MAX


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_every_key_is_shown_and_explained(key: Key) -> None:
    comment = comments_on(key)
    assert comment, "it does not appear with a comment in its section"
    if key.field.required:
        assert "required" in comment
    else:
        assert "default" in comment


@pytest.mark.parametrize("key", [key for key in KEYS if not key.field.required], ids=str)
def test_default_is_the_codes(key: Key) -> None:
    default = key.field.default
    said = comments_on(key).partition("default")[2]
    match default:
        case bool():
            assert said.split()[0].strip(",;.") == str(default).lower()
        case msgspec.UNSET | None:
            assert said.startswith(": no")
        case int() | float():
            assert default in numbers_in(said)
        case ():
            assert "[]" in said
        case _:
            assert f'"{getattr(default, "value", default)}"' in said


def integer_bounds(key: Key) -> set[int]:
    node = plain(key.field.type)
    assert isinstance(node, inspect.IntType)
    return {bound for bound in (node.ge, node.le) if bound is not None}


@pytest.mark.parametrize("key", [key for key in KEYS if isinstance(plain(key.field.type), inspect.IntType)], ids=str)
def test_bounds_are_the_codes(key: Key) -> None:
    assert integer_bounds(key) <= numbers_in(comments_on(key))


def choices(key: Key) -> list[str]:
    """The words that a key can be; none if it is free."""
    node = plain(key.field.type)
    if isinstance(node, inspect.EnumType):
        return [member.value for member in node.cls]
    pattern = node.pattern if isinstance(node, inspect.StrType) else None
    alternatives = re.fullmatch(r"\^\(([a-z0-9|-]+)\)\$", pattern or "")
    return alternatives[1].split("|") if alternatives else []


@pytest.mark.parametrize("key", [key for key in KEYS if choices(key)], ids=str)
def test_all_choices_are_named(key: Key) -> None:
    shown = comments_on(key) + given_values(key)
    assert [word for word in choices(key) if f'"{word}"' not in shown] == []


def given_values(key: Key) -> str:
    """Every value that the sample gives the key, quoted."""
    with (SAMPLES / f"{key.sample}.toml").open("rb") as file:
        tables: list[Any] = [tomllib.load(file)]
    for step in key.section.split("."):
        found = [table[step] for table in tables if step in table]
        tables = [table for item in found for table in (item if isinstance(item, list) else [item])]
    return " ".join(f'"{table[key.field.encode_name]}"' for table in tables if key.field.encode_name in table)
