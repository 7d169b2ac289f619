"""Charging: marks × price, exactly, and what a provider says of a session under its own name.

Decides: the bill of a session, line by line, and its characterisation. Refuses to know who pays it in the end, and how
marks were counted. The same code runs at the provider and, where ports are encrypted, at the receiver (mini-CAS,
DPH-17): there its bill is charge advice, which the provider's must equal.
Source: M3I scenarios 3.3.4 (the tariff "will only have to charge a fixed price for each mark"; sessions that span a
change, DPH-21), 3.3.3.5; the rule for a price's change is that of `billpay.markprices`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from billpay.clearing import LINES_MAX, MeteredKey, PricedMarks, SessionCharacterisation, SessionUsage
from billpay.errors import LocalProtocolError
from billpay.markprices import MOST_PRICES_KEPT, PriceSchedule
from billpay.messages import Timescale
from billpay.sessions import MarkPrice, SessionId
from billpay.tariffs import PerMark, Usage


class Charged(Enum):
    """What became of a usage."""

    CHARGED = "charged"
    KNOWN = "charged before"  # success: nothing is charged twice
    WAITS = "one before it is missing: say it again later"
    CONTRADICTS = "counts that fall, or marks without packets: refused"
    UNPRICED = "no price is known for its time: say it again later"
    OTHER_KEY = "the session has another key: refused"
    TOO_MANY_PRICES = "the session has seen too many prices: end it, and begin another"


class Prices:
    """One provider's pushed prices, with the serial that says each."""

    def __init__(self) -> None:
        self._schedule = PriceSchedule()
        self._pushes: dict[int, MarkPrice] = {}

    def on_push(self, push: MarkPrice) -> bool:
        """Whether it is news."""
        if not self._schedule.on_push(push):
            return False
        self._pushes[push.serial] = push
        if len(self._pushes) > MOST_PRICES_KEPT:
            del self._pushes[min(self._pushes)]
        return True

    def in_force(self, unix_ms: int) -> MarkPrice | None:
        price = self._schedule.price_at(unix_ms)
        if price is None:
            return None
        holding = [serial for serial, push in self._pushes.items() if push.valid_from_unix_ms <= unix_ms]
        return self._pushes[max(holding)]

    def held_between(self, serial: int, start_unix_ms: int, end_unix_ms: int) -> MarkPrice | None:
        """The price of this serial, if it was in force at any time from start to end."""
        push = self._pushes.get(serial)
        if push is None or push.valid_from_unix_ms > end_unix_ms:
            return None
        first = self.in_force(max(start_unix_ms, push.valid_from_unix_ms))
        return push if first is not None and first.serial <= serial else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a session came to so far: marks at each price, a line for each."""

    session: SessionId
    from_unix_ms: int
    to_unix_ms: int
    packets: int
    bytes: int
    lines: tuple[PricedMarks, ...]

    @property
    def amount_nanodollars(self) -> int:
        return sum(charge_nanodollars(line) for line in self.lines)

    @property
    def marks(self) -> int:
        return sum(line.marks for line in self.lines)


def charge_nanodollars(line: PricedMarks) -> int:
    """By the tariff itself."""
    tariff = PerMark(
        issuer="",
        serial=line.serial,
        timescale=Timescale.NETWORK,
        valid_from_unix_s=0,
        nanodollars_per_mark=line.nanodollars_per_mark,
    )
    return tariff.price(Usage(received_marks=line.marks))


@dataclass(slots=True)
class _Account:
    key: MeteredKey
    from_unix_ms: int
    last: SessionUsage | None = None
    lines: dict[int, PricedMarks] = field(default_factory=dict)


@dataclass(slots=True)
class Charging:
    """All sessions that one provider charges (or one receiver checks)."""

    prices: Prices = field(default_factory=Prices)
    _accounts: dict[SessionId, _Account] = field(default_factory=dict)

    def on_usage(self, usage: SessionUsage) -> Charged:
        """In the order of their numbers, each once; a reader that asks again for what is missing loses nothing."""
        account = self._accounts.get(usage.session)
        last = account.last if account else None
        number = last.number if last else 0
        if account is not None and account.key != usage.key:
            return Charged.OTHER_KEY
        if usage.number <= number:
            return Charged.KNOWN
        if usage.number > number + 1:
            return Charged.WAITS
        if not _follows(usage, last):
            return Charged.CONTRADICTS
        marks = usage.ce_packets - (last.ce_packets if last else 0)
        push = self.prices.in_force(usage.from_unix_ms)
        if push is None:
            return Charged.UNPRICED
        account = account or _Account(usage.key, usage.from_unix_ms)
        line = account.lines.get(push.serial)
        if line is None and len(account.lines) >= LINES_MAX:
            return Charged.TOO_MANY_PRICES
        account.lines[push.serial] = PricedMarks(
            serial=push.serial,
            nanodollars_per_mark=push.nanodollars_per_mark,
            marks=marks + (line.marks if line else 0),
        )
        account.last = usage
        self._accounts[usage.session] = account
        return Charged.CHARGED

    def bill(self, session: SessionId) -> Bill | None:
        """None: nothing was used, or the session is not known."""
        account = self._accounts.get(session)
        if account is None or account.last is None:
            return None
        return Bill(
            session=session,
            from_unix_ms=account.from_unix_ms,
            to_unix_ms=account.last.to_unix_ms,
            packets=account.last.packets,
            bytes=account.last.bytes,
            lines=tuple(account.lines[serial] for serial in sorted(account.lines)),
        )

    def characterise(self, session: SessionId, *, provider: str, customer: str) -> SessionCharacterisation | None:
        """What the provider signs. Its sequence is that of the usage: the same usage gives the same document."""
        bill, account = self.bill(session), self._accounts.get(session)
        if bill is None or account is None or account.last is None:
            return None
        return SessionCharacterisation(
            session=session,
            sequence=account.last.number,
            provider=provider,
            customer=customer,
            key=account.key,
            from_unix_ms=bill.from_unix_ms,
            to_unix_ms=bill.to_unix_ms,
            packets=bill.packets,
            bytes=bill.bytes,
            lines=bill.lines,
        )


def differs_from_advice(characterisation: SessionCharacterisation, advice: Bill) -> int:
    """Nanodollars by which the provider's bill is above (below: negative) the receiver's own advice. 0: they agree."""
    if characterisation.session != advice.session:
        raise LocalProtocolError("a bill is compared with another session's advice")
    return sum(charge_nanodollars(line) for line in characterisation.lines) - advice.amount_nanodollars


def _follows(usage: SessionUsage, last: SessionUsage | None) -> bool:
    if usage.ce_packets > usage.packets or usage.to_unix_ms < usage.from_unix_ms:
        return False
    if last is None:
        return True
    falls = usage.packets < last.packets or usage.bytes < last.bytes or usage.ce_packets < last.ce_packets
    return not falls and usage.from_unix_ms >= last.to_unix_ms
