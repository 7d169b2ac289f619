"""The reactor for a task: of its rate, or of its payment for each packet.

Decides: which reactor keeps to a policy, how often it wants to be asked, and what a willingness per second is for one
packet. Refuses to know: flows, clocks, the agent: a program can have its reactor inside itself (DPH-32), and drives it
by plain calls: `on_interval` with what it heard, and the rate that it says.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from billpay.errors import LocalProtocolError
from billpay.header import MAX_AMOUNT_NANODOLLARS
from pricereactor.bitprice import BITS_PER_MB, BitPrice
from pricereactor.bulk import BulkPayment, BulkPolicy
from pricereactor.elastic import ElasticRate, plan_of
from pricereactor.payments import Reactor
from pricereactor.policy import TaskKind, TaskPolicy, check
from pricereactor.rates import RateDecision, RateReactor, Verdict
from pricereactor.signals import PriceSignal
from pricereactor.streaming import StreamingLadder
from pricereactor.timely import TimelyPayment, TimelyPolicy
from pricereactor.transfer import Forecast, TransferByDeadline

_MS = 1_000_000
_BYTES_PER_MB = 1_000_000
_LONGEST_ROUND_TRIP_NS = 100 * _MS
"""Of others on the link: their answers come so late, and the bound on the gain is theirs too."""
_LEAST_INTERVAL_NS = {
    TaskKind.ELASTIC: 100 * _MS,  # some tens of packets at 2 Mbit/s
    TaskKind.STREAMING: 500 * _MS,  # ten in the shortest dwell: nothing happens faster
    TaskKind.TRANSFER: 200 * _MS,
}
_PROBES_S = 60
"""A timely task may carry so many seconds' willingness in probes, and a tenth of its budget at most."""


@runtime_checkable
class Revaluable(Protocol):
    """A rate reactor that a person's second thoughts reach while it runs (DPH-27)."""

    def revalue(self, policy: TaskPolicy) -> None:
        """The same task, worth more or less from now on. What was learned of prices stays."""
        ...


RATE_KINDS = frozenset(_LEAST_INTERVAL_NS)
PAYMENT_KINDS = frozenset((TaskKind.BULK, TaskKind.TIMELY))


def interval_ns_for(policy: TaskPolicy, *, round_trip_ns: int) -> int:
    """A round trip, or longer: an answer has to be heard before the next."""
    return max(round_trip_ns, _LEAST_INTERVAL_NS[policy.kind])


def budget_left(policy: TaskPolicy, *, spent_today_nanodollars: int = 0) -> int | None:
    """What a session that begins now may cost; None: nothing bounds it."""
    day = policy.day_budget_nanodollars
    left = [] if day is None else [max(0, day - spent_today_nanodollars)]
    if policy.session_budget_nanodollars is not None:
        left.append(policy.session_budget_nanodollars)
    return min(left, default=None)


def reactor_for_task(
    policy: TaskPolicy,
    *,
    now_ns: int,
    round_trip_ns: int,
    packet_bytes: int = 1500,
    nanodollars_per_mark: int | None = None,
    access_bit_s: int | None = None,
    session_ns: int | None = None,
    spent_today_nanodollars: int = 0,
    forecast: Forecast | None = None,
) -> RateReactor:
    """Raises ConfigurationError for a policy that nothing can keep to, LocalProtocolError for a kind without a rate.

    `packet_bytes`, `nanodollars_per_mark`: where an elastic task begins. `access_bit_s`, `forecast`: for a transfer.
    `session_ns`: how long a stream lasts.
    """
    check(policy)
    if policy.kind not in RATE_KINDS:
        raise LocalProtocolError(f"a {policy.kind} task pays for packets and has no rate")
    interval_ns = interval_ns_for(policy, round_trip_ns=round_trip_ns)
    budget = budget_left(policy, spent_today_nanodollars=spent_today_nanodollars)
    if policy.kind is TaskKind.STREAMING:
        return StreamingLadder(
            policy, now_ns=now_ns, interval_ns=interval_ns, session_ns=session_ns, budget_nanodollars=budget
        )
    if policy.kind is TaskKind.TRANSFER:
        return TransferByDeadline(
            policy,
            now_ns=now_ns,
            interval_ns=interval_ns,
            access_bit_s=access_bit_s,
            budget_nanodollars=budget,
            forecast=forecast,
        )
    plan = plan_of(
        _without_worthless(policy),
        interval_ns=interval_ns,
        nanodollars_per_mark=nanodollars_per_mark,
        packet_bytes=packet_bytes,
        longest_round_trip_ns=max(round_trip_ns, _LONGEST_ROUND_TRIP_NS),
    )
    elastic = ElasticRate(plan)
    return elastic if budget is None else WithinBudget(elastic, budget)


