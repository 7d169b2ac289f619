"""Congestion marks: which rule a link gets, and the ECN field with scapy as the judge."""

from __future__ import annotations

import pytest
from gateway_network import (
    A_V4,
    A_V6,
    B_V4,
    B_V6,
    TO_B,
    Gateway,
    Y,
    fixed,
    header_of,
    named,
    parsed,
    plain,
    routes,
    to_gateway,
    to_host,
)
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from billpay.marking import Avq, Rem, VirtualQueue, VirtualRed
from gateway.marking import CE, ECT_0, ECT_1, NOT_ECT, is_ect, marking_of, with_ce
from gateway.plan import GatewayPlan, MarkingRule

ADDRESSES = [(A_V4, B_V4), (A_V6, B_V6)]
X = 64512


def ecn_of(packet: bytes) -> int:
    seen = parsed(packet)
    tos: int = seen.tos if isinstance(seen, IP) else seen.tc
    return tos & 3


@given(st.sampled_from(ADDRESSES), st.integers(0, 63), st.sampled_from([ECT_0, ECT_1]), st.booleans())
def test_ce_changes_two_bits_and_the_checksum(addresses: tuple[str, str], dscp: int, ecn: int, header: bool) -> None:
    packet = plain(*addresses, tos=dscp << 2 | ecn)
    if header:
        packet = named(packet, 20, by=X)
    marked = with_ce(packet)
    seen = parsed(packet if header else marked)
    assert isinstance(seen, IP | IPv6)
    marked_seen = (IP if isinstance(seen, IP) else IPv6)(marked)
    tos = marked_seen.tos if isinstance(marked_seen, IP) else marked_seen.tc
    assert tos == dscp << 2 | CE
    assert len(marked) == len(packet)
    changed = [at for at, (old, new) in enumerate(zip(packet, marked, strict=True)) if old != new]
    assert set(changed) <= ({1, 10, 11} if isinstance(seen, IP) else {1})
    assert header_of(marked) == header_of(packet)


@pytest.mark.parametrize("addresses", ADDRESSES)
def test_checksums_are_right_after_a_mark(addresses: tuple[str, str]) -> None:
    for tos in range(256):
        parsed(with_ce(plain(*addresses, tos=tos)))


@pytest.mark.parametrize("addresses", ADDRESSES)
@pytest.mark.parametrize(("ecn", "understands"), [(NOT_ECT, False), (ECT_0, True), (ECT_1, True), (CE, False)])
def test_only_ect_packets_can_be_marked(addresses: tuple[str, str], ecn: int, understands: bool) -> None:
    assert is_ect(plain(*addresses, tos=46 << 2 | ecn)) is understands


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (MarkingRule.NONE, type(None)),
        (MarkingRule.VIRTUAL_QUEUE, VirtualQueue),
        (MarkingRule.VIRTUAL_RED, VirtualRed),
        (MarkingRule.AVQ, Avq),
        (MarkingRule.REM, Rem),
    ],
)
def test_the_configuration_names_the_rule(rule: MarkingRule, kind: type) -> None:
    link = to_host("toB", 2, rate_bit_s=1_000_000, marking=rule)
    assert isinstance(marking_of(link, 30_000), kind)


def marking_gateway(rule: MarkingRule) -> Gateway:
    links = (
        to_gateway("toX", 1, X, toll=fixed(1)),
        to_host("toB", 2, toll=fixed(1), rate_bit_s=8_000_000, limit_bytes=60_000, marking=rule),
    )
    gateway = Gateway(GatewayPlan(as_number=Y, links=links, routes=routes(TO_B, "toB")), draw=lambda: 0.0)
    gateway.agree()
    return gateway


@pytest.mark.parametrize("rule", [rule for rule in MarkingRule if rule is not MarkingRule.NONE])
@pytest.mark.parametrize("addresses", ADDRESSES)
def test_an_overloaded_link_marks_and_an_idle_one_does_not(rule: MarkingRule, addresses: tuple[str, str]) -> None:
    gateway = marking_gateway(rule)
    packet = named(plain(*addresses, tos=ECT_0, size=900), 20, by=X)
    for _ in range(50):
        gateway.deliver("toX", packet)
        gateway.plane.advance(10_000_000)
    assert gateway.link_count("toB", "marked_packets") == 0
    for _ in range(400):
        gateway.deliver("toX", packet, packet)
        gateway.plane.advance(1_000_000)
    marked = gateway.link_count("toB", "marked_packets")
    assert marked > 0
    gateway.plane.drain()
    seen = [delivered.payload for delivered in gateway.plane.out]
    with_mark = [payload for payload in seen if (payload[1] if payload[0] >> 4 == 4 else payload[1] >> 4) & 3 == CE]
    assert 0 < len(with_mark) <= marked, "the rest of the marked ones was dropped"
    for payload in with_mark[:3]:
        assert header_of(payload) is not None
        bare = IP(payload) if payload[0] >> 4 == 4 else IPv6(payload)
        assert bytes(bare) == payload
    gateway.assert_conserved()


def test_what_does_not_understand_marks_gets_none() -> None:
    gateway = marking_gateway(MarkingRule.VIRTUAL_QUEUE)
    packet = plain(tos=46 << 2 | NOT_ECT, size=900)
    for _ in range(400):
        gateway.deliver("toX", packet, packet)
        gateway.plane.advance(1_000_000)
    gateway.plane.drain()
    assert gateway.link_count("toB", "marked_packets") == 0
    assert {delivered.payload for delivered in gateway.plane.out} == {packet}
