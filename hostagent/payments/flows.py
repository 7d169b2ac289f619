"""A flow as the agent sees it: what the packet core and the far end report, and what follows for its payment.

Decides: rates and tolls out of cumulative reports, when a grant has to grow, and the amount and user-OADs to be asked
of the packet core next (by the price reactor and the cartographer). Refuses to know: sockets, the secretary, clocks.
Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from billpay.header import MAX_AMOUNT_NANODOLLARS
from billpay.messages import Echo, FlowSelector, Grant
from hostagent.payments.commands import FlowReport, Oads
from pricereactor.reactor import Decision, Observation, Reactor, TimelyPayment

NS_PER_S = 1_000_000_000
RATE_WINDOW_NS = 1_000_000_000
IDLE_NS = 30 * NS_PER_S
OLDER: tuple[int, Oads, int] = (-1, (), -1)
"""What the packet core has is not the latest; should there be nothing any more, it still has to be dropped."""
BACKDATED_S = 120
"""A document is valid from so long before it was signed (`secretary.issuing`), since clocks differ."""
OUT_OF_MONEY = frozenset(("budget", "purse"))
SETTLED_PACKETS = 2
"""A toll is reckoned from so many packets at least."""


class Meter:
    """Bytes per time out of a cumulative count, over about the last second."""

    def __init__(self) -> None:
        self._points: deque[tuple[int, int]] = deque()

    def add(self, now_ns: int, count: int) -> None:
        if self._points and count < self._points[-1][1]:  # whoever counts has begun anew
            self._points.clear()
        self._points.append((now_ns, count))
        while len(self._points) > 2 and now_ns - self._points[1][0] >= RATE_WINDOW_NS:
            self._points.popleft()

    def per_s(self) -> int | None:
        """None until there are two readings."""
        if len(self._points) < 2:
            return None
        (start_ns, start), (end_ns, end) = self._points[0], self._points[-1]
        return (end - start) * NS_PER_S // (end_ns - start_ns) if end_ns > start_ns else None

    def last_ns(self) -> int | None:
        return self._points[-1][0] if self._points else None


@dataclass(slots=True)
class FarEnd:
    """What the agent at the other end says of a flow of ours."""

    received: Meter = field(default_factory=Meter)
    echo: Echo | None = None
    toll_nanodollars: int | None = None
    _is_mixed: bool = False  # packets of an earlier amount may have arrived behind the echo that it changed with
    _base: tuple[int, int, int] = (0, 0, 0)  # paid packets, nanodollars and our amount where the toll is reckoned from

    def on_echo(self, echo: Echo, *, amount_nanodollars: int, now_ns: int) -> int | None:
        """The toll is the amount less what arrived of it, over packets that were all sent with the same amount: given
        where the echo says something new of it that no packet of another amount is in.
        """
        fresh = None
        self.received.add(now_ns, echo.bytes)
        packets, received, amount = self._base
        new = echo.paid_packets - packets
        if amount != amount_nanodollars or new < 0:
            self._base = (echo.paid_packets, echo.received_nanodollars, amount_nanodollars)
            self._is_mixed = True
        elif new >= SETTLED_PACKETS:  # fewer are waited for, or a slow flow would never know its toll
            left = (echo.received_nanodollars - received + new // 2) // new
            self.toll_nanodollars = max(0, amount_nanodollars - left)
            fresh, self._is_mixed = None if self._is_mixed else self.toll_nanodollars, False
            self._base = (echo.paid_packets, echo.received_nanodollars, amount_nanodollars)
        self.echo = echo
        return fresh

    def goodput_bit_s(self) -> int | None:
        rate = self.received.per_s()
        return None if rate is None else rate * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """What was counted before the return grant that is open, and belongs to earlier ones."""

    returned: int = 0
    received: int = 0
    received_packets: int = 0


@dataclass(slots=True)
class Flow:
    """One flow that leaves this host. `judged`: the secretary has said what it is worth."""

    report: FlowReport
    sending: Meter = field(default_factory=Meter)
    far_end: FarEnd = field(default_factory=FarEnd)
    judged: bool = False
    busy: bool = False  # a call to the secretary or the gateway is under way
    retry_ns: int = 0
    first_ns: int = 0  # when it was to be judged first
    rule: str = ""
    strategy: str = "unpaid"
    reason: str = "the secretary has not been asked yet"
    refused: str = ""  # the secretary's code, when it gave nothing, or no more, the last time
    refusal: str = ""  # its words
    reactor: Reactor | None = None
    grant: Grant | None = None
    opened_at: str = ""  # the uplink whose gateway has the grant
    spent_nanodollars: int = 0  # of this grant
    headroom: int = 0  # how much could still be spent when the grant was last raised
    amount_nanodollars: int = 0
    packet_ceiling: int = MAX_AMOUNT_NANODOLLARS  # beyond it the gateway cuts, by the organisation's word
    slots: Oads = ()
    path: str = ""
    round_trip_ns: int | None = None
    told: tuple[int, Oads, int] | None = None  # amount, slots and serial that the packet core has
    return_grant: Grant | None = None
    return_opened_at: str = ""
    return_share: int = 0
    return_ceiling: int = 0
    return_told: int | None = None  # serial
    return_headroom: int = 0  # how much could still go back when the grant was last raised
    is_probe: bool = False
    probes_of: str = ""  # of a probe: the grant of the timely flow that pays for it
    probes_nanodollars: int = 0  # that probes of its ways carried before its reactor of now
    knows: bool = False  # its timely reactor has heard what earlier flows learned
    _spent_of_earlier: int = -1  # what the packet core counts until it knows the latest grant
    _before: _Before = _Before()

    def __post_init__(self) -> None:
        self.spent_nanodollars = self.report.spent_nanodollars

    @property
    def untold_nanodollars(self) -> int:
        """Spent of the open grant since the secretary was last told of it."""
        if self.grant is None:
            return 0
        return max(0, self.spent_nanodollars - (self.grant.cap_nanodollars - self.headroom))

    @property
    def returned_nanodollars(self) -> int:
        """Of the return grant that is open."""
        return self.report.sent_returned_nanodollars - self._before.returned

    def receipts_of(self, opposite: FlowReport | None) -> tuple[int, int]:
        """Nanodollars and packets for which the open return grant stands, or the next one."""
        if opposite is None:
            return 0, 0
        return (
            opposite.received_nanodollars - self._before.received,
            opposite.in_paid_packets - self._before.received_packets,
        )

    def on_closed(self, opposite: FlowReport | None) -> None:
        """Nobody may spend any more; the next return grant begins with what is still in hand."""
        if self.return_grant is not None:
            self._before = _Before(
                returned=self.report.sent_returned_nanodollars,
                received=opposite.received_nanodollars - self.report.pool_nanodollars if opposite is not None else 0,
                received_packets=opposite.in_paid_packets if opposite is not None else 0,
            )
        self.grant, self.opened_at = None, ""
        self.return_grant, self.return_opened_at = None, ""
        if self.timely is not None:
            self.probes_nanodollars = self.timely.probes_nanodollars
        self.reactor, self.amount_nanodollars, self.knows = None, 0, False
        self.judged, self.strategy, self.rule = False, "unpaid", ""

    @property
    def selector(self) -> FlowSelector:
        return self.report.flow

    def on_report(self, report: FlowReport, now_ns: int) -> None:
        self.report = report
        self.sending.add(now_ns, report.out_bytes)
        if report.spent_nanodollars != self._spent_of_earlier:  # else the packet core has not heard of this one yet
            self._spent_of_earlier = -1
            self.spent_nanodollars = report.spent_nanodollars

    def on_grant(self, grant: Grant, uplink: str) -> None:
        """A grant, or a later document of the one that there was, is open at the gateway of `uplink`."""
        if self.grant is None or self.grant.grant != grant.grant:
            self.spent_nanodollars, self._spent_of_earlier = 0, self.report.spent_nanodollars
        self.grant, self.opened_at = grant, uplink
        self.told = None if self.told is None else OLDER
        self.headroom = grant.cap_nanodollars - self.spent_nanodollars
        self.refused = self.refusal = ""

    def on_return_grant(self, grant: Grant, uplink: str) -> None:
        self.return_grant, self.return_opened_at = grant, uplink
        self.return_told = None if self.return_told is None else OLDER[2]
        self.return_headroom = grant.cap_nanodollars - self.returned_nanodollars

    def is_active(self, now_ns: int) -> bool:
        return now_ns - self.report.last_ns < IDLE_NS

    def rate_bit_s(self, now_ns: int) -> int:
        last_ns = self.sending.last_ns()
        if last_ns is None or now_ns - last_ns > 2 * RATE_WINDOW_NS:
            return 0
        return (self.sending.per_s() or 0) * 8

    def decide(self, now_ns: int) -> Decision | None:
        """What the price reactor says now; None for a flow without one."""
        if self.reactor is None:
            return None
        sends = self.rate_bit_s(now_ns) > 0  # an idle program is content with what it gets
        decision = self.reactor.on_observation(
            Observation(
                now_ns=now_ns,
                goodput_bit_s=self.far_end.goodput_bit_s() if sends else None,
                toll_nanodollars=self.far_end.toll_nanodollars,
                round_trip_ns=self.round_trip_ns,
            )
        )
        self.amount_nanodollars = min(self._implied() or decision.amount_nanodollars, self.packet_ceiling)
        return decision

    def _implied(self) -> int:
        """What the gateway takes for a packet without a header: as the grant says, whatever a reactor would pay."""
        return 0 if self.grant is None else self.grant.implies_nanodollars

    @property
    def timely(self) -> TimelyPayment | None:
        """Its reactor, if that wants to know the ways."""
        return self.reactor if isinstance(self.reactor, TimelyPayment) else None

    def react_by(self, reactor: Reactor) -> None:
        """From now on. The probes' budget is one for the whole flow."""
        self.reactor, self.knows = reactor, False
        if self.timely is not None:
            self.timely.probes_nanodollars = self.probes_nanodollars

    @property
    def is_out_of_money(self) -> bool:
        """It would be paid for if there were money."""
        return self.refused in OUT_OF_MONEY

    @property
    def is_used_up(self) -> bool:
        """The grant does not reach for another packet, and the secretary gives no more."""
        grant, most = self.grant, max(1, self.amount_nanodollars)
        return bool(self.refused) and grant is not None and grant.cap_nanodollars - self.spent_nanodollars < most

    def on_refused(self, code: str, why: str) -> None:
        self.refused, self.refusal, self.reason = code, why, why

    def wanted(self) -> tuple[int, Oads, int] | None:
        """What the packet core should know of the payment."""
        if self.grant is None or not self.opened_at:
            return None
        return self.amount_nanodollars, self.slots, self.grant.serial

    def wanted_return(self) -> int | None:
        """The serial of the return grant that the packet core should know."""
        return self.return_grant.serial if self.return_grant is not None and self.return_opened_at else None

    def is_news(self) -> bool:
        """Whether the packet core has to be told."""
        return self.told != self.wanted() or self.return_told != self.wanted_return()

    def is_to_be_dropped(self) -> bool:
        """Whether the packet core still pays or returns by a grant that is closed."""
        no_more = self.told is not None and self.wanted() is None
        return no_more or (self.return_told is not None and self.wanted_return() is None)

    def needs_extension(self, unix_s: int) -> bool:
        """When half of what it allowed is spent, the next packet would be too much, or its time is nearly over."""
        grant = self.grant
        if grant is None or self.busy:
            return False
        left = grant.cap_nanodollars - self.spent_nanodollars
        return 2 * left < self.headroom or left < max(1, self.amount_nanodollars) or is_nearly_over(grant, unix_s)

    def needs_return(self, received_nanodollars: int, unix_s: int) -> bool:
        """Whether payments that arrived with the opposite flow need a (greater) grant to go back with this one."""
        if self.busy or not received_nanodollars or not self.report.uplink:
            return False
        grant = self.return_grant
        if grant is None:
            return True
        left = grant.cap_nanodollars - self.returned_nanodollars
        wanting = 2 * left < self.return_headroom or left < self.report.pool_nanodollars
        return wanting or is_nearly_over(grant, unix_s)


def is_nearly_over(grant: Grant, unix_s: int) -> bool:
    """The last quarter of its time."""
    valid_s = grant.expires_unix_s - grant.not_before_unix_s
    lifetime_s = valid_s - BACKDATED_S if valid_s > BACKDATED_S else valid_s
    return unix_s > grant.expires_unix_s - lifetime_s // 4
