"""Price signals out of cumulative readings: what a session's congestion cost in each interval, by whoever says so.

Decides: what is new in a reading, what it costs, which of several sources is believed, and when what is heard proves
nothing. Refuses to know: sockets, clocks, policies, and what follows from a signal. Pure.

Everything is cumulative. So a report that is lost, late, repeated or overtaken costs nothing but time, and one whose
counts are below the last ones tells that whoever counts has begun anew.

Belief goes by the order of `pricereactor.signals.Source`. The sender's own estimates stand in only where the far end
has never spoken in this session: one that spoke and is silent now is waited for, or cutting its feedback would be a way
to be billed by one count and steered by another. One that says that of many packets which left as ECT none arrived as
ECT or CE is believed for the bill (nobody can charge for marks that do not arrive), and the price of congestion is then
taken from loss, or delay.

What a sender knows of marks without its receiver's agent (RFC 3168, 6.1.3): an acknowledgement with ECE says that there
was a mark since the last CWR, and ECE stays set until CWR has arrived, so about for a round trip. `delivered_ce` counts
all segments that were acknowledged meanwhile: 67 marks read as 1,468. What is known is about one mark for each round
trip with ECE: with n segments in a round trip, k = delivered_ce / n. Under ECE further marks go unseen; if they come as
often there as elsewhere, each that is seen stands for 1 / (1 - f) of them, f being the share of segments under ECE over
the last `CLASSIC_WINDOWS` round trips (of W round trips at most 1 - 1 / 2W, for they prove no more). So the estimate is
k / (1 - f); it lies between k and delivered_ce, and so do the marks. Accurate ECN (RFC 9768) counts them, and needs no
estimate.

Sources: M3I scenarios 3.3.2.2 (only the receiver knows the marks); RFC 3168; RFC 9768; RFC 8289 (5 ms is the queueing
delay that a link may have all the time).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from billpay.messages import Echo
from billpay.sessions import MarkReport
from dataplane.marks_seen import SenderView
from dataplane.metering import Tally
from hostagent.reacting.prices import Bill, Prices
from pricereactor.signals import NS_PER_S, PriceSignal, Source

BLEACHED_PACKETS = 64
"""So many without a single ECT or CE, of those that left with it, do not happen by chance."""

CLASSIC_WINDOWS = 20

SILENT_NS = 2 * NS_PER_S
"""A far end that has not spoken so long after the beginning has no agent that would."""

GOOD_DELAY_US = 5_000
WORST_DELAY_US = 105_000
WORST_DELAY_SHARE = 0.1
"""DELAY: queueing up to the good delay is no congestion; from there the share grows straight to this one."""

LOSS_READINGS = 4
"""What is under way is not lost: the least difference of so many reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Now, by the clock that never runs backwards and by the time of day."""

    ns: int
    unix_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What is new since the last time that something was taken."""

    interval_ns: int
    packets: int
    bytes: int
    marks: int
    charge_nanodollars: int | None


# --- marks that were counted where they arrive ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkCount:
    """A reading of the receiver's cumulative counts, wherever it was read. `unix_ms`: when, by the receiver."""

    unix_ms: int
    counted_ms: int
    packets: int
    bytes: int
    marks: int
    ect_packets: int


def count_of(report: MarkReport) -> MarkCount:
    """A sequence number is the time of day at which its signer read the meter (`docs/spec/session-protocol.md`)."""
    return MarkCount(
        unix_ms=report.sequence,
        counted_ms=report.counted_ms,
        packets=report.packets,
        bytes=report.bytes,
        marks=report.ce_packets,
        ect_packets=report.ect_packets,
    )


