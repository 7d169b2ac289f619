"""What each packet of a large transfer carries: nothing while it is fast enough, then as little as makes it so.

Decides the amount, and when it is time to try another path; refuses to know who allowed the amount (secretary), which
path that is (cartographer) and what time it is (the caller gives it). Pure.

Source: Bill-Pay 3.1, the strategy for large transfers. Nothing by default; below the wanted throughput for a while, add
a little more each step, trying another path every second step; stop at the willingness to pay; tolls that stay far
below the payment lower it. An unknown value proves nothing: it neither raises nor lowers.

Stable where (with toll t, payment x, factors `raise` > 1 and `lower` < 1, and "low" meaning t < low * x):
- a step is a round trip or longer, so that one step at most is under way unseen: x overshoots to raise * t and no more;
- raise * low <= 1: what was just raised is not at once "far above the toll";
- lower >= low: what was just lowered still covers the toll that lowered it. Without the two, one toll that never moves
  would have it raise and lower for ever. A policy beyond them is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from billpay.errors import LocalProtocolError
from pricereactor.payments import Decision, Observation, require_amount

_MS = 1_000_000
_S = 1000 * _MS
_PPM = 1_000_000
_UNKNOWN_ROUND_TRIP_NS = _S  # RFC 6298, 2.1: what a sender has to reckon with that has measured none
_LARGEST_RAISE_PPM = 2 * _PPM


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkPolicy:
    """What a bulk transfer wants, and how fast its payment moves."""

    willingness_nanodollars: int  # the most that a packet carries
    target_bit_s: int
    patience_ns: int = 3 * _S  # below the target for so long before anything is added: single dips cost nothing
    shortest_step_ns: int = 200 * _MS  # a step is a round trip, but never shorter: an effect has to be seen first
    raise_ppm: int = 1_250_000
    steps_for_other_path: int = 2  # every second step asks for another path
    sustained_ns: int = 30 * _S  # tolls low for so long before the payment is lowered
    low_toll_ppm: int = 500_000  # "low" is below this part of the payment
    lower_ppm: int = 800_000

    def __post_init__(self) -> None:
        require_amount("willingness to pay", self.willingness_nanodollars)
        speeds = self.raise_ppm > _PPM and 0 <= self.lower_ppm < _PPM and 0 <= self.low_toll_ppm <= _PPM
        times = min(self.patience_ns, self.shortest_step_ns, self.sustained_ns) >= 0
        if not (speeds and times and self.target_bit_s >= 0 and self.steps_for_other_path >= 1):
            raise LocalProtocolError(f"{self} is no bulk policy")
        self._require_stable()

    def _require_stable(self) -> None:
        if self.raise_ppm > _LARGEST_RAISE_PPM:
            raise LocalProtocolError(
                f"raising by {self.raise_ppm} ppm a step overshoots: no more than {_LARGEST_RAISE_PPM}"
            )
        if self.raise_ppm * self.low_toll_ppm > _PPM * _PPM:
            raise LocalProtocolError("raise x low toll is above 1: what was just raised would at once be lowered")
        if self.lower_ppm < self.low_toll_ppm:
            raise LocalProtocolError("lower is below low toll: what was lowered would no longer cover its toll")


class BulkPayment:
    """Pays nothing until the transfer is too slow, then as little as gets it to its target."""

    def __init__(self, policy: BulkPolicy) -> None:
        self._policy = policy
        self._amount = 0
        self._slow_since_ns: int | None = None
        self._low_since_ns: int | None = None  # since when the tolls are far below the payment
        self._next_step_ns = 0
        self._steps = 0  # since the transfer was last fast enough
        self._round_trip_ns: int | None = None  # as last known

    def on_observation(self, observation: Observation) -> Decision:
        self._round_trip_ns = observation.round_trip_ns or self._round_trip_ns
        lowered = self._lower_if_tolls_stay_low(observation)
        if lowered is not None:
            return lowered
        goodput = observation.goodput_bit_s
        if goodput is None:
            return self._decision("how much arrives is not known")
        if goodput >= self._policy.target_bit_s:
            self._slow_since_ns = None
            self._steps = 0
            return self._decision(f"{_rate(goodput)} meets the target of {_rate(self._policy.target_bit_s)}")
        return self._when_slow(observation, goodput)

    def _lower_if_tolls_stay_low(self, observation: Observation) -> Decision | None:
        toll, now_ns, policy = observation.toll_nanodollars, observation.now_ns, self._policy
        if toll is None:
            return None
        if toll * _PPM >= self._amount * policy.low_toll_ppm:
            self._low_since_ns = None
            return None
        if self._low_since_ns is None:
            self._low_since_ns = now_ns
        if now_ns - self._low_since_ns < policy.sustained_ns:
            return None
        self._amount = self._amount * policy.lower_ppm // _PPM
        self._low_since_ns = None
        self._slow_since_ns = None  # the lower payment gets the full patience before anything is added again
        self._steps = 0
        return self._decision(f"tolls stayed at {toll} n$ for {_seconds(policy.sustained_ns)}, so it was lowered")

    def _when_slow(self, observation: Observation, goodput: int) -> Decision:
        now_ns, policy = observation.now_ns, self._policy
        if self._slow_since_ns is None:
            self._slow_since_ns = self._next_step_ns = now_ns
        slow_ns = now_ns - self._slow_since_ns
        slow = f"{_rate(goodput)} is below the target of {_rate(policy.target_bit_s)} for {_seconds(slow_ns)}"
        if slow_ns < policy.patience_ns:
            return self._decision(f"{slow}, it may pass")
        if self._amount >= policy.willingness_nanodollars:
            return self._decision(f"{slow}, but it is worth no more")
        if now_ns < self._next_step_ns:
            return self._decision(f"{slow}, the last step has to show its effect first")
        self._next_step_ns = now_ns + max(self._round_trip_ns or _UNKNOWN_ROUND_TRIP_NS, policy.shortest_step_ns)
        self._amount = min(_grown(self._amount, policy.raise_ppm), policy.willingness_nanodollars)
        self._steps += 1
        try_other_path = self._steps % policy.steps_for_other_path == 0
        step = f"step {self._steps}, also over another path" if try_other_path else f"step {self._steps}"
        return self._decision(f"{slow}: {step}", try_other_path=try_other_path)

    def _decision(self, why: str, *, try_other_path: bool = False) -> Decision:
        most = self._policy.willingness_nanodollars
        pays = f"pays {self._amount} of at most {most} n$" if self._amount else f"pays nothing of at most {most} n$"
        return Decision(amount_nanodollars=self._amount, try_other_path=try_other_path, reason=f"{pays}: {why}")


def _grown(amount: int, raise_ppm: int) -> int:
    """Rounded up, so that whole nanodollars really grow: 0, 1, 2, 3, 4, 5, 7, 9, …"""
    return max(1, -(-amount * raise_ppm // _PPM))


def _rate(bit_s: int) -> str:
    """Three digits at most, so that the line stays readable."""
    for unit, size in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
        if bit_s >= size:
            return f"{bit_s // size}.{bit_s * 10 // size % 10} {unit}"
    return f"{bit_s} bit/s"


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns // _S}.{duration_ns // (100 * _MS) % 10} s"
