"""Experiments on packets against closed forms: the product's reactors and markings, every packet."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from billpay.marking import Draw
from billpay.sessions import Payer
from lab.simulator.experiment import (
    MARKING_DEFAULTS,
    Event,
    Experiment,
    Flow,
    Link,
    Marking,
    MarkingKind,
    Mode,
    Pattern,
    Reactor,
    ReactorKind,
    willingness_of,
)
from lab.simulator.fluidtasks import stream_policy
from lab.simulator.packets import Behaviour, PacketRun, run_packets
from lab.simulator.results import Results
from pricereactor.rates import Verdict
from pricereactor.streaming import ladder_values, thresholds

PRICE = 1_000
UNIT = 0.3  # marked Mbit/s that a weight of 1 bears


def link(
    name: str = "a", *, kind: MarkingKind = MarkingKind.VIRTUAL_QUEUE, rate: float = 1e7, **changed: float
) -> Link:
    marking = Marking(kind=kind, **{**MARKING_DEFAULTS[kind], **changed})
    return Link(name=name, rate_bit_s=rate, delay_ms=5, buffer_packets=50, marking=marking)


def flow(
    name: str, *, path: tuple[str, ...] = ("a",), weight: float = 1.0, rtt_ms: float = 40.0, **changed: Any
) -> Flow:
    willingness = willingness_of(weight * UNIT, price_nanodollars_per_mark=PRICE, packet_bytes=1000)
    return Flow(
        name=name, path=path, weight=weight, willingness_nanodollars_per_s=willingness, rtt_ms=rtt_ms, **changed
    )


def experiment(links: tuple[Link, ...], flows: tuple[Flow, ...], **changed: Any) -> Experiment:
    settings: dict[str, Any] = {
        "mode": Mode.PACKETS,
        "seconds": 40.0,
        "warm_up_s": 10.0,
        "weight_mbit_s": UNIT,
        **changed,
    }
    return Experiment(links=links, flows=flows, **settings)


def rates(results: Results) -> list[float]:
    return [each.rate_bit_s for each in results.flows]


WEIGHTED = (flow("one", rtt_ms=10.0), flow("three", weight=3.0, rtt_ms=80.0))


def test_shares_are_as_willingness_to_pay_at_a_virtual_queue() -> None:
    found = run_packets(experiment((link(),), WEIGHTED))
    one, three = found.flows
    assert three.rate_bit_s / one.rate_bit_s == pytest.approx(3.0, rel=0.05)
    only = found.links[0]
    assert only.utilisation > 0.85
    assert only.queue_mean_packets < 10
    assert only.lost_share < 0.001
    for each in found.flows:  # everybody pays what he is willing to
        assert each.cost_nanodollars_per_s == pytest.approx(each.willingness_nanodollars_per_s, rel=0.2)
    assert only.revenue_nanodollars_per_s == pytest.approx(
        sum(each.cost_nanodollars_per_s for each in found.flows), rel=0.01
    )


def test_one_seed_is_one_run() -> None:
    setup = experiment((link(),), WEIGHTED, seconds=5.0, warm_up_s=1.0)
    assert run_packets(setup) == run_packets(setup)
    assert rates(run_packets(setup)) != rates(
        run_packets(experiment((link(),), WEIGHTED, seconds=5.0, warm_up_s=1.0, seed=2))
    )


@pytest.mark.row("DPH-02")
def test_a_doubled_price_halves_the_marks_and_leaves_the_revenue() -> None:
    events = (Event(at_s=60.0, price_factor=2.0),)
    before, after = run_packets(experiment((link(),), WEIGHTED, seconds=140.0, events=events)).phases
    assert after.links[0].price_nanodollars_per_mark == 2 * before.links[0].price_nanodollars_per_mark
    marks = [sum(each.marks_per_s for each in phase.flows) for phase in (before, after)]
    assert marks[1] / marks[0] == pytest.approx(0.5, rel=0.15)
    assert after.links[0].revenue_nanodollars_per_s == pytest.approx(
        before.links[0].revenue_nanodollars_per_s, rel=0.15
    )


@pytest.mark.parametrize(("weight", "shares"), [(1.0, (1.0, 2.0)), (2.0, (1.5, 1.5))])
def test_a_parking_lot_of_two_links_is_kellys(weight: float, shares: tuple[float, float]) -> None:
    """Long C/3 and short 2C/3; with twice the weight C/2 each. The plain law, RED that is nearly linear in its load."""
    law = Reactor(kind=ReactorKind.ALPHA_FAIR, gain_per_s=0.5 * weight, reference_bit_s=1e6)
    red = {"max_p": 0.2, "max_packets": 60.0, "average_weight": 1 / 32, "theta": 1.0}
    links = tuple(link(name, kind=MarkingKind.RED, rate=3e6, **red) for name in ("a", "b"))
    flows = (
        flow("long", path=("a", "b"), weight=weight, reactor=law),
        flow("first", path=("a",), reactor=law),
        flow("second", path=("b",), reactor=law),
    )
    setup = experiment(links, flows, seconds=300.0, warm_up_s=60.0, weight_mbit_s=0.06 / weight)
    long, first, second = (rate / 1e6 for rate in rates(run_packets(setup)))
    assert long == pytest.approx(shares[0], rel=0.03)
    assert (first + second) / 2 == pytest.approx(shares[1], rel=0.03)


@pytest.mark.row("DPH-05")
@pytest.mark.row("DPH-06")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_both_sub_scenarios_give_the_same_rates(seed: int) -> None:
    """They differ in what comes back, and not in when: to the bit. No sender that obeys is cut."""
    flows = (flow("one", rtt_ms=20.0), flow("three", weight=3.0, rtt_ms=40.0))
    found = {}
    for payer in Payer:
        behaviours = {each.name: Behaviour(payer=payer) for each in flows}
        run = PacketRun(experiment((link(),), flows, seconds=15.0, seed=seed), behaviours=behaviours)
        found[payer] = rates(run.run())
        assert [each.loop.disobeyed_ns for each in run.flows if each.loop is not None] == [None, None]
    assert found[Payer.SENDER] == found[Payer.RECEIVER]


@pytest.mark.row("DPH-07")
def test_half_of_the_marks_reported_buys_more_and_is_billed_whole() -> None:
    honest = run_packets(experiment((link(),), WEIGHTED))
    run = PacketRun(experiment((link(),), WEIGHTED), behaviours={"one": Behaviour(reported_ppm=500_000)})
    lying = run.run()
    assert rates(lying)[0] > 1.3 * rates(honest)[0]
    loop = run.flows[0].loop
    assert loop is not None
    assert lying.flows[0].cost_nanodollars == pytest.approx(2 * loop.reported_charge_nanodollars, rel=0.03)


@pytest.mark.parametrize("payer", list(Payer))
@pytest.mark.parametrize("lost_reports", [0.0, 0.3])
def test_a_budget_is_never_exceeded(payer: Payer, lost_reports: float) -> None:
    """Across a price that trebles, with reports lost; the receiver's bill, not what was reported."""
    budget = 1_000_000
    events = (Event(at_s=6.0, price_factor=3.0),)
    behaviour = Behaviour(budget_nanodollars=budget, payer=payer, lost_reports=lost_reports)
    setup = experiment((link(),), WEIGHTED, seconds=25.0, events=events)
    found = run_packets(setup, behaviours={"three": behaviour})
    assert 0 < found.flows[1].cost_nanodollars <= budget
    if payer is Payer.SENDER:  # a receiver does not know what is under way, and is the more careful
        assert found.flows[1].cost_nanodollars > 0.2 * budget
    assert rates(found)[0] > rates(found)[1]  # who has money left has the link


