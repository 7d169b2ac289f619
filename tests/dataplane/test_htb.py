"""The numbers of a tree: what is guaranteed, what is borrowed, and what a packet counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.shaping.htb import (
    CONTROL_PART,
    FLOW_LEAVES,
    LINK_MINOR,
    UNKNOWN_LINK_BIT_S,
    Direction,
    HtbTree,
    build_size_table,
    build_tree,
    flow_leaf_minor,
    leaf_minor,
    needs_tree,
    parent_minor,
)
from dataplane.shaping.plan import CLASSES_MAX, CONTROL, DEFAULT, NO_SHAPING, ShapedLink, ShapingPlan, TrafficClass

RATES = st.integers(64_000, 400_000_000_000)
CLASSES = st.lists(
    st.builds(
        TrafficClass,
        name=st.just("a"),
        cap_bit_s=st.none() | RATES,
        flow_cap_bit_s=st.none() | RATES,
        minimum_bit_s=st.just(0) | RATES,
        weight=st.integers(1, 1000),
    ),
    min_size=2,
    max_size=CLASSES_MAX,
).map(tuple)


def tree_of(*classes: TrafficClass, egress: int | None = None, mtu: int = 1500) -> HtbTree:
    plan = ShapingPlan(classes=(*NO_SHAPING.classes, *classes))
    return build_tree(plan, ShapedLink(interface="a", egress_bit_s=egress), Direction.EGRESS, mtu=mtu)


def rates_of(tree: HtbTree) -> list[int]:
    return [each.rate_bit_s for each in tree.classes if each.parent == LINK_MINOR]


@given(CLASSES, st.none() | RATES, st.integers(68, 65535))
def test_no_more_is_guaranteed_than_there_is(classes: tuple[TrafficClass, ...], rate: int | None, mtu: int) -> None:
    link = ShapedLink(interface="a", egress_bit_s=rate)
    tree = build_tree(ShapingPlan(classes=classes), link, Direction.EGRESS, mtu=mtu)
    by_minor = {each.minor: each for each in tree.classes}
    assert len(by_minor) == len(tree.classes)
    seen = {0}
    for each in tree.classes:
        assert each.parent in seen, "a class comes after its parent"
        seen.add(each.minor)
        assert 8 <= each.rate_bit_s <= each.ceil_bit_s <= (rate or UNKNOWN_LINK_BIT_S)
        assert each.rate_bit_s % 8 == each.ceil_bit_s % 8 == 0
        assert 0 < each.burst_bytes <= each.cburst_bytes < 1 << 32
        assert 0 < each.quantum_bytes <= 60_000
        children = [child for child in tree.classes if child.parent == each.minor]
        assert (each.queue_bytes is None) == bool(children)
        assert sum(child.rate_bit_s for child in children) <= each.rate_bit_s
        assert each.parent == 0 or parent_minor(each.minor) == each.parent
    for index, traffic_class in enumerate(classes):
        node = by_minor[leaf_minor(index)]
        assert node.ceil_bit_s <= (traffic_class.cap_bit_s or rate or UNKNOWN_LINK_BIT_S)
        for n in range(FLOW_LEAVES if traffic_class.flow_cap_bit_s else 0):
            assert by_minor[flow_leaf_minor(index, n)].ceil_bit_s <= (traffic_class.flow_cap_bit_s or 0)


@given(CLASSES, RATES)
def test_a_minimum_that_the_link_has_is_guaranteed(classes: tuple[TrafficClass, ...], rate: int) -> None:
    link = ShapedLink(interface="a", ingress_bit_s=rate)
    tree = build_tree(ShapingPlan(classes=classes), link, Direction.INGRESS)
    promised = [min(each.minimum_bit_s, each.cap_bit_s or rate, rate) for each in classes]
    if sum(promised) + 1000 * len(classes) <= rate:
        assert all(got > wanted - 8 for got, wanted in zip(rates_of(tree), promised, strict=True))


def test_what_is_left_is_divided_by_weight_after_the_first_call_of_control_traffic() -> None:
    tree = tree_of(TrafficClass(name="a", weight=3, minimum_bit_s=20_000_000), egress=100_000_000)
    control, default, heavy = rates_of(tree)
    first = 80_000_000 // CONTROL_PART
    assert control == pytest.approx(first, rel=1e-3)
    assert default == pytest.approx((80_000_000 - first) / 4, rel=1e-3)
    assert heavy == pytest.approx(20_000_000 + (80_000_000 - first) * 3 / 4, rel=1e-3)
    assert [each.prio for each in tree.classes if each.parent == LINK_MINOR] == [0, 1, 1]
    assert all(each.ceil_bit_s == 100_000_000 for each in tree.classes)


def test_what_a_cap_keeps_from_one_goes_to_the_others() -> None:
    tree = tree_of(TrafficClass(name="a", cap_bit_s=1_000_000), TrafficClass(name="b"), egress=100_000_000)
    control, default, capped, other = rates_of(tree)
    assert capped == 1_000_000
    assert default == other == pytest.approx((99_000_000 - control) / 2, rel=1e-3)
    assert control + default + capped + other <= 100_000_000


def test_of_an_unknown_link_only_minimums_are_guaranteed() -> None:
    """Else the link's own queue would hold back the minimums of some for the shares of others."""
    tree = tree_of(TrafficClass(name="a", cap_bit_s=8_000_000), TrafficClass(name="b", minimum_bit_s=5_000_000))
    assert rates_of(tree) == [800, 800, 800, 5_000_000]
    assert [each.ceil_bit_s for each in tree.classes if each.parent == LINK_MINOR][2] == 8_000_000


