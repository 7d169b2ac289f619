"""The other scenarios end to end: shared congestion, discovered paths, a legacy ISP in the middle, faults."""

from __future__ import annotations

import pytest
from lab_runs import Run, RunOnce

pytestmark = pytest.mark.netns

X, Y = 64512, 64513
ISP_WRITTEN = 0x800


@pytest.mark.row("BP-02", "BP-13")
@pytest.mark.exact
def test_equal_payments_share_alike_whatever_tcp_does(run_once: RunOnce) -> None:
    report = run_once("congested", seconds=23).report
    assert report.ok, report.shortfall
    for control in ("cubic", "bbr"):
        one, other = report.goodput_mbit_s[f"{control} one"], report.goodput_mbit_s[f"{control} other"]
        assert abs(one - other) < 0.15 * max(one, other)


def user_oads(run: Run, node: str, peer: str) -> set[tuple[int, int, int]]:
    """What hosts asked of ISPs in packets that left there."""
    return {
        slot for payment in run.payments(node, peer) for slot in payment.slots if slot[0] and not slot[1] & ISP_WRITTEN
    }


@pytest.mark.row("BP-22", "BP-23", "BP-24", "BP-25", "BP-28")
def test_a_host_asks_for_the_alternative_that_was_described_to_it(run_once: RunOnce) -> None:
    run = run_once("discovery", seconds=10)
    assert run.report.ok, run.report.shortfall
    assert (X, 0, 2) in user_oads(run, "A", "X")
    taken = {item.slots[0] for item in run.payments("Z", "B") if item.slots}
    assert taken == {(X, 0x803, 2)}


@pytest.mark.row("BP-46", "BP-47", "BP-48")
def test_a_call_pays_for_probes_of_all_ways_and_then_what_is_usual(run_once: RunOnce) -> None:
    run = run_once("discovery", seconds=10)
    left = run.payments("A", "X")
    call = [item for item in left if item.number is not None and item.number[0] == run.stream("call")]
    assert call[0].amount == 40, "all that it is worth, while nothing is known"
    assert min(item.amount for item in call) <= 7, "a toll of 2 and a tenth by Z, or of 6 by Y, once that is known"
    assert max(item.amount for item in left) == 40
    assert call[-1].slots[0] == (X, 0, 2), "the way that the cartographer chose"
    probes = [item for item in left if item.number is None and item.amount == 40]
    asked = {slot for item in probes for slot in item.slots if slot[0]}
    assert (X, 0, 2) in asked
    assert any(not any(slot[0] for slot in item.slots) for item in probes), "the default way, too"


@pytest.mark.row("BP-22", "BP-23", "BP-25", "BP-27", "BP-28")
def test_a_host_without_knowledge_marks_the_first_undesirable(run_once: RunOnce) -> None:
    run = run_once("discovery-unknown", seconds=10)
    assert run.report.ok, run.report.shortfall
    asked = user_oads(run, "A", "W")
    assert (X, 1 << 0, 0) in asked  # any other than alternative 1
    assert (X, 0, 2) in asked  # and then by its number
    assert {slot[0] for slot in asked} == {X}  # W and Z have no alternatives, so nothing is asked of them


@pytest.mark.row("BP-10")
def test_who_downloads_pays_and_the_server_puts_it_all_into_the_content(run_once: RunOnce) -> None:
    run = run_once("receiver-pays")
    report = run.report
    assert report.ok, report.shortfall
    assert report.goodput_mbit_s["paid for"] > 2 * report.goodput_mbit_s["unpaid"]
    by_hop = {(link.sender, link.receiver): link for link in report.links}
    brought, content = by_hop["Y", "B"], by_hop["B", "Y"]
    share = 1 * brought.packets
    one_packet = 40 - 2  # what X and Y leave of it
    assert content.packets > brought.packets > 300, "it is paid for as long as the connection lasts, and spread"
    left = brought.received_nanodollars - share - content.sent_nanodollars
    assert 0 <= left <= 10 * one_packet, "what came with the last acknowledgements, which nothing answers"


@pytest.mark.row("BP-51")
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_a_legacy_isp_is_crossed_by_the_tunnel_and_takes_nothing(run_once: RunOnce, ipv6: bool) -> None:
    run = run_once("partial", ipv6=ipv6, seconds=9)
    assert run.report.ok, run.report.shortfall
    into, out = run.payments("X", "L"), run.arrivals("Y", "L")
    assert into
    assert all(payment.tunnelled for payment in into + out)
    before = {item.number: item.amount for item in into if item.number is not None}
    behind = {item.number: item.amount for item in out if item.number is not None}
    assert behind
    assert all(before[number] == amount for number, amount in behind.items())


@pytest.mark.row("BP-35")
@pytest.mark.parametrize("seconds", [14, pytest.param(None, marks=pytest.mark.deep)], ids=["short", "100000-packets"])
def test_loss_reordering_and_a_killed_gateway_leave_nothing_unexplained(run_once: RunOnce, seconds: int | None) -> None:
    run = run_once("faults", seconds=seconds)
    report = run.report
    assert report.ok, report.shortfall
    assert report.conservation_error_nanodollars == 0
    assert any("SIGKILL" in event for event in report.events)
    assert any(wire.lost for wire in report.wires)
    assert any(wire.reordered for wire in report.wires)
    lost = {(line.sender, line.receiver) for line in report.losses if line.kind == "loss"}
    assert ("X", "Y") in lost
    by_hop = {(link.sender, link.receiver): link for link in report.links}
    for hop, link in by_hop.items():
        assert link.counted_by_from is not None
        assert link.counted_by_to is not None
        signs = {"loss": 1, "withdrawn": 1, "found": -1, "excess": -1}
        named = sum(
            signs[line.kind] * line.nanodollars for line in report.losses if (line.sender, line.receiver) == hop
        )
        assert link.counted_by_from - link.counted_by_to == named, hop
