"""The fluid mode against closed forms: equilibria, stability bounds, marking rules, and the product's own cores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from billpay.errors import ConfigurationError
from billpay.marking import RedSettings, base_probability, marking_probability, price_of_marks
from lab.simulator.equilibrium import equilibrium
from lab.simulator.examples import example
from lab.simulator.experiment import Experiment, Overrides, decode, load
from lab.simulator.fluid import run_fluid, step_of
from lab.simulator.fluidmarking import red_share, virtual_queue_load, virtual_queue_share
from lab.simulator.fluidtasks import elastic_plan
from lab.simulator.results import Results
from pricereactor.elastic import ElasticRate
from pricereactor.signals import NS_PER_S, PriceSignal, Source
from pricereactor.stability import AvqLink, largest_avq_alpha, largest_slotted_gain


def swing(results: Results) -> float:
    """Of the first flow, as a part of its mean."""
    found = results.flows[0].amplitude
    assert found is not None
    return found


def mbit(results: Results) -> list[float]:
    return [flow.rate_bit_s / 1e6 for flow in results.flows]


def lot(
    capacities: list[float],
    *,
    reactor: str = '"elastic"',
    weight: float = 1,
    marking: str = '"clearing"',
    more: str = "",
) -> Experiment:
    """A parking lot: a long flow over all links, and a short one over each."""
    links = ", ".join(f'{{name = "l{n}", capacity = {c}}}' for n, c in enumerate(capacities))
    path = [f"l{n}" for n in range(len(capacities))]
    shorts = "".join(f'\n[[flows]]\npath = ["{name}"]' for name in path)
    head = f"seconds = 30\nstep_ms = 5\nmarking = {marking}\nreactor = {reactor}\n{more}\n"
    return decode(f"{head}links = [{links}]\n[[flows]]\nweight = {weight}\npath = {path}{shorts}")


# -- equilibria ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_parking_lot_is_proportionally_fair(count: int) -> None:
    found = run_fluid(lot([10] * count))
    assert mbit(found) == pytest.approx([10 / (count + 1)] + [10 * count / (count + 1)] * count, rel=0.01)
    assert [link.price for link in found.links] == pytest.approx([(1 + 1 / count) / 10] * count, rel=0.01)
    assert [flow.expected_bit_s for flow in found.flows] == pytest.approx([f.rate_bit_s for f in found.flows], rel=0.01)
    assert found.largest_amplitude == pytest.approx(0, abs=1e-3)


def test_the_same_weighted_and_with_unequal_links() -> None:
    weighted = run_fluid(lot([10, 10], weight=2))
    assert mbit(weighted) == pytest.approx([5, 5, 5], rel=0.01)
    assert [link.price for link in weighted.links] == pytest.approx([0.2, 0.2], rel=0.01)
    unequal = run_fluid(lot([6, 12]))
    assert mbit(unequal) == pytest.approx([2.5359, 3.4641, 9.4641], rel=0.01)
    assert [link.price for link in unequal.links] == pytest.approx([0.28868, 0.10566], rel=0.01)


@pytest.mark.parametrize(
    ("alpha", "count", "long"), [(2, 2, 4.142), (2, 3, 3.660), (2, 4, 3.333), (64, 2, 5.0), (64, 4, 5.0)]
)
def test_alpha_fairness_is_like_tcp_at_two_and_max_min_at_many(alpha: int, count: int, long: float) -> None:
    experiment = lot(
        [10] * count, reactor=f'{{kind = "alpha_fair", alpha = {alpha}}}', marking='{kind = "clearing", gain = 0.5}'
    )
    found = run_fluid(experiment)
    assert mbit(found) == pytest.approx([long] + [10 - long] * count, rel=0.03)
    expected = equilibrium(experiment)
    assert expected is not None
    assert expected.rates_bit_s[0] / 1e6 == pytest.approx(long, rel=0.02)


@pytest.mark.parametrize("marking", ['"clearing"', '{kind = "virtual_queue", theta = 1}', '"rem"', '"avq"'])
def test_one_link_is_shared_as_the_weights_whatever_marks(marking: str) -> None:
    text = f"""
    seconds = 60
    step_ms = 5
    marking = {marking}
    gain_of_bound = 0.5
    links = [{{name = "l", capacity = 10, buffer_packets = 20}}]
    flows = [{{weight = 0.1, rtt_ms = 20}}, {{weight = 0.3, rtt_ms = 80}}]
    """.replace("gain_of_bound = 0.5", 'reactor = {kind = "elastic", gain_of_bound = 0.5}')
    found = run_fluid(decode(text))
    assert found.flows[1].rate_bit_s / found.flows[0].rate_bit_s == pytest.approx(3, rel=0.02)
    assert found.links[0].utilisation > 0.8


def test_one_link_by_the_closed_form() -> None:
    found = run_fluid(
        decode('seconds = 20\nstep_ms = 5\nlinks = [{name = "l", capacity = 10}]\nflows = [{weight = 1}, {weight = 3}]')
    )
    assert mbit(found) == pytest.approx([2.5, 7.5], rel=0.01)
    assert found.links[0].price == pytest.approx(0.4, rel=0.01)
    assert [flow.share for flow in found.flows] == pytest.approx([0.25, 0.75], rel=0.01)


def test_weights_that_are_only_shares_have_the_price_of_the_closed_form_too() -> None:
    found = run_fluid(
        decode(
            'seconds = 20\nstep_ms = 5\nlinks = [{name = "l", capacity = 1}]\nflows = [{weight = 10}, {weight = 30}]'
        )
    )
    assert mbit(found) == pytest.approx([0.25, 0.75], rel=0.01)
    assert found.links[0].price == pytest.approx(40, rel=0.01)
    assert found.links[0].marked_share == pytest.approx(0.1, rel=0.01)


def test_a_packet_has_one_mark_where_that_is_asked_for() -> None:
    found = run_fluid(lot([10, 10], more='path_price = "marks"'))
    share = found.links[0].marked_share
    assert found.flows[0].marked_share == pytest.approx(1 - (1 - share) ** 2, rel=1e-3)
    assert found.flows[0].rate_bit_s == pytest.approx(found.flows[0].expected_bit_s, rel=0.01)


# -- stability -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exponent", "part_of_rest"), [(1, 1.22), (4, 0.43), (10, 0.19)])
def test_a_delayed_rate_settles_below_the_bound_and_swings_beyond_it(exponent: int, part_of_rest: float) -> None:
    def run(part: float) -> Results:
        return run_fluid(
            decode(f"""
            seconds = 30
            links = [{{name = "l", capacity = 100, marking = {{kind = "power", B = {exponent}}}}}]
            flows = [{{weight = 2, rtt_ms = 100, gain_of_bound = {part}}}]
            """)
        )

    below, beyond = run(0.9), run(1.1)
    assert swing(below) < 1e-6
    assert below.flows[0].rate_bit_s == pytest.approx(below.flows[0].expected_bit_s, rel=1e-6)
    assert beyond.flows[0].amplitude_of_expected == pytest.approx(part_of_rest, rel=0.06)


@pytest.mark.parametrize(
    ("slots", "bound"), [(0, 2), (1, 1), (2, 0.618), (3, 0.445), (5, 0.285), (10, 0.149), (20, 0.0766)]
)
def test_slotted_rates_have_the_bound_of_johari_and_tan(slots: int, bound: float) -> None:
    assert largest_slotted_gain(slots) == pytest.approx(bound, abs=6e-4)

    def run(part: float) -> Results:
        return run_fluid(
            decode(f"""
            seconds = 300
            slotted = true
            step_ms = 100
            links = [{{name = "l", capacity = 100, marking = {{kind = "power", B = 1}}}}]
            flows = [{{weight = 50, rtt_ms = {100 * slots}, gain_of_bound = {part}}}]
            """)
        )

    # At a hundredth from the bound theory has long delays fade too slowly to wait for.
    near = 0.01 if slots <= 2 else 0.05 if slots <= 10 else 0.1
    assert swing(run(1 - near)) < 1e-2 < 0.1 < swing(run(1 + near))


def test_avq_settles_below_its_largest_alpha_and_swings_beyond_it() -> None:
    alpha = largest_avq_alpha(AvqLink(capacity_packets_s=1250, flows=20, round_trip_s=0.04))
    assert alpha == pytest.approx(8.26, abs=0.01)

    def run(part: float) -> Results:
        return run_fluid(
            decode(f"""
            seconds = 25
            step_ms = 2
            links = [{{name = "l", rate_bit_s = 10_000_000, marking = {{kind = "avq", alpha = {alpha * part}}}}}]
            flows = [{{count = 20, reactor = "reno", rtt_ms = 40}}]
            """)
        )

    below = run(0.9)
    assert swing(below) < 0.01
    assert swing(run(1.1)) == pytest.approx(0.54, rel=0.1)
    assert below.links[0].utilisation == pytest.approx(0.98, abs=0.001)


def test_a_coarser_step_says_the_same() -> None:
    fine, coarse = (
        run_fluid(decode(f'seconds=12\nstep_ms={step}\nlinks=[{{name="l", capacity=10}}]\nflows=[{{}}, {{weight=2}}]'))
        for step in (1, 8)
    )
    assert mbit(coarse) == pytest.approx(mbit(fine), rel=1e-3)
    assert (fine.step_ms, coarse.step_ms) == (1, 8)


# -- markings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("buffer", "load", "share"),
    [(10, 0.8, 0.0878), (10, 0.9, 0.327), (10, 1.0, 0.659), (20, 0.9, 0.196), (20, 0.95, 0.512), (20, 1.0, 0.812)],
)
def test_the_virtual_queue_of_a_fluid_is_near_that_of_poisson_packets(buffer: int, load: float, share: float) -> None:
    rho = load / 0.95
    a = np.array([2 * 0.95 * buffer * (rho - 1) / rho])
    assert virtual_queue_share(a)[0] == pytest.approx(share, rel=0.12)
    back = virtual_queue_load(virtual_queue_share(a), np.array([0.95 * buffer]))[0]
    assert back == pytest.approx(rho, rel=1e-3)


@pytest.mark.row("DPH-20")
@pytest.mark.parametrize(("average", "share"), [(4.9, 0.0), (6, 0.01), (10, 0.05), (14, 0.09), (15, 1.0)])
def test_red_is_linear_with_altqs_defaults_as_the_products(average: float, share: float) -> None:
    marking = decode('marking = "red"\nlinks = [{name = "l", capacity = 10}]\n[[flows]]').links[0].marking
    numbers = [np.array([value]) for value in (average, marking.min_packets, marking.max_packets, marking.max_p)]
    assert red_share(*numbers)[0] == pytest.approx(share)
    assert marking.average_weight == 1 / 512
    if 5 <= average < 15:
        assert base_probability(round(average * 1000), RedSettings()) == pytest.approx(share)


def test_rem_prices_add_up_along_a_path() -> None:
    phi = 1.001
    first, second = price_of_marks(0.1, phi), price_of_marks(0.2, phi)
    assert marking_probability(first + second, phi) == pytest.approx(0.28)
    assert [price_of_marks(m, phi) for m in (0.01, 0.1, 0.5)] == pytest.approx([10.06, 105.4, 693.5], abs=0.1)
    found = run_fluid(
        lot([10, 10], marking='{kind = "rem", gain = 0.02, phi = 1.01}', more='path_price = "marks"', weight=0.5)
    )
    shares = [link.marked_share for link in found.links]
    assert price_of_marks(found.flows[0].marked_share or 0, 1.01) == pytest.approx(
        sum(price_of_marks(share, 1.01) for share in shares), rel=0.02
    )


# -- prices and events ---------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-22")
def test_a_providers_price_finds_the_utilisation_that_it_wants() -> None:
    experiment = load(example("price-controller.toml"))
    found = run_fluid(experiment)
    (link,) = found.links
    assert link.utilisation == pytest.approx(0.8, abs=0.005)
    willing = sum(flow.willingness_nanodollars_per_s for flow in experiment.flows)
    # π* = W / (m(ρ*) ρ* C), in packets.
    clearing = willing / (link.marked_share * 0.8 * 1250)
    assert link.price_nanodollars_per_mark == pytest.approx(clearing, rel=0.01)
    assert link.revenue_nanodollars_per_s == pytest.approx(willing, rel=0.01)


def test_twice_the_price_is_half_the_marks_and_the_same_revenue() -> None:
    before, after = run_fluid(load(example("price-doubles.toml"))).phases
    for cheap, dear in zip(before.flows, after.flows, strict=True):
        assert dear.marks_per_s == pytest.approx(cheap.marks_per_s / 2, rel=0.02)
        assert dear.cost_nanodollars_per_s == pytest.approx(cheap.cost_nanodollars_per_s, rel=0.02)
    assert before.links[0].utilisation > after.links[0].utilisation > 0.9 * before.links[0].utilisation
    assert after.links[0].price_nanodollars_per_mark == 2 * before.links[0].price_nanodollars_per_mark


def test_weights_rates_and_capacities_change_too() -> None:
    found = run_fluid(
        decode("""
        seconds = 80
        step_ms = 8
        links = [{name = "l", capacity = 10}]
        flows = [{name = "a"}, {name = "b"}, {name = "c", reactor = "cbr", rate_bit_s = 1_000_000, start_s = 20}]
        events = [{at_s = 40, flow = "a", weight = 2}, {at_s = 60, link = "l", rate = 7}]
        """)
    )
    assert [flow.rate_bit_s / 1e6 for flow in found.phases[0].flows] == pytest.approx([4.5, 4.5, 1], rel=0.02)
    assert [flow.rate_bit_s / 1e6 for flow in found.phases[1].flows] == pytest.approx([6, 3, 1], rel=0.02)
    assert [flow.rate_bit_s / 1e6 for flow in found.phases[2].flows] == pytest.approx([4, 2, 1], rel=0.02)
    assert [flow.expected_bit_s for flow in found.flows] == pytest.approx([4e6, 2e6, 1e6], rel=1e-3)


def test_tcp_has_the_rate_of_its_formula_and_multcp_so_many_times_that() -> None:
    found = run_fluid(
        decode("""
        seconds = 20
        marking = {kind = "power", B = 1}
        links = [{name = "l", capacity = 100}]
        flows = [
            {reactor = "reno", rtt_ms = 40}, {reactor = "multcp", weight = 3, rtt_ms = 40},
            {reactor = "cbr", rate_bit_s = 5_000_000}
        ]
        """)
    )
    assert found.flows[1].rate_bit_s / found.flows[0].rate_bit_s == pytest.approx(3, rel=0.01)
    packets = math.sqrt(1.5 / (found.flows[0].marked_share or 1)) / 0.04
    assert found.flows[0].rate_bit_s == pytest.approx(packets * 8000, rel=0.01)


# -- the product's own cores ---------------------------------------------------------------------------------------


def test_the_law_of_theory_comes_to_rest_where_the_products_reactor_does() -> None:
    """Both driven with one price: the fluid's through a link that marks the same whatever it carries."""
    text = """
    seconds = 30
    step_ms = 5
    links = [{name = "l", capacity = 100, marking = {kind = "power", B = 1}}]
    flows = [
        {name = "cross", reactor = "cbr", rate_bit_s = 30_000_000},
        {name = "law", weight = 2},
        {name = "product", weight = 2, reactor = {exact = true}},
    ]
    """
    experiment = decode(text)
    found = run_fluid(experiment)
    _, law, product = found.flows
    assert product.rate_bit_s == pytest.approx(law.rate_bit_s, rel=0.05)
    price_per_bit = (law.marked_share or 0) * experiment.price_nanodollars_per_mark / 8000
    alone = driven(experiment, price_per_bit)
    assert alone == pytest.approx(law.rate_bit_s, rel=0.05)


