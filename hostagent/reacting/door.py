"""Whose datagrams on the session port are looked at, before anything of them is read.

Decides: when an address has cost enough for this second. Verifying a signature takes a thousand times as long as
sending a forged one, and a recorded one holds each time that it is sent. So what changed nothing, though a signature
had to be verified, is counted by the address that it came from; beyond `MOST_IN_VAIN` in a second the rest of that
second is dropped unread. All addresses of which nobody knows anything are counted together, so that drawing others is
no use.

An address can be forged as well. Then its owner's messages are lost too, which costs time and no money: every message
is said again, and a session that hears nothing lets go. Refuses to know: messages, sockets, clocks. Pure.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Final

NS_PER_S = 1_000_000_000
MOST_IN_VAIN: Final = 100
"""About a hundredth of a core."""
MOST_MET: Final = 256
_STRANGERS: Final = ""


class Door:
    """`peers`: the addresses of agents that are known beforehand."""

    def __init__(self, peers: Iterable[str]) -> None:
        self._peers = frozenset(peers)
        self._met: OrderedDict[str, None] = (
            OrderedDict()
        )  # others that said something new: a provider, a second address
        self._second = -1
        self._in_vain: Counter[str] = Counter()

    def admits(self, address: str, now_ns: int) -> bool:
        second = now_ns // NS_PER_S
        if second != self._second:
            self._second = second
            self._in_vain.clear()
        return self._in_vain[self._who(address)] < MOST_IN_VAIN

    def on_news(self, address: str) -> None:
        """Something that was signed changed something."""
        if address in self._peers:
            return
        self._met[address] = None
        self._met.move_to_end(address)
        while len(self._met) > MOST_MET:
            self._met.popitem(last=False)

    def on_vain(self, address: str) -> None:
        """A signature was verified, and nothing came of it."""
        self._in_vain[self._who(address)] += 1

    def _who(self, address: str) -> str:
        return address if address in self._peers or address in self._met else _STRANGERS
