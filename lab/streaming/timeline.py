"""Which encoding went when, for a result that a person or a plot reads. Pure."""

from __future__ import annotations

import msgspec


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """From then on, by the session's own clock."""

    at_ms: int
    level: int
    rate_bit_s: int


class Timeline:
    def __init__(self) -> None:
        self._changes: list[Change] = []

    def at(self, passed_ns: int, level: int, rate_bit_s: int) -> None:
        if not self._changes or self._changes[-1].level != level:
            self._changes.append(Change(at_ms=passed_ns // 1_000_000, level=level, rate_bit_s=rate_bit_s))

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(self._changes)

    @property
    def switches(self) -> int:
        """The first encoding is none."""
        return max(0, len(self._changes) - 1)
