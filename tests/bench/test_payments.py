"""The bench of payments in the kernel: its arithmetic, its packets, and that its parts run. Its figures are its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bench.payments import delays, rates
from bench.payments.figures import figure_of, student_quantile
from bench.payments.gateway_part import EFFECT_PATIENCE_NS
from bench.payments.generator import Generator
from bench.payments.network import network
from bench.payments.packets import GATEWAY_AS, KEY, NEIGHBOUR_AS, Carries, Shape, heads
from bench.payments.parties import Parties
from bench.payments.plans import Role
from bench.payments.rates import Rates, Way
from billpay.header import Located, Malformed, base_and_slots, last_gateway_field, locate, mac_field
from billpay.mac import epoch_of, verify
from billpay.packet import flow_key

ETHERNET = bytes(range(12))
SHAPES = [Shape(family=family, size=size, flows=3) for family in (4, 6) for size in (64, 512, 1400)]


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (9, 2.2622), (10, 2.2281), (11, 2.2010), (30, 2.0423), (1000, 1.9623)]
)
def test_the_quantile_is_students(degrees: int, quantile: float) -> None:
    assert student_quantile(degrees) == pytest.approx(quantile, abs=2e-4)


def test_a_figure_is_median_mean_and_an_interval_of_the_mean() -> None:
    figure = figure_of([1.0, 2.0, 6.0])
    assert (figure.median, figure.mean, figure.rounds) == (2.0, 3.0, 3)
    assert figure.high - figure.mean == pytest.approx(4.3027 * 7**0.5 / 3**0.5)
    assert figure.mean - figure.low == pytest.approx(figure.high - figure.mean)
    assert figure_of([5.0]).low == figure_of([5.0]).high == 5.0


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_packets_carry_what_a_gateway_takes(shape: Shape) -> None:
    """The right MAC of the grant, or the neighbour's name; each of another flow; the size as named without a header."""
    for carries in Carries:
        made, size = heads(shape, carries, ETHERNET)
        packets = [made[at + 14 : at + size] + bytes(shape.payload_bytes) for at in range(0, len(made), size)]
        assert len({flow_key(packet) for packet in packets}) == shape.flows
        for packet in packets:
            found = locate(packet)
            assert not isinstance(found, Malformed)
            assert len(packet) == shape.size + (found.length if found else 0)
            assert (found is None) == (carries is Carries.NOTHING)
            if carries is Carries.MAC and isinstance(found, Located):
                key = flow_key(packet)
                assert key is not None
                verify(KEY, key, epoch_of(int(time.time())), base_and_slots(packet, found), mac_field(packet, found))
            if carries is Carries.NAME and isinstance(found, Located):
                assert mac_field(packet, found) == last_gateway_field(NEIGHBOUR_AS) != last_gateway_field(GATEWAY_AS)


@pytest.fixture(scope="module")
def measuring() -> Iterator[Rates]:
    with network() as built:
        parties = Parties(built, host_flows=200)
        yield Rates(network=built, generator=Generator(built), parties=parties, seconds=0.02)
        parties.close()


@pytest.mark.netns
@pytest.mark.parametrize(
    "way", [rates.PLAIN_HOST, rates.PLAIN, rates.EMPTY, rates.HOST, rates.FIRST, rates.QUEUED, rates.TRANSIT],
    ids=lambda way: way.name,
)  # fmt: skip
def test_each_way_passes_packets_and_all_of_them_are_paid(measuring: Rates, way: Way) -> None:
    shapes = (Shape(family=4, size=64, flows=200), Shape(family=6, size=512, flows=200))
    rows = measuring.measure(rounds=1, shapes=shapes, ways=(way,))
    passed = [row for row in rows if row.section == rates.RATES]
    assert len(passed) == len(shapes), rows
    for row in passed:
        assert row.figure is not None, row.note
        assert row.figure.mean > 0
        assert "unpaid" not in row.note
    counted = [row for row in rows if row.section == rates.COST]
    assert bool(counted) == bool(way.roles)


@pytest.mark.netns
def test_streams_and_round_trips_go_through_every_part(measuring: Rates) -> None:
    for row in (*rates.streams(measuring, rounds=1, seconds=0.05), *delays.round_trips(measuring, rounds=1, pings=50)):
        assert row.figure is not None, row
        assert not row.note


@pytest.mark.netns
@pytest.mark.exact
def test_a_price_is_paid_after_it_was_written(measuring: Rates) -> None:
    for row in delays.price_to_effect(measuring, rounds=1, trials=2):
        assert row.figure is not None, row.note
        assert 0 < row.figure.median < EFFECT_PATIENCE_NS / 1e6


def test_every_part_that_is_measured_has_a_name() -> None:
    assert {role for way in (*rates.WAYS, rates.NFQUEUE) for role in way.roles} == set(Role)
