"""What people and programs ask of history, out of one moment of it.

Decides how rows are grouped and cut down, and what a tariff makes of them.  Refuses to know files and threads: the
connection has `all_traffic` and `all_links` (`hostagent.history.database.reading`).

A network's own tariff is reckoned when it is asked for, so that a tariff which was corrected prices what was before,
too.  Of each billing period the price of its usage (without the fee) is shared out over all that the period moved, byte
by byte alike (marks: mark by mark): so rows add up to the bill, and no byte is dear because it came last.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from billpay.tariffs import AnyTariff, PerByte, PerMark, Usage
from hostagent import api
from hostagent.desk import HistoryQuery
from hostagent.history import calendar
from hostagent.history.calendar import Span
from hostagent.history.database import AMOUNT_SUMS, AMOUNTS, COUNT_SUMS, IN_SPAN
from hostagent.history.values import OTHERS, SLOT_S, Counts, split

GROUPS: Final = ("program", "destination", "network", "kind")
STEPS: Final = ("hour", "day", "month", "all")
MANY: Final = 5000
Tariffs = Mapping[str, AnyTariff]
"""By network."""


class Volumes(NamedTuple):
    """Of each five minutes the larger direction. `unknown_s`: of time that is only known by the day."""

    samples: tuple[int, ...]
    unknown_s: int


class _Group(NamedTuple):
    from_unix_s: int
    seconds: int
    names: tuple[str, ...]


@dataclass(slots=True)
class _Sums:
    amounts: list[int]
    tariff_nanodollars: int = 0

    def add(self, amounts: tuple[int, ...]) -> None:
        self.amounts = [mine + more for mine, more in zip(self.amounts, amounts, strict=True)]

    @property
    def bytes(self) -> int:
        return self.amounts[0] + self.amounts[1]


class _Table:
    """The sums of groups. The smallest ones become "(others)" as soon as there are far too many of them."""

    def __init__(self, by: tuple[str, ...], limit: int) -> None:
        self._others = (OTHERS,) * len(by)
        self._limit = limit
        self.sums: dict[_Group, _Sums] = {}
        self.shares: dict[tuple[str, Span], dict[_Group, int]] = {}  # of what a network's billing period is priced by

    def add(self, group: _Group, amounts: tuple[int, ...]) -> None:
        self._of(group).add(amounts)
        if len(self.sums) > 2 * self._limit + MANY:
            self.cut(self._limit)

    def share(self, network: str, period: Span, group: _Group, weight: int) -> None:
        share = self.shares.setdefault((network, period), {})
        share[group] = share.get(group, 0) + weight

    def price(self, network: str, period: Span, whole_weight: int, nanodollars: int) -> None:
        """What of it moved outside of the query has its part too."""
        owners = self.shares[network, period]
        rest = max(0, whole_weight - sum(owners.values()))
        for owner, part in zip(owners, split(nanodollars, [*owners.values(), rest]), strict=False):
            self._of(owner).tariff_nanodollars += part

    def cut(self, limit: int) -> None:
        """Keeps the largest; the rest of each stretch of time becomes one."""
        if len(self.sums) <= limit or not self._others:
            return
        own = [group for group in self.sums if group.names != self._others]
        places = max(0, limit - len({group[:2] for group in self.sums}))
        for group in sorted(own, key=lambda group: -self.sums[group].bytes)[places:]:
            small = self.sums.pop(group)
            others = self._of(group._replace(names=self._others))
            others.add(tuple(small.amounts))
            others.tariff_nanodollars += small.tariff_nanodollars
        for (network, period), share in list(self.shares.items()):
            self.shares[network, period] = {}
            for group, weight in share.items():
                kept = group if group in self.sums else group._replace(names=self._others)
                self.share(network, period, kept, weight)

    def _of(self, group: _Group) -> _Sums:
        return self.sums.setdefault(group, _Sums([0] * len(AMOUNTS)))


def rows(
    connection: sqlite3.Connection, query: HistoryQuery, zone: ZoneInfo, tariffs: Tariffs
) -> tuple[api.HistoryRow, ...]:
    """In order of time, the most bytes first. What is beyond the limit is one "(others)" in each stretch of time.

    A stretch that is only known by the day stays a day, whatever the step. Raises ValueError for a query that says what
    it must not.
    """
    if query.step not in STEPS or not set(query.by) <= set(GROUPS) or len(set(query.by)) < len(query.by):
        raise ValueError(f"step is one of {', '.join(STEPS)}, by any of {', '.join(GROUPS)}")
    table = _table(connection, query, zone, tariffs)
    table.cut(query.limit)
    order = sorted(
        table.sums.items(),
        key=lambda item: (item[0].from_unix_s, OTHERS in item[0].names, -item[1].bytes, item[0]),
    )
    return tuple(_row(group, total, query.by) for group, total in order)


def _row(group: _Group, total: _Sums, by: tuple[str, ...]) -> api.HistoryRow:
    row = api.HistoryRow(
        from_unix_s=group.from_unix_s, seconds=group.seconds, tariff_nanodollars=total.tariff_nanodollars
    )
    values: dict[str, object] = {
        **dict(zip(by, group.names, strict=True)),
        **dict(zip(AMOUNTS, total.amounts, strict=True)),
    }
    return msgspec.structs.replace(row, **values)


def _table(connection: sqlite3.Connection, query: HistoryQuery, zone: ZoneInfo, tariffs: Tariffs) -> _Table:
    priced = {network: tariff for network, tariff in tariffs.items() if isinstance(tariff, PerByte | PerMark)}
    table = _Table(query.by, query.limit)
    for bucket in _buckets(connection, query, zone):
        for piece in _cut(bucket, priced, zone):
            for coarse, network, names, amounts in _grouped(connection, piece, bucket, query.by, apart=bool(priced)):
                group = _Group(*(coarse or (bucket.from_unix_s, bucket.seconds)), names)
                table.add(group, amounts)
                tariff = priced.get(network)
                if tariff is not None:
                    period = calendar.period_of(piece.from_unix_s, tariff.reset_day, zone)
                    table.share(network, period, group, _weight(tariff, Counts(*amounts[: len(Counts._fields)])))
    for network, period in table.shares:
        moved = link_counts(connection, network, period)
        tariff = priced[network]
        table.price(network, period, _weight(tariff, moved), usage_nanodollars(tariff, moved))
    return table


def _buckets(connection: sqlite3.Connection, query: HistoryQuery, zone: ZoneInfo) -> list[Span]:
    """Only those that have rows, since a query may ask for all times; cut at its ends."""
    asked = Span(query.since_unix_s, query.until_unix_s)
    if query.step == "all":
        return [asked] if asked.seconds > 0 else []
    middles = connection.execute(
        f"SELECT DISTINCT from_unix_s + seconds / 2 FROM all_traffic WHERE {IN_SPAN}",  # noqa: S608 - our own words
        {"since": asked.from_unix_s, "until": asked.until_unix_s},
    )
    whole = {calendar.span_of(middle, query.step, zone) for (middle,) in middles}
    return [
        Span(max(span.from_unix_s, asked.from_unix_s), min(span.until_unix_s, asked.until_unix_s))
        for span in sorted(whole)
    ]


def _cut(bucket: Span, tariffs: Mapping[str, PerByte | PerMark], zone: ZoneInfo) -> Iterator[Span]:
    """At the ends of billing periods."""
    edges = {bucket.from_unix_s, bucket.until_unix_s}
    for reset_day in {tariff.reset_day for tariff in tariffs.values()}:
        edges |= {period.until_unix_s for period in calendar.periods(*bucket, reset_day, zone)}
    inside = sorted(edge for edge in edges if edge <= bucket.until_unix_s)
    for since, until in pairwise(inside):
        yield Span(since, until)


def _grouped(
    connection: sqlite3.Connection, piece: Span, bucket: Span, by: tuple[str, ...], *, apart: bool
) -> Iterator[tuple[tuple[int, int] | None, str, tuple[str, ...], tuple[int, ...]]]:
    """The stretch of a row that is longer than its bucket, its network if they are apart, its names, its sums."""
    names = "".join(f", {name}" for name in by)
    of_network = "network" if apart else "''"
    found = connection.execute(
        "SELECT CASE WHEN seconds > :bucket THEN from_unix_s END AS coarse,"  # noqa: S608 - names are checked
        " CASE WHEN seconds > :bucket THEN seconds END AS coarse_s,"
        f" {of_network} AS of_network{names}, {AMOUNT_SUMS} FROM all_traffic WHERE {IN_SPAN}"
        f" GROUP BY coarse, coarse_s, of_network{names}",
        {"since": piece.from_unix_s, "until": piece.until_unix_s, "bucket": max(bucket.seconds, SLOT_S)},
    )
    for coarse, seconds, network, *rest in found:
        where = (coarse, seconds) if coarse is not None else None
        yield where, network, tuple(rest[: len(by)]), tuple(rest[len(by) :])


def _weight(tariff: AnyTariff, moved: Counts) -> int:
    return moved.received_ce_packets if isinstance(tariff, PerMark) else moved.bytes


def usage_nanodollars(tariff: PerByte | PerMark, moved: Counts) -> int:
    """The price of a billing period without its fee."""
    usage = Usage(volume_bytes=moved.bytes, received_marks=moved.received_ce_packets)
    return tariff.price(usage) - tariff.monthly_fee_nanodollars


def link_counts(connection: sqlite3.Connection, network: str, span: Span) -> Counts:
    """What the network's link moved: to the byte what its meter counted."""
    found = connection.execute(
        f"SELECT {COUNT_SUMS} FROM all_links WHERE network = :network AND {IN_SPAN}",  # noqa: S608 - our own words
        {"network": network, "since": span.from_unix_s, "until": span.until_unix_s},
    ).fetchone()
    return Counts(*(value or 0 for value in found))


