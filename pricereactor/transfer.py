"""So many bytes by a deadline, as cheaply as the price lets it: more while it is cheap, less while it is dear (DPH-24).

Decides the rate, and when the transfer is no longer worth its price. Refuses to know: packets, clocks, what the price
will be (the caller may pass a forecast). Pure.

x = F_left / T_left * (cbar / c)^eta: the even rate, times how cheap it is now; cbar is the mean price that is expected
of the time that is left. The factor is never beyond `largest_factor` or its inverse: where the price is next to
nothing, everything would go at once and make a price of its own. Then, each before those above it:
- never below what keeps the deadline in reach: what is left after the next interval has to fit into the time left then,
  at 9/10 of the largest rate. So a feasible deadline is kept however wrong the forecast is;
- what it pays, c x, rises with that, up to the willingness and no further;
- dearer than the ceiling: the least rate;
- never beyond the largest rate (the access line, or the policy's), never below the least.

It means to be done three intervals early, since its last bytes have to be on their way and heard of. It stops
(attended: pauses, and says so) where what is left costs more than it is worth, for ten seconds in a row and a tenth of
its time, since one spike is no forecast; where its deadline has passed; and where its budget is used up. What is left
costs the mean price, less what the choice of cheap times has saved so far. It is worth no more than the budget that is
left, the willingness for the time that is left, and the value curve at the even rate for that time; what is not given
counts not.

Stable: the rate answers the smoothed price with elasticity eta, so eta has to be below `bitprice.largest_elasticity`;
the price is smoothed over 14 intervals or more, where eta = 1 has half of that. Beyond the bound it is refused.
Source: AUEB's and BT's price reaction of M3I (scenarios 3.3.4, "the later file transfer aspect"), in the form above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from billpay.errors import LocalProtocolError
from pricereactor.bitprice import BITS_PER_MB, HALF_LIFE_NS, HOLD_NS, BitPrice, largest_elasticity
from pricereactor.policy import TaskKind, TaskPolicy, check, worth_nanodollars_per_s
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import NS_PER_S, PriceSignal
from pricereactor.stability import require_gain

HOUR_NS = 3600 * NS_PER_S
_INTERVALS_PER_HALF_LIFE = 14
_EARLY_INTERVALS = 3
"""So much before the deadline it means to be done: the last bytes have to be on their way, and heard of."""


class Forecast(Protocol):
    """What a bit will cost."""

    def see(self, now_ns: int, nanodollars_per_bit: float) -> None:
        """What it costs now, once in each interval."""
        ...

    def mean(self, now_ns: int, until_ns: int) -> float | None:
        """Of the time between; None: not known."""
        ...


class RunningMean:
    """It will cost what it has cost in the mean so far."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def see(self, now_ns: int, nanodollars_per_bit: float) -> None:  # noqa: ARG002 - every interval counts the same
        self._sum += nanodollars_per_bit
        self._count += 1

    def mean(self, now_ns: int, until_ns: int) -> float | None:  # noqa: ARG002 - it knows no time of day
        return self._sum / self._count if self._count else None


class DayTable:
    """What each hour of a day costs, as known before. `midnight_ns`: any midnight, by the reactor's clock."""

    def __init__(self, nanodollars_per_mb: Sequence[int], *, midnight_ns: int) -> None:
        if len(nanodollars_per_mb) != 24 or min(nanodollars_per_mb) < 0:
            raise LocalProtocolError("a day's table has 24 prices, none below 0")
        self._prices = tuple(price / BITS_PER_MB for price in nanodollars_per_mb)
        self._midnight_ns = midnight_ns

    def see(self, now_ns: int, nanodollars_per_bit: float) -> None:
        """Changes nothing."""

    def mean(self, now_ns: int, until_ns: int) -> float | None:
        """Each hour by its part of the time."""
        total, at_ns = 0.0, now_ns
        while at_ns < until_ns:
            hour = (at_ns - self._midnight_ns) // HOUR_NS
            end_ns = min(until_ns, self._midnight_ns + (hour + 1) * HOUR_NS)
            total += self._prices[hour % 24] * (end_ns - at_ns)
            at_ns = end_ns
        return total / (until_ns - now_ns) if until_ns > now_ns else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSettings:
    """How it moves; the policy says where to. `overhead_ppm`: of what arrives, headers and what was sent again."""

    eta: float = 1.0
    largest_factor: float = 4.0
    safe_part: float = 0.9  # of the largest rate, that is sure to be had when it is needed
    patience_ns: int = (
        10 * NS_PER_S
    )  # what is left is too dear for so long, and a tenth of all its time, before it stops
    hold_ns: int = HOLD_NS
    overhead_ppm: int = 40_000  # IP and TCP headers of full packets, and a little

    def half_life_ns(self, interval_ns: int) -> int:
        return max(HALF_LIFE_NS, _INTERVALS_PER_HALF_LIFE * interval_ns)

    def require_stable(self, interval_ns: int) -> None:
        """Raises LocalProtocolError beyond the module's condition."""
        if (
            interval_ns <= 0
            or not 0 < self.safe_part <= 1
            or not 0 <= self.overhead_ppm < 1_000_000
            or self.largest_factor < 1
        ):
            raise LocalProtocolError(f"{self} with an interval of {interval_ns} ns is no way to move")
        most = largest_elasticity(interval_ns=interval_ns, half_life_ns=self.half_life_ns(interval_ns))
        if self.eta:
            require_gain("a transfer's answer to its price", self.eta, most, "lower eta, or ask more often")


