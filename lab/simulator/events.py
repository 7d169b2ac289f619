"""The virtual clock of the packet mode: what happens next, and a packet.

Decides: the order of events, by time and, at one time, by who asked first. Refuses to know: links, sources, chance.
One heap of tuples; an event is a method and one argument, so that nothing is made anew for each packet but its tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol

NS_PER_S = 1_000_000_000
NS_PER_BYTE_AT_1_BIT_S = 8 * NS_PER_S


class Timeline:
    """`now_ns` is the time of the event that runs. `schedule` accepts no time that has passed."""

    __slots__ = ("_asked", "_heap", "events", "now_ns")

    def __init__(self) -> None:
        self.now_ns = 0
        self.events = 0
        self._heap: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._asked = 0

    def schedule(self, when_ns: int, act: Callable[[Any], None], argument: Any = None) -> None:
        self._asked += 1
        heappush(self._heap, (when_ns, self._asked, act, argument))

    def run_until(self, end_ns: int) -> None:
        """Runs all events before `end_ns`, which is the time afterwards."""
        heap, pop, count = self._heap, heappop, 0
        while heap and heap[0][0] < end_ns:
            self.now_ns, _, act, argument = pop(heap)
            act(argument)
            count += 1
        self.events += count
        self.now_ns = end_ns


class Hop(Protocol):
    """A link, or where packets end."""

    def arrive(self, packet: Packet) -> None: ...


class Packet:
    """On its way over `route`; `hop` is the place where it arrives next. `media_ns`: of a stream, what it plays."""

    __slots__ = (
        "amount_nanodollars",
        "hop",
        "marked",
        "media_ns",
        "number",
        "route",
        "sent_ns",
        "size_bytes",
        "toll_nanodollars",
    )

    def __init__(self, route: tuple[Hop, ...], size_bytes: int, number: int, sent_ns: int) -> None:
        self.route = route
        self.hop = 0
        self.size_bytes = size_bytes
        self.number = number
        self.sent_ns = sent_ns
        self.marked = False
        self.media_ns = 0
        self.amount_nanodollars = 0  # that is left
        self.toll_nanodollars = 0  # that was taken