class Tenth:
    """Marks every tenth packet: with so few marks, chance would move the price by more than the hysteresis."""

    def __init__(self) -> None:
        self._seen = 0

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:
        self._seen += 1
        return self._seen % 10 == 0


@pytest.mark.row("DPH-23")
def test_a_slow_price_sweep_gives_the_staircase() -> None:
    """A price that rises slowly: the ladder's steps at its thresholds, with the hysteresis."""
    ladder = (300_000.0, 750_000.0, 1_200_000.0, 1_850_000.0, 2_850_000.0, 4_300_000.0)
    stream = Reactor(
        kind=ReactorKind.STREAMING, ladder_bit_s=ladder, value_nanodollars_per_s=1_000_000, interval_ms=500.0
    )
    seconds, steps = 700, 140
    c = thresholds(ladder_values(stream_policy(flow("s", reactor=stream))))
    bits_per_mark = 8000 / 0.1
    lowest, highest = c[-1] * 0.5, c[0] * 2.0
    prices = [lowest * (highest / lowest) ** (k / (steps - 1)) for k in range(steps)]
    events = tuple(
        Event(at_s=seconds / steps * k, price_nanodollars_per_mark=round(price * bits_per_mark))
        for k, price in enumerate(prices)
    )
    tenth = Link(name="a", rate_bit_s=1e8, marking=Marking(kind=MarkingKind.NONE))
    run = PacketRun(experiment((tenth,), (flow("s", reactor=stream),), seconds=float(seconds), events=events))
    run.links[0].marking = Tenth()
    found = run.run()
    loop, playback = run.flows[0].loop, run.flows[0].playback
    assert loop is not None
    assert playback is not None
    heard = [each for each in loop.history if each.now_ns > 60e9]
    levels = [each.level for each in heard]
    assert levels[0] == len(ladder) - 1
    assert levels[-1] == 0
    falls = [each for before, each in pairwise(heard) if each.level != before.level]
    assert [each.level for each in falls] == [4, 3, 2, 1, 0]  # each step once, and never back
    for fall, threshold in zip(falls, reversed(c), strict=True):
        price = prices[min(steps - 1, int(fall.now_ns / 1e9 * steps / seconds))]
        assert price == pytest.approx(threshold * 1.15, rel=0.15)
    assert found.flows[0].switches == 1 + 5  # up from the lowest at first
    assert playback.stalls == 0


