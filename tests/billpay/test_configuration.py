"""Mistakes in a configuration file: each is one line that names the file, the key and what to do."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.configuration import FILE_BYTES_MAX, decode_toml, load_toml
from billpay.errors import ConfigurationError


class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=15)]
    rate_bit_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    neighbour: str | None = None


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    listen: tuple[str, int] = ("::", 7414)
    mode: Mode = Mode.SAFE


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    control: Control = Control()
    backup: Control | None = None
    links: Annotated[tuple[Link, ...], msgspec.Meta(max_length=3)] = ()
    peers: dict[str, Link] = {}
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    enabled: bool = True


FILE = Path("/etc/sample.toml")


def fault(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        decode_toml(text, Sample, file=FILE)
    line = str(caught.value)
    assert line.startswith(f"{FILE}: ")
    assert "\n" not in line
    assert "$" not in line  # msgspec's own way of writing a path
    return caught.value


def test_a_right_file_is_its_value(tmp_path: Path) -> None:
    path = tmp_path / "sample.toml"
    path.write_text(
        """
        name = "gränze"  # a comment
        share = 1
        [control]
        listen = ["0.0.0.0", 7000]
        mode = "fast"
        [[links]]
        name = "x"
        rate_bit_s = 10_000_000
        [peers.y]
        name = "why"
        """,
        encoding="utf-8",
    )
    expected = Sample(
        name="gränze",
        share=1,
        control=Control(listen=("0.0.0.0", 7000), mode=Mode.FAST),
        links=(Link(name="x", rate_bit_s=10_000_000),),
        peers={"y": Link(name="why")},
    )
    assert load_toml(path, Sample) == load_toml(str(path), Sample) == expected


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ('name = "x"\nenabeld = true', "enabeld", "did you mean enabled?"),
        ('name = "x"\n[control]\nmod = "fast"', "control.mod", "did you mean mode?"),
        ('name = "x"\n[backup]\nlistn = 1', "backup.listn", "did you mean listen?"),  # through an optional table
        (
            'name = "x"\n[[links]]\nname = "a"\n[[links]]\nname = "b"\nrate = 5',
            "links[1].rate",
            "did you mean rate_bit_s?",
        ),
        (
            'name = "x"\nzzz = 1',
            "zzz",
            "known keys: name, control, backup, links, peers, share, enabled",
        ),
        ('name = "x"\n[control]\nzzz = 1', "control.zzz", "known keys: listen, mode"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(text: str, key: str, remedy: str) -> None:
    error = fault(text)
    assert (error.key, error.problem, error.remedy) == (key, "unknown key", remedy)
    assert str(error) == f"{FILE}: {key}: unknown key ({remedy})"


def test_an_unknown_key_in_a_table_of_free_names_is_named_without_the_free_name() -> None:
    error = fault('name = "x"\n[peers.y]\nname = "why"\nneighbor = "z"')
    assert error.key.startswith("peers[")
    assert error.key.endswith("neighbor")
    assert error.remedy == "did you mean neighbour?"


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("name = 5", "name", "is 5: expected `str`, got `int`"),
        ('name = "x"\nenabled = "yes"', "enabled", "is 'yes': expected `bool`, got `str`"),
        ('name = "x"\n[[links]]\nname = "a"\nrate_bit_s = "10M"', "links[0].rate_bit_s", "is '10M': expected `int`"),
        ('name = "x"\n[[links]]\nname = "a"\nrate_bit_s = true', "links[0].rate_bit_s", "is true: expected `int`"),
        ('name = "x"\n[[links]]\nname = "a"\nrate_bit_s = 1.5', "links[0].rate_bit_s", "is 1.5: expected `int`"),
        ('name = "x"\n[[links]]\nname = "a"\nrate_bit_s = -1', "links[0].rate_bit_s", "is -1: expected `int` >= 0"),
        ('name = "x"\n[[links]]\nname = ""', "links[0].name", "is '': expected `str` of length >= 1"),
        ('name = "x"\nshare = 1.01', "share", "is 1.01: expected `float` <= 1"),
        ('name = "x"\n[control]\nmode = "quick"', "control.mode", "is 'quick': invalid enum value 'quick'"),
        ('name = "x"\n[control]\nlisten = ["::"]', "control.listen", "is ['::']: expected `array` of length 2"),
        ('name = "x"\n[control]\nlisten = ["::", "http"]', "control.listen[1]", "is 'http': expected `int`"),
        ('name = "x"\ncontrol = 5', "control", "is 5: expected `object`"),
        (
            'name = "x"\nlinks = [{name="a"},{name="b"},{name="c"},{name="d"}]',
            "links",
            "expected `array` of length <= 3",
        ),
        ('name = "x"\nshare = 1979-05-27', "share", "expected `float`, got `date`"),
    ],
)
def test_a_wrong_value_is_shown_with_what_was_expected(text: str, key: str, problem: str) -> None:
    error = fault(text)
    assert error.key == key
    assert problem in error.problem
    assert error.remedy


@pytest.mark.parametrize(("text", "key"), [("", "name"), ('name = "x"\n[[links]]\nrate_bit_s = 5', "links[0].name")])
def test_a_missing_key_is_named(text: str, key: str) -> None:
    error = fault(text)
    assert str(error) == f"{FILE}: {key}: missing (add it; it has no default)"


def test_a_long_value_is_cut() -> None:
    error = fault('name = "x"\nshare = "' + "a" * 1000 + '"')
    assert len(error.problem) < 100
    assert "…" in error.problem


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("name = x", "line 1"),
        ('name = "x"\n\n[control\nmode = "fast"', "line 3"),
        ('name = "x"\nname = "y"\n', "line 2"),
        ("name", "end of document"),
    ],
)
def test_what_is_not_toml_is_said_with_its_place(text: str, where: str) -> None:
    error = fault(text)
    assert error.key == ""
    assert error.problem.startswith("not TOML: ")
    assert where in error.problem


def test_deep_brackets_are_an_error_like_any_other() -> None:
    assert "nested too deeply" in fault("a = " + "[" * 20_000).problem


def test_where_only_a_few_words_can_stand_they_are_said() -> None:
    assert fault('name = "x"\n[control]\nmode = "quick"').remedy == 'write one of "fast", "safe"'
    assert fault('name = "x"\n[backup]\nmode = 3').remedy == 'write one of "fast", "safe"'
    assert fault('name = "x"\nshare = 2').remedy == "correct the value"


# --- the file itself --------------------------------------------------------------------------------------------------


def load_fault(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_toml(path, Sample)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_no_such_file(tmp_path: Path) -> None:
    assert load_fault(tmp_path / "absent.toml").problem == "no such file"


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    assert load_fault(tmp_path).problem == "Is a directory"


def test_a_file_that_is_no_directory_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert load_fault(tmp_path / "file" / "sample.toml").problem == "Not a directory"


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "gränze"'.encode("latin-1"))
    assert load_fault(path).problem == "not UTF-8 at byte 10"


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    right = b'name = "x"\n'
    path.write_bytes(right + b"#" * (FILE_BYTES_MAX - len(right)))
    assert load_toml(path, Sample).name == "x"
    path.write_bytes(right + b"#" * (FILE_BYTES_MAX + 1 - len(right)))
    assert load_fault(path).problem == f"larger than {FILE_BYTES_MAX} bytes"


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    for document in (text, f'name = "x"\n{text}', f'name = "x"\n[[links]]\n{text}'):
        line = outcome(document)
        assert line is None or (line.startswith(f"{FILE}: ") and len(line.splitlines()) == 1)


def outcome(document: str) -> str | None:
    try:
        decode_toml(document, Sample, file=FILE)
    except ConfigurationError as error:
        return str(error)
    return None
