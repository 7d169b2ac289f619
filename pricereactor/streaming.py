"""Which of a few encodings a stream has now: the one with the largest net benefit (DPH-23).

Decides the level, and why. Refuses to know: packets, players, clocks (the caller gives the time). Pure.

With rungs r_1 < ... < r_K, value U (money per second, concave) and price c (money per bit, `bitprice`), the net benefit
U(r) - c r is largest at the highest rung whose step was worth its price: c <= c_(k-1), where
c_k = (U(r_(k+1)) - U(r_k)) / (r_(k+1) - r_k). Hysteresis h: up where c < c_k (1 - h), down where c > c_k (1 + h), so
the level is what it was, but at least the one and at most the other. Rungs that no price makes best (under the concave
hull of U over the ladder) are never used. Without a value curve U(r) = v log(1 + r / r_1), where v makes the highest
rung worth the willingness to pay.

Limits, each of which lowers and none of which raises: what is left of the budget for the time that is left; the
willingness in the mean over the next minute; the price ceiling (the lowest rung). Those hold at once. The dwell, the
switches per minute and the largest rate change hold a switch back that is only worth while.

Chosen here, where the source is silent:
- it begins on the lowest rung, and stays there until a price is known;
- nothing heard: the level holds; for longer than `hold_ns`: it lets go, on the lowest rung, and begins anew later;
- a spike is reckoned to last as long as the last ones did in the mean; with none known no switch is postponed;
- a stream without a known end keeps the budget guard for the next `horizon_ns`;
- a price that moved more in ten seconds than the task accepts takes the hysteresis from the way down, and closes the
  way up: it goes down early and comes back late.

Stable: a switch has to be heard before the next one, so the dwell is at least two half-lives and two intervals, or the
settings are refused. A stream so large that its own step moves the price by more than (1+h)/(1-h) would still go to and
fro; the dwell and the switches per minute bound how often.
Source: M3I scenarios 3.5.1 (multiple encodings, 5-10 s of buffer); AUEB's price reaction as in the formulas above.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from billpay.errors import LocalProtocolError
from pricereactor.bitprice import BITS_PER_MB, HALF_LIFE_NS, HOLD_NS, BitPrice
from pricereactor.policy import TaskKind, TaskPolicy, check, usable_ladder, worth_nanodollars_per_s
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import NS_PER_S, PriceSignal

_MINUTE_NS = 60 * NS_PER_S
_PPM = 1_000_000
_VOLATILITY_NS = 10 * NS_PER_S
_SPIKES_REMEMBERED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderSettings:
    """How it moves; the policy says where to."""

    hysteresis: float = 0.15
    dwell_ns: int = 5 * NS_PER_S
    half_life_ns: int = HALF_LIFE_NS
    buffer_enough_ns: int = 4 * NS_PER_S  # below it no switch down is postponed
    horizon_ns: int = _MINUTE_NS
    hold_ns: int = HOLD_NS

    def require_stable(self, interval_ns: int) -> None:
        """Raises LocalProtocolError beyond the module's condition."""
        if not 0 <= self.hysteresis < 1 or min(interval_ns, self.half_life_ns, self.horizon_ns) <= 0:
            raise LocalProtocolError(f"{self} with an interval of {interval_ns} ns is no way to move")
        least_ns = 2 * (self.half_life_ns + interval_ns)
        if self.dwell_ns < least_ns:
            raise LocalProtocolError(
                f"a dwell of {self.dwell_ns} ns is over before a switch was heard: at least {least_ns} ns"
            )


def ladder_values(policy: TaskPolicy) -> tuple[tuple[int, float], ...]:
    """Each usable rung and what it is worth, in nanodollars per second."""
    rungs = usable_ladder(policy)
    if policy.value:
        return tuple((rate, worth_nanodollars_per_s(policy.value, rate)) for rate in rungs)
    v = policy.willingness_nanodollars_per_s / math.log1p(rungs[-1] / rungs[0])
    return tuple((rate, v * math.log1p(rate / rungs[0])) for rate in rungs)


def best_rungs(values: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """Those that some price makes best: the upper concave hull."""
    hull: list[tuple[int, float]] = []
    for rung in values:
        if hull and rung[1] <= hull[-1][1]:
            continue  # costs more and is worth no more
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], rung):
            hull.pop()
        hull.append(rung)
    return tuple(hull)


def thresholds(rungs: tuple[tuple[int, float], ...]) -> tuple[float, ...]:
    """c_k between each rung and the next, in nanodollars per bit; falling."""
    return tuple(_slope(low, high) for low, high in pairwise(rungs))


def _slope(low: tuple[int, float], high: tuple[int, float]) -> float:
    return (high[1] - low[1]) / (high[0] - low[0])


