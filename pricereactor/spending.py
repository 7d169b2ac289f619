"""The guard of a budget: what a session may send so that its bill is never above what it may spend.

Decides: the highest rate that is affordable until the next report surely counts, and when a budget is used up. Refuses
to know: what a session is worth (the reactors), and clocks. Pure.

The bill comes late: marks are counted at the far end, and reports are lost, repeated and overtaken. So every packet
that was sent and may still be counted is reckoned as marked, at the highest price that can be in force when it is: what
has been billed, plus that, plus all that the next rate can send while it holds, is never above the budget. While no
report comes the second part grows and the rate falls to nothing; it never goes on in good faith. A rate takes at
most half of what is left, so a session slows down before it stops. That the transport has the flow for itself is no
rate: with a budget, a reactor that lets go gets an affordable rate instead.

It holds under four conditions. (1) The pacer keeps to the rate, gives up no more than `burst_packets` at once, and lets
nothing through when a rate is older than `reaction_ns`. (2) No packet is smaller than `packet_bytes`: a mark costs
the same on a small one. (3) A packet is counted within `longest_delay_ns` of its sending, or never; clocks of day
differ by at most `clock_slack_ms`. (4) A price is known here before it is in force by the sum of these three times, or
it is at most `headroom_ppm` of the one before and that one was known so long.

Sources: Bill-Pay (a payment within what somebody allowed is no problem, BP-48); M3I scenarios 3.2.1 (DPH-04), 3.3.2
(a price that changes in mid-session, DPH-21).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Final

from billpay.errors import LocalProtocolError
from billpay.markprices import MarkReading, PriceSchedule
from pricereactor.rates import RateDecision, Verdict

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
MS_PER_DAY: Final = 86_400_000
PPM: Final = 1_000_000
MOST_READINGS_KEPT: Final = 64
"""A report that is older than all of them makes the bill no more exact; the gap was reckoned at its dearest."""


class Taken(Enum):
    """What became of a report."""

    NEW = "new"
    REPEATED = "repeated"
    TOO_LATE = "too late"
    CONTRADICTS = "contradicts"  # its counts run backwards against another one's; it counts nothing


class Purse:
    """One budget for several sessions at once, best of a day; claims are what each may have spent of it at most."""

    def __init__(self, budget_nanodollars: int, *, day: int | None = None, spent_nanodollars: int = 0) -> None:
        """`day`: of the epoch, in the payer's own time zone. None: it never begins again. `spent`: today, before."""
        self.budget_nanodollars = budget_nanodollars
        self.day = day
        self._before = spent_nanodollars
        self._claims: dict[object, int] = {}
        self._closed: set[object] = set()

    def begin_day(self, day: int) -> None:
        """What ended yesterday counts no longer; sessions that go on claim for today when they next decide."""
        if self.day is None or day <= self.day:
            return
        self.day = day
        self._before = 0
        for key in self._closed:
            self._claims.pop(key, None)
        self._closed.clear()

    def free_for(self, key: object) -> int:
        others = sum(claim for other, claim in self._claims.items() if other is not key)
        return self.budget_nanodollars - self._before - others

    def claim(self, key: object, nanodollars: int) -> None:
        self._claims[key] = nanodollars

    def close(self, key: object) -> None:
        self._closed.add(key)

    @property
    def claimed_nanodollars(self) -> int:
        return self._before + sum(self._claims.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """The conditions of the module's docstring as numbers."""

    reaction_ns: int = 200_000_000  # two intervals: so long a rate may hold
    longest_delay_ns: int = 2 * NS_PER_S
    clock_slack_ms: int = 1_000
    headroom_ppm: int = PPM  # 2 million: prices may double without notice
    burst_packets: int = 2

    def __post_init__(self) -> None:
        numbers = (self.reaction_ns, self.longest_delay_ns, self.clock_slack_ms, self.burst_packets)
        if self.reaction_ns <= 0 or min(numbers) < 0 or self.headroom_ppm < PPM:
            raise LocalProtocolError(f"{self} guards nothing")


class SpendingGuard:
    """One for each session. `began_unix_ms`: when counting began at the receiver, with no marks."""

    def __init__(
        self,
        prices: PriceSchedule,
        *,
        began_unix_ms: int,
        session_budget_nanodollars: int | None = None,
        day_purse: Purse | None = None,
        settings: GuardSettings | None = None,
    ) -> None:
        self._prices = prices
        self._settings = settings or GuardSettings()
        self._session = session_budget_nanodollars
        self._limited = session_budget_nanodollars is not None or day_purse is not None
        self._day_purse = day_purse
        self._day = day_purse.day if day_purse else None
        self._day_base = 0
        self._settled = 0  # the cost of all before the first reading that is kept
        self._sequences: list[int] = [0]
        self._readings: list[MarkReading] = [MarkReading(unix_ms=began_unix_ms, marks=0)]
        self._spent = 0
        self._received = 0  # packets that the far end has counted
        self._total = 0  # packets that can have been sent until the last rate ends
        self._open = 0  # of them, those of the rate that holds now
        self._open_since_sent: int | None = 0
        self._rates: deque[tuple[int, int]] = deque()  # (its end, packets) of each rate that can still be counted
        self._clocks_agree = True

    @property
    def spent_nanodollars(self) -> int:
        """The bill so far, never too low for the reports that came; exact once no change of price lies in a gap."""
        return self._spent

    @property
    def left_nanodollars(self) -> int | None:
        """None: no budget."""
        free = self._free()
        return None if free is None else max(0, free - self._spent)

    @property
    def unreported_packets(self) -> int:
        """That can have been sent and can still be counted."""
        by_time = self._open + sum(packets for _, packets in self._rates)
        return max(0, min(by_time, self._total - self._received))

    def hold(self, reaction_ns: int) -> None:
        """From the next rate on, each may hold so long. Never less than before: the last one holds still."""
        if reaction_ns > self._settings.reaction_ns:
            self._settings = replace(self._settings, reaction_ns=reaction_ns)

    def on_report(self, now_unix_ms: int, *, sequence: int, unix_ms: int, packets: int, marks: int) -> Taken:
        """A cumulative report: counted at `unix_ms` of the receiver's time of day, heard at ours."""
        at = bisect_left(self._sequences, sequence)
        if at < len(self._sequences) and self._sequences[at] == sequence:
            return Taken.REPEATED
        if at == 0:
            return Taken.TOO_LATE
        reading = MarkReading(unix_ms=unix_ms, marks=marks)
        if marks > packets or (self._limited and marks > self._total) or self._runs_backwards(at, reading):
            return Taken.CONTRADICTS
        self._sequences.insert(at, sequence)
        self._readings.insert(at, reading)
        self._received = max(self._received, packets)
        if unix_ms > now_unix_ms + self._settings.clock_slack_ms:
            self._clocks_agree = False  # then its time says nothing of ours
        self._settle_by_time()
        while len(self._readings) > MOST_READINGS_KEPT:
            self._fold(1)
        self._spent = self._settled + self._cost(self._readings)
        return Taken.NEW

    def affordable_bit_s(
        self, now_unix_ms: int, *, packet_bytes: int, sent_packets: int | None = None, wanted_bit_s: int | None = None
    ) -> int | None:
        """The highest rate until the next call, at most `reaction_ns`; None: no budget limits it.

        It counts as promised: call it once for each rate that is really set. `sent_packets`: all of the session that
        the pacer has let through by now; None: as many as it was allowed. `wanted_bit_s`: no more is promised.
        """
        self._end_rate(now_unix_ms, sent_packets)
        self._spent = self._settled + self._cost(self._readings)  # a price may have come to be known
        self._begin_day()
        self._claim(now_unix_ms)
        packets = self._affordable_packets(now_unix_ms)
        if packets is None:
            return None
        s = self._settings
        bits = packet_bytes * 8 * NS_PER_S
        rate = max(0, packets - s.burst_packets) * bits // s.reaction_ns
        if wanted_bit_s is not None and wanted_bit_s < rate:
            rate = wanted_bit_s
            packets = -(-rate * s.reaction_ns // bits) + s.burst_packets
        if rate > 0:
            self._open = packets
            self._total += packets
            self._claim(now_unix_ms)
        return rate

    def limit(
        self, decision: RateDecision, now_unix_ms: int, *, packet_bytes: int, sent_packets: int | None = None
    ) -> RateDecision:
        """The reactor's decision, within the budget."""
        wanted = 0 if decision.verdict is Verdict.STOP else decision.target_bit_s
        affordable = self.affordable_bit_s(
            now_unix_ms, packet_bytes=packet_bytes, sent_packets=sent_packets, wanted_bit_s=wanted
        )
        if affordable is None or affordable == wanted:
            return decision
        if affordable == 0:
            if self.is_used_up(now_unix_ms):
                return replace(decision, target_bit_s=0, verdict=Verdict.STOP, reason="its budget is used up")
            why = "what is under way could cost all that is left: it waits for a report"
            return replace(decision, target_bit_s=0, verdict=Verdict.PAUSE, reason=why)
        verdict = Verdict.GO if decision.verdict is Verdict.LET_GO else decision.verdict
        why = f"{affordable} bit/s is all that its budget can bear until the next report"
        return replace(decision, target_bit_s=affordable, verdict=verdict, reason=why)

    def is_used_up(self, now_unix_ms: int) -> bool:
        """Whether no report can make another packet affordable: not even one burst at the price now."""
        free, price = self._free(), self._dearest(now_unix_ms)
        if free is None or price is None:
            return False
        return free - self._spent < price * (self._settings.burst_packets + 1)

    def close(self, now_unix_ms: int) -> None:
        """The session is over: what it can still cost stays claimed until the day ends."""
        self._claim(now_unix_ms)
        if self._day_purse is not None:
            self._day_purse.close(self)

    def _affordable_packets(self, now_unix_ms: int) -> int | None:
        """Half of what is left, in packets that are all marked; None: no budget. 0: no price is known."""
        free = self._free()
        if free is None:
            return None
        price = self._dearest(now_unix_ms)
        if price is None:
            return 0
        left = free - self._spent - self.unreported_packets * price
        if left <= 0:
            return 0
        least = self._settings.burst_packets + 1
        affordable = left // max(1, price)
        return max(affordable // 2, least if affordable >= least else 0)

    def _dearest(self, now_unix_ms: int) -> int | None:
        """The highest price of a packet that is not reported yet, or is sent until the next rate."""
        s = self._settings
        since = min(self._readings[-1].unix_ms, now_unix_ms - s.clock_slack_ms)
        until = now_unix_ms + (s.reaction_ns + s.longest_delay_ns) // NS_PER_MS + s.clock_slack_ms
        price = self._prices.highest_between(max(since, self._readings[0].unix_ms), until)
        return None if price is None else -(-price * s.headroom_ppm // PPM)

    def _free(self) -> int | None:
        limits = [] if self._session is None else [self._session]
        if self._day_purse is not None:
            limits.append(self._day_purse.free_for(self) + self._day_base)
        return min(limits) if limits else None

    def _claim(self, now_unix_ms: int) -> None:
        if self._day_purse is not None:
            price = self._dearest(now_unix_ms) or self._prices.highest_known or 0
            self._day_purse.claim(self, self._spent - self._day_base + self.unreported_packets * price)

    def _begin_day(self) -> None:
        purse = self._day_purse
        if purse is None or purse.day == self._day:
            return
        self._fold(len(self._readings) - 1)
        self._spent = self._day_base = self._settled
        self._day = purse.day

    def _end_rate(self, now_unix_ms: int, sent_packets: int | None) -> None:
        """The rate until now has sent what the pacer counted, or all that it could."""
        sent = self._open
        if sent_packets is not None and self._open_since_sent is not None:
            sent = max(0, sent_packets - self._open_since_sent)
        self._total += sent - self._open
        self._open = 0
        self._open_since_sent = sent_packets
        if sent:
            self._rates.append((now_unix_ms, sent))
        self._settle_by_time()

    def _runs_backwards(self, at: int, reading: MarkReading) -> bool:
        around = [*self._readings[at - 1 : at], reading, *self._readings[at : at + 1]]
        return any(
            later.unix_ms < earlier.unix_ms or later.marks < earlier.marks for earlier, later in pairwise(around)
        )

    def _settle_by_time(self) -> None:
        """What was sent long enough before the newest reading is in it, or was lost."""
        s = self._settings
        if not self._clocks_agree or len(self._readings) < 2:
            return
        by = self._readings[-1].unix_ms - s.longest_delay_ns // NS_PER_MS - s.clock_slack_ms
        while self._rates and self._rates[0][0] <= by:
            self._rates.popleft()

    def _fold(self, readings: int) -> None:
        """Takes the oldest readings into one sum."""
        if readings > 0:
            self._settled += self._cost(self._readings[: readings + 1])
            del self._readings[:readings], self._sequences[:readings]

    def _cost(self, readings: list[MarkReading]) -> int:
        """At its dearest; where a price is missing, at the dearest of all that are known."""
        cost = self._prices.most_nanodollars(readings)
        if cost is None:
            return (readings[-1].marks - readings[0].marks) * (self._prices.highest_known or 0)
        return cost