class WithinBudget:
    """An elastic reactor that stops, for good, before its budget is used up.

    By the price as it was and the charges that were reported. Where a bill may never be above its budget, whatever the
    price does next, the agent's own guard stands behind every reactor (`spending`).
    """

    def __init__(self, reactor: RateReactor, budget_nanodollars: int) -> None:
        self.interval_ns = reactor.interval_ns
        self._reactor = reactor
        self._budget = budget_nanodollars
        self._price = BitPrice()
        self._rate = 0
        self._stop: RateDecision | None = None

    @property
    def spent_nanodollars(self) -> int:
        return self._price.spent_nanodollars

    def revalue(self, policy: TaskPolicy) -> None:
        """Of the reactor within; the budget stays."""
        assert isinstance(self._reactor, Revaluable), "an elastic one is"
        self._reactor.revalue(policy)

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        self._price.hear(now_ns, signal)
        if self._stop is None:
            decision = self._reactor.on_interval(now_ns, signal)
            # One that let go may have any rate: it is reckoned to have kept the last.
            self._rate = self._rate if decision.target_bit_s is None else decision.target_bit_s
            if not self._price.could_use_up(self._budget, now_ns, rate_bit_s=self._rate, interval_ns=self.interval_ns):
                return decision
            reason = f"{self._price.spent_nanodollars} n$ of the budget of {self._budget} n$ are spent"
            self._stop = RateDecision(target_bit_s=0, verdict=Verdict.STOP, reason=reason)
        return self._stop


def payment_reactor_for_task(policy: TaskPolicy, *, packet_bytes: int = 1500) -> Reactor:
    """For a task that pays for packets; LocalProtocolError for one that has a rate.

    A bulk task is too slow below its least rate. Its willingness for a packet is that for a second, over the packets of
    a second at its largest rate: so it holds at every rate that the task may have. Without a largest rate it is the
    least one, and what is sent beyond that costs more in a second.
    """
    check(policy)
    if policy.kind is TaskKind.BULK:
        willing = _per_packet(policy, packet_bytes)
        return BulkPayment(BulkPolicy(willingness_nanodollars=willing, target_bit_s=policy.min_bit_s))
    if policy.kind is TaskKind.TIMELY:
        return timely_for_task(policy, packet_bytes=packet_bytes)
    raise LocalProtocolError(f"a {policy.kind} task has a rate, and pays by it")


def timely_for_task(policy: TaskPolicy, *, packet_bytes: int = 1500) -> TimelyPayment:
    """Also what plans paths and probes."""
    probes = policy.willingness_nanodollars_per_s * _PROBES_S
    budget = budget_left(policy)
    return TimelyPayment(
        TimelyPolicy(
            willingness_nanodollars=_per_packet(policy, packet_bytes),
            probe_budget_nanodollars=probes if budget is None else min(probes, budget // 10),
        )
    )


def _without_worthless(policy: TaskPolicy) -> TaskPolicy:
    """An elastic task's value curve as limits: no rate beyond its end, and no price that no rate of it is worth."""
    curve = policy.value
    if not curve:
        return policy
    most, ceiling = curve[-1].rate_bit_s, policy.price_ceiling_nanodollars_per_mb
    worth = max(point.nanodollars_per_s * BITS_PER_MB // point.rate_bit_s for point in curve)
    return msgspec.structs.replace(
        policy,
        max_bit_s=max(policy.min_bit_s, most if policy.max_bit_s is None else min(most, policy.max_bit_s)),
        price_ceiling_nanodollars_per_mb=worth if ceiling is None else min(worth, ceiling),
    )


def _per_packet(policy: TaskPolicy, packet_bytes: int) -> int:
    """Rounded down; what the ceiling allows a packet is a limit too, and the header's field."""
    rate = policy.max_bit_s or policy.min_bit_s
    limits = [policy.willingness_nanodollars_per_s * packet_bytes * 8 // rate, MAX_AMOUNT_NANODOLLARS]
    if policy.price_ceiling_nanodollars_per_mb is not None:
        limits.append(policy.price_ceiling_nanodollars_per_mb * packet_bytes // _BYTES_PER_MB)
    return min(limits)
