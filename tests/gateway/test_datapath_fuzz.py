"""Whatever arrives, each packet gets exactly one verdict, nothing is raised, and no picodollar is lost or made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from gateway_network import (
    A_V4,
    A_V6,
    B_V4,
    B_V6,
    FREE,
    KEY,
    MS,
    OTHER_KEY,
    TO_A,
    TO_B,
    Gateway,
    X,
    Y,
    Z,
    fixed,
    grant_for,
    named,
    paying,
    plain,
    routes,
    segment,
    to_gateway,
    to_host,
    to_legacy,
)
from hypothesis import given
from hypothesis import strategies as st

from billpay.header import Slot, user_oad
from billpay.tolls import EgressToll
from dataplane.port import Action, Inject, Packet, Verdict
from gateway.commands import SetLink
from gateway.egress import LinkState
from gateway.plan import GatewayPlan, LinkPlan, MarkingRule

ADDRESSES = [(A_V4, B_V4), (A_V6, B_V6), (B_V4, A_V4), (B_V6, A_V6), (A_V4, "10.0.3.1")]
TUNNEL = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
INTERFACES = range(6)


def everything() -> GatewayPlan:
    """A gateway with all that a link can have."""
    busy: dict[str, Any] = {"rate_bit_s": 2_000_000, "limit_bytes": 12_000}
    toll = fixed(1, fixed_picodollars_per_byte=7, proportional_ppm=33_333, cap_nanodollars=12)
    links: tuple[LinkPlan, ...] = (
        to_host("toA", 1, toll=toll, **busy),
        to_gateway("toY", 2, Y, toll=toll, congestion=True, marking=MarkingRule.VIRTUAL_QUEUE, **busy),
        to_gateway("toZ", 3, Z, toll=fixed(2), tunnel=TUNNEL, **busy),
        to_legacy("out", 4, toll=fixed(1), **busy),
    )
    ways = routes(TO_A, "toA") + routes(TO_B, "toY", "toZ") + routes(("10.0.3.0/24",), "out", "toY")
    return GatewayPlan(as_number=X, links=links, routes=ways)


def gateway_with_everything(seed: int) -> Gateway:
    gateway = Gateway(everything(), draw=random.Random(seed).random)
    gateway.agree()
    gateway.open("toA", grant_for(A_V4, rate=10**5, burst=5_000, cap=10**6))
    gateway.open("toA", grant_for(A_V6, grant="0" * 31 + "7", cap=10**4))
    tunnel = gateway.core.links["toZ"].tunnel
    assert tunnel is not None
    tunnel.heard_ns = gateway.plane.now_ns
    return gateway


def random_packet(draw: random.Random) -> bytes:
    """Mostly sound, from anyone to anyone, with and without a header that may or may not pay."""
    source, destination = draw.choice(ADDRESSES)
    more = {"sport": draw.randrange(8), "dport": draw.choice((80, 7414, 5004))}
    build = draw.choice(("plain", "plain", "segment"))
    if build == "segment":
        packet = segment(source, destination, **more)
    else:
        size, tos = draw.choice((0, 40, 500, 1400)), draw.choice((0, 2, 3))
        packet = plain(source, destination, **more, size=size, ttl=draw.choice((1, 2, 64)), tos=tos)
    amount = draw.choice((0, 1, 3, 10, 20, 999, 2_000_000))
    wish = draw.choice((FREE, user_oad(X, choice=2), user_oad(X, undesirable=[1]), Slot(Y, 3, 1)))
    slots = [wish] * draw.randrange(3)
    kind = draw.randrange(8)
    if kind == 0:
        return packet
    if kind == 1:
        return named(packet, amount, *slots, by=draw.choice((0, X, Y, Z)))
    if kind in (2, 3):
        return named(packet, amount, *slots, by=Y)
    return paying(packet, amount, *slots, key=OTHER_KEY if kind == 4 else KEY)


@pytest.mark.row("BP-09")
@pytest.mark.parametrize("seed", range(4))
def test_money_is_conserved_to_the_picodollar(seed: int) -> None:
    """Random traffic, grants, rates, drops, defaults and agreements; checked after every batch."""
    draw = random.Random(seed)
    gateway = gateway_with_everything(seed)
    packets = [random_packet(draw) for _ in range(300)]
    delivered = 0
    watch = Watch(gateway)
    for turn in range(400):
        batch = draw.choices(packets, k=draw.randrange(1, 25))
        gateway.deliver(draw.choice(("toA", "toA", "toY", "toZ", "out")), *batch)
        delivered += len(batch)
        gateway.assert_conserved()
        gateway.plane.advance(draw.randrange(20) * MS)
        gateway.assert_conserved()
        watch.check()
        if turn % 50 == 49:
            link = draw.choice(("toA", "toY", "toZ"))
            gateway.ask(SetLink(link=link, agreed=draw.random() < 0.7, in_default=draw.random() < 0.3))
        if turn % 90 == 89:
            again = Gateway(everything(), draw=gateway.core._draw, counters=gateway.counters)
            again.agree()
            again.open("toA", grant_for(A_V4, rate=10**5, burst=5_000, cap=10**6))
            gateway, delivered = again, 0
            watch = Watch(gateway)
    gateway.plane.advance(1000 * MS)
    assert gateway.sums().waiting == 0, "all queues have run empty"
    assert gateway.plane.held == {}
    sums = gateway.sums()
    assert min(sums.received, sums.sent, sums.retained, sums.kept) > 0, "the test has tested something"
    answered = [out for out in gateway.plane.out if out.queue is not None]
    assert len(answered) + len(gateway.plane.dropped) == delivered


class Metered(EgressToll):
    """The link's toll, and beside its counters all that it ever took."""

    def __init__(self, link: LinkState) -> None:
        super().__init__(link.plan.toll, carry_picodollars=link.toll.carry_picodollars)
        self.taken_picodollars = 0

    def retain(self, toll_picodollars: int, amount_nanodollars: int, segments: int = 1) -> int:
        self.taken_picodollars += min(toll_picodollars, amount_nanodollars * segments * 1000)
        return super().retain(toll_picodollars, amount_nanodollars, segments)


