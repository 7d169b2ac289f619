"""Tariff replay: what a stretch of history would have cost under other tariffs. You would have paid …

Decides the price, and says in a line where it comes from and what it takes for granted.  Refuses to know how history is
kept: it asks for what moved in a billing period.  Everything is integer; a part of a period costs that part of the fee,
of the bundle and of the price of a month's rate; each is rounded down, in the payer's favour.

All networks are reckoned as if they were one contract's. What people would have done differently under another tariff,
nobody knows: the same traffic is priced.  Source: M3I, CPS and Bill-Pay for the kinds of tariffs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from billpay.messages import Timescale, TollTerms
from billpay.money import NANODOLLARS_PER_DOLLAR, PICODOLLARS_PER_NANODOLLAR
from billpay.tariffs import (
    SAMPLE_S,
    AnyTariff,
    FlatFee,
    Packets,
    PerByte,
    Percentile95PlusNanopayments,
    PerMark,
    Tolls,
    Usage,
    percentile_95_bytes,
)
from hostagent import api
from hostagent.history import calendar
from hostagent.history.calendar import Span
from hostagent.history.queries import Volumes
from hostagent.history.values import Counts

DAY_S: Final = 86_400
AMOUNT_MAX: Final = 0xFF_FFFF
"""What a packet can carry at most: no toll is cut short."""

TYPICAL: Final[tuple[tuple[str, AnyTariff], ...]] = (
    (
        "flat: 30 a month",
        FlatFee(
            issuer="",
            serial=0,
            timescale=Timescale.LONG_TERM,
            valid_from_unix_s=0,
            monthly_fee_nanodollars=30 * NANODOLLARS_PER_DOLLAR,
        ),
    ),
    (
        "per byte: 10 a month with 10 GB, then 2 per GB",
        PerByte(
            issuer="",
            serial=0,
            timescale=Timescale.LONG_TERM,
            valid_from_unix_s=0,
            monthly_fee_nanodollars=10 * NANODOLLARS_PER_DOLLAR,
            bundle_bytes=10**10,
            picodollars_per_byte=2 * PICODOLLARS_PER_NANODOLLAR,
        ),
    ),
    (
        "95th percentile: 5 a month per Mbit/s",
        Percentile95PlusNanopayments(
            issuer="",
            serial=0,
            timescale=Timescale.LONG_TERM,
            valid_from_unix_s=0,
            nanodollars_per_mbit_s=5 * NANODOLLARS_PER_DOLLAR,
        ),
    ),
    (
        "price per mark: 5 a month and 20 millionths per mark",
        PerMark(
            issuer="",
            serial=0,
            timescale=Timescale.LONG_TERM,
            valid_from_unix_s=0,
            monthly_fee_nanodollars=5 * NANODOLLARS_PER_DOLLAR,
            nanodollars_per_mark=20_000,
        ),
    ),
    (
        "tolls: 5 n$ a packet and 0.01 n$ a byte",
        Tolls(
            issuer="",
            serial=0,
            timescale=Timescale.NETWORK,
            valid_from_unix_s=0,
            tolls=(TollTerms(link="access", fixed_nanodollars_per_packet=5, fixed_picodollars_per_byte=10),),
        ),
    ),
)
"""Round numbers of the kind that people meet; not any provider's offer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What moved in a stretch. `by_network`: exact counts; `unknown_s`: time of which only days are known."""

    span: Span
    by_network: Mapping[str, Counts]
    samples: tuple[int, ...] = ()
    unknown_s: int = 0

    @property
    def moved(self) -> Counts:
        total = Counts()
        for counts in self.by_network.values():
            total = total.plus(counts)
        return total

    @classmethod
    def of(cls, span: Span, moved: Mapping[str, Counts], volumes: Volumes) -> Replayed:
        return cls(span=span, by_network=dict(moved), samples=volumes.samples, unknown_s=volumes.unknown_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """`assumes`: what was taken for granted; `unknown`: what history cannot say, "" when it can."""

    title: str
    nanodollars: int
    currency: str
    because: str
    assumes: str
    unknown: str = ""

    def line(self) -> api.ReplayLine:
        reason = "; ".join(part for part in (self.unknown, self.because, f"assumes {self.assumes}") if part)
        return api.ReplayLine(tariff=self.title, nanodollars=self.nanodollars, currency=self.currency, reason=reason)


def replay(
    ask: Callable[[Span], Replayed],
    span: Span,
    zone: ZoneInfo,
    tariffs: tuple[tuple[str, AnyTariff], ...] | None = None,
) -> tuple[Bill, ...]:
    """`ask` gives what moved in a part of `span`; `tariffs`: with their titles, None for `TYPICAL`."""
    return tuple(_bill(ask, span, zone, title, tariff) for title, tariff in (TYPICAL if tariffs is None else tariffs))


def _bill(ask: Callable[[Span], Replayed], span: Span, zone: ZoneInfo, title: str, tariff: AnyTariff) -> Bill:
    if isinstance(tariff, Tolls):
        return _tolls(ask(span), title, tariff)
    total, reasons, unknown_s = 0, [], 0
    for period in calendar.periods(*span, tariff.reset_day, zone):
        piece = Span(max(period.from_unix_s, span.from_unix_s), min(period.until_unix_s, span.until_unix_s))
        price, because, missing_s = _period(ask(piece), piece.seconds, period.seconds, tariff)
        total += price
        unknown_s += missing_s
        reasons.append(because)
    because = reasons[0] if len(reasons) == 1 else f"{len(reasons)} billing periods"
    unknown = ""
    if unknown_s:
        days = -(-unknown_s // DAY_S)
        unknown = f"not known: {days} days are kept by the day only, without 5-minute volumes; they are left out"
    return Bill(
        title=title,
        nanodollars=total,
        currency=tariff.currency,
        because=because,
        assumes=_ASSUMES[type(tariff)],
        unknown=unknown,
    )


_ASSUMES: Final[dict[type[AnyTariff], str]] = {
    FlatFee: "the fee in proportion to the time",
    PerByte: "both directions count, fee and bundle in proportion to the time",
    Percentile95PlusNanopayments: "the larger direction of each 5 minutes, silence as 0, no payments in packets",
    PerMark: "the receiver pays, the network marks as it did",
    Tolls: "what is sent pays, all packets of a link have its mean size, tolls of now, no proportional part",
}


def _period(found: Replayed, seconds: int, of_seconds: int, tariff: AnyTariff) -> tuple[int, str, int]:
    """Price, reason, and seconds of which the tariff would have to know more."""
    moved = found.moved
    match tariff:
        case PerByte():
            part = dataclasses.replace(
                tariff, bundle_bytes=tariff.bundle_bytes * seconds // of_seconds, monthly_fee_nanodollars=0
            )
            beyond = max(0, moved.bytes - part.bundle_bytes)
            price = part.price(Usage(volume_bytes=moved.bytes))
            price += tariff.monthly_fee_nanodollars * seconds // of_seconds
            return price, f"{_size(moved.bytes)} moved, {_size(beyond)} beyond the bundle", 0
        case PerMark():
            part_fee = tariff.monthly_fee_nanodollars * seconds // of_seconds
            marks = dataclasses.replace(tariff, monthly_fee_nanodollars=0).price(
                Usage(received_marks=moved.received_ce_packets)
            )
            return part_fee + marks, f"{moved.received_ce_packets} of {moved.received_packets} packets came marked", 0
        case Percentile95PlusNanopayments():
            whole = tariff.price(Usage(volumes_bytes=found.samples))
            rate = percentile_95_bytes(found.samples) * 8 // SAMPLE_S
            known_s = seconds - found.unknown_s
            return whole * known_s // of_seconds, f"95 % of the time at most {_rate(rate)}", found.unknown_s
        case _:
            assert isinstance(tariff, FlatFee)
            return tariff.price(Usage()) * seconds // of_seconds, "the same whatever is used", 0


def _tolls(found: Replayed, title: str, tariff: Tolls) -> Bill:
    """Each network's packets by its own published toll, or else by the first."""
    terms = {each.link: _without_proportion(each) for each in tariff.tolls}
    priced = dataclasses.replace(tariff, tolls=tuple(terms.values()))
    packets: list[Packets] = []
    for network, counts in found.by_network.items():
        if terms and counts.sent_packets:
            link = network if network in terms else tariff.tolls[0].link
            packets += _of_mean_size(link, counts.sent_packets, counts.sent_bytes)
    count = sum(counts.sent_packets for counts in found.by_network.values())
    return Bill(
        title=title,
        nanodollars=priced.price(Usage(packets=tuple(packets))),
        currency=tariff.currency,
        because=f"{count} packets sent, {_size(found.moved.sent_bytes)}",
        assumes=_ASSUMES[Tolls],
    )


def _without_proportion(terms: TollTerms) -> TollTerms:
    """That part depends on what a packet carries, which nobody can say of packets that carried nothing."""
    return msgspec.structs.replace(terms, proportional_ppm=0)


def _of_mean_size(link: str, count: int, size_bytes: int) -> list[Packets]:
    """So many packets of so many bytes together, exactly: of two sizes that differ by a byte."""
    mean, larger = divmod(size_bytes, count)
    return [
        Packets(link=link, count=number, size_bytes=size, amount_nanodollars=AMOUNT_MAX)
        for number, size in ((larger, mean + 1), (count - larger, mean))
        if number
    ]


def _size(size_bytes: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size_bytes >= unit:
            return f"{size_bytes // unit}.{size_bytes * 10 // unit % 10} {name}"
    return f"{size_bytes} bytes"


def _rate(bit_s: int) -> str:
    return f"{bit_s // 10**6}.{bit_s // 10**5 % 10} Mbit/s"
