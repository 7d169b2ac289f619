"""What became of a flow's packets, out of two counts that are never taken at the same moment."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.payments.arrivals import RETURN_PACKETS, Arrivals, Became, ReturnTolls

MS = 1_000_000
S = 1000 * MS


def story(
    *,
    loss: float,
    mark: float = 0.0,
    packets_per_s: int = 200,
    seconds: int = 60,
    round_trip_ms: int = 80,
    seed: int = 1,
) -> tuple[Became, int]:
    """A flow for so long, reported each 200 ms and echoed each 250 ms; all that it was told, and the truth."""
    random, arrivals = Random(seed), Arrivals()
    gap_ns = S // packets_per_s
    sent = arrived = lost = marked = 0
    under_way: list[tuple[int, bool]] = []
    told = Became()
    for now_ns in range(0, seconds * S, 10 * MS):
        while sent * gap_ns <= now_ns:
            sent += 1
            under_way.append((now_ns + round_trip_ms * MS // 2, random.random() < loss))
        while under_way and under_way[0][0] <= now_ns:
            is_lost = under_way.pop(0)[1]
            lost += is_lost
            arrived += not is_lost
            marked += not is_lost and random.random() < mark
        if now_ns % (200 * MS) == 0:
            arrivals.on_report(sent, now_ns)
        if now_ns % (250 * MS) == 0:
            became = arrivals.on_echo(
                packets=arrived,
                marked=marked,
                round_trip_ns=round_trip_ms * MS,
                now_ns=now_ns + round_trip_ms * MS // 2,
            )
            told = Became(*(one + other for one, other in zip(told, became, strict=True)))
    return told, lost


@pytest.mark.row("BP-24")
@pytest.mark.parametrize("round_trip_ms", [2, 80, 400])
@pytest.mark.parametrize("packets_per_s", [20, 200, 2000])
def test_no_loss_is_invented(round_trip_ms: int, packets_per_s: int) -> None:
    told, _ = story(loss=0, packets_per_s=packets_per_s, round_trip_ms=round_trip_ms, seconds=20)
    assert told.lost == 0
    assert told.arrived > 18 * packets_per_s


@pytest.mark.row("BP-24")
@pytest.mark.parametrize("loss", [0.01, 0.1, 0.5])
def test_losses_are_found_but_for_a_doubt_that_is_there_once(loss: float) -> None:
    told, lost = story(loss=loss)
    assert lost - 30 - lost // 20 <= told.lost <= lost


def test_marks_are_counted() -> None:
    told, _ = story(loss=0, mark=0.1)
    assert told.marked == pytest.approx(0.1 * told.arrived, rel=0.2)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500)), max_size=40))
def test_whatever_is_said_nothing_is_negative(counts: list[tuple[int, int, int]]) -> None:
    arrivals = Arrivals()
    for turn, (sent, packets, marked) in enumerate(counts):
        arrivals.on_report(sent, turn * 100 * MS)
        became = arrivals.on_echo(packets=packets, marked=marked, round_trip_ns=50 * MS, now_ns=turn * 100 * MS + 1)
        assert min(became) >= 0
        assert became.marked <= became.arrived


def test_a_far_end_that_falls_silent_is_noticed_if_packets_go_on_leaving() -> None:
    arrivals = Arrivals()
    assert not arrivals.is_silent(10 * S, S), "it never spoke"
    for tenth in range(20):
        arrivals.on_report(10 * tenth, tenth * 100 * MS)
    arrivals.on_echo(packets=180, marked=0, round_trip_ns=10 * MS, now_ns=2 * S)
    assert not arrivals.is_silent(9 * S, S), "nothing left since"
    for tenth in range(20, 40):
        arrivals.on_report(10 * tenth, tenth * 100 * MS)
    assert not arrivals.is_silent(2 * S + S // 2, S)
    assert arrivals.is_silent(4 * S, S)


def returns(*, toll: int, reports_ms: int, echoes_ms: int, late_ms: int = 0) -> list[int]:
    """What ten seconds of a hundred packets a second show, 80 n$ each; an echo is counted `late_ms` before it comes."""
    tolls, found = ReturnTolls(), []
    for ms in range(10_000):
        back = ms // 10
        if ms % reports_ms == 7:
            tolls.on_report(refunded_nanodollars=back * (80 - toll), packets=back, now_ns=ms * MS)
        if ms % echoes_ms == 3:
            told = tolls.on_echo(returned_nanodollars=80 * (max(0, ms - late_ms) // 10), now_ns=ms * MS)
            found += [] if told is None else [told]
    return found


@pytest.mark.row("BP-24")
@pytest.mark.parametrize("late_ms", [0, 60])
@pytest.mark.parametrize("toll", [0, 5, 30])
def test_what_comes_back_costs_what_is_missing_of_the_same_packets(toll: int, late_ms: int) -> None:
    """The two counts are hundreds of milliseconds apart, in which many times the toll comes back."""
    found = returns(toll=toll, reports_ms=210, echoes_ms=410, late_ms=late_ms)
    assert found
    assert all(abs(picodollars - 1000 * toll) <= 500 for picodollars in found)


def test_few_packets_and_short_times_say_nothing_of_return_tolls() -> None:
    tolls = ReturnTolls()
    for second in range(20):
        tolls.on_report(refunded_nanodollars=second * 60, packets=second, now_ns=second * S)
        assert tolls.on_echo(returned_nanodollars=second * 80, now_ns=second * S + 1) is None
    assert RETURN_PACKETS > 20


def test_who_counts_anew_is_not_compared_with_what_was_before() -> None:
    tolls = ReturnTolls()
    for tick in range(100):
        count = tick * 100 if tick < 50 else (tick - 50) * 100
        tolls.on_report(refunded_nanodollars=count * 80, packets=count, now_ns=tick * S // 4)
        assert tolls.on_echo(returned_nanodollars=count * 80, now_ns=tick * S // 4) in (None, 0)