def driven(experiment: Experiment, price_per_bit: float) -> float:
    """The product's reactor, hearing that price for a minute."""
    interval_ns = 100_000_000
    reactor = ElasticRate(elastic_plan(experiment.flows[2], experiment.price_nanodollars_per_mark, interval_ns))
    rate = reactor.on_interval(0, None).target_bit_s or 0
    for number in range(1, 600):
        count = rate * interval_ns // NS_PER_S // 8
        signal = PriceSignal(
            now_ns=number * interval_ns,
            interval_ns=interval_ns,
            source=Source.RECEIVER_MARKS,
            packets=count // 1000,
            bytes=count,
            marks=0,
            charge_nanodollars=round(count * 8 * price_per_bit),
        )
        rate = reactor.on_interval(number * interval_ns, signal).target_bit_s or 0
    return rate


def test_a_stream_goes_down_and_up_its_stairs() -> None:
    found = run_fluid(load(example("staircase.toml")), series=True)
    (film,) = [number for number, flow in enumerate(found.flows) if flow.name == "film"]
    rates = [round(phase.flows[film].rate_bit_s) for phase in found.phases]
    half = len(rates) // 2
    assert rates[: half + 1] == sorted(rates[: half + 1], reverse=True)
    assert rates[half:] == sorted(rates[half:])
    assert rates[0] == rates[-1] == 4_300_000
    assert rates[half] == 300_000
    assert found.series is not None
    assert 300 <= len(found.series.at_s) <= 600
    assert len(found.series.flow_rates_bit_s["film"]) == len(found.series.at_s)