class ReceiverMarks:
    """Adds up what reports bring, and bills it."""

    def __init__(self, prices: Prices, bill: Bill) -> None:
        self._prices = prices
        self._bill = bill
        self._last: MarkCount | None = None
        self._waiting: list[Heard] = []
        self._unmarked_packets = 0  # in a row, without ECT and CE
        self.packets = 0
        self.marks = 0
        self.markable_packets = 0  # that arrived as ECT or CE

    @property
    def last(self) -> MarkCount | None:
        return self._last

    @property
    def is_bleached(self) -> bool:
        """Of many packets in a row none was ECT or CE when it arrived."""
        return self._unmarked_packets >= BLEACHED_PACKETS

    def on_count(self, count: MarkCount) -> bool:
        """Whether it is believed and new. The first one counts from the session's beginning."""
        if count.marks + count.ect_packets > count.packets:
            return False
        last = self._last
        if last is not None and count.unix_ms <= last.unix_ms:
            return False
        self._last = count
        if last is None or count.counted_ms < last.counted_ms:  # its first one, or its agent has begun anew
            last = MarkCount(
                unix_ms=max(last.unix_ms if last else 0, count.unix_ms - count.counted_ms),
                counted_ms=0,
                packets=0,
                bytes=0,
                marks=0,
                ect_packets=0,
            )
        elif count.packets < last.packets or count.marks < last.marks or count.bytes < last.bytes:
            return False  # its meter alone began anew: what is new in it nobody can say
        self._add(last, count)
        return True

    def _add(self, last: MarkCount, count: MarkCount) -> None:
        packets, marks = count.packets - last.packets, count.marks - last.marks
        was_ect = marks or count.ect_packets > last.ect_packets
        self._unmarked_packets = 0 if was_ect else self._unmarked_packets + packets
        self.packets += packets
        self.marks += marks
        self.markable_packets += marks + max(0, count.ect_packets - last.ect_packets)
        charge = self._bill.add(self._prices, last.unix_ms, count.unix_ms, marks)
        self._waiting.append(
            Heard(
                interval_ns=max(1, count.counted_ms - last.counted_ms) * 1_000_000,
                packets=packets,
                bytes=count.bytes - last.bytes,
                marks=marks,
                charge_nanodollars=charge,
            )
        )

    def take(self) -> Heard | None:
        heard, self._waiting = self._waiting, []
        return _together(heard)


# --- tolls ------------------------------------------------------------------------------------------------------------


class TollsTaken:
    """What the path kept of our payments, by the far end's echoes of what was left."""

    def __init__(self, bill: Bill) -> None:
        self._bill = bill
        self._last: Echo | None = None
        self._amount = 0
        self._last_ns = 0
        self._waiting: list[Heard] = []

    def on_echo(self, echo: Echo, *, amount_nanodollars: int, now_ns: int) -> None:
        """`amount_nanodollars`: of each packet now. Over a change of it nobody can say what was taken."""
        last, self._last = self._last, echo
        amount, self._amount = self._amount, amount_nanodollars
        since_ns, self._last_ns = now_ns - self._last_ns, now_ns
        if last is None or echo.session != last.session or echo.packets < last.packets:
            return
        paid = echo.paid_packets - last.paid_packets
        left = echo.received_nanodollars - last.received_nanodollars
        toll = max(0, paid * amount - left) if amount == amount_nanodollars and paid >= 0 and left >= 0 else None
        if toll is not None:
            self._bill.add_toll(toll)
        heard = Heard(
            interval_ns=max(1, since_ns),
            packets=echo.packets - last.packets,
            bytes=max(0, echo.bytes - last.bytes),
            marks=0,
            charge_nanodollars=toll,
        )
        self._waiting.append(heard)

    def take(self) -> Heard | None:
        heard, self._waiting = self._waiting, []
        return _together(heard)


def _together(heard: list[Heard]) -> Heard | None:
    """Of several; one charge that is not known makes the sum not known."""
    if not heard:
        return None
    charges = [each.charge_nanodollars for each in heard]
    known = [charge for charge in charges if charge is not None]
    return Heard(
        interval_ns=sum(each.interval_ns for each in heard),
        packets=sum(each.packets for each in heard),
        bytes=sum(each.bytes for each in heard),
        marks=sum(each.marks for each in heard),
        charge_nanodollars=sum(known) if len(known) == len(charges) else None,
    )


# --- what the sender sees by itself -----------------------------------------------------------------------------------


