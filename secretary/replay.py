"""`hostagent secretary replay`: recorded or synthetic requests, put to a judge on a virtual clock, one by one.

Decides what an event must say, the order of the events, and who may see what: the judge gets a transfer, a moment and a
callable that asks the user; what the transfer is worth stays sealed, and is opened by the summary alone, when the
decision has been made. Refuses to know how the judge decides, and where the file lies. Pure: the file is passed in.

Events that are not in the order of time are put into it; those of the same moment stay as they stand in the file. The
clock of the boot counts from the first event on. "i" counts the file's events from 0, blank lines left out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Annotated, BinaryIO, Final, Protocol

import msgspec

from billpay.errors import ConfigurationError, LocalProtocolError
from secretary.hindsight import Outcome, Summary
from secretary.kinds import Kind, shipped_kinds
from secretary.transfers import Bytes, Moment, Nanodollars, Text, Transfer

LINE_BYTES_MAX: Final = 65_536
NANOSECONDS: Final = 10**9
BOOT: Final = "replay"
YEAR_9999_S: Final = 253_370_764_800

Seconds = Annotated[float, msgspec.Meta(ge=0, lt=YEAR_9999_S)]
Truth = Annotated[int, msgspec.Meta(ge=-(10**18), le=10**18)]

_REMEDIES: Final = {
    "t": "seconds since 1970, or since the first event",
    "user": "a text of at most 256 letters",
    "app": "the program's file name, a text of at most 256 letters",
    "dest": "a name or an address, a text of at most 256 letters",
    "network": "the network's name, a text of at most 256 letters",
    "bytes": "a whole number of bytes",
    "foreground": "true or false, null if not known",
    "price_nanodollars": "a whole number, 0 to 10^18",
    "truth_nanodollars": "a whole number: what the transfer is worth to the user",
}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file. Fields that are not named here are passed over."""

    t: Seconds
    user: Text
    app: Text
    dest: Text
    network: Text
    bytes: Bytes
    foreground: bool | None
    price_nanodollars: Nanodollars
    truth_nanodollars: Truth


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What is printed for a request."""

    i: int
    decision: str
    limit_nanodollars: int
    asked: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """`accept_ppm`: how probable the judge thought it, before any question, that the user accepts this price."""

    pay: bool
    limit_nanodollars: int
    asked: bool
    accept_ppm: int | None
    why: str


class Decider(Protocol):
    """`ask()` puts the request to the user and gives the answer; asked twice, it answers alike and counts once."""

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided: ...


class SealedTruth:
    """What a transfer is worth to its user. The judge's side may ask one thing of it; opening is the summary's."""

    __slots__ = ("_asked", "_truth_nanodollars")

    def __init__(self, truth_nanodollars: int) -> None:
        self._truth_nanodollars = truth_nanodollars
        self._asked = False

    def __repr__(self) -> str:
        return "SealedTruth(…)"

    @property
    def was_asked(self) -> bool:
        return self._asked

    def would_accept(self, price_nanodollars: int) -> bool:
        self._asked = True
        return self._truth_nanodollars >= price_nanodollars

    def open(self) -> int:
        """For the summary, after the decision."""
        return self._truth_nanodollars


class Recording:
    """The events of a seekable file, in the order of time.

    The whole file is checked before the first event comes out. Kept of it are a moment and a place for each line.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Raises ConfigurationError: one line with the file, the line's number, the field and what to do."""
        self._file = file
        self._name = name
        self._moments = array("d")
        self._places = array("q")
        self._numbers = array("q")
        place = file.tell()
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), start=1):
            if line.strip():
                self._moments.append(parse_event(line, name, number).t)
                self._places.append(place)
                self._numbers.append(number)
            place += len(line)

    def __len__(self) -> int:
        return len(self._moments)

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        order = sorted(range(len(self._moments)), key=self._moments.__getitem__)  # stable
        for index in order:
            if self._file.tell() != self._places[index]:
                self._file.seek(self._places[index])
            line = self._file.readline(LINE_BYTES_MAX + 1)
            yield index, parse_event(line, self._name, self._numbers[index])


_DECODER: Final = msgspec.json.Decoder(Event)


def parse_event(line: bytes, name: str, number: int) -> Event:
    """Raises ConfigurationError: one line with the file, the line's number, the field and what to do."""
    where = f"{name}:{number}"
    if len(line) > LINE_BYTES_MAX:
        raise ConfigurationError(where, "", f"longer than {LINE_BYTES_MAX} bytes", "write one event a line")
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError as error:
        field, problem = _explain(str(error))
        raise ConfigurationError(where, field, problem, _REMEDIES.get(field, "write an object with " + _ALL)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(where, "", f"not JSON: {error}", "write one JSON object a line, in UTF-8") from error


_ALL: Final = ", ".join(_REMEDIES)


def _explain(problem: str) -> tuple[str, str]:
    """msgspec says "... - at `$.bytes`", or "Object missing required field `bytes`"."""
    text, _, path = problem.partition(" - at `$.")
    if path:
        return path.rstrip("`"), text
    if "missing required field" in text:
        return text.split("`")[1], "is missing"
    return "", text


def kind_of(program: str, kinds: Mapping[str, Kind]) -> str:
    """By the table; "" if no kind names the program."""
    return next((kind.name for kind in kinds.values() if program in kind.programs), "")


def transfer_of(event: Event, kind: str) -> Transfer:
    """All that a host could know of it."""
    return Transfer(
        user=event.user,
        program=event.app,
        kind=kind,
        destination=event.dest,
        network=event.network,
        foreground=event.foreground,
        size_bytes=event.bytes,
        price_nanodollars=event.price_nanodollars,
    )


def replay(
    events: Iterable[tuple[int, Event]],
    decider: Decider,
    summary: Summary,
    *,
    kinds: Mapping[str, Kind] | None = None,
    zone: tzinfo = UTC,
) -> Iterator[Line]:
    """A line for each request, as it is decided; the summary grows with them, and is whole when the lines are out.

    An asked request is decided by its answer, whatever the judge makes of it. Raises LocalProtocolError if the judge
    says that it asked and did not, or the other way round.
    """
    kinds = shipped_kinds() if kinds is None else kinds
    kind_by_program: dict[str, str] = {}
    first_t: float | None = None
    for index, event in events:
        first_t = event.t if first_t is None else first_t
        kind = kind_by_program.get(event.app)
        if kind is None:
            kind = kind_by_program[event.app] = kind_of(event.app, kinds)
        truth, price = SealedTruth(event.truth_nanodollars), event.price_nanodollars
        now = Moment(unix_s=int(event.t), boot_ns=round((event.t - first_t) * NANOSECONDS), boot=BOOT, zone=zone)
        decided = decider.on_request(transfer_of(event, kind), now, lambda: truth.would_accept(price))  # noqa: B023
        if decided.asked != truth.was_asked:
            raise LocalProtocolError(f"event {index}: the judge says asked={decided.asked}, and it is not so")
        pay = truth.would_accept(price) if decided.asked else decided.pay
        summary.add(
            Outcome(
                t=event.t,
                user=event.user,
                program=event.app,
                price_nanodollars=price,
                pay=pay,
                asked=decided.asked,
                accept_ppm=decided.accept_ppm,
            ),
            truth.open(),
        )
        yield Line(
            i=index,
            decision="pay" if pay else "decline",
            limit_nanodollars=decided.limit_nanodollars,
            asked=decided.asked,
            why=decided.why,
        )
