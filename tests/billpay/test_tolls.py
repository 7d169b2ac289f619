"""Tolls: the drop rule, exact arithmetic, the cap, the class, and the controller of the congestion part."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.tolls import (
    CLASS_CONTROL,
    CLASS_PAID_HIGHEST,
    CLASS_UNPAID,
    CongestionSettings,
    CongestionToll,
    EgressToll,
    TollSchedule,
    class_of,
    must_drop,
)

AMOUNTS = st.integers(min_value=0, max_value=0xFF_FFFF)
SIZES = st.integers(min_value=20, max_value=65_535)

schedules = st.builds(
    TollSchedule,
    fixed_nanodollars_per_packet=st.integers(0, 100),
    fixed_picodollars_per_byte=st.integers(0, 50),
    proportional_ppm=st.integers(0, 1_000_000),
    cap_nanodollars=st.none() | st.integers(0, 1000),
)


def never() -> float:
    raise AssertionError("who pays the toll is not at the mercy of chance")


# --- the drop rule ----------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-11")
@pytest.mark.parametrize(("paid", "share"), [(10, 0.0), (7, 0.3), (5, 0.5), (0, 1.0)])
def test_packets_below_the_toll_are_dropped_in_proportion_to_what_is_missing(paid: int, share: float) -> None:
    draw = random.Random(20).random
    packets = 10_000
    dropped = sum(must_drop(10_000, paid, draw) for _ in range(packets))
    if share in (0.0, 1.0):
        assert dropped == share * packets
        return
    chi_square = sum(
        (seen - expected) ** 2 / expected
        for seen, expected in ((dropped, share * packets), (packets - dropped, (1 - share) * packets))
    )
    assert chi_square < 6.63  # one degree of freedom, 1 %


@given(AMOUNTS, st.integers(min_value=0, max_value=2**40))
def test_who_pays_the_toll_passes_without_a_draw(amount: int, toll: int) -> None:
    if amount * 1000 >= toll:
        assert not must_drop(toll, amount, never)


@given(st.integers(min_value=1, max_value=2**50), AMOUNTS)
def test_nothing_paid_never_passes_and_something_paid_may(toll: int, amount: int) -> None:
    assert must_drop(toll, 0, lambda: math.nextafter(1, 0))
    if amount:
        assert not must_drop(toll, amount, lambda: math.nextafter(1, 0)) or amount * 1000 / toll < 1e-15


# --- fixed tolls ------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-15")
def test_a_nanodollar_per_packet_and_two_picodollars_per_byte_are_four_nanodollars_for_1500_bytes() -> None:
    toll = EgressToll(TollSchedule(fixed_nanodollars_per_packet=1, fixed_picodollars_per_byte=2))
    assert toll.picodollars(1500, 100) == 4000
    assert toll.retain(toll.picodollars(1500, 100), 100) == 4
    assert toll.carry_picodollars == 0


@pytest.mark.row("BP-15")
def test_what_is_below_a_nanodollar_waits_for_the_next_packets() -> None:
    toll = EgressToll(TollSchedule(fixed_picodollars_per_byte=3))
    assert [toll.retain(toll.picodollars(100, 50), 50) for _ in range(10)] == [0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert toll.carry_picodollars == 0


@pytest.mark.row("BP-15")
@given(schedules, st.lists(st.tuples(SIZES, AMOUNTS, st.integers(0, 10**6)), max_size=50), st.integers(0, 999))
def test_not_a_picodollar_is_lost_or_made_over_mixed_sizes(
    schedule: TollSchedule, packets: list[tuple[int, int, int]], carry: int
) -> None:
    toll = EgressToll(schedule, carry_picodollars=carry)
    kept = taken = 0
    for size, amount, congestion in packets:
        toll.congestion_picodollars = congestion
        due = toll.picodollars(size, amount)
        retained = toll.retain(due, amount)
        assert 0 <= retained <= amount
        kept += retained
        taken += min(due, amount * 1000)
        assert 0 <= toll.carry_picodollars < 1000
    assert kept * 1000 + toll.carry_picodollars == taken + carry


def test_one_who_has_less_than_the_toll_leaves_all_and_the_next_pays_nothing_for_it() -> None:
    toll = EgressToll(TollSchedule(fixed_nanodollars_per_packet=10))
    assert toll.retain(toll.picodollars(1500, 3), 3) == 3
    assert toll.retain(toll.picodollars(1500, 20), 20) == 10


# --- proportional tolls -----------------------------------------------------------------------------------------------


@pytest.mark.row("BP-16")
@pytest.mark.parametrize(
    ("ppm", "amount", "picodollars"),
    [
        (100_000, 100, 10_000),  # 10 % of 100 nanodollars
        (1_000_000, 7, 7_000),
        (1, 1, 0),  # a thousandth of a picodollar rounds down: the payer keeps it
        (333_333, 1, 333),
        (999_999, 1, 999),
        (250_000, 0, 0),
    ],
)
def test_proportional_toll_is_a_share_of_the_payment_rounded_for_the_payer(
    ppm: int, amount: int, picodollars: int
) -> None:
    assert EgressToll(TollSchedule(proportional_ppm=ppm)).picodollars(1500, amount) == picodollars


@pytest.mark.row("BP-16")
@given(st.integers(0, 1_000_000), AMOUNTS)
def test_proportional_toll_is_never_above_the_exact_share_nor_a_picodollar_below(ppm: int, amount: int) -> None:
    toll = EgressToll(TollSchedule(proportional_ppm=ppm)).picodollars(1500, amount)
    assert toll * 1_000_000 <= amount * 1000 * ppm < (toll + 1) * 1_000_000


def test_the_parts_add_up() -> None:
    schedule = TollSchedule(fixed_nanodollars_per_packet=1, fixed_picodollars_per_byte=2, proportional_ppm=50_000)
    toll = EgressToll(schedule)
    toll.congestion_picodollars = 1234
    assert toll.picodollars(1500, 100) == 1000 + 3000 + 5000 + 1234


# --- the cap ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-20")
def test_a_cap_bounds_the_whole_toll_and_what_it_cut_can_be_audited() -> None:
    toll = EgressToll(TollSchedule(fixed_nanodollars_per_packet=3, proportional_ppm=500_000, cap_nanodollars=5))
    toll.congestion_picodollars = 50_000
    assert toll.picodollars(1500, 100) == 5000
    assert toll.uncapped_picodollars(1500, 100) - toll.picodollars(1500, 100) == 3000 + 50_000 + 50_000 - 5000
    assert toll.retain(toll.picodollars(1500, 100), 100) == 5


@pytest.mark.row("BP-20")
@given(schedules, SIZES, AMOUNTS, st.integers(0, 2**40))
def test_no_toll_is_above_its_cap_and_none_below_it_is_changed(
    schedule: TollSchedule, size: int, amount: int, congestion: int
) -> None:
    toll = EgressToll(schedule)
    toll.congestion_picodollars = congestion
    charged, uncapped = toll.picodollars(size, amount), toll.uncapped_picodollars(size, amount)
    if schedule.cap_nanodollars is None:
        assert charged == uncapped
    else:
        assert charged == min(uncapped, schedule.cap_nanodollars * 1000)


# --- the class --------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-02", "BP-13")
def test_the_more_an_isp_retains_the_higher_the_class() -> None:
    assert [class_of(retained) for retained in (0, 1, 2, 3, 6, 7, 14, 15, 30, 31, 62, 63, 0xFF_FFFF)] == [
        *(1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
    ]
    classes = [class_of(retained) for retained in range(1000)]
    assert classes == sorted(classes)
    assert min(classes) > CLASS_UNPAID
    assert max(classes) == CLASS_PAID_HIGHEST < CLASS_CONTROL


@given(AMOUNTS)
def test_the_class_is_one_above_the_logarithm(retained: int) -> None:
    assert class_of(retained) == min(CLASS_PAID_HIGHEST, 1 + math.floor(math.log2(1 + retained)))


# --- the controller of the congestion toll ----------------------------------------------------------------------------

CAPACITY_BYTES_PER_S = 1_250_000
PERIOD_NS = 100_000_000
PERIOD_BYTES = CAPACITY_BYTES_PER_S // 10
CAP_PICODOLLARS = 80_000


def controller(**changes: int) -> CongestionToll:
    settings = CongestionSettings.for_cap(
        capacity_bit_s=CAPACITY_BYTES_PER_S * 8,
        cap_picodollars=changes.get("cap_picodollars", CAP_PICODOLLARS),
        period_ns=PERIOD_NS,
        target_utilisation_ppm=changes.get("target_utilisation_ppm", 950_000),
    )
    return CongestionToll(settings, picodollars=changes.get("picodollars", 0))


@pytest.mark.row("BP-12")
def test_the_toll_integrates_load_minus_the_target() -> None:
    """At a constant load each period adds gain × unit × (λ − γC)/C: 0.4 × 10 000 × (1.25 − 0.95) = 1200."""
    toll = controller()
    steps = [toll.on_period(arrived_bytes=PERIOD_BYTES * 5 // 4, backlog_bytes=0) for _ in range(5)]
    assert steps == [1200, 2400, 3600, 4800, 6000]


@pytest.mark.row("BP-12")
@pytest.mark.parametrize("load_percent", [0, 20, 95, 100, 150, 200])
def test_the_step_is_linear_in_the_load(load_percent: int) -> None:
    toll = controller(picodollars=40_000)
    after = toll.on_period(arrived_bytes=PERIOD_BYTES * load_percent // 100, backlog_bytes=0)
    assert after - 40_000 == 40 * (load_percent - 95)


@pytest.mark.row("BP-12")
def test_twice_the_capacity_takes_the_toll_to_its_cap_and_silence_back_to_exactly_nothing() -> None:
    toll, now_ns = controller(), 0
    while toll.picodollars < CAP_PICODOLLARS:
        toll.on_period(arrived_bytes=2 * PERIOD_BYTES, backlog_bytes=0)
        now_ns += PERIOD_NS
    assert now_ns == 2_000_000_000
    for _ in range(50):  # and it does not wind up beyond
        assert toll.on_period(arrived_bytes=2 * PERIOD_BYTES, backlog_bytes=10**9) == CAP_PICODOLLARS
    history = []
    while toll.picodollars:
        history.append(toll.on_period(arrived_bytes=0, backlog_bytes=0))
    assert history == sorted(history, reverse=True)
    assert len(history) == 22  # cap/(a γ unit) = 8/(0.4 × 0.95) = 21.05 periods
    assert toll.on_period(arrived_bytes=0, backlog_bytes=0) == 0


@pytest.mark.row("BP-12")
def test_at_the_target_the_toll_stays_where_it_is() -> None:
    toll = controller(picodollars=12_345)
    for _ in range(100):
        assert toll.on_period(arrived_bytes=PERIOD_BYTES * 95 // 100, backlog_bytes=1000) == 12_345


@pytest.mark.row("BP-12")
def test_users_who_answer_to_the_toll_settle_at_the_target() -> None:
    """Demand that falls with the toll: 2 C at no toll, nothing at the cap. The link comes to rest at γC."""
    toll, arrived = controller(), 0
    for _ in range(300):
        arrived = 2 * PERIOD_BYTES * (CAP_PICODOLLARS - toll.picodollars) // CAP_PICODOLLARS
        toll.on_period(arrived_bytes=arrived, backlog_bytes=0)
    assert arrived / PERIOD_BYTES == pytest.approx(0.95, abs=0.001)
    assert toll.picodollars / CAP_PICODOLLARS == pytest.approx(0.525, abs=0.001)


def test_a_backlog_above_its_reference_adds_and_one_below_takes_nothing_off() -> None:
    at_target = PERIOD_BYTES * 95 // 100
    reference = CAPACITY_BYTES_PER_S // 50
    steps = [
        controller(picodollars=1000).on_period(arrived_bytes=at_target, backlog_bytes=backlog) - 1000
        for backlog in (0, reference, reference * 3 // 2, 2 * reference, 10 * reference)
    ]
    assert steps == [0, 0, 500, 1000, 1000]  # a tenth of the unit for one whole reference, and no more


@given(
    loads=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=60),
    cap=st.integers(0, 10**10),
    target=st.integers(0, 1_000_000),
)
def test_the_toll_stays_between_nothing_and_its_cap(loads: list[tuple[int, int]], cap: int, target: int) -> None:
    toll = controller(cap_picodollars=cap, target_utilisation_ppm=target)
    for arrived, backlog in loads:
        assert 0 <= toll.on_period(arrived_bytes=arrived, backlog_bytes=backlog) <= cap


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, CAP_PICODOLLARS))
def test_more_load_is_never_a_lower_toll(arrived: int, more: int, before: int) -> None:
    low = controller(picodollars=before).on_period(arrived_bytes=arrived, backlog_bytes=0)
    high = controller(picodollars=before).on_period(arrived_bytes=arrived + more, backlog_bytes=0)
    assert low <= high
