"""The money of sessions: one guard for each, one purse for each task's day, and what is told to the day book.

Decides: which budgets bound a session, and what the guard is told of it. The guarding itself is
`pricereactor.spending`: every packet that may still be counted is reckoned as marked. Refuses to know: what a rate is
worth (the reactors), files, clocks. Pure.

Packets that are not ECT cannot be marked. So a rate of 0 is a trickle without ECT rather than silence; a session that
lets go needs no guard, since we make nothing of it ECT any more (what its own transport makes ECT may still be marked
and charged); and without a known price a session with a budget is let go at once: nobody can say what its marks cost.

Source: the budgets of M3I scenarios 3.2.1 (a task's policy, DPH-04).
"""

from __future__ import annotations

from hostagent.reacting.days import DayBook
from hostagent.reacting.evidence import Moment
from hostagent.reacting.prices import Prices
from pricereactor.policy import TaskPolicy
from pricereactor.rates import RateDecision, Verdict
from pricereactor.spending import GuardSettings, Purse, SpendingGuard

COUNTED_FROM_MS = 120_000
"""The two ends' clocks may differ so much; a message that is further off is not believed."""


class DayPurses:
    """One purse for each task that has a budget for a day, shared by all its sessions."""

    def __init__(self, book: DayBook, *, day: int) -> None:
        self._book = book
        self._day = day
        self._purses: dict[str, Purse] = {}

    def of(self, policy: TaskPolicy) -> Purse | None:
        """The budget is as the latest session's policy says it."""
        if policy.day_budget_nanodollars is None:
            return None
        purse = self._purses.get(policy.name)
        if purse is None:
            spent = self._book.spent(policy.name)
            purse = Purse(policy.day_budget_nanodollars, day=self._day, spent_nanodollars=spent)
            self._purses[policy.name] = purse
        purse.budget_nanodollars = policy.day_budget_nanodollars
        return purse

    def begin_day(self, day: int) -> None:
        self._day = day
        for purse in self._purses.values():
            purse.begin_day(day)


class TaskPurse:
    """Of one session. `hold_ns`: so long may a rate hold before the next one has its effect."""

    def __init__(self, policy: TaskPolicy, *, book: DayBook, days: DayPurses, prices: Prices, moment: Moment) -> None:
        self._policy = policy
        self._book = book
        self._prices = prices
        self._day = days.of(policy)
        self._began_unix_ms = max(0, moment.unix_ms - COUNTED_FROM_MS)
        self._guard: SpendingGuard | None = None
        self._spent = 0

    @property
    def is_bounded(self) -> bool:
        return self._day is not None or self._policy.session_budget_nanodollars is not None

    def begin(self, *, hold_ns: int) -> None:
        """Once it is known how long a rate holds; again, when it holds for another time."""
        if self._guard is not None:
            self._guard.hold(hold_ns)
        elif self.is_bounded:
            self._guard = SpendingGuard(
                self._prices,
                began_unix_ms=self._began_unix_ms,
                session_budget_nanodollars=self._policy.session_budget_nanodollars,
                day_purse=self._day,
                settings=GuardSettings(reaction_ns=hold_ns),
            )

    def on_count(self, moment: Moment, *, unix_ms: int, packets: int, marks: int) -> None:
        """Cumulative over the whole session: of packets that could be marked, those that arrived."""
        if self._guard is not None:
            self._guard.on_report(moment.unix_ms, sequence=unix_ms, unix_ms=unix_ms, packets=packets, marks=marks)

    def on_spent(self, total_nanodollars: int) -> None:
        """What the session has cost so far."""
        self._book.add(self._policy.name, total_nanodollars - self._spent)
        self._spent = total_nanodollars

    def spent_today(self) -> int:
        return self._book.spent(self._policy.name)

    def within(
        self, decision: RateDecision, moment: Moment, *, packet_bytes: int, sent_packets: int | None
    ) -> RateDecision:
        """The decision, or a lower rate, or none at all."""
        if self._guard is None:
            return decision
        if self._prices.price_at(moment.unix_ms) is None:
            reason = "no price is known, so its budget bounds no rate: its transport has it"
            return RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, reason=reason)
        if decision.verdict is Verdict.LET_GO:  # nothing of ours is marked then; traffic goes on whatever happens
            self._guard.affordable_bit_s(
                moment.unix_ms, packet_bytes=packet_bytes, sent_packets=sent_packets, wanted_bit_s=0
            )
        else:
            decision = self._guard.limit(decision, moment.unix_ms, packet_bytes=packet_bytes, sent_packets=sent_packets)
        self._claim()
        return decision

    def close(self, moment: Moment) -> None:
        """What is under way may still cost something."""
        if self._guard is not None:
            self._guard.close(moment.unix_ms)
            self._claim()

    def _claim(self) -> None:
        if self._day is not None:
            self._book.claim(self._policy.name, self._day.claimed_nanodollars)