def test_a_transfer_is_done_by_its_deadline() -> None:
    found = run_fluid(
        decode("""
        seconds = 50
        step_ms = 8
        links = [{name = "l", capacity = 10}]
        flows = [{}, {name = "file", reactor = {kind = "transfer", size_bytes = 10_000_000, deadline_s = 40}}]
        """)
    )
    file = found.flows[1]
    assert file.finished_s is not None
    assert file.finished_s <= 40
    assert 10_000_000 <= file.bytes_sent < 11_000_000


# -- how it is run -------------------------------------------------------------------------------------------------


def test_a_thousand_flows_are_a_bounded_number_of_steps() -> None:
    """No clock: on two cores each million of pairs and steps takes about 15 ms."""
    experiment = load(example("thousand-flows.toml"))
    pairs = sum(len(flow.path) for flow in experiment.flows)
    assert len(experiment.flows) == 1000
    assert len(experiment.links) == 100
    assert experiment.seconds / step_of(experiment) * (pairs + 3000) < 100_000_000
    found = run_fluid(load(example("thousand-flows.toml"), Overrides(seconds=15)))
    near = [abs(flow.rate_bit_s / (flow.expected_bit_s or 1) - 1) < 0.1 for flow in found.flows]
    assert sum(near) > 800


def test_what_would_take_days_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"seconds: 1e\+06 s in steps of"):
        run_fluid(decode('seconds = 1_000_000\nlinks = [{name = "l", capacity = 10}]\n[[flows]]\nrtt_ms = 0.1'))


def test_long_runs_say_how_far_they_are() -> None:
    lines: list[str] = []
    run_fluid(lot([10, 10]), progress=lines.append)
    assert lines[0] == "3 of 30 s"
    assert len(lines) == 9
