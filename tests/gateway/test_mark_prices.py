"""The price of a mark: published before it holds, moved by the operator or by the load."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from billpay.errors import LocalProtocolError
from billpay.markprices import PriceSchedule
from billpay.pricesetting import PriceSetter, PriceTarget
from gateway.mark_prices import MarkPricing, PricingSettings

NOW_MS = 1_700_000_000_123
TARGET = PriceTarget(utilisation_ppm=900_000)


def pricing(**more: object) -> MarkPricing:
    settings = {"nanodollars_per_mark": 1_000, "announced_ms": 500, **more}
    return MarkPricing(PricingSettings(**settings), provider="p2", unix_ms=NOW_MS)  # type: ignore[arg-type]


@pytest.mark.row("DPH-02", "DPH-26")
def test_a_new_price_is_known_before_it_holds() -> None:
    made = pricing()
    made.set_price(2_000, NOW_MS + 10_000)
    schedule = PriceSchedule(made.pushes())
    assert [schedule.price_at(NOW_MS + ms) for ms in (499, 500, 10_499, 10_500)] == [None, 1_000, 1_000, 2_000]


def test_a_gateway_that_is_started_again_with_another_price_says_so_before_it_holds() -> None:
    """Who pays has what it may spend reckoned at the price that it knows."""
    before, after = (
        pricing(),
        MarkPricing(
            PricingSettings(nanodollars_per_mark=9_000, announced_ms=500), provider="p2", unix_ms=NOW_MS + 60_000
        ),
    )
    schedule = PriceSchedule((*before.pushes(), *after.pushes()))
    assert [schedule.price_at(NOW_MS + 60_000 + ms) for ms in (0, 499, 500)] == [1_000, 1_000, 9_000]


def test_what_is_over_is_not_pushed_any_more() -> None:
    made = pricing()
    for number in range(5):
        made.set_price(2_000 + number, NOW_MS + 10_000 * (number + 1))
    assert [push.nanodollars_per_mark for push in made.pushes()] == [2_003, 2_004]
    serials = [push.serial for push in made.pushes()]
    assert serials == sorted(set(serials))


def test_two_words_at_once_leave_the_later_one() -> None:
    made = pricing()
    made.set_price(2_000, NOW_MS)
    made.set_price(3_000, NOW_MS)
    assert PriceSchedule(made.pushes()).price_at(NOW_MS + 500) == 3_000


@pytest.mark.row("DPH-22")
@pytest.mark.parametrize("start", [10, 100_000])
def test_the_controller_finds_the_price_that_fills_the_link_to_its_target(start: int) -> None:
    """Users who spend W on marks whose share is (ρ)^10: the price is W / (m ρ C)."""
    packets_per_s, worth = 1_000, 200_000.0

    def load_at(price: int) -> float:
        return float((worth / (price * packets_per_s)) ** (1 / 11))

    setter, price = PriceSetter(TARGET, nanodollars_per_mark=start), start
    for _ in range(400):
        price = setter.on_period(int(load_at(price) * 1_000_000))
    wanted = worth / (0.9**10 * 0.9 * packets_per_s)
    assert math.isclose(price, wanted, rel_tol=0.02)


@pytest.mark.row("DPH-22")
def test_a_price_at_most_doubles_or_halves_in_a_period() -> None:
    up, down = (PriceSetter(TARGET, nanodollars_per_mark=1_000) for _ in range(2))
    assert up.on_period(100_000_000) == 2_000
    assert down.on_period(0) >= 500


@pytest.mark.parametrize(
    "make",
    [
        lambda: PriceTarget(utilisation_ppm=900_000, gain=0.6),
        lambda: PriceTarget(utilisation_ppm=900_000, gain=0),
        lambda: PriceTarget(utilisation_ppm=1_000_000),
        lambda: PriceTarget(utilisation_ppm=900_000, least_nanodollars=0),
    ],
)
def test_a_gain_beyond_its_bound_is_refused(make: Callable[[], PriceTarget]) -> None:
    with pytest.raises(LocalProtocolError):
        make()


def test_load_moves_the_price_once_a_period() -> None:
    made = pricing(target=TARGET, period_ms=1_000)
    assert made.on_load(1_000_000, NOW_MS + 999) is None
    moved = made.on_load(1_000_000, NOW_MS + 1_000)
    assert moved is not None
    assert moved.nanodollars_per_mark == 1_051
    assert made.on_load(1_000_000, NOW_MS + 1_999) is None