class TransferByDeadline:
    """A `RateReactor`. `access_bit_s`: the line's rate, if that is known."""

    def __init__(
        self,
        policy: TaskPolicy,
        *,
        now_ns: int,
        interval_ns: int,
        access_bit_s: int | None = None,
        budget_nanodollars: int | None = None,
        forecast: Forecast | None = None,
        settings: TransferSettings | None = None,
    ) -> None:
        check(policy)
        if policy.kind is not TaskKind.TRANSFER or policy.size_bytes is None or policy.deadline_s is None:
            raise LocalProtocolError(f"a {policy.kind} task is no transfer")
        self.interval_ns = interval_ns
        self._settings = settings or TransferSettings()
        self._settings.require_stable(interval_ns)
        self._policy = policy
        self._bits_per_byte = 8 / (1 - self._settings.overhead_ppm / 1e6)  # at the IP layer, as rates and prices are
        self._left_bits = policy.size_bytes * self._bits_per_byte
        self._arrived_bits = 0
        self._ends_ns = now_ns + policy.deadline_s * NS_PER_S
        self._aims_ns = self._ends_ns - min(_EARLY_INTERVALS * interval_ns, policy.deadline_s * NS_PER_S // 10)
        self._patience_ns = max(self._settings.patience_ns, policy.deadline_s * NS_PER_S // 10)
        largest = [rate for rate in (access_bit_s, policy.max_bit_s) if rate is not None]
        self._largest: int | None = min(largest, default=None)
        self._budget = budget_nanodollars if budget_nanodollars is not None else policy.session_budget_nanodollars
        self._price = BitPrice(half_life_ns=self._settings.half_life_ns(interval_ns))
        self._forecast = forecast or RunningMean()
        self._seen = RunningMean()
        self._too_dear_since_ns: int | None = None
        self._rate = 0
        self._ended: RateDecision | None = None

    @property
    def spent_nanodollars(self) -> int:
        return self._price.spent_nanodollars

    @property
    def left_bytes(self) -> int:
        return round(self._left_bits / self._bits_per_byte)

    def revalue(self, policy: TaskPolicy) -> None:
        """The same task, worth more or less from now on; its size and deadline stay."""
        self._policy = policy

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        if self._price.hear(now_ns, signal) and self._price.nanodollars_per_bit is not None:
            self._forecast.see(now_ns, self._price.nanodollars_per_bit)
            self._seen.see(now_ns, self._price.nanodollars_per_bit)
        if signal is not None:
            self._left_bits = max(0.0, self._left_bits - signal.bytes * 8)
            self._arrived_bits += signal.bytes * 8
        end = self._ended or self._end(now_ns) or self._too_dear(now_ns)
        if end is not None:
            self._ended = end if end.verdict is Verdict.STOP else None  # for good
            return end
        if self._price.silent_ns(now_ns) > self._settings.hold_ns:
            reason = f"no price was heard for {self._price.silent_ns(now_ns) // NS_PER_S} s, so its transport decides"
            return RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, reason=reason)
        rate, why = self._best_rate(now_ns)
        self._rate = round(rate)
        return RateDecision(target_bit_s=self._rate, reason=f"{why}: {self._what_is_left(now_ns)}")

    def _end(self, now_ns: int) -> RateDecision | None:
        """Whatever it costs."""
        if self._left_bits <= 0:
            return RateDecision(target_bit_s=0, verdict=Verdict.STOP, reason="all has arrived")
        if self._price.could_use_up(self._budget, now_ns, rate_bit_s=self._rate, interval_ns=self.interval_ns):
            spent = self._price.spent_nanodollars
            reason = f"{spent} n$ of the budget of {self._budget} n$ are spent"
            return RateDecision(target_bit_s=0, verdict=Verdict.STOP, reason=reason)
        if now_ns >= self._ends_ns:
            return self._not_worth("its deadline has passed")
        return None

    def _too_dear(self, now_ns: int) -> RateDecision | None:
        cost, worth = self._cost_left(now_ns), self._worth_left(now_ns)
        if cost is None or worth is None or cost <= worth:
            self._too_dear_since_ns = None
            return None
        if self._too_dear_since_ns is None:
            self._too_dear_since_ns = now_ns
        if now_ns - self._too_dear_since_ns < self._patience_ns:
            return None
        return self._not_worth(f"what is left would cost {round(cost)} n$ and is worth {round(worth)} n$")

    def _not_worth(self, why: str) -> RateDecision:
        if self._policy.attended:
            reason = f"{why}: go on, or give it up?"
            return RateDecision(target_bit_s=self._policy.min_bit_s, verdict=Verdict.PAUSE, reason=reason)
        return RateDecision(target_bit_s=0, verdict=Verdict.STOP, reason=why)

    def _cost_left(self, now_ns: int) -> float | None:
        mean = self._forecast.mean(now_ns, self._ends_ns)
        seen = self._seen.mean(now_ns, self._ends_ns)
        if mean is None or not seen or not self._arrived_bits:
            return None if mean is None else mean * self._left_bits
        saved = min(1.0, self._price.spent_nanodollars / self._arrived_bits / seen)
        return mean * saved * self._left_bits

    def _worth_left(self, now_ns: int) -> float | None:
        left_s = (self._ends_ns - now_ns) / NS_PER_S
        worth = [float(self._budget - self._price.spent_nanodollars)] if self._budget is not None else []
        if self._willing:
            worth.append(self._willing * left_s)
        if self._policy.value:
            worth.append(worth_nanodollars_per_s(self._policy.value, self._left_bits / left_s) * left_s)
        return min(worth, default=None)

    def _best_rate(self, now_ns: int) -> tuple[float, str]:
        even = self._left_bits * NS_PER_S / max(self._aims_ns - now_ns, self.interval_ns)
        price, least = self._price.nanodollars_per_bit, self._policy.min_bit_s
        mean = self._forecast.mean(now_ns, self._ends_ns)
        rate, why = even, "as even as it can be"
        if price is not None and mean is not None:
            rate, why = self._by_price(even, price=price, mean=mean)
        needed = self._needed(now_ns)
        if rate < needed:
            rate, why = needed, "as fast as the deadline needs"
        if self._willing and price and price * rate > self._willing:
            rate, why = self._willing / price, "as fast as its willingness to pay allows"
        if self._policy.price_ceiling_nanodollars_per_mb is not None and price is not None:
            ceiling = self._policy.price_ceiling_nanodollars_per_mb
            if price * BITS_PER_MB > ceiling:
                rate, why = least, f"dearer than the ceiling of {ceiling} n$ for a megabyte"
        if self._largest is not None and rate > self._largest:
            rate, why = self._largest, "as fast as its line is"
        return max(rate, least), why

    @property
    def _willing(self) -> int:
        return self._policy.willingness_nanodollars_per_s

    def _by_price(self, even: float, *, price: float, mean: float) -> tuple[float, str]:
        most = self._settings.largest_factor
        factor = (mean / price) ** self._settings.eta if price > 0 else most
        rate = even * min(max(factor, 1 / most), most)
        return rate, "cheaper than in the mean" if rate > even else "dearer than in the mean" if rate < even else "even"

    def _needed(self, now_ns: int) -> float:
        """The least rate until the next decision that leaves the deadline in reach."""
        if self._largest is None:
            return 0.0
        step_s = self.interval_ns / NS_PER_S
        after_s = max(0, self._aims_ns - now_ns - self.interval_ns) / NS_PER_S
        return (self._left_bits - self._settings.safe_part * self._largest * after_s) / step_s

    def _what_is_left(self, now_ns: int) -> str:
        return f"{self.left_bytes} bytes in {(self._ends_ns - now_ns) // NS_PER_S} s"
