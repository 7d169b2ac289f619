"""How fast a rate may follow a price: the conditions, their bounds, and the refusal of a gain beyond its bound.

Decides: the largest gain for a delay and a marking curve. Refuses to know: who reacts, and to what. Pure.

Every condition is of the loop "rate up, marks up after a delay, rate down": beyond its bound the rates swing for ever,
below it they settle. The sources say it of small deviations and smooth marking curves. A virtual queue under evenly
paced packets has no smooth curve (it marks all or nothing): there the elasticity is what one designs for, and the swing
that is left is measured.

Symbols: p(y) the price per unit at load y, p' its slope, B = y p'/p its elasticity, T the round trip with all waiting
for reports in it, in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from billpay.errors import LocalProtocolError

DEFAULT_PART = 0.25
"""Of its bound: no default gain is higher, so that a marking curve four times as steep is still borne."""


class GainBeyondBound(LocalProtocolError):  # noqa: N818 (named for what it says)
    """A reactor was to be made that would swing: what, its gain, the bound, and what to do."""

    def __init__(self, what: str, gain: float, bound: float, remedy: str) -> None:
        super().__init__(f"the gain of {what} is {gain:.4g}, its bound is {bound:.4g}: {remedy}")
        self.gain = gain
        self.bound = bound


def require_gain(what: str, gain: float, bound: float, remedy: str = "lower the gain") -> None:
    """Raises GainBeyondBound for a gain that is not above 0 and below its bound."""
    if not 0 < gain < bound:
        raise GainBeyondBound(what, gain, bound, remedy)


def largest_rate_gain(round_trip_s: float, price: float, elasticity: float) -> float:
    """κ of dx/dt = κ (w − x p(y)), one link, all round trips alike: κ T (p + y p') < π/2, with y p' = B p.

    Kelly, Maulloo and Tan 1998; the delay bound by linearising. With each user's own T and the sum over its links it
    holds for networks too (Vinnicombe 2002, Massoulié 2002).
    """
    return math.pi / (2 * round_trip_s * price * (1 + elasticity))


def largest_slotted_gain(delay_slots: int) -> float:
    """Of κ Σ_j (p_j + p_j' y_j) where rates move once in a slot and prices come D slots late: 2 sin(π/(2(2D + 1))).

    Johari and Tan 2001.
    """
    return 2 * math.sin(math.pi / (2 * (2 * delay_slots + 1)))


def largest_window_gain(marked_share: float, elasticity: float) -> float:
    """κ̄ of cwnd += κ̄ (w̄/cwnd − f) for each acknowledgement: κ̄ (m + y m') < π/2, whatever the round trip is.

    Gibbens and Kelly 1999. The rate form with κ = κ̄/T.
    """
    return math.pi / (2 * marked_share * (1 + elasticity))


def largest_scalable_gain(elasticity: float) -> float:
    """Of a (x T)^n in dx/dt = x(t−T)/T (a (xT)^n (1−λ) − b (xT)^m λ): π/(2B), whatever the round trip is.

    Vinnicombe 2002, Kelly 2003; scalable TCP has n = 0.
    """
    return math.pi / (2 * elasticity)


def largest_price_gain(demand_slope: float) -> float:
    """γ of a price setter p ← [p + γ (D(p) − C)]⁺: γ < 2/|D'(p)|; beyond it the price jumps over and further away."""
    return 2 / abs(demand_slope)


@dataclass(frozen=True, slots=True, kw_only=True)
class AvqLink:
    """An adaptive virtual queue with TCP flows on it: p = (λ − C̃)/λ, all in packets and seconds."""

    capacity_packets_s: float
    flows: int
    round_trip_s: float
    utilisation: float = 0.98  # γ
    decrease: float = 2 / 3  # β of dx/dt = 1/d² − β x(t) x(t−d) p


def largest_avq_alpha(link: AvqLink) -> float:
    """α of dC̃/dt = α (γ C − λ): the largest with ω d + atan(ω/K11) − atan(K12 ω/(α N K2)) < π/2 at its crossover ω.

    Kunniyur and Srikant 2001. 0: it swings for every α; then the marking slope is at fault.
    """
    low, high = 0.0, 1.0
    while _avq_is_stable(link, high) and high < 1e9:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _avq_is_stable(link, middle) else (low, middle)
    return low if low > 1e-9 else 0.0


def _avq_is_stable(link: AvqLink, alpha: float) -> bool:
    load = link.utilisation * link.capacity_packets_s
    rate = load / link.flows
    marked = 1 / (link.round_trip_s**2 * link.decrease * rate**2)
    k11 = link.decrease * rate * marked
    k12 = k11 + link.decrease * rate**2 * link.flows * (1 - marked) / load
    k2 = link.decrease * rate**2 / load
    loop = alpha * link.flows * k2
    spread = k12**2 - k11**2
    crossover = math.sqrt((spread + math.hypot(spread, 2 * loop)) / 2)
    lag = crossover * link.round_trip_s + math.atan2(crossover, k11) - math.atan2(k12 * crossover, loop)
    return lag < math.pi / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowLoop:
    """The loop of `elastic.ElasticRate` at gain 1, its marking curve straightened at the working point.

    Price of a bit c, remembered as m (`memory_s`); ln X' = hold (1 − c/m) + pull ln(w/(m X)), and the rate is
    x = X (1 + lead (1 − c/m)). From the load back to itself, without B and the delay:
    F(s) = [hold memory s + pull]/[(1 + memory s)(s + pull)] + lead memory s/(1 + memory s). A gain g makes all of it g
    times as fast: F(s/g).
    """

    memory_s: float
    pull_per_s: float
    hold_per_s: float
    lead: float

    def at(self, frequency: float) -> complex:
        s = 1j * frequency
        lag = 1 + self.memory_s * s
        follow = (self.hold_per_s * self.memory_s * s + self.pull_per_s) / (lag * (s + self.pull_per_s))
        return follow + self.lead * self.memory_s * s / lag


def largest_follow_gain(loop: FollowLoop, delay_s: float, elasticity: float) -> float:
    """g: the largest with |B F(jω/g)| < 1 wherever its phase with the delay is −π (Nyquist).

    `delay_s`: round trip and report interval together. 0: it swings at every gain, since B lead ≥ 1. Infinite: at none.
    """
    if elasticity * loop.lead >= 1:
        return 0.0
    low, high = 0.0, math.inf
    step = 1.01
    frequency = 1e-3
    bound = math.inf
    # In units of the loop's own time: the delay θ = g T at which the phase is −π where the magnitude passes 1.
    while frequency < 1e4:
        here, beyond = loop.at(frequency) * elasticity, loop.at(frequency * step) * elasticity
        if abs(here) >= 1 > abs(beyond):
            low, high = frequency, frequency * step
            for _ in range(40):
                middle = math.sqrt(low * high)
                low, high = (middle, high) if abs(loop.at(middle)) * elasticity >= 1 else (low, middle)
            phase = math.atan2(loop.at(low).imag, loop.at(low).real)
            bound = min(bound, (math.pi + phase) / low / delay_s)
        frequency *= step
    return bound
