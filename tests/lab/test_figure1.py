"""Figure 1 of the Bill-Pay paper on real packets, over IPv4 and IPv6, with and without congestion."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from lab_runs import Run, Runs, Wanted, checksums_hold

pytestmark = [pytest.mark.netns, pytest.mark.exact]

CONGESTED = (20, 19, 9, 8, 7, 6)
QUIET = (20, 19, 18, 17, 16, 15)
BOTH = (Wanted("figure1", False, 14), Wanted("figure1", True, 14))
LINKS = [("A", "X"), ("X", "Y"), ("Y", "B"), ("B", "Z"), ("Z", "X"), ("X", "A")]


@pytest.fixture(scope="module")
def runs(run_once: Runs) -> Runs:
    """Both are made at once: a bottleneck is of 10 Mbit/s, and most of the time of each is waiting."""
    run_once.side_by_side(*BOTH)
    return run_once


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def run(request: pytest.FixtureRequest, runs: Runs) -> Run:
    name, ipv6, seconds = BOTH[request.param]
    return runs(name, ipv6=ipv6, seconds=seconds)


@pytest.mark.expectation(4)
def test_everything_that_the_scenario_expects_holds(run: Run) -> None:
    assert run.report.ok, run.report.shortfall


@pytest.mark.row("BP-01", "BP-05", "BP-11", "BP-12", "BP-14")
def test_scapy_sees_the_figures_amounts_on_every_link(run: Run) -> None:
    for exchange, amounts in (
        ("before congestion", QUIET),
        ("under congestion", CONGESTED),
        ("after congestion", QUIET),
    ):
        followed = run.followed(run.stream(exchange))
        assert followed.most_common(1)[0][0] == amounts, exchange


@pytest.mark.row("BP-05", "BP-06", "BP-07")
def test_the_report_says_who_owes_what_for_the_packet(run: Run) -> None:
    document = json.loads(run.report.to_json())
    assert document["packet"] == {
        "amounts_nanodollars": list(CONGESTED),
        "retained": {"X": 2, "Y": 10, "B": 1, "Z": 1},
        "owed_by_A": 14,
    }
    assert document["ip"] == run.report.ip


@pytest.mark.row("BP-35", "BP-07")
def test_taps_books_and_scapy_agree_on_every_link(run: Run) -> None:
    assert run.report.conservation_error_nanodollars == 0
    by_hop = {(link.sender, link.receiver): link for link in run.report.links}
    for hop in LINKS:
        link = by_hop[hop]
        assert link.counted_by_from == link.sent_nanodollars == run.paid_by(*hop) > 0
        assert link.counted_by_to == link.received_nanodollars == link.sent_nanodollars


@pytest.mark.row("BP-35")
def test_debts_are_settled_exactly_at_the_threshold(run: Run) -> None:
    threshold = run.plan.scenario.settlement_threshold_nanodollars
    made = [item for item in run.report.settlements if item.reason == "threshold"]
    assert made
    assert {item.nanodollars for item in made} == {threshold}
    owed = {(item.debtor, item.creditor): item.nanodollars for item in run.report.balances}
    for hop, debt in owed.items():
        settled = sum(item.nanodollars for item in made if (item.debtor, item.creditor) == hop)
        assert 0 <= debt - settled < threshold, hop


@pytest.mark.row("BP-02", "BP-03", "BP-13")
def test_the_paying_transfer_gets_at_least_three_times_as_much(run: Run) -> None:
    goodput = run.report.goodput_mbit_s
    assert goodput["paying"] >= 3 * goodput["unpaid"]
    assert goodput["paying"] > 5


def test_every_packet_has_right_lengths_and_checksums(run: Run) -> None:
    """On every link some hundred of those with a header, and of the others."""
    for node, peer in LINKS:
        wrong = [data.hex() for data in islice(run.frames(node, peer), 100, 4000, 13) if not checksums_hold(data)]
        assert wrong == [], (node, peer)


@pytest.mark.row("BP-23", "BP-33")
def test_the_gateways_write_their_oads_where_there_is_room(run: Run) -> None:
    """X offers two alternatives and shows both, and that it took the first; Y has one."""
    seen = [item.slots for item in run.payments("Y", "B") if item.number is not None and item.slots]
    assert seen
    assert {slots[:2] for slots in seen} == {((64512, 0x803, 1), (64513, 0x801, 1))}


@pytest.mark.row("BP-15")
def test_without_congestion_payment_changes_nothing_and_costs_the_fixed_tolls(run_once: Runs) -> None:
    quiet = run_once("figure1-quiet", seconds=8)
    assert quiet.report.ok, quiet.report.shortfall
    assert quiet.followed(quiet.stream("quiet")).most_common(1)[0][0] == QUIET
    kept = {node.node: node.retained_nanodollars for node in quiet.report.nodes}
    by_hop = {(link.sender, link.receiver): link for link in quiet.report.links}
    assert kept["Y"] == by_hop["Y", "B"].packets + by_hop["Y", "X"].packets > 0
