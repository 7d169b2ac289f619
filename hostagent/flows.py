"""A flow as the agent sees it: what the packet core and the far end report, and what follows for its payment.

Decides: rates and tolls out of cumulative reports, when a grant has to grow, and the amount and user-OADs to be asked
of the packet core next (by the price reactor and the cartographer). Refuses to know: sockets, the secretary, clocks.
Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from billpay.messages import Echo, FlowSelector, Grant
from hostagent.commands import FlowReport, Oads
from pricereactor.reactor import Decision, Observation, Reactor

NS_PER_S = 1_000_000_000
RATE_WINDOW_NS = 1_000_000_000
IDLE_NS = 30 * NS_PER_S
EXTEND_SHARE_PPM = 500_000
"""A grant is extended when half of it is spent, or three quarters of its time are over."""


class Meter:
    """Bytes per time out of a cumulative count, over about the last second."""

    def __init__(self) -> None:
        self._points: deque[tuple[int, int]] = deque()

    def add(self, now_ns: int, count: int) -> None:
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
    _base: tuple[int, int, int] = (0, 0, 0)  # paid packets, nanodollars and our amount where the toll is reckoned from

    def on_echo(self, echo: Echo, *, amount_nanodollars: int, now_ns: int) -> None:
        """The toll is the amount less what arrived of it, over packets that were all sent with the same amount."""
        self.received.add(now_ns, echo.bytes)
        packets, received, amount = self._base
        new = echo.paid_packets - packets
        if amount != amount_nanodollars or new < 0:
            self._base = (echo.paid_packets, echo.received_nanodollars, amount_nanodollars)
        elif new > 0:
            left = (echo.received_nanodollars - received + new // 2) // new
            self.toll_nanodollars = max(0, amount_nanodollars - left) if self._settled(new) else self.toll_nanodollars
            self._base = (echo.paid_packets, echo.received_nanodollars, amount_nanodollars)
        self.echo = echo

    def _settled(self, new_packets: int) -> bool:
        return new_packets >= 2

    def goodput_bit_s(self) -> int | None:
        rate = self.received.per_s()
        return None if rate is None else rate * 8


@dataclass(slots=True)
class Flow:
    """One flow that leaves this host. `judged`: the secretary has said what it is worth."""

    report: FlowReport
    sending: Meter = field(default_factory=Meter)
    far_end: FarEnd = field(default_factory=FarEnd)
    judged: bool = False
    busy: bool = False  # a call to the secretary or the gateway is under way
    retry_ns: int = 0
    rule: str = ""
    strategy: str = "unpaid"
    reason: str = "the secretary has not been asked yet"
    reactor: Reactor | None = None
    grant: Grant | None = None
    opened_at: str = ""  # the uplink whose gateway has the grant
    amount_nanodollars: int = 0
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

    @property
    def selector(self) -> FlowSelector:
        return self.report.flow

    def on_report(self, report: FlowReport, now_ns: int) -> None:
        self.report = report
        self.sending.add(now_ns, report.out_bytes)

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
        self.amount_nanodollars = decision.amount_nanodollars
        return decision

    def wanted(self) -> tuple[int, Oads, int] | None:
        """What the packet core should know of the payment."""
        if self.grant is None or not self.opened_at:
            return None
        return self.amount_nanodollars, self.slots, self.grant.serial

    def is_news(self) -> bool:
        """Whether the packet core has to be told."""
        returns = self.return_grant.serial if self.return_grant is not None and self.return_opened_at else None
        return self.told != self.wanted() or self.return_told != returns

    def needs_extension(self, unix_s: int) -> bool:
        grant = self.grant
        if grant is None or self.busy:
            return False
        if self.report.spent_nanodollars * 1_000_000 > grant.cap_nanodollars * EXTEND_SHARE_PPM:
            return True
        lifetime_s = grant.expires_unix_s - grant.not_before_unix_s
        return unix_s > grant.expires_unix_s - lifetime_s // 4

    def needs_return(self, received_nanodollars: int, unix_s: int) -> bool:
        """Whether payments that arrived with the opposite flow need a (greater) grant to go back with this one."""
        if self.busy or not received_nanodollars or not self.report.uplink:
            return False
        grant = self.return_grant
        if grant is None:
            return True
        left = grant.cap_nanodollars - self.report.sent_returned_nanodollars
        if 2 * left < self.return_headroom:
            return True
        lifetime_s = grant.expires_unix_s - grant.not_before_unix_s
        return unix_s > grant.expires_unix_s - lifetime_s // 4