class ClassicEstimate:
    """How many marks the segments that were acknowledged with ECE probably stand for (see above)."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int, float]] = deque()  # delivered, of them under ECE, round trips
        self._part = 0.0  # of a mark, not told yet

    def marks(self, *, delivered: int, under_ece: int, round_trips: float) -> int:
        under_ece, windows = min(under_ece, delivered), max(1.0, round_trips)
        self._recent.append((delivered, under_ece, windows))
        while sum(each[2] for each in self._recent) - self._recent[0][2] >= CLASSIC_WINDOWS:
            self._recent.popleft()
        if under_ece <= 0:
            return 0
        delivered_in_all, under_in_all, windows_in_all = (sum(column) for column in zip(*self._recent, strict=True))
        free = max(1 - under_in_all / delivered_in_all, 1 / (2 * windows_in_all))
        self._part += min(under_ece * windows / delivered / free, float(under_ece))
        whole = int(self._part)
        self._part -= whole
        return min(whole, under_ece)


def marks_by_delay(packets: int, *, rtt_us: int, min_rtt_us: int | None) -> int:
    """How many packets would have been marked by the queueing delay."""
    if not min_rtt_us:
        return 0
    queueing_us = min(rtt_us - min_rtt_us, WORST_DELAY_US) - GOOD_DELAY_US
    if queueing_us <= 0:
        return 0
    return round(packets * WORST_DELAY_SHARE * queueing_us / (WORST_DELAY_US - GOOD_DELAY_US))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the sender had counted at a time."""

    ns: int
    delivered: int
    ce: int
    lost: int
    sent: Tally


