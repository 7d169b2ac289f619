"""Nodes with keys and certificates on disk, for tests that open real connections on loopback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from neighbour.identity import NodeIdentity


@pytest.fixture
def node(tmp_path: Path) -> Callable[[str], NodeIdentity]:
    """`node("A")`: the identity of that name, with a key of its own."""
    return lambda name: NodeIdentity.load_or_create(
        tmp_path / name, name=name, draw=lambda size: name.encode().ljust(size, b".")
    )
