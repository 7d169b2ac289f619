"""Mediation: many meters' checkpoints become the usage of sessions, as often as their reader wants it.

Decides: which records belong to a session, when they are complete, and how they are drawn together. Refuses to know
prices and people. Source: M3I scenarios 3.3.3.6 (a simple logical mediation at the receiver, whose aggregator reports
at the regularity at which the reactor reckons, DPH-18) and 3.3.3.3 (functions that may run apart).

Records come in any order, any number of times. Of each meter's run they are counted in the order of their numbers; what
comes too early waits. Usage is drawn together until a whole multiple of the regularity, but never across an instant
that is asked for (`cut_at`: a price changes there). All counts given out are cumulative, so that a reader who misses
one has lost no mark.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from billpay.clearing import MeteredKey, MeterRecord, SessionUsage
from billpay.sessions import SessionId

WAITING_MAX: Final = 1_024
REMEMBERED_MAX: Final = 1_024
CUTS_KEPT: Final = 64


class Taken(Enum):
    """What became of a record."""

    COUNTED = "counted"
    WAITS = "one before it is missing"
    KNOWN = "counted before"  # success: nothing counts twice
    CONTRADICTS = "another record of the same number, or a count that falls: refused"
    TOO_EARLY = "too many wait for the one that is missing: say it again later"


@dataclass(slots=True)
class _Chain:
    """One meter's run of one key."""

    last: MeterRecord | None = None
    waiting: dict[int, MeterRecord] = field(default_factory=dict)
    accepted: dict[int, MeterRecord] = field(default_factory=dict)


@dataclass(slots=True)
class _Session:
    session: SessionId
    key: MeteredKey
    meter: str
    regularity_ms: int
    from_unix_ms: int | None = None  # of the usage that is being drawn together
    to_unix_ms: int = 0
    total: tuple[int, int, int] = (0, 0, 0)
    given: tuple[int, int, int] = (0, 0, 0)
    number: int = 0
    ready: list[SessionUsage] = field(default_factory=list)


@dataclass(slots=True)
class Mediation:
    """One session for each key at a time."""

    _sessions: dict[MeteredKey, _Session] = field(default_factory=dict)
    _chains: dict[tuple[str, str, MeteredKey], _Chain] = field(default_factory=dict)
    _cuts_unix_ms: list[int] = field(default_factory=list)

    def open(self, session: SessionId, key: MeteredKey, *, meter: str, regularity_ms: int) -> bool:
        """What this meter counts of this key is this session's from now on. False: the key is another session's.

        One meter alone: a packet that passes two is one packet.
        """
        known = self._sessions.get(key)
        if known is not None:
            return (known.session, known.meter) == (session, meter)
        self._sessions[key] = _Session(session, key, meter, regularity_ms)
        return True

    def close(self, session: SessionId) -> list[SessionUsage]:
        """The rest of its usage; its key is free again."""
        rest = self.take(session, all_of_it=True)
        self._sessions = {key: each for key, each in self._sessions.items() if each.session != session}
        return rest

    def cut_at(self, unix_ms: int) -> None:
        """Nothing is drawn together across this instant."""
        if unix_ms not in self._cuts_unix_ms:
            insort(self._cuts_unix_ms, unix_ms)
            del self._cuts_unix_ms[:-CUTS_KEPT]

    def on_record(self, record: MeterRecord) -> Taken:
        """Counts it, and all that waited for it."""
        chain = self._chains.setdefault((record.meter, record.run, record.key), _Chain())
        known = chain.accepted.get(record.number) or chain.waiting.get(record.number)
        if known is not None:
            return Taken.KNOWN if known == record else Taken.CONTRADICTS
        if chain.last is not None and record.number <= chain.last.number:
            return Taken.KNOWN  # so long ago that only its number is remembered
        if record.ce_packets > record.packets or record.to_unix_ms < record.from_unix_ms:
            return Taken.CONTRADICTS
        expected = chain.last.number + 1 if chain.last else 1
        if record.number > expected and len(chain.waiting) >= WAITING_MAX:
            return Taken.TOO_EARLY
        if record.number > expected:
            chain.waiting[record.number] = record
            return Taken.WAITS
        if not _follows(record, chain.last):
            return Taken.CONTRADICTS
        self._count(chain, record)
        while (following := chain.waiting.pop(chain.last.number + 1 if chain.last else 1, None)) is not None:
            if _follows(following, chain.last):
                self._count(chain, following)
        return Taken.COUNTED

    def take(self, session: SessionId, *, all_of_it: bool = False) -> list[SessionUsage]:
        """The usage that is complete; `all_of_it`: also the interval that is not full, as when a session ends."""
        found = [each for each in self._sessions.values() if each.session == session]
        if not found:
            return []
        (mine,) = found
        if all_of_it:
            self._close_interval(mine)
        ready, mine.ready = mine.ready, []
        return ready

    def counted(self, session: SessionId) -> tuple[int, int, int]:
        """Packets, bytes and marks of an open session, given out or not."""
        return next((each.total for each in self._sessions.values() if each.session == session), (0, 0, 0))

    def _count(self, chain: _Chain, record: MeterRecord) -> None:
        last = chain.last
        before = (last.packets, last.bytes, last.ce_packets) if last else (0, 0, 0)
        chain.last = chain.accepted[record.number] = record
        chain.accepted.pop(record.number - REMEMBERED_MAX, None)
        mine = self._sessions.get(record.key)
        if mine is None or mine.meter != record.meter:
            return
        if mine.from_unix_ms is None:
            mine.from_unix_ms = record.from_unix_ms
        elif self._is_cut(mine, record):
            self._close_interval(mine)
            mine.from_unix_ms = record.from_unix_ms
        now = (record.packets, record.bytes, record.ce_packets)
        packets, octets, marks = (total + new - old for total, new, old in zip(mine.total, now, before, strict=True))
        mine.total = (packets, octets, marks)
        mine.to_unix_ms = max(mine.to_unix_ms, record.to_unix_ms)
        if mine.to_unix_ms // mine.regularity_ms > mine.from_unix_ms // mine.regularity_ms:
            self._close_interval(mine)

    def _is_cut(self, mine: _Session, record: MeterRecord) -> bool:
        """A cut lies after the beginning of what is drawn together and not after the beginning of the record."""
        assert mine.from_unix_ms is not None
        at = bisect_right(self._cuts_unix_ms, mine.from_unix_ms)
        return at < len(self._cuts_unix_ms) and self._cuts_unix_ms[at] <= record.from_unix_ms

    def _close_interval(self, mine: _Session) -> None:
        if mine.total == mine.given or mine.from_unix_ms is None:
            mine.from_unix_ms = None
            return
        mine.number += 1
        packets, octets, marks = mine.given = mine.total
        usage = SessionUsage(
            session=mine.session,
            number=mine.number,
            key=mine.key,
            from_unix_ms=mine.from_unix_ms,
            to_unix_ms=mine.to_unix_ms,
            packets=packets,
            bytes=octets,
            ce_packets=marks,
        )
        mine.ready.append(usage)
        mine.from_unix_ms = None


def _follows(record: MeterRecord, last: MeterRecord | None) -> bool:
    if last is None:
        return True
    falls = record.packets < last.packets or record.bytes < last.bytes or record.ce_packets < last.ce_packets
    return not falls and record.from_unix_ms >= last.to_unix_ms
