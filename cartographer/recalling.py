"""A destination's record as values that survive a restart, and back.

Decides what is worth keeping: ways with their statistics, what led to them, what each ISP offers and ignores.  Not
kept: shares and what is being deliberated, for the first decision after a restart is made anew from the beliefs.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from billpay.header import Slot
from cartographer.map import AlternativeFacts, AskRecord, Destination, IspRecord, WayRecord, way_text
from cartographer.remembered import (
    RememberedAsk,
    RememberedDescription,
    RememberedDestination,
    RememberedIsp,
    RememberedWay,
)
from cartographer.statistics import StoredLevel, StoredRate, StoredWay, WayStatistics


def remembered(destination: str, record: Destination, now_ns: int) -> RememberedDestination:
    return RememberedDestination(
        destination=destination,
        path=record.path,
        isps=tuple(_remembered_isp(number, isp, now_ns) for number, isp in record.isps.items()),
        ways=tuple(
            RememberedWay(
                oads=known.slots,
                age_ns=max(0, now_ns - known.seen_ns),
                statistics=_shifted(known.statistics.remembered(), now_ns),
            )
            for known in record.ways.values()
            if not known.is_expected
        ),
        asks=tuple(
            RememberedAsk(slots=ask, way=asked.way, age_ns=max(0, now_ns - asked.seen_ns))
            for ask, asked in record.asks.items()
            if asked.way is not None
        ),
        age_ns=max(0, now_ns - record.active_ns),
    )


def recall(record: Destination, values: RememberedDestination, then_ns: int) -> None:
    """Into a record that knows nothing yet; `then_ns`: when the values were taken, by the clock of now."""
    record.path = values.path
    record.active_ns = then_ns - values.age_ns
    for isp in values.isps:
        numbers = {*isp.seen, *isp.silent}
        record.isps[isp.as_number] = IspRecord(
            bitmap=isp.bitmap,
            present=isp.present,
            seen_ns=then_ns - isp.age_ns,
            default=isp.default,
            alternatives={
                number: AlternativeFacts(
                    number=number,
                    seen=number in isp.seen,
                    silent_until_ns=then_ns + isp.silent[number] if number in isp.silent else 0,
                )
                for number in numbers
            },
        )
    for item in values.ways:
        slots = tuple(Slot(*oad) for oad in item.oads)
        if any(slot.as_number not in record.isps for slot in slots):
            continue  # an ISP that was forgotten while the way was not
        way = way_text(slots)
        statistics = WayStatistics.recall(_shifted(item.statistics, then_ns))
        record.ways[way] = WayRecord(way, slots, then_ns - item.age_ns, statistics)
    for asked in values.asks:
        ask = tuple(sorted(Slot(*oad) for oad in asked.slots))
        if asked.way in record.ways:
            record.asks[ask] = AskRecord(way=asked.way, seen_ns=then_ns - asked.age_ns)
    record.version += 1


def aged(descriptions: Iterable[RememberedDescription], elapsed_ns: int) -> Iterator[RememberedDescription]:
    """What is left of their time, reckoned from when they were taken (`topology.recall` is given that moment)."""
    return (item for item in descriptions if item.left_ns > elapsed_ns)


def _remembered_isp(as_number: int, isp: IspRecord, now_ns: int) -> RememberedIsp:
    return RememberedIsp(
        as_number=as_number,
        bitmap=isp.bitmap,
        present=isp.present,
        default=isp.default,
        seen=tuple(number for number, facts in isp.alternatives.items() if facts.seen),
        silent={
            number: facts.silent_until_ns - now_ns
            for number, facts in isp.alternatives.items()
            if facts.silent_until_ns > now_ns
        },
        age_ns=max(0, now_ns - isp.seen_ns),
    )


def _shifted(stored: StoredWay, now_ns: int) -> StoredWay:
    """Times become ages, and ages times: it is its own inverse."""
    return StoredWay(
        levels={name: _shift(level, now_ns) for name, level in stored.levels.items()},
        rates={name: _shift_rate(rate, now_ns) for name, rate in stored.rates.items()},
    )


def _shift(level: StoredLevel, now_ns: int) -> StoredLevel:
    if level.measured_ns is None:
        return level
    return msgspec.structs.replace(level, measured_ns=now_ns - level.measured_ns)


def _shift_rate(rate: StoredRate, now_ns: int) -> StoredRate:
    if rate.measured_ns is None:
        return rate
    return msgspec.structs.replace(rate, measured_ns=now_ns - rate.measured_ns)
