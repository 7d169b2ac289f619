"""The receiver's part where the sender pays: counts what arrives of a flow and reports it, and does nothing else.

Decides: when a report is due (exactly once in each interval of the sender's reactor, and at the moment of a change of
the price), and what its counts are. Refuses to know: what a session is worth, what a reactor makes of a report, prices.
It could not tell a policy if it wanted to: nothing of it ever comes here. Pure.

Counts begin at 0 with the session and never fall: an engine that begins anew is only added to. Marks are counted once:
the engine counts segments one by one, and only this agent's reading is reported.

Source: M3I scenarios 3.3.2.2, the aggregator: feedback "with the same regularity" as the reactor recalculates (DPH-08).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from billpay.sessions import MarkReport, SessionTerms
from dataplane.metering import FlowKey, Tally

MS = 1_000_000

FORGET_NS = 60_000 * MS
"""Terms are said again each ten seconds; who did not say them for so long is gone."""

MOST_COUNTED = 1_024
MOST_OF_ONE = 256
"""Of one agent: nobody can fill the table alone."""


class SteadyCount:
    """Cumulative from 0, whatever the engine does: its counts may begin anew, and its flow may not be there yet."""

    def __init__(self) -> None:
        self.total = Tally()
        self._last: Tally | None = None

    def begin(self, seen: Tally | None) -> None:
        """What arrived before does not count."""
        self._last = seen

    def add(self, seen: Tally | None) -> Tally:
        """The total with this reading. None: the engine does not have the flow."""
        if seen is None:
            return self.total
        last = self._last or Tally()
        if any(now < before for now, before in zip(seen, last, strict=True)):
            last = Tally()
        self._last = seen
        self.total = self.total.plus(Tally(*(now - before for now, before in zip(seen, last, strict=True))))
        return self.total


@dataclass(slots=True)
class Counted:
    """A flow of somebody else that we count for its payer."""

    session: str
    peer: str  # the fingerprint of the agent that asked
    address: str  # where it gets its reports
    key: FlowKey
    interval_ns: int
    begun_ns: int
    heard_ns: int
    next_ns: int
    count: SteadyCount = field(default_factory=SteadyCount)
    has_begun: bool = False


class Aggregator:
    """`number` gives a session's next sequence number."""

    def __init__(self, number: Callable[[str], int]) -> None:
        self._number = number
        self._counted: dict[str, Counted] = {}

    def __len__(self) -> int:
        return len(self._counted)

    def on_terms(self, terms: SessionTerms, *, peer: str, key: FlowKey, now_ns: int) -> bool:
        """Whether it is counted from now on. `key`: the flow as this host's engine has it."""
        known = self._counted.get(terms.session)
        if known is not None and known.peer != peer:
            return False
        if terms.ends:
            self._counted.pop(terms.session, None)
            return False
        interval_ns = terms.interval_ms * MS
        if known is not None and known.key == key:
            known.heard_ns = now_ns
            if known.interval_ns != interval_ns:
                known.interval_ns, known.next_ns = interval_ns, min(known.next_ns, now_ns + interval_ns)
            return True
        if known is None and (len(self._counted) >= MOST_COUNTED or self._of(peer) >= MOST_OF_ONE):
            return False
        self._counted[terms.session] = Counted(
            session=terms.session,
            peer=peer,
            address=terms.flow.source,
            key=key,
            interval_ns=interval_ns,
            begun_ns=now_ns,
            heard_ns=now_ns,
            next_ns=now_ns + interval_ns,
        )
        return True

    def _of(self, peer: str) -> int:
        return sum(each.peer == peer for each in self._counted.values())

    def get(self, session: str) -> Counted | None:
        return self._counted.get(session)

    def forget_silent(self, now_ns: int) -> list[str]:
        """Sessions whose payer is gone."""
        gone = [name for name, each in self._counted.items() if now_ns - each.heard_ns >= FORGET_NS]
        for name in gone:
            del self._counted[name]
        return gone

    def all(self) -> Iterable[Counted]:
        return self._counted.values()

    def begin(self, session: str, seen: Tally | None) -> None:
        """The first reading of its meter: what is counted, is counted from here."""
        counted = self._counted[session]
        if not counted.has_begun:
            counted.count.begin(seen)
            counted.has_begun = True

    def report(self, session: str, seen: Tally | None, now_ns: int, *, extra: bool = False) -> MarkReport:
        """What has arrived. `extra`: one at a change of the price, between two regular ones."""
        counted = self._counted[session]
        if not extra:
            # The next is an interval after this one was due, not after it was made: no drift. What was missed is past.
            missed = max(0, now_ns - counted.next_ns) // counted.interval_ns
            counted.next_ns += (missed + 1) * counted.interval_ns
        total = counted.count.add(seen)
        return MarkReport(
            session=session,
            sequence=self._number(session),
            counted_ms=max(0, now_ns - counted.begun_ns) // MS,
            packets=total.packets,
            bytes=total.bytes,
            ce_packets=total.ce_packets,
            ect_packets=total.ect_packets,
        )
