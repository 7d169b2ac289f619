"""Whole packets that several tests of the wire format need: the dumps of docs/spec/wire.md, read from there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WIRE_SPEC = Path(__file__).parents[2] / "docs" / "spec" / "wire.md"


@pytest.fixture(scope="session")
def vectors() -> dict[str, bytes]:
    """Every dump of the specification by its name; what follows # in it is a comment."""
    blocks = re.findall(r"^```hex (\S+)\n(.*?)^```$", WIRE_SPEC.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return {name: bytes.fromhex(re.sub(r"#.*", "", dump)) for name, dump in blocks}
