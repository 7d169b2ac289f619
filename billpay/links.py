"""The two counters of a link: what both neighbours agree on, and what is missing between them.

Decides: what an interval adds to the debts of both directions, which difference is loss (or excess), and in which
interval it arose.  Refuses to know: who keeps the counters, how statements travel, and what follows for the
accounts (`billpay.settlement`).
Source: Bill-Pay, section 2.3 (a pair of counters for each link); ARCHITECTURE ("What is counted where").

The problem.  Counters are cumulative.  Sender and receiver never read them at the same instant, and packets are on
the wire, so two readings of one direction differ although nothing is lost.  One interval has three readings, in
this order of time:

    opening  the caller's, before it posts its statement
    answer   the other side's, taken when the statement arrives
    closing  the caller's, when the answer has arrived

What was sent before one reading is received or lost by the next (the statement travelled the same link, behind
those packets), so the loss L until then is bracketed, for the direction caller → answerer by

    opening.sent − answer.received  ≤  L  ≤  closing.sent − answer.received

and for answerer → caller by

    answer.sent − closing.received  ≤  L  ≤  answer.sent − opening.received.

where `received` includes what the receiver cut off: a packet that carries more than the ceiling of its sender's
organisation is taken for the ceiling, and both sides book the rest by its own name, neither lost nor owed.

What is on the wire widens a bracket and makes no difference.  The total that was named so far is left alone while
it lies inside the bracket.  If it lies outside in two intervals running, it moves to the nearest bound of both, and
the step is a line with the first of the two intervals: a packet that the statement overtook is back in the next
interval and cancels.  With an idle link the bracket is a point, so the lines of a direction then add up to sent −
received exactly.

A total below zero is excess: the receiver claims more than was sent.  It is disputed and never owed, since the
smaller of the two counters is settled (the neighbour's loss is not our debt, and a false claim earns nothing).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from billpay.errors import RemoteProtocolError
from billpay.messages import Closing, Statement


class Direction(enum.Enum):
    """Of a link, seen from the side that starts the exchange of statements (the caller)."""

    FORWARD = "forward"  # caller → answerer
    BACKWARD = "backward"  # answerer → caller


class LineKind(enum.Enum):
    """What a named difference is. `sent − received` grows by LOSS and WITHDRAWN, shrinks by FOUND and EXCESS."""

    LOSS = "loss"
    FOUND = "found"  # part of an earlier loss was received after all
    EXCESS = "excess"  # the receiver claims more than was sent: disputed
    WITHDRAWN = "withdrawn"  # part of an earlier excess is no longer claimed


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One side's cumulative counters of a link at one instant, in its own view."""

    sent_nanodollars: int = 0
    received_nanodollars: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    cut_nanodollars: int = 0  # arrived above the ceiling of the sender's organisation, and was cut off

    @property
    def arrived_nanodollars(self) -> int:
        return self.received_nanodollars + self.cut_nanodollars

    def went_back_since(self, earlier: Reading) -> bool:
        return (
            self.sent_nanodollars < earlier.sent_nanodollars
            or self.received_nanodollars < earlier.received_nanodollars
            or self.sent_packets < earlier.sent_packets
            or self.received_packets < earlier.received_packets
            or self.cut_nanodollars < earlier.cut_nanodollars
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The readings of one interval of one link."""

    interval: int
    opening: Reading
    answer: Reading
    closing: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What is owed for each direction until an interval, cumulative: the smaller of both counters."""

    forward_nanodollars: int = 0
    backward_nanodollars: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceLine:
    """A difference with its interval: it was complete after interval `since_interval` and by the end of `interval`.

    The two are neighbours unless traffic on the wire hid the difference for a while.
    """

    direction: Direction
    kind: LineKind
    since_interval: int
    interval: int
    nanodollars: int  # above 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """The bounds of sent − arrived of one direction at the end of an interval, wire excluded."""

    interval: int = 0
    low_nanodollars: int = 0
    high_nanodollars: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionState:
    """What the comparison remembers of one direction. `named_nanodollars` is the sum of its lines."""

    named_nanodollars: int = 0
    last: Bracket = Bracket()
    earlier: Bracket = Bracket()
    clear_interval: int = 0  # the last interval at whose end nothing beyond `named` was missing, for certain


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonState:
    interval: int = 0  # of the last round compared; 0: none
    forward: DirectionState = DirectionState()
    backward: DirectionState = DirectionState()


def reading_of(sample: Statement | Closing) -> Reading:
    return Reading(
        sent_nanodollars=sample.sent_nanodollars,
        received_nanodollars=sample.received_nanodollars,
        sent_packets=sample.sent_packets,
        received_packets=sample.received_packets,
        cut_nanodollars=sample.cut_nanodollars,
    )


def agreed(opening: Reading, answer: Reading) -> Agreed:
    """What both sides settle by: they compute the same, since both hold both signed statements."""
    return Agreed(
        forward_nanodollars=min(opening.sent_nanodollars, answer.received_nanodollars),
        backward_nanodollars=min(answer.sent_nanodollars, opening.received_nanodollars),
    )


def check_successor(statement: Statement, previous: Statement | None) -> None:
    """Raises RemoteProtocolError unless `statement` can follow the same issuer's `previous` one on the same link.

    Codes: `wrong-link`, `old-interval`, `counter-went-back`.
    """
    if previous is None:
        return
    if (statement.link, statement.issuer, statement.peer) != (previous.link, previous.issuer, previous.peer):
        raise RemoteProtocolError("wrong-link", f"the statement is not about link {previous.link}")
    if statement.interval <= previous.interval:
        raise RemoteProtocolError(
            "old-interval", f"interval {statement.interval} of link {statement.link} is not after {previous.interval}"
        )
    if reading_of(statement).went_back_since(reading_of(previous)):
        raise RemoteProtocolError(
            "counter-went-back",
            f"a counter of link {statement.link} is lower in interval {statement.interval} than in {previous.interval}",
        )


def compare(state: ComparisonState, current: Round) -> tuple[ComparisonState, tuple[DifferenceLine, ...]]:
    """The next state, and the differences that the interval before `current` turned out to have had."""
    forward, forward_lines = _compare_direction(
        state.forward,
        Direction.FORWARD,
        Bracket(
            interval=current.interval,
            low_nanodollars=current.opening.sent_nanodollars - current.answer.arrived_nanodollars,
            high_nanodollars=current.closing.sent_nanodollars - current.answer.arrived_nanodollars,
        ),
    )
    backward, backward_lines = _compare_direction(
        state.backward,
        Direction.BACKWARD,
        Bracket(
            interval=current.interval,
            low_nanodollars=current.answer.sent_nanodollars - current.closing.arrived_nanodollars,
            high_nanodollars=current.answer.sent_nanodollars - current.opening.arrived_nanodollars,
        ),
    )
    after = ComparisonState(interval=current.interval, forward=forward, backward=backward)
    return after, forward_lines + backward_lines


def _compare_direction(
    state: DirectionState, direction: Direction, now: Bracket
) -> tuple[DirectionState, tuple[DifferenceLine, ...]]:
    # What is missing can only be called so if it is missing now and was so an interval before.
    old, last = state.named_nanodollars, state.last
    least = min(now.low_nanodollars, last.low_nanodollars)
    most = max(now.high_nanodollars, last.high_nanodollars)
    named = min(max(old, least), most)
    lines = _lines(direction, old, named, since=_not_before(state, named), interval=last.interval)
    certain = now.low_nanodollars == now.high_nanodollars == named
    after = DirectionState(
        named_nanodollars=named,
        last=now,
        earlier=last,
        clear_interval=now.interval if certain else state.clear_interval,
    )
    return after, lines


def _not_before(state: DirectionState, named: int) -> int:
    """The last interval at whose end the new total was certainly not reached yet."""
    earlier = state.earlier
    grows = named > state.named_nanodollars
    reached = earlier.high_nanodollars >= named if grows else earlier.low_nanodollars <= named
    return min(state.clear_interval, earlier.interval) if reached else earlier.interval


def _lines(direction: Direction, old: int, new: int, *, since: int, interval: int) -> tuple[DifferenceLine, ...]:
    """A step of the named total as lines; a step through zero is two of them."""
    steps = (
        (LineKind.WITHDRAWN, min(new, 0) - min(old, 0)),
        (LineKind.LOSS, max(new, 0) - max(old, 0)),
        (LineKind.FOUND, max(old, 0) - max(new, 0)),
        (LineKind.EXCESS, min(old, 0) - min(new, 0)),
    )
    return tuple(
        DifferenceLine(direction=direction, kind=kind, since_interval=since, interval=interval, nanodollars=size)
        for kind, size in steps
        if size > 0
    )
