"""An elastic task: as much as its money buys, x = w/c, where c is what a bit costs now.

Decides: the rate, once in each interval, from what the last ones cost; and the window of a program that adapts itself.
Refuses to know: where signals come from, who paces, what is a mark and what is a toll. Pure.

Law (Kelly, Maulloo and Tan 1998; Gibbens and Kelly 1999): at rest a flow spends w each second, so flows that see one
price share it as their willingness to pay. Their plain law d ln x/dt = k (1 − x c/w) has one gain for two things: how
fast shares become right, and how hard the sum of all rates is moved. At a virtual queue the second is delicate: it
marks nothing until it overflows and then everything until it is empty, so paced flows only ever see "all" or
"nothing", and a gain that makes shares right in a second swings the link by a third. Here these are two:

- m remembers c over the last swings that the link makes anyway (1.5 to 5 s; from the first mark on a plain
  mean, so that who comes late knows it soon). The rate is pulled to w/m: all who share a link have nearly the same m
  whatever they did before, so shares become right in a second or two though m itself is still off.
- between them a common part holds the load at the link's rate: 1 − c/m, once as a lead of 8 % and once summed
  slowly. It is the same for all, so it moves the sum and leaves the shares.
- it begins at a rate that cannot be too dear and grows by at most a quarter in each interval until the first mark.
  Silence of marks for two usual swings is growth again, slow at first.

Measured on a virtual clock, as in the tests: FIFO and virtual buffer of 20 packets, 10 Mbit/s, θ 0.96, round trips of
10 and 80 ms, willingness 1:3, 2 and 4 flows begun within 0.3 s, reports each 100 ms. With 20 to 40 % of packets marked
at rest, from 3 s on: shares within 4 % of 1:3, 91 to 95 % of the link used, 3 to 5 packets waiting in the mean. Who
joins is within 11 % over 3 to 8 s after it, within 5 % over 5 to 10 s. With 10 % marked at rest the swings are longer
and 85 % is used: a price that marks less than 15 % is too high for so coarse a signal.

Stability: `stability.FollowLoop`; a gain beyond its bound is refused, the default is at most a quarter of it. A rate
moves by at most 25 % in an interval (40 % down for one interval by the lead).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from billpay.errors import LocalProtocolError
from pricereactor.policy import TaskPolicy
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import PriceSignal
from pricereactor.stability import (
    DEFAULT_PART,
    FollowLoop,
    largest_follow_gain,
    largest_window_gain,
    require_gain,
)

NS_PER_S: Final = 1_000_000_000
PPM: Final = 1_000_000
BITS_PER_MB: Final = 8_000_000

SHORTEST_MEMORY_S: Final = 1.5
LONGEST_MEMORY_S: Final = 5.0
SWINGS_REMEMBERED: Final = 1.5
PULL_PER_S: Final = 2.0
HOLD_PER_S: Final = 0.04
LEAD: Final = 0.08
LOWEST_LEAD: Final = 0.6  # of the rate, while everything is marked
LOWEST_ERROR: Final = -6.0  # of 1 − c/m
MOST_UP, MOST_DOWN = 1.5, 0.5  # of ln w/(m x): one reading of "all marked" is no reason to fall to the ground
LARGEST_STEP: Final = math.log(1.25)
GROWTH_PER_S: Final = 2.2
QUIET_SWINGS: Final = 2.0
QUIET_GROWTH_PER_S: Final = 0.3
MOST_QUIET_GROWTH_PER_S: Final = 1.0
SHORTEST_SWING_S, LONGEST_SWING_S = 0.3, 4.0
MOST_OVER_MEASURED: Final = 2.0
"""No more than twice what arrives: a program that sends less than it may would else save up a burst."""
CALM_NS: Final = 10 * NS_PER_S
COMES_BACK_PPM: Final = 850_000
"""Of the price ceiling: below it a task that had paused goes on."""

DEFAULT_LOOP: Final = FollowLoop(memory_s=SHORTEST_MEMORY_S, pull_per_s=PULL_PER_S, hold_per_s=HOLD_PER_S, lead=LEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticPlan:
    """What an elastic reactor keeps to; `plan_of` makes one of a task's policy.

    willingness_nanodollars_per_s: w. With `wanted_bit_s` the task pays what this rate costs, between w and
    `most_nanodollars_per_s`. start_bit_s: best w over the price per mark, where even a mark on each packet is not too
    dear. longest_round_trip_ns: of the network, for the bound. elasticity: of the steepest marking curve that it is
    designed for. gain: how many times as fast as usual; None: 1, or a quarter of the bound where that is less.
    """

    willingness_nanodollars_per_s: int
    min_bit_s: int = 64_000
    max_bit_s: int | None = None
    start_bit_s: int | None = None
    wanted_bit_s: int | None = None
    most_nanodollars_per_s: int | None = None
    price_ceiling_nanodollars_per_mb: int | None = None
    largest_rate_change_ppm: int | None = None
    largest_price_change_ppm: int | None = None
    interval_ns: int = 100_000_000
    longest_round_trip_ns: int = 100_000_000
    silence_ns: int = 2 * NS_PER_S
    elasticity: float = 3.0
    gain: float | None = None

    def __post_init__(self) -> None:
        rates = 0 < self.min_bit_s <= (self.max_bit_s or self.min_bit_s)
        times = self.interval_ns > 0 and self.longest_round_trip_ns >= 0 and self.silence_ns >= self.interval_ns
        money = 0 <= self.willingness_nanodollars_per_s <= self.most_w
        if not (rates and times and money):
            raise LocalProtocolError(f"{self} is no elastic plan")
        if self.gain is not None:
            require_gain(
                "an elastic reactor",
                self.gain,
                self.largest_gain,
                f"lower it, or report more often than each {self.interval_ns // 1_000_000} ms",
            )

    @property
    def most_w(self) -> int:
        most = self.most_nanodollars_per_s
        return self.willingness_nanodollars_per_s if most is None else most

    @property
    def largest_gain(self) -> float:
        delay_s = (self.interval_ns + self.longest_round_trip_ns) / NS_PER_S
        return largest_follow_gain(DEFAULT_LOOP, delay_s, self.elasticity)

    @property
    def used_gain(self) -> float:
        return min(1.0, DEFAULT_PART * self.largest_gain) if self.gain is None else self.gain


def plan_of(
    policy: TaskPolicy,
    *,
    interval_ns: int,
    nanodollars_per_mark: int | None = None,
    packet_bytes: int = 1500,
    longest_round_trip_ns: int = 100_000_000,
) -> ElasticPlan:
    """The plan of an elastic task; the price per mark, where it is known, says where to begin."""
    start = None
    if nanodollars_per_mark:
        start = rate_if_all_marked(policy.willingness_nanodollars_per_s, nanodollars_per_mark, packet_bytes)
    return ElasticPlan(
        willingness_nanodollars_per_s=policy.willingness_nanodollars_per_s,
        min_bit_s=policy.min_bit_s,
        max_bit_s=policy.max_bit_s,
        start_bit_s=start,
        price_ceiling_nanodollars_per_mb=policy.price_ceiling_nanodollars_per_mb,
        largest_rate_change_ppm=policy.largest_rate_change_ppm,
        largest_price_change_ppm=policy.largest_price_change_ppm,
        interval_ns=interval_ns,
        longest_round_trip_ns=longest_round_trip_ns,
    )


def rate_if_all_marked(willingness_nanodollars_per_s: int, nanodollars_per_mark: int, packet_bytes: int) -> int:
    """bit/s: where a mark on each packet costs w. No equilibrium is below it."""
    return willingness_nanodollars_per_s * packet_bytes * 8 // nanodollars_per_mark


class _PriceMemory:
    """What a bit cost in the last swings, in nanodollars. `swing_s`: from one beginning of marks to the next."""

    __slots__ = ("_edge_ns", "_gain", "_last_mark_ns", "_marking", "price", "since_ns", "swing_s")

    def __init__(self, now_ns: int, gain: float, price: float) -> None:
        self._gain = gain
        self._edge_ns = self._last_mark_ns = self.since_ns = now_ns
        self._marking = True
        self.swing_s = 1.0
        self.price = price

    def quiet_swings(self, now_ns: int) -> float:
        """For how many usual swings beyond two there was no mark; below 0: not yet so long."""
        return (now_ns - self._last_mark_ns) / NS_PER_S / self.swing_s - QUIET_SWINGS

    def forget(self, now_ns: int, price: float) -> None:
        self.since_ns, self.price = now_ns, price

    def on_swing(self, now_ns: int, *, costs: bool) -> bool:
        """Whether marks begin again with this interval."""
        begins = costs and not self._marking
        if begins:
            lasted_s = (now_ns - self._edge_ns) / NS_PER_S
            self.swing_s += 0.3 * (min(LONGEST_SWING_S, max(SHORTEST_SWING_S, lasted_s)) - self.swing_s)
            self._edge_ns = now_ns
        self._marking = costs
        if costs:
            self._last_mark_ns = now_ns
        return begins

    def learn(self, now_ns: int, interval_s: float, price: float, lowest: float) -> None:
        """A plain mean while it is young; then the older a price is, the less it counts."""
        age_s = (now_ns - self.since_ns) / NS_PER_S + interval_s
        usual_s = min(LONGEST_MEMORY_S, max(SHORTEST_MEMORY_S, SWINGS_REMEMBERED * self.swing_s)) / self._gain
        self.price += (price - self.price) * min(1.0, interval_s / min(usual_s, age_s))
        self.price = max(self.price, lowest)


class ElasticRate:
    """The rate form. Charges may be marks × price or tolls: only what the interval cost counts.

    Before the first price it begins at its start rate; a missing signal and an unknown charge leave the rate as it is,
    and after `silence_ns` of them it lets go; the next price takes up from what the transport had reached.
    The price ceiling goes before all other limits, then the least and the largest rate, then the largest change.
    """

    def __init__(self, plan: ElasticPlan) -> None:
        self.interval_ns = plan.interval_ns
        self._plan = plan
        self._gain = plan.used_gain
        self._rate = float(self._within(plan.start_bit_s or plan.min_bit_s))
        self._memory: _PriceMemory | None = None
        self._heard_ns: int | None = None  # the last usable signal
        self._grew_in_silence = False
        self._let_go = False
        self._paused = False
        self._rates: deque[tuple[int, int]] = deque()
        self._prices: deque[tuple[int, float]] = deque()
        self._decision = RateDecision(target_bit_s=int(self._rate), reason="no price is known yet")

    @property
    def price_nanodollars_per_mb(self) -> int | None:
        """As it is remembered. None: nothing has cost anything yet."""
        return None if self._memory is None else round(self._memory.price * BITS_PER_MB)

    def revalue(self, policy: TaskPolicy) -> None:
        """The same task, willing to pay more or less from now on; what a bit costs it still knows."""
        self._plan = replace(self._plan, willingness_nanodollars_per_s=policy.willingness_nanodollars_per_s)

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        if self._heard_ns is None:
            self._heard_ns = now_ns
            self._rates.append((now_ns, int(self._rate)))
        if signal is None or signal.charge_nanodollars is None or signal.interval_ns <= 0:
            self._decision = self._without_signal(now_ns, known=signal is not None)
        elif signal.bytes == 0:
            self._heard_ns = now_ns  # the far end lives; that nothing arrived says nothing of the price
        else:
            self._heard_ns = now_ns
            self._decision = self._with_price(now_ns, signal, signal.charge_nanodollars)
        return self._decision

    def _without_signal(self, now_ns: int, *, known: bool) -> RateDecision:
        what = "the price is not known" if known else "no report came"
        assert self._heard_ns is not None
        if self._let_go or now_ns - self._heard_ns >= self._plan.silence_ns:
            self._let_go = True
            self._memory = None
            self._rates.clear()
            self._prices.clear()
            return RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, reason=f"{what} for too long")
        held = self._decision
        return RateDecision(target_bit_s=held.target_bit_s, verdict=held.verdict, reason=f"{what}: the rate stays")

    def _with_price(self, now_ns: int, signal: PriceSignal, charge_nanodollars: int) -> RateDecision:
        interval_s = min(signal.interval_ns, NS_PER_S // 2) / NS_PER_S
        price = charge_nanodollars / (signal.bytes * 8)
        if self._let_go:
            self._let_go = False
            self._rate = float(self._within(signal.rate_bit_s))
        memory = self._memory
        if memory is None and charge_nanodollars == 0:
            step = min(LARGEST_STEP, GROWTH_PER_S * interval_s)
            return self._decided(now_ns, signal, step, 1.0, "nothing was marked yet: it grows")
        if memory is None:
            memory = self._memory = self._at_first_price(now_ns)
        step, error = self._step(memory, now_ns, interval_s, price)
        lead = max(LOWEST_LEAD, 1 + LEAD * error)
        return self._decided(now_ns, signal, step, lead, "")

    def _at_first_price(self, now_ns: int) -> _PriceMemory:
        """Back to where it was when that which is marked now was sent: a virtual queue says it late."""
        late_s = (self._plan.interval_ns + self._plan.longest_round_trip_ns) / NS_PER_S + 0.1
        start = self._within(self._plan.start_bit_s or self._plan.min_bit_s)
        self._rate = max(float(start), self._rate * math.exp(-GROWTH_PER_S * late_s))
        return _PriceMemory(now_ns, self._gain, self._w(0.0) / self._rate)

    def _step(self, memory: _PriceMemory, now_ns: int, interval_s: float, price: float) -> tuple[float, float]:
        """(what to add to ln of the rate, 1 − c/m)."""
        if memory.on_swing(now_ns, costs=price > 0) and self._grew_in_silence:
            self._grew_in_silence = False
            self._rate *= 0.9
            memory.forget(now_ns, self._w(memory.price) / self._rate)
        quiet = memory.quiet_swings(now_ns)
        lowest = self._w(memory.price) / self._rate / 30
        memory.learn(now_ns, interval_s, price, lowest)
        if memory.price <= 0:
            return -LARGEST_STEP, 0.0  # it is willing to pay nothing, and something was marked
        error = max(LOWEST_ERROR, 1 - price / memory.price)
        wanted = self._w(memory.price) / memory.price / self._rate
        away = max(-MOST_DOWN, min(MOST_UP, math.log(wanted) if wanted > 0 else -MOST_DOWN))
        speed = self._gain * interval_s
        step = speed * (HOLD_PER_S * error + PULL_PER_S * away)
        if quiet > 0:
            self._grew_in_silence = quiet > 1
            step = max(step, interval_s * min(MOST_QUIET_GROWTH_PER_S, QUIET_GROWTH_PER_S * quiet))
        return step, error

    def _w(self, price: float) -> float:
        """w, or what the wanted rate costs if it is between w and the most that it is worth."""
        plan = self._plan
        least = float(plan.willingness_nanodollars_per_s)
        if plan.wanted_bit_s is None:
            return least
        return min(float(plan.most_w), max(least, plan.wanted_bit_s * price))

    def _decided(self, now_ns: int, signal: PriceSignal, step: float, lead: float, why: str) -> RateDecision:
        plan = self._plan
        most = max(float(plan.min_bit_s), MOST_OVER_MEASURED * signal.rate_bit_s)
        grown = self._rate * math.exp(max(-LARGEST_STEP, min(LARGEST_STEP, step)))
        self._rate = float(self._within(int(min(grown, max(most, 1.0)))))
        target = self._within(int(self._rate * lead))
        verdict, reason = self._verdict(now_ns)
        if verdict is Verdict.PAUSE:
            target = plan.min_bit_s
            self._rate = float(target)
        target = self._limit_change(now_ns, target, bound_down=verdict is Verdict.GO)
        return RateDecision(target_bit_s=target, verdict=verdict, reason=reason or why or self._reason())

    def _verdict(self, now_ns: int) -> tuple[Verdict, str]:
        """PAUSE while it is too dear, or while the price moves more than is accepted."""
        memory, plan = self._memory, self._plan
        if memory is None:
            return Verdict.GO, ""
        per_mb = memory.price * BITS_PER_MB
        ceiling = plan.price_ceiling_nanodollars_per_mb
        if ceiling is not None and per_mb > ceiling * (COMES_BACK_PPM / PPM if self._paused else 1):
            self._paused = True
            return Verdict.PAUSE, f"a megabyte costs {per_mb:.0f} n$, more than {ceiling} n$"
        if self._price_is_restless(now_ns, memory):
            self._paused = True
            return Verdict.PAUSE, "the price moves more than is accepted"
        self._paused = False
        return Verdict.GO, ""

    def _price_is_restless(self, now_ns: int, memory: _PriceMemory) -> bool:
        """Whether a megabyte is dearer by more than is accepted than at some time in the last ten seconds."""
        largest = self._plan.largest_price_change_ppm
        if largest is None or now_ns - memory.since_ns < LONGEST_MEMORY_S * NS_PER_S:
            return False  # not known well enough to tell a change from noise
        self._prices.append((now_ns, memory.price))
        while now_ns - self._prices[0][0] > CALM_NS:
            self._prices.popleft()
        lowest = min(price for _, price in self._prices)
        return memory.price > lowest * (1 + largest / PPM)

    def _limit_change(self, now_ns: int, target: int, *, bound_down: bool) -> int:
        """Within the largest change of any rate that held in the last ten seconds."""
        largest = self._plan.largest_rate_change_ppm
        if largest is None:
            return target
        while len(self._rates) > 1 and now_ns - self._rates[1][0] > CALM_NS:
            self._rates.popleft()  # the one before the window still held at its beginning
        if self._rates:
            held = [rate for _, rate in self._rates]
            most = min(held) * (PPM + largest) // PPM
            least = -(-max(held) * max(0, PPM - largest) // PPM) if bound_down else 0
            target = max(min(target, most), min(least, most))
            self._rate = float(max(self._plan.min_bit_s, min(int(self._rate), most)))
        self._rates.append((now_ns, target))
        return target

    def _within(self, rate_bit_s: int) -> int:
        plan = self._plan
        return max(plan.min_bit_s, rate_bit_s if plan.max_bit_s is None else min(rate_bit_s, plan.max_bit_s))

    def _reason(self) -> str:
        return f"a megabyte costs {self.price_nanodollars_per_mb} n$, it spends {self._w(0.0):.0f} n$ a second"


class ElasticWindow:
    """The window form, for each acknowledgement: cwnd += κ̄ (w̄/cwnd − f), f = 1 for a marked one.

    w̄ is in marks for each round trip: x = cwnd/T then spends w = w̄ price/T, and κ = κ̄/T. Stable iff
    κ̄ (m + y m') < π/2 whatever the round trip is; the default is 0.2/((1 + B) m), an eighth of that.
    """

    def __init__(
        self,
        *,
        marks_per_round_trip: float,
        gain: float | None = None,
        largest_marked_share: float = 0.3,
        elasticity: float = 10.0,
        window_packets: float = 2.0,
        most_packets: float = 10_000.0,
    ) -> None:
        bound = largest_window_gain(largest_marked_share, elasticity)
        self._gain = 0.2 / ((1 + elasticity) * largest_marked_share) if gain is None else gain
        require_gain("a window reactor", self._gain, bound)
        self._most = most_packets
        self.marks_per_round_trip = marks_per_round_trip
        self.window_packets = window_packets

    def on_ack(self, *, marked: bool) -> float:
        """The window after it, in packets: at least one, and never moved by more than a quarter."""
        window = self.window_packets
        change = self._gain * (self.marks_per_round_trip / window - (1.0 if marked else 0.0))
        self.window_packets = min(self._most, max(1.0, window + max(-window / 4, min(window / 4, change))))
        return self.window_packets


class MulTcp:
    """One flow as N of TCP (Crowcroft and Oechslin 1998), to compare with: x ∝ N √1.5/(T √p), not w/p."""

    def __init__(self, *, flows: float, window_packets: float = 2.0) -> None:
        if flows <= 0:
            raise LocalProtocolError(f"MulTCP of {flows} flows is none")
        self._flows = flows
        self.window_packets = window_packets

    def on_ack(self) -> float:
        self.window_packets += self._flows / self.window_packets
        return self.window_packets

    def on_mark(self) -> float:
        """Once in a round trip: one of the N flows halves."""
        self.window_packets = max(1.0, self.window_packets * (1 - min(0.5, 1 / (2 * self._flows))))
        return self.window_packets