def test_a_transfer_is_there_by_its_deadline() -> None:
    transfer = Reactor(kind=ReactorKind.TRANSFER, size_bytes=5_000_000, deadline_s=30.0)
    cross = Reactor(kind=ReactorKind.UNRESPONSIVE, rate_bit_s=5e6, pattern=Pattern.POISSON)
    flows = (flow("file", weight=6.0, reactor=transfer), flow("cross", reactor=cross))
    found = run_packets(experiment((link(),), flows))
    assert found.flows[0].finished_s is not None
    assert found.flows[0].finished_s <= 30.0


@pytest.mark.row("DPH-13")
def test_cross_traffic_takes_its_place_and_reactors_leave_it() -> None:
    cross = Reactor(kind=ReactorKind.UNRESPONSIVE, rate_bit_s=0.0, pattern=Pattern.POISSON)
    steps = tuple(Event(at_s=at, flow="cross", rate_bit_s=rate) for at, rate in ((20.0, 5e6), (40.0, 8e6), (60.0, 2e6)))
    flows = (*WEIGHTED, flow("cross", reactor=cross))
    phases = run_packets(experiment((link(),), flows, seconds=80.0, events=steps)).phases
    for phase, rate in zip(phases, (0.0, 5e6, 8e6, 2e6), strict=True):
        one, three, crossing = phase.flows
        assert crossing.rate_bit_s == pytest.approx(rate, rel=0.05)
        assert 0.75 < phase.links[0].utilisation <= 1
        assert three.rate_bit_s / one.rate_bit_s == pytest.approx(3.0, rel=0.25)


@pytest.mark.parametrize("kind", [ReactorKind.WINDOW, ReactorKind.MULTCP, ReactorKind.RENO])
def test_window_flows_fill_a_link_and_share_it(kind: ReactorKind) -> None:
    windows = Reactor(kind=kind)
    flows = (flow("one", reactor=windows), flow("three", weight=3.0, reactor=windows))
    found = run_packets(
        experiment((link(kind=MarkingKind.RED),), flows, seconds=80.0, warm_up_s=30.0, weight_mbit_s=UNIT)
    )
    assert found.links[0].utilisation > 0.7
    ratio = rates(found)[1] / rates(found)[0]
    if kind is ReactorKind.RENO:
        assert ratio == pytest.approx(1.0, rel=0.15)
    elif kind is ReactorKind.WINDOW:
        assert ratio == pytest.approx(3.0, rel=0.2)
    else:  # N sqrt((2 − 1/2N)/1.5) of Reno, where marks come one by one, and more where they come together
        assert 3.0 < ratio < 5.0