def test_turns_are_as_long_as_the_weights_and_as_short_as_packets_allow() -> None:
    tree = tree_of(TrafficClass(name="a", weight=4), egress=10_000_000)
    assert [each.quantum_bytes for each in tree.classes[2:]] == [1514, 6056]
    fast = tree_of(TrafficClass(name="a", weight=4), egress=10_000_000_000)
    assert [each.quantum_bytes for each in fast.classes[2:]] == [15_000, 60_000]


def test_queues_bursts_and_packets_are_short() -> None:
    tree = tree_of(TrafficClass(name="a", cap_bit_s=64_000), TrafficClass(name="b", cap_bit_s=40_000_000))
    default, slow, fast = tree.classes[2:5]
    assert (slow.queue_bytes, fast.queue_bytes, default.queue_bytes) == (96_000, 500_000, 4_000_000)
    assert (slow.cburst_bytes, fast.cburst_bytes) == (32, 20_000)
    assert (slow.longest_packet_bytes, fast.longest_packet_bytes, default.longest_packet_bytes) == (1522, 5_000, 0)


def test_each_flow_of_a_class_has_a_leaf() -> None:
    tree = tree_of(TrafficClass(name="a", cap_bit_s=8_000_000, flow_cap_bit_s=2_000_000), egress=16_000_000)
    minors = [each.minor for each in tree.classes]
    assert minors == [1, 0x10, 0x11, 0x12, *range(0x1020, 0x1030)]
    assert {each.ceil_bit_s for each in tree.classes[4:]} == {2_000_000}
    assert {each.parent for each in tree.classes[4:]} == {0x12}


def test_which_links_are_left_alone() -> None:
    bare, rated = ShapedLink(interface="a"), ShapedLink(interface="a", ingress_bit_s=1_000_000)
    both = (Direction.EGRESS, Direction.INGRESS)

    def needs(link: ShapedLink, **wishes: int) -> list[bool]:
        plan = ShapingPlan(classes=(*NO_SHAPING.classes, TrafficClass(name="a", **wishes)))  # type: ignore[arg-type]
        return [needs_tree(plan, link, direction) for direction in both]

    assert needs(bare) == needs(bare, weight=7) == [False, False]
    assert needs(rated) == [False, True]
    assert needs(bare, minimum_bit_s=64_000) == [True, False]
    assert needs(bare, cap_bit_s=64_000) == needs(bare, flow_cap_bit_s=64_000) == [True, True]


def test_control_and_default_have_the_first_two_leaves() -> None:
    assert (leaf_minor(CONTROL), leaf_minor(DEFAULT)) == (0x10, 0x11)


def counted(length: int, *, mtu: int = 1500, header: int = 14) -> int:
    """As the kernel looks it up."""
    table = build_size_table(mtu, header)
    slot, size = length >> table.cell_log, len(table.sizes)
    units = table.sizes[slot] if slot < size else table.sizes[-1] * (slot // size) + table.sizes[slot % size]
    return units << table.size_log


@pytest.mark.parametrize("ip", [40, 100, 101, 576, 1499, 1500])
def test_a_packet_counts_its_bytes_at_the_ip_layer(ip: int) -> None:
    assert abs(counted(ip + 14) - ip) <= 1
    assert abs(counted(ip, header=0) - ip) <= 1


@pytest.mark.parametrize("segments", [2, 10, 43])
def test_a_packet_that_becomes_segments_counts_their_headers(segments: int) -> None:
    """On a wire each of them has 52 bytes of header."""
    whole = 52 + segments * 1448
    assert abs(counted(14 + whole) - segments * 1500) <= 2


def test_the_longest_packet_counts_about_what_it_is() -> None:
    assert counted(14 + 65_535) == pytest.approx(65_535 + 45 * 52, rel=0.01)
    assert counted(14 + 65_535, mtu=65_535) == pytest.approx(65_535, rel=0.01)


def test_sizes_fit_into_the_kernel_table() -> None:
    for mtu in (68, 576, 1500, 65_535):
        table = build_size_table(mtu, 0)
        assert 1 <= min(table.sizes) <= max(table.sizes) < 1 << 16
        assert 2 * len(table.sizes) + 4 < 1 << 16, "one attribute"
