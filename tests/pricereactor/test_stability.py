"""The bounds of stability against loops with a delay that are stepped through, and the refusal of gains beyond them."""

from __future__ import annotations

import math

import pytest

from billpay.errors import LocalProtocolError
from pricereactor.stability import (
    AvqLink,
    FollowLoop,
    GainBeyondBound,
    largest_avq_alpha,
    largest_follow_gain,
    largest_price_gain,
    largest_rate_gain,
    largest_scalable_gain,
    largest_slotted_gain,
    largest_window_gain,
    require_gain,
)

CAPACITY, ROUND_TRIP_S, WILLINGNESS = 100.0, 0.1, 2.0
LOOP = FollowLoop(memory_s=1.5, pull_per_s=2.0, hold_per_s=0.04, lead=0.08)


def swing_of_primal(elasticity: float, part_of_bound: float, *, seconds: float = 60.0, steps: int = 50) -> float:
    """From trough to crest at the end, of x*: dx/dt = κ (w − x p(x)) at t − T, p(y) = (y/C)^B."""
    at_rest: float = (WILLINGNESS * CAPACITY**elasticity) ** (1 / (1 + elasticity))
    price = (at_rest / CAPACITY) ** elasticity
    gain = part_of_bound * largest_rate_gain(ROUND_TRIP_S, price, elasticity)
    step_s = ROUND_TRIP_S / steps
    past = [at_rest * 1.01] * (steps + 1)
    high = low = at_rest
    total = round(seconds / step_s)
    for n in range(total):
        late = past[n % (steps + 1)]
        now = past[(n + steps) % (steps + 1)]
        now = max(0.0, now + step_s * gain * (WILLINGNESS - late * (late / CAPACITY) ** elasticity))
        past[n % (steps + 1)] = now
        if n > total * 0.95:
            high, low = max(high, now), min(low, now)
    return (high - low) / at_rest


class TestRateForm:
    @pytest.mark.parametrize("elasticity", [1.0, 4.0, 10.0])
    def test_below_its_bound_it_settles(self, elasticity: float) -> None:
        assert swing_of_primal(elasticity, 0.9) < 1e-7

    @pytest.mark.parametrize(("elasticity", "swing"), [(1.0, 1.22), (4.0, 0.43), (10.0, 0.19)])
    def test_beyond_its_bound_it_swings_for_ever(self, elasticity: float, swing: float) -> None:
        assert swing_of_primal(elasticity, 1.1) == pytest.approx(swing, rel=0.06)


@pytest.mark.parametrize(
    ("slots", "bound"), [(0, 2.0), (1, 1.0), (2, 0.618), (3, 0.445), (5, 0.285), (10, 0.149), (20, 0.0766)]
)
def test_johari_and_tan_s_table(slots: int, bound: float) -> None:
    assert largest_slotted_gain(slots) == pytest.approx(bound, rel=4e-3)


@pytest.mark.parametrize("slots", [0, 1, 3, 10])
def test_a_slotted_loop_settles_below_and_swings_beyond(slots: int) -> None:
    """e(n + 1) = e(n) − g e(n − D)."""

    def last(gain: float) -> float:
        errors = [1.0] * (slots + 1)
        for _ in range(6_000):
            errors.append(errors[-1] - gain * errors[-1 - slots])
        return max(abs(error) for error in errors[-2 * slots - 4 :])

    assert last(0.99 * largest_slotted_gain(slots)) < 0.1
    assert last(1.01 * largest_slotted_gain(slots)) > 10


def test_forms_that_need_no_round_trip() -> None:
    assert largest_window_gain(0.3, 10) == pytest.approx(math.pi / 2 / (0.3 * 11))
    assert largest_scalable_gain(4) == pytest.approx(math.pi / 8)
    assert largest_price_gain(-4.0) == 0.5


def test_a_price_setter_beyond_its_gain_goes_away_from_its_target() -> None:
    def away(gain: float) -> float:
        price = 1.1
        for _ in range(200):
            price += gain * (10 - 4 * price - 6)
        return abs(price - 1)

    assert away(0.95 * largest_price_gain(-4.0)) < 1e-6
    assert away(1.05 * largest_price_gain(-4.0)) > 1


def test_the_adaptive_virtual_queue_of_the_reference() -> None:
    link = AvqLink(capacity_packets_s=1250, flows=20, round_trip_s=0.04)
    assert largest_avq_alpha(link) == pytest.approx(8.26, abs=0.01)
    assert largest_avq_alpha(AvqLink(capacity_packets_s=1250, flows=4, round_trip_s=0.4)) == 0.0


class TestFollowLoop:
    @pytest.mark.parametrize(("part", "settles"), [(0.9, True), (1.1, False)])
    @pytest.mark.parametrize("elasticity", [2.0, 3.0, 10.0])
    def test_the_bound_is_where_it_begins_to_swing(self, elasticity: float, part: float, settles: bool) -> None:
        delay_s = 0.2
        gain = part * largest_follow_gain(LOOP, delay_s, elasticity)
        assert (self.swing(gain, delay_s, elasticity) < 0.01) is settles

    @staticmethod
    def swing(gain: float, delay_s: float, elasticity: float, steps: int = 200) -> float:
        """The linear loop in steps: μ of the memory, u of ln X, y of the load; all as parts of their rest."""
        step_s = delay_s / steps
        loads = [0.01] * (steps + 1)
        memory = level = 0.0
        peak = 0.0
        total = 200 * steps
        for n in range(total):
            price = elasticity * loads[n % (steps + 1)]
            error = memory - price
            level += step_s * gain * (LOOP.hold_per_s * error - LOOP.pull_per_s * (memory + level))
            memory += step_s * gain / LOOP.memory_s * (price - memory)
            load = level + LOOP.lead * error
            if abs(load) > 1e3:
                return math.inf
            loads[n % (steps + 1)] = load
            if n > total * 0.9:
                peak = max(peak, abs(load))
        return peak

    def test_a_longer_delay_bears_a_lower_gain(self) -> None:
        assert largest_follow_gain(LOOP, 0.4, 3.0) == pytest.approx(largest_follow_gain(LOOP, 0.2, 3.0) / 2)

    def test_a_curve_that_the_lead_alone_makes_swing(self) -> None:
        assert largest_follow_gain(LOOP, 0.2, 12.5) == 0.0

    def test_a_flat_curve_bears_everything(self) -> None:
        assert largest_follow_gain(LOOP, 0.2, 0.5) == math.inf


class TestRefusal:
    def test_it_says_what_the_bound_is_and_what_to_do(self) -> None:
        with pytest.raises(GainBeyondBound) as caught:
            require_gain("a loop", 3.0, 2.0, "report more often")
        assert str(caught.value) == "the gain of a loop is 3, its bound is 2: report more often"
        assert (caught.value.gain, caught.value.bound) == (3.0, 2.0)
        assert isinstance(caught.value, LocalProtocolError)

    @pytest.mark.parametrize("gain", [0.0, -1.0, 2.0, math.nan])
    def test_what_is_not_below_the_bound_is_refused(self, gain: float) -> None:
        with pytest.raises(GainBeyondBound):
            require_gain("a loop", gain, 2.0)
