"""Which destinations accesses are measured by: those that programs used last, as long as they answer at all.

Decides: how few, and for how long. Refuses to know who asks them, and how. Pure.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

NS_PER_S: Final = 1_000_000_000
TARGETS_MAX: Final = 3
CANDIDATES_MAX: Final = 32
IN_USE_NS: Final = 600 * NS_PER_S
MUTE_ROUNDS: Final = 3
"""So many rounds without an answer, and a destination is not asked any more."""


class Targets:
    """Of one host, for all its accesses."""

    def __init__(self) -> None:
        self._mute: dict[str, int] = {}  # rounds without any answer, by address; the one used last is last
        self._used_ns: dict[str, int] = {}
        self._answered: set[str] = set()

    def use(self, address: str, now_ns: int) -> None:
        """A program talks to it. Those that answer are kept as long as there are others to forget."""
        mute = self._mute.pop(address, 0)
        self._mute[address], self._used_ns[address] = mute, now_ns
        if len(self._mute) > CANDIDATES_MAX:
            oldest = next((each for each in self._mute if each not in self._answered), next(iter(self._mute)))
            self._forget(oldest)

    def _forget(self, address: str) -> None:
        del self._mute[address], self._used_ns[address]
        self._answered.discard(address)

    def choose(self, families: set[int], now_ns: int) -> list[str]:
        """As long as possible the same: other destinations are other delays."""
        for address in [each for each, used_ns in self._used_ns.items() if now_ns - used_ns >= IN_USE_NS]:
            self._forget(address)
        fit = [each for each, mute in self._mute.items() if mute < MUTE_ROUNDS and _is_far(each, families)]
        known = sorted(each for each in fit if each in self._answered)
        return (known + [each for each in reversed(fit) if each not in self._answered])[:TARGETS_MAX]

    def on_answer(self, address: str, answered: bool) -> bool:
        """Whether its silence would mean a loss: it has answered before."""
        if address not in self._mute:
            return False
        if answered:
            self._mute[address] = 0
            self._answered.add(address)
        elif address not in self._answered:
            self._mute[address] += 1
        return address in self._answered


def _is_far(address: str, families: set[int]) -> bool:
    parsed = ip_address(address)
    is_near = parsed.is_loopback or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified
    return parsed.version in families and not is_near