def kinds_moved(connection: sqlite3.Connection, network: str, span: Span) -> dict[str, Counts]:
    """By kind; sums up to `link_counts` of whole hours."""
    found = connection.execute(
        f"SELECT kind, {COUNT_SUMS} FROM all_traffic WHERE network = :network AND {IN_SPAN} GROUP BY kind",  # noqa: S608
        {"network": network, "since": span.from_unix_s, "until": span.until_unix_s},
    )
    return {kind: Counts(*counts) for kind, *counts in found}


def volumes(connection: sqlite3.Connection, network: str | None, span: Span) -> Volumes:
    """Of a network, None: of all together. Five minutes in which nothing moved are samples of 0, as in a contract."""
    found = connection.execute(
        "SELECT from_unix_s, seconds, MAX(SUM(sent_bytes), SUM(received_bytes)) FROM all_links"  # noqa: S608
        f" WHERE (:network IS NULL OR network = :network) AND {IN_SPAN} GROUP BY from_unix_s, seconds",
        {"network": network, "since": span.from_unix_s, "until": span.until_unix_s},
    ).fetchall()
    unknown_s = min(span.seconds, sum(seconds for _, seconds, _ in found if seconds != SLOT_S))
    samples = [volume for _, seconds, volume in found if seconds == SLOT_S]
    silent = max(0, (span.seconds - unknown_s) // SLOT_S - len(samples))
    return Volumes((*samples, *[0] * silent), unknown_s)


def networks(connection: sqlite3.Connection, span: Span) -> list[str]:
    found = connection.execute(
        f"SELECT DISTINCT network FROM all_links WHERE {IN_SPAN} ORDER BY network",  # noqa: S608 - our own words
        {"since": span.from_unix_s, "until": span.until_unix_s},
    )
    return [network for (network,) in found]