class Past:
    """A value's last ten seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque()

    def add(self, now_ns: int, value: float) -> None:
        self._seen.append((now_ns, value))
        while len(self._seen) > 1 and now_ns - self._seen[1][0] >= _VOLATILITY_NS:
            self._seen.popleft()

    def first(self) -> float | None:
        """At their beginning, or the oldest that there is."""
        return self._seen[0][1] if self._seen else None


class Spikes:
    """How long a price stays above what a level can bear, from the last times that it did."""

    def __init__(self) -> None:
        self._since_ns: int | None = None
        self._bearable = math.inf
        self._lengths_ns: deque[int] = deque(maxlen=_SPIKES_REMEMBERED)

    def see(self, now_ns: int, price: float, bearable: float) -> None:
        """`bearable`: above it the present level is too dear; held for as long as a spike lasts."""
        if self._since_ns is None:
            if price > bearable:
                self._since_ns, self._bearable = now_ns, bearable
        elif price <= self._bearable or now_ns - self._since_ns >= _MINUTE_NS:  # no spike any more: how things are
            self._lengths_ns.append(now_ns - self._since_ns)
            self._since_ns = None

    def expected_ns(self, now_ns: int) -> int | None:
        """Of the present one: as the mean of the last ones, but no less than it has lasted. None: nothing is known."""
        if not self._lengths_ns:
            return None
        lasted_ns = now_ns - self._since_ns if self._since_ns is not None else 0
        return max(sum(self._lengths_ns) // len(self._lengths_ns), lasted_ns)


class StreamingLadder:
    """A `RateReactor`. `session_ns`: how long the stream lasts, if that is known. `budget_nanodollars`: for it all."""

    def __init__(
        self,
        policy: TaskPolicy,
        *,
        now_ns: int,
        interval_ns: int,
        session_ns: int | None = None,
        budget_nanodollars: int | None = None,
        settings: LadderSettings | None = None,
    ) -> None:
        if policy.kind is not TaskKind.STREAMING:
            raise LocalProtocolError(f"a {policy.kind} task has no ladder")
        check(policy)
        self.interval_ns = interval_ns
        self._settings = settings or LadderSettings()
        self._settings.require_stable(interval_ns)
        self._policy = policy
        self._use(best_rungs(ladder_values(policy)))
        self._budget = budget_nanodollars if budget_nanodollars is not None else policy.session_budget_nanodollars
        self._began_ns = self._switched_ns = now_ns
        self._ends_ns = now_ns + session_ns if session_ns is not None else None
        self._price = BitPrice(half_life_ns=self._settings.half_life_ns)
        self._prices, self._past_rates, self._spikes = Past(), Past(), Spikes()
        self._switches_ns: deque[int] = deque()
        self._buffer_ns: int | None = None
        self._too_dear = self._stopped = False
        self._at = 0  # among the rungs that some price makes best

    @property
    def spent_nanodollars(self) -> int:
        return self._price.spent_nanodollars

    def on_buffer(self, buffer_ns: int | None) -> None:
        """How much the receiver could still play now; None: not known."""
        self._buffer_ns = buffer_ns

    def revalue(self, policy: TaskPolicy) -> None:
        """The same task, worth more or less from now on. It stays on its encoding until the next interval."""
        before, at = self._rates, self._rates[self._at]
        self._policy = policy
        self._use(best_rungs(ladder_values(policy)))
        self._at = sum(rate <= at for rate in self._rates[1:])
        if self._rates != before:  # rounding has made another rung worth while, or none
            self._past_rates = Past()

    def _use(self, rungs: tuple[tuple[int, float], ...]) -> None:
        self._rates = tuple(rate for rate, _ in rungs)
        self._levels = tuple(self._policy.ladder_bit_s.index(rate) for rate in self._rates)
        self._thresholds = thresholds(rungs)

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        self._price.hear(now_ns, signal)
        self._past_rates.add(now_ns, self._rates[self._at])
        price = self._price.nanodollars_per_bit
        if self._is_used_up(now_ns):
            spent, budget = self._price.spent_nanodollars, self._budget
            reason = f"{spent} n$ of the budget of {budget} n$ are spent"
            return RateDecision(target_bit_s=0, verdict=Verdict.STOP, level=self._levels[0], reason=reason)
        if self._price.silent_ns(now_ns) > self._settings.hold_ns:
            return self._let_go(now_ns)
        if price is None:
            return self._decision("what it costs is not known yet")
        self._prices.add(now_ns, price)
        self._spikes.see(now_ns, price, self._bearable())
        why = self._move(now_ns, price)
        return self._notice(price) or self._decision(f"{_per_mb(price)} n$ for a megabyte: {why}")

    def _let_go(self, now_ns: int) -> RateDecision:
        self._at, self._switched_ns = 0, now_ns
        reason = f"no price was heard for {self._price.silent_ns(now_ns) // NS_PER_S} s, so its transport decides"
        return RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, level=self._levels[0], reason=reason)

    def _move(self, now_ns: int, price: float) -> str:
        """Goes to another rung, or stays; says why."""
        wanted = self._worth_while(price)
        cap, limit = self._affordable(now_ns, price)
        if cap < self._at:
            self._switch(now_ns, min(cap, wanted))
            return limit
        wanted = min(wanted, cap)
        if wanted == self._at:
            return limit if cap == self._at < len(self._rates) - 1 else "the best for its price"
        if now_ns - self._switched_ns < self._settings.dwell_ns:
            return "the last switch is too new for another"
        while self._switches_ns and now_ns - self._switches_ns[0] >= _MINUTE_NS:
            self._switches_ns.popleft()
        if len(self._switches_ns) >= self._policy.most_switches_per_minute:
            return f"{len(self._switches_ns)} switches in a minute are enough"
        if wanted < self._at and self._outlasts(now_ns):
            return "dear, but the buffer outlasts it"
        wanted = self._within_rate_change(wanted)
        if wanted == self._at:
            return "a larger change within ten seconds is not wanted"
        self._switch(now_ns, wanted)
        return "now the best for its price"

    def _worth_while(self, price: float) -> int:
        """With hysteresis: where it is, but no lower than `up` and no higher than `down`."""
        h = self._settings.hysteresis
        restless = self._is_restless(price)
        up = sum(price < threshold * (1 - h) for threshold in self._thresholds)
        down = sum(price <= threshold * (1 if restless else 1 + h) for threshold in self._thresholds)
        return min(self._at if restless else max(self._at, up), down)

    def _is_restless(self, price: float) -> bool:
        most, before = self._policy.largest_price_change_ppm, self._prices.first()
        return most is not None and before is not None and abs(price - before) * _PPM > before * most

    def _bearable(self) -> float:
        return self._thresholds[self._at - 1] * (1 + self._settings.hysteresis) if self._at else math.inf

    def _affordable(self, now_ns: int, price: float) -> tuple[int, str]:
        """The highest rung that every limit on money allows, and which limit it is. The way up has to keep clear."""
        ceiling = self._policy.price_ceiling_nanodollars_per_mb
        if ceiling is not None:
            clear = ceiling * (1 - self._settings.hysteresis) if self._too_dear else ceiling
            self._too_dear = price * BITS_PER_MB > clear
            if self._too_dear:
                return 0, f"dearer than the ceiling of {ceiling} n$"
        for rung in range(len(self._rates) - 1, 0, -1):
            per_s = price * self._rates[rung] * (1 + self._settings.hysteresis if rung > self._at else 1)
            if self._fits_budget(now_ns, per_s) and self._fits_willingness(now_ns, per_s):
                return rung, "its money allows no more"
        return 0, "its money allows no more"

    def _fits_budget(self, now_ns: int, per_s: float) -> bool:
        if self._budget is None:
            return True
        left_ns = self._settings.horizon_ns if self._ends_ns is None else max(self.interval_ns, self._ends_ns - now_ns)
        return self._price.spent_nanodollars + per_s * left_ns / NS_PER_S <= self._budget

    def _fits_willingness(self, now_ns: int, per_s: float) -> bool:
        willing, ahead_ns = self._policy.willingness_nanodollars_per_s, self._settings.horizon_ns
        if not willing:
            return True
        allowed = willing * (now_ns - self._began_ns + ahead_ns)
        return self._price.spent_nanodollars * NS_PER_S + per_s * ahead_ns <= allowed

    def _is_used_up(self, now_ns: int) -> bool:
        """For good."""
        rate = self._rates[self._at]
        used_up = self._price.could_use_up(self._budget, now_ns, rate_bit_s=rate, interval_ns=self.interval_ns)
        self._stopped = self._stopped or used_up
        return self._stopped

    def _outlasts(self, now_ns: int) -> bool:
        expected_ns, buffer_ns = self._spikes.expected_ns(now_ns), self._buffer_ns
        if expected_ns is None or buffer_ns is None:
            return False
        return buffer_ns > self._settings.buffer_enough_ns and expected_ns < buffer_ns

    def _within_rate_change(self, wanted: int) -> int:
        """As far as the task accepts within ten seconds, but one rung always: a ladder has nothing in between."""
        most, begin = self._policy.largest_rate_change_ppm, self._past_rates.first()
        if most is None or begin is None:
            return wanted
        base = self._rates.index(int(begin))
        step = 1 if wanted > self._at else -1
        rung = self._at
        while rung != wanted:
            change = abs(self._rates[rung + step] - self._rates[base])
            if abs(rung + step - base) > 1 and change * _PPM > self._rates[base] * most:
                break
            rung += step
        return rung

    def _switch(self, now_ns: int, rung: int) -> None:
        self._at, self._switched_ns = rung, now_ns
        self._switches_ns.append(now_ns)

    def _notice(self, price: float) -> RateDecision | None:
        """Somebody who watches is asked before the budget ends."""
        policy, least = self._policy, self._rates[0]
        if self._budget is None or not policy.attended or self._at:
            return None
        lasts_s = (self._budget - self._price.spent_nanodollars) / max(price * least, 1e-9)
        if lasts_s > policy.notice_s:
            return None
        reason = f"the budget lasts for {int(lasts_s)} s more: raise it, or it stops"
        return RateDecision(target_bit_s=least, verdict=Verdict.PAUSE, level=self._levels[0], reason=reason)

    def _decision(self, why: str) -> RateDecision:
        return RateDecision(target_bit_s=self._rates[self._at], level=self._levels[self._at], reason=why)


def _per_mb(price: float) -> int:
    return round(price * BITS_PER_MB)
