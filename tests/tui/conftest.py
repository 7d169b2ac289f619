"""Screens look the same on every machine: times in UTC, a terminal with 256 colours."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _some_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("COLORTERM", raising=False)
        patch.delenv("TEXTUAL_COLOR_SYSTEM", raising=False)
        time.tzset()
        yield
    time.tzset()