class Watch:
    """What the tolls took is what was retained and what is in the carry, exactly."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._before = {name: self._booked(name) for name in gateway.core.links}
        self._meters = {name: Metered(link) for name, link in gateway.core.links.items()}
        for name, link in gateway.core.links.items():
            link.toll = self._meters[name]

    def check(self) -> None:
        for name, meter in self._meters.items():
            assert meter.taken_picodollars == self._booked(name) - self._before[name]
            assert 0 <= self._gateway.link_count(name, "carry_picodollars") < 20_000

    def _booked(self, link: str) -> int:
        count = self._gateway.link_count
        return count(link, "retained_nanodollars") * 1000 + count(link, "carry_picodollars")


# --- anything at all -------------------------------------------------------------------------------------------------


def turns(gateway: Gateway, packets: Sequence[bytes], interface: int) -> list[Action]:
    """One batch, some time, and a stop; without the fake's own checks."""
    core = gateway.core
    batch = [Packet(number, 0, interface, 0, payload, False) for number, payload in enumerate(packets)]
    now = gateway.plane.now_ns
    actions = list(core.on_batch(batch, now))
    actions += core.on_timer(now + 5 * MS)
    core.take_events()
    actions += core.on_drain(now + 6 * MS)
    return actions


def assert_one_verdict_each(actions: Sequence[Action], packets: Sequence[bytes]) -> None:
    verdicts = [action for action in actions if isinstance(action, Verdict)]
    assert sorted(verdict.packet_id for verdict in verdicts) == list(range(len(packets)))
    for verdict in verdicts:
        if verdict.payload is not None:
            assert verdict.accept
            assert verdict.payload[0] >> 4 == packets[verdict.packet_id][0] >> 4
    assert all(action.payload for action in actions if isinstance(action, Inject))


@given(
    st.lists(
        st.binary(max_size=120)
        | st.builds(
            lambda head, rest: head + rest,
            st.sampled_from([b"\x45\x00", b"\x48\x00", b"\x4f\x00", b"\x60\x00", b"\x50\x00", b""]),
            st.binary(min_size=18, max_size=200),
        ),
        max_size=10,
    ),
    st.sampled_from(INTERFACES),
)
def test_any_bytes(packets: list[bytes], interface: int) -> None:
    actions = turns(gateway_with_everything(1), packets, interface)
    assert_one_verdict_each(actions, packets)


@st.composite
def damaged_packets(draw: st.DrawFn) -> bytes:
    packet = bytearray(random_packet(random.Random(draw(st.integers(0, 10_000)))))
    how = draw(st.sampled_from(("bytes", "cut", "longer", "two headers")))
    if how == "bytes":
        for _ in range(draw(st.integers(1, 6))):
            packet[draw(st.integers(0, min(len(packet), 90) - 1))] = draw(st.integers(0, 255))
    elif how == "cut":
        del packet[draw(st.integers(0, len(packet))) :]
    elif how == "longer":
        packet += draw(st.binary(min_size=1, max_size=40))
    elif packet[0] >> 4 == 4:
        words = packet[0] & 15
        if words <= 8:  # the options once more
            options = packet[20 : words * 4]
            packet[20:20] = options
            packet[0] = 0x40 | words + len(options) // 4
            packet[2:4] = len(packet).to_bytes(2, "big")
    else:
        packet[40:40] = packet[40:56]
        packet[4:6] = (len(packet) - 40).to_bytes(2, "big")
    return bytes(packet)


@given(st.lists(damaged_packets(), min_size=1, max_size=8), st.sampled_from(INTERFACES))
def test_damaged_packets(packets: list[bytes], interface: int) -> None:
    gateway = gateway_with_everything(2)
    actions = turns(gateway, packets, interface)
    assert_one_verdict_each(actions, packets)
    gateway.counters.begin(0)
    gateway.counters.commit()
    gateway.assert_conserved()


@given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(INTERFACES)), min_size=1, max_size=30))
def test_every_sound_packet_gets_one_verdict(script: list[tuple[int, int]]) -> None:
    gateway = gateway_with_everything(3)
    packets = [random_packet(random.Random(seed)) for seed, _ in script]
    now = gateway.plane.now_ns
    batch = [
        Packet(number, 0, interface, 0, payload, False)
        for number, (payload, (_, interface)) in enumerate(zip(packets, script, strict=True))
    ]
    actions = list(gateway.core.on_batch(batch, now))
    for step in range(5):
        actions += gateway.core.on_timer(now + step * 20 * MS)
    actions += gateway.core.on_drain(now)
    assert_one_verdict_each(actions, packets)
