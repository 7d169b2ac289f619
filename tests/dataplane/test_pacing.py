"""The classes of paced flows: their numbers, and that they live in the tree beside the plan's, in nobody's way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netns import Namespace, connect

from billpay.errors import EnvironmentFault
from dataplane.shaping import pacing
from dataplane.shaping.htb import HANDLE, LINK_MINOR, Direction, build_tree
from dataplane.shaping.pacing import PACED_MINOR, Pace, plan_class
from dataplane.shaping.plan import NO_SHAPING, ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.trafficcontrol import TrafficControl

Result = TypeVar("Result")
TCP, UDP = 6, 17
OPEN = ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="left"),))
LIMITED = ShapingPlan(
    classes=(*NO_SHAPING.classes, TrafficClass(name="a")),
    links=(ShapedLink(interface="left", egress_bit_s=20_000_000),),
)
LEFT = frozenset({"left"})
TOO_SLOW = Pace(4, UDP)
"""Which the kernel refuses."""


@given(st.integers(8_000, 400_000_000_000), st.sampled_from((TCP, UDP)), st.sampled_from((576, 1500, 9000, 65_535)))
def test_the_numbers_of_a_class(bit_s: int, protocol: int, mtu: int) -> None:
    each = plan_class(Pace(bit_s, protocol), mtu=mtu, header_bytes=14)
    assert each.rate_bit_s == each.ceil_bit_s
    assert 0.999 <= each.ceil_bit_s / min(bit_s, pacing.NO_PACE_BIT_S) <= 1.03
    assert each.burst_ns >= pacing.BURST_NS
    assert each.longest_packet_bytes > mtu
    assert each.queue_bytes >= 4 * mtu
    if protocol == UDP:
        waits_ns = each.queue_bytes * 8 * 10**9 // bit_s
        assert waits_ns <= max(2 * pacing.QUEUE_NS, 4 * (mtu + 14) * 8 * 10**9 // bit_s) + 1
    pacing.class_message(1, PACED_MINOR, each).pack_body()
    pacing.queue_message(1, PACED_MINOR, each, can_segment=True).pack_body()


@given(st.lists(st.integers(8_000, 10**9), min_size=1, max_size=20), st.integers(64_000, 10**9))
def test_what_is_promised_to_everybody_is_not_more_than_a_known_link_has(paces: list[int], link_bit_s: int) -> None:
    total = sum(paces)
    planned = [
        plan_class(Pace(each, UDP), mtu=1500, header_bytes=14, link_bit_s=link_bit_s, all_bit_s=total) for each in paces
    ]
    plan = ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="left", egress_bit_s=link_bit_s),))
    reserved = pacing.reserve(total, link_bit_s)
    tree = build_tree(plan, plan.links[0], Direction.EGRESS, reserved_bit_s=reserved)
    promised = sum(each.rate_bit_s for each in tree.classes if each.parent == LINK_MINOR)
    assert sum(each.rate_bit_s for each in planned) <= reserved + 8 * len(paces)
    assert promised + reserved <= link_bit_s + 8
    assert all(each.ceil_bit_s <= link_bit_s for each in planned)


def test_without_paced_flows_nothing_is_kept_for_them() -> None:
    assert pacing.reserve(0, 10**6) == pacing.reserve(10**6, None) == 0


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace() as one:
        connect(one, "left", one, "other", offloads=True)
        yield one


@pytest.mark.netns
def test_paced_classes_live_beside_the_plans_and_go_without_a_trace(namespace: Namespace, tmp_path: Path) -> None:
    control = TrafficControl(tmp_path / "record.json")

    def call(function: Callable[[], Result]) -> Result:
        return namespace.call(function)

    def classes() -> dict[int, str]:
        lines = namespace.run("tc", "class", "show", "dev", "left").splitlines()
        found = (re.match(rf"class htb {HANDLE:x}:(\w+) (.*)", line) for line in lines)
        return {int(each[1], 16): each[2] for each in found if each}

    def paced() -> dict[int, str]:
        return {minor: text for minor, text in classes().items() if minor in pacing.PACED_MINORS}

    before = namespace.run("tc", "qdisc", "show")
    shapes = call(lambda: control.apply(OPEN, paced=LEFT))
    assert not shapes["left"].egress, "what is in no class of its own is not given to the tree"
    flows = {PACED_MINOR: Pace(5_000_000, TCP), PACED_MINOR + 255: Pace(1_000_000, UDP)}
    call(lambda: control.pace({"left": flows}))
    assert paced().keys() == flows.keys()
    assert "rate 1Mbit ceil 1Mbit" in paced()[PACED_MINOR + 255]
    assert namespace.run("tc", "qdisc", "show", "dev", "left").count("tbf") >= 2
    assert call(lambda: control.repace({"left": {PACED_MINOR + 255: Pace(2_000_000, UDP)}}))
    assert "rate 2Mbit ceil 2Mbit" in paced()[PACED_MINOR + 255]
    call(lambda: control.apply(LIMITED, paced=LEFT))
    call(control.drop_unused)
    assert paced().keys() == flows.keys(), "another plan leaves them alone"
    assert all(text.startswith(f"parent {HANDLE:x}:{LINK_MINOR}") for text in paced().values())
    assert not control.needs_change(LIMITED)
    call(lambda: control.pace({"left": {PACED_MINOR: Pace(10_000_000, UDP)}}))
    assert control.needs_change(LIMITED), "a link that is known keeps something for them"
    call(lambda: control.apply(LIMITED, paced=LEFT))
    assert not control.needs_change(LIMITED)
    assert "rate 10Mbit" in paced()[PACED_MINOR]
    assert list(paced()) == [PACED_MINOR]
    assert not call(lambda: control.repace({"left": {PACED_MINOR: Pace(19_000_000, UDP)}})), "all have to be said again"
    with pytest.raises(EnvironmentFault):
        call(lambda: control.pace({"left": {PACED_MINOR: Pace(3_000_000, UDP), PACED_MINOR + 1: TOO_SLOW}}))
    assert "rate 10Mbit" in paced()[PACED_MINOR], "as they were"
    call(lambda: control.pace({}))
    assert not paced()
    call(lambda: control.apply(OPEN))
    call(control.drop_unused)
    assert namespace.run("tc", "qdisc", "show") == before
    call(control.restore)
