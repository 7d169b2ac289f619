"""What happens to a data plane in a differential test, and what it makes of it. Values, so that a run can be replayed.

A script is a list of events in the order of time. Every engine gets the same one; what it answers is compared as
`Outcome` packet by packet, as decoded JSON answer by answer, and as `Books` at each look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

NS_PER_S = 1_000_000_000
START_NS = 1_000 * NS_PER_S
START_UNIX_S = 1_750_000_000


class Arrival(NamedTuple):
    """One packet. `leaving`: a host's own, on its way out by the interface. `padding`: what the link layer has behind
    it, which the kernel takes off before anybody but a program at the interface sees it.
    """

    at_ns: int
    interface: int
    mark: int
    payload: bytes
    segment_bytes: int = 0
    leaving: bool = False
    padding: bytes = b""


class Order(NamedTuple):
    """A command of the main process, and the time of day at which it comes."""

    at_ns: int
    unix_s: int
    body: bytes


class Look(NamedTuple):
    """The books are compared now."""

    at_ns: int


Event = Arrival | Order | Look


class Outcome(NamedTuple):
    """What became of one packet: the whole IP packet with which it goes on, b"" when it does not. `service_class`: in
    which it waits for a link with a queue, where that was looked at.
    """

    accept: bool
    mark: int
    payload: bytes
    service_class: int = -1


DROPPED = Outcome(False, 0, b"")
CLASS_LOOKED_AT = 5
"""Of so many packets one's service class is looked at, where engines can show it: it costs several packets."""

Books = dict[str, Any]


class Engine(Protocol):
    """One data plane under test."""

    name: str

    def arrive(self, batch: Sequence[Arrival]) -> list[Outcome]:
        """Packets of one moment, in order."""
        ...

    def order(self, order: Order) -> Any:
        """The decoded answer."""
        ...

    def look(self, at_ns: int) -> Books:
        """Everything that is counted or known, by name; zeros are left out."""
        ...

    def close(self) -> None: ...


def written(event: Event) -> str:
    """One line, from which `read_back` makes the event again."""
    match event:
        case Arrival():
            way = "out" if event.leaving else "in"
            size = f" gso={event.segment_bytes}" if event.segment_bytes else ""
            size += f" padding={event.padding.hex()}" if event.padding else ""
            return f"{event.at_ns} {way} if={event.interface} mark={event.mark:#x}{size} {event.payload.hex() or '-'}"
        case Order():
            return f"{event.at_ns} order unix={event.unix_s} {event.body.decode()}"
        case Look():
            return f"{event.at_ns} look"


def read_back(line: str) -> Event:
    """The inverse of `written`."""
    at, kind, *rest = line.split(" ", 3)
    if kind == "look":
        return Look(int(at))
    if kind == "order":
        return Order(int(at), int(rest[0].removeprefix("unix=")), rest[1].encode())
    words = dict(word.split("=") for word in line.split() if "=" in word)
    payload = b"" if line.endswith(" -") else bytes.fromhex(line.rsplit(" ", 1)[1])
    return Arrival(
        at_ns=int(at),
        interface=int(words["if"]),
        mark=int(words["mark"], 16),
        payload=payload,
        segment_bytes=int(words.get("gso", "0")),
        leaving=kind == "out",
        padding=bytes.fromhex(words.get("padding", "")),
    )