class SenderSide:
    """Turns two readings of the sender's own counts into a signal of the best kind that they allow."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._last: _Seen | None = None
        self._classic = ClassicEstimate()

    def take(
        self, moment: Moment, view: SenderView, sent: Tally, *, bleached: bool = False, hides_marks: bool = False
    ) -> PriceSignal | None:
        """`hides_marks`: our engine keeps ECE from the transport, so its silence about marks says nothing."""
        seen = _Seen(
            ns=moment.ns,
            delivered=view.delivered_packets,
            ce=view.delivered_ce,
            lost=view.retransmitted,
            sent=sent,
        )
        last, self._last = self._last, seen
        if last is None or seen.ns <= last.ns or seen.delivered < last.delivered or seen.ce < last.ce:
            return None
        delivered, acknowledged_ce = seen.delivered - last.delivered, seen.ce - last.ce
        if delivered == 0:
            return None  # idle or cut off: nothing was learnt of the path
        lost = max(0, seen.lost - last.lost)
        was_ect = sent.ect_packets + sent.ce_packets > last.sent.ect_packets + last.sent.ce_packets
        sees_marks = bool(acknowledged_ce) or (was_ect and view.capable and not bleached and not hides_marks)
        if sees_marks and view.accurate:
            source, marks = Source.ACCURATE_ECN, min(acknowledged_ce, delivered)
        elif sees_marks:
            round_trips = (seen.ns - last.ns) / 1000 / view.rtt_us if view.rtt_us > 0 else 1.0
            source = Source.CLASSIC_ECN
            marks = self._classic.marks(delivered=delivered, under_ece=acknowledged_ce, round_trips=round_trips)
        elif lost:
            source, marks = Source.LOSS, lost
        else:
            source = Source.DELAY
            marks = marks_by_delay(delivered, rtt_us=view.rtt_us, min_rtt_us=view.min_rtt_us)
        price = self._prices.price_at(moment.unix_ms)
        sent_packets, sent_bytes = sent.packets - last.sent.packets, sent.bytes - last.sent.bytes
        return PriceSignal(
            now_ns=moment.ns,
            interval_ns=seen.ns - last.ns,
            source=source,
            packets=delivered,
            bytes=sent_bytes * delivered // sent_packets if sent_packets > 0 else 0,
            marks=marks,
            charge_nanodollars=None if price is None else marks * price,
        )


class LossByReports:
    """Where nobody else can tell: what was sent less what the receiver reports."""

    def __init__(self) -> None:
        self._missing: deque[int] = deque(maxlen=LOSS_READINGS)
        self._lost = 0

    def take(self, *, sent_packets: int, received_packets: int) -> int:
        """How many more are lost for certain. What is under way is missing too, but not in every report."""
        self._missing.append(max(0, sent_packets - received_packets))
        if len(self._missing) < LOSS_READINGS:
            self._lost = min(self._missing)
            return 0
        lost, self._lost = self._lost, max(self._lost, min(self._missing))
        return self._lost - lost


# --- which one is believed --------------------------------------------------------------------------------------------


class Evidence:
    """All that is heard of one session. `bill` is what is owed; signals are what steers.

    `marks_survive`: what probes of the way say of it (`cartographer.measuring.ecn`), before our own traffic does.
    """

    def __init__(self, prices: Prices, *, begun_ns: int, marks_survive: Callable[[], bool] = lambda: True) -> None:
        self.bill = Bill()
        self.marks = ReceiverMarks(prices, self.bill)
        self.tolls = TollsTaken(self.bill)
        self._sender = SenderSide(prices)
        self._missing = LossByReports()
        self._prices = prices
        self._begun_ns = begun_ns
        self._marks_survive = marks_survive
        self._far_end_spoke = False
        self._estimated_nanodollars = 0
        self.estimated_packets = 0
        self.estimated_marks = 0

    @property
    def is_billed(self) -> bool:
        """Whether the far end has said anything that somebody can charge for."""
        return self._far_end_spoke

    @property
    def spent_nanodollars(self) -> int:
        """What is owed; where nobody says so, what it would be by our own estimate."""
        return self.bill.nanodollars if self._far_end_spoke else self._estimated_nanodollars

    def on_price(self) -> int:
        """A price came: how much more is owed for what was counted before."""
        return self.bill.reprice(self._prices)

    def signal(
        self,
        moment: Moment,
        *,
        view: SenderView | None,
        sent: Tally | None,
        hides_marks: bool = False,
        expects_ect: bool = False,
    ) -> PriceSignal | None:
        """The best that is known of the interval that ends now. None: nothing was heard, which proves nothing.

        `expects_ect`: the sender is elsewhere, and was asked to send ECT.
        """
        by_marks, by_tolls = self.marks.take(), self.tolls.take()
        sends_ect = expects_ect or hides_marks or (sent is not None and sent.ect_packets + sent.ce_packets > 0)
        is_bleached = (self.marks.is_bleached and sends_ect) or not self._marks_survive()
        own = None
        if view is not None and sent is not None:
            own = self._sender.take(moment, view, sent, bleached=is_bleached, hides_marks=hides_marks)
        if by_marks is not None or by_tolls is not None:
            self._far_end_spoke = True
        if by_marks is not None:
            return (
                own or self._by_missing(moment, by_marks, sent)
                if is_bleached
                else _signal(moment, Source.RECEIVER_MARKS, by_marks)
            )
        if by_tolls is not None:
            return _signal(moment, Source.TOLLS, by_tolls)
        if own is None or self._far_end_spoke or moment.ns - self._begun_ns < SILENT_NS:
            return None
        self._estimated_nanodollars += own.charge_nanodollars or 0
        self.estimated_packets += own.packets
        self.estimated_marks += own.marks
        return own

    def _by_missing(self, moment: Moment, heard: Heard, sent: Tally | None) -> PriceSignal | None:
        """Bleached, and the transport tells nothing (UDP): what did not arrive."""
        if sent is None:
            return None
        lost = self._missing.take(sent_packets=sent.packets, received_packets=self.marks.packets)
        price = self._prices.price_at(moment.unix_ms)
        charge = None if price is None else lost * price
        return PriceSignal(
            now_ns=moment.ns,
            interval_ns=heard.interval_ns,
            source=Source.LOSS,
            packets=heard.packets,
            bytes=heard.bytes,
            marks=lost,
            charge_nanodollars=charge,
        )


def _signal(moment: Moment, source: Source, heard: Heard) -> PriceSignal:
    return PriceSignal(
        now_ns=moment.ns,
        interval_ns=heard.interval_ns,
        source=source,
        packets=heard.packets,
        bytes=heard.bytes,
        marks=heard.marks,
        charge_nanodollars=heard.charge_nanodollars,
    )