def test_a_provider_moves_its_price_until_its_link_is_as_full_as_it_wants() -> None:
    wanted = Link(
        name="a",
        rate_bit_s=1e7,
        delay_ms=5,
        buffer_packets=50,
        marking=Marking(kind=MarkingKind.STEP, **MARKING_DEFAULTS[MarkingKind.STEP]),
        target_utilisation=0.7,
    )
    found = run_packets(experiment((wanted,), WEIGHTED, seconds=120.0, warm_up_s=60.0))
    assert found.links[0].price_nanodollars_per_mark > PRICE
    assert found.links[0].utilisation < 0.9


def test_who_ignores_the_target_pays_for_it_or_is_cut() -> None:
    for payer, cut in ((Payer.SENDER, False), (Payer.RECEIVER, True)):
        run = PacketRun(
            experiment((link(),), WEIGHTED, seconds=10.0, warm_up_s=2.0),
            behaviours={"one": Behaviour(obeys=False, payer=payer)},
        )
        run.run()
        loop = run.flows[0].loop
        assert loop is not None
        assert (loop.disobeyed_ns is not None) == cut
        assert loop.ended == cut
        assert loop.history[-1].verdict is not Verdict.STOP


def test_on_off_flows_and_flows_that_start_and_stop_send_when_they_should() -> None:
    bursty = Reactor(kind=ReactorKind.UNRESPONSIVE, rate_bit_s=4e6, pattern=Pattern.ON_OFF, on_s=1.0, off_s=3.0)
    steady = Reactor(kind=ReactorKind.UNRESPONSIVE, rate_bit_s=2e6)
    flows = (
        flow("bursty", reactor=bursty),
        flow("short", start_s=5.0, stop_s=15.0, reactor=steady),
        flow("priced", start_s=4.0, stop_s=16.0),
        flow("window", start_s=4.0, stop_s=16.0, reactor=Reactor(kind=ReactorKind.WINDOW)),
    )
    found = run_packets(experiment((link(),), flows, seconds=20.0, warm_up_s=0.0))
    assert found.flows[0].rate_bit_s == pytest.approx(1e6, rel=0.02)
    assert found.flows[1].rate_bit_s == pytest.approx(2e6, rel=0.02)  # while it ran
    assert found.flows[1].bytes_sent == pytest.approx(2e6 * 10 / 8, rel=0.02)
    series = found.series
    assert series is not None
    for name in ("short", "priced", "window"):
        rates_of = dict(zip(series.at_s, series.flow_rates_bit_s[name], strict=True))
        assert max(rate for at, rate in rates_of.items() if at <= 4.0 or at > 16.6) == 0
        assert rates_of[14.0] > 0


def test_events_change_links_and_what_people_are_willing_to_pay() -> None:
    events = (
        Event(at_s=20.0, flow="one", weight=3.0),
        Event(at_s=50.0, link="a", rate_bit_s=5e6),
    )
    first, second, third = run_packets(experiment((link(),), WEIGHTED, seconds=80.0, events=events)).phases
    ratios = [phase.flows[1].rate_bit_s / phase.flows[0].rate_bit_s for phase in (first, second, third)]
    assert ratios == pytest.approx([3.0, 1.0, 1.0], rel=0.15)
    carried = [sum(each.rate_bit_s for each in phase.flows) / 1e6 for phase in (second, third)]
    assert 8 < carried[0] < 10
    assert 4 < carried[1] < 5


def test_a_gain_that_the_product_refuses_is_theorys_and_the_results_say_so() -> None:
    for part, plain in ((0.5, False), (1.5, True)):
        flows = (flow("one", reactor=Reactor(kind=ReactorKind.ELASTIC, gain_of_bound=part)),)
        found = run_packets(experiment((link(),), flows, seconds=5.0, warm_up_s=1.0))
        assert found.flows[0].gain_of_bound == pytest.approx(part, rel=0.01)
        assert any("plain law" in note for note in found.notes) == plain
