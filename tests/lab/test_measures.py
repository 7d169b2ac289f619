"""What counts as explained: taps, books and named losses of small made-up runs."""

from __future__ import annotations

import pytest

from lab.books import LinkCount, LossLine, NodeBooks
from lab.findings import findings_of
from lab.measures import Tallies, balances, exchange_result, followed_packet, named_losses, unexplained
from lab.outcome import make_report
from lab.plan import make_plan
from lab.report import LinkResult, Report
from lab.scenarios import find_scenario
from lab.steps import Outcome
from lab.taps import EndReport, TallyReport, TapReport
from lab.traffic import Counted


def link(
    sender: str = "A", receiver: str = "X", *, counts: tuple[int, int, int, int] = (100, 100, 100, 100), drops: int = 0
) -> LinkResult:
    """`counts`: by the payer's books, sent, received, by the payee's books."""
    return LinkResult(
        sender=sender,
        receiver=receiver,
        sent_nanodollars=counts[1],
        received_nanodollars=counts[2],
        counted_by_from=counts[0],
        counted_by_to=counts[3],
        packets=5,
        passed_packets=0,
        queue_drops=drops,
    )


def loss(nanodollars: int, kind: str = "loss", *, interval: int = 3) -> LossLine:
    return LossLine(sender="A", receiver="X", interval=interval, nanodollars=nanodollars, kind=kind)


def count(node: str, peer: str, sent: int, received: int) -> LinkCount:
    return LinkCount(node=node, peer=peer, sent_nanodollars=sent, received_nanodollars=received)


def gateway(*links: LinkCount, retained: int, kept: int = 0) -> NodeBooks:
    return NodeBooks(node="X", is_gateway=True, links=links, retained_nanodollars=retained, kept_nanodollars=kept)


def host(*, received: int, sent: int, share: int, returned: int, in_hand: int = 0, refunded: int = 0) -> NodeBooks:
    return NodeBooks(
        node="B",
        is_gateway=False,
        links=(count("B", "X", sent, received),),
        retained_nanodollars=share,
        kept_nanodollars=0,
        in_hand_nanodollars=in_hand,
        returned_nanodollars=returned,
        refunded_nanodollars=refunded,
    )


@pytest.mark.row("BP-35")
@pytest.mark.parametrize(
    ("counts", "losses", "drops", "error"),
    [
        ((100, 100, 100, 100), [], 0, 0),
        ((100, 100, 90, 90), [loss(10)], 0, 0),  # a lossy wire, named
        ((100, 100, 90, 90), [], 0, 10),  # not named
        ((100, 100, 90, 90), [loss(10), loss(4, interval=5), loss(4, "found", interval=6)], 0, 0),
        ((100, 100, 90, 90), [loss(10), loss(4, "excess"), loss(4, "withdrawn", interval=4)], 0, 0),
        ((100, 100, 100, 60), [loss(40)], 0, 0),  # the payee was down: it was received, but not counted
        ((100, 95, 95, 95), [loss(5)], 1, 0),  # the sender's queue dropped it
        ((100, 95, 95, 95), [loss(5)], 0, 5),  # nothing could drop it: the payer counted what it did not send
        ((100, 100, 100, 110), [loss(10, "excess")], 0, 10),  # the payee claims what never arrived
        ((100, 110, 110, 100), [], 0, 10),  # sent without being counted
    ],
)
def test_what_a_link_lost_is_explained_by_the_books_alone(
    counts: tuple[int, int, int, int], losses: list[LossLine], drops: int, error: int
) -> None:
    assert unexplained([link(counts=counts, drops=drops)], losses, {}) == ({"A→X": error} if error else {})


def test_inside_a_gateway_everything_is_passed_on_retained_or_kept() -> None:
    links = (count("X", "A", 0, 100), count("X", "B", 80, 0))
    assert unexplained([], [], {"X": gateway(*links, retained=15, kept=5)}) == {}
    assert unexplained([], [], {"X": gateway(*links, retained=15)}) == {"X": 5}


def test_inside_a_host_everything_is_kept_or_goes_back() -> None:
    assert unexplained([], [], {"B": host(received=100, sent=85, share=10, returned=85, in_hand=5)}) == {}
    assert unexplained([], [], {"B": host(received=100, sent=95, share=10, returned=95, in_hand=-5)}) == {"B": 5}
    assert unexplained([], [], {"B": host(received=100, sent=80, share=10, returned=90)}) == {"B": 10}
    assert unexplained([], [], {"B": host(received=60, sent=200, share=0, returned=0, refunded=60)}) == {}


def test_a_loss_that_both_neighbours_name_is_one_loss() -> None:
    one = NodeBooks(
        node="A",
        is_gateway=False,
        links=(),
        retained_nanodollars=0,
        kept_nanodollars=0,
        losses=(loss(7), loss(3, interval=4)),
    )
    other = NodeBooks(
        node="X", is_gateway=True, links=(), retained_nanodollars=0, kept_nanodollars=0, losses=(loss(7),)
    )
    assert [line.nanodollars for line in named_losses({"A": one, "X": other})] == [7, 3]


@pytest.mark.row("BP-05", "BP-06")
def test_debts_are_net_and_by_the_smaller_counter() -> None:
    both = [link(counts=(100, 100, 100, 90)), link("X", "A", counts=(30, 30, 30, 30))]
    assert [(line.debtor, line.creditor, line.nanodollars) for line in balances(both)] == [("A", "X", 60)]


@pytest.mark.row("BP-05")
def test_the_figures_packet_adds_up() -> None:
    packet = followed_packet("AXYBZXA", (20, 19, 9, 8, 7, 6))
    assert packet.as_json() == {
        "amounts_nanodollars": [20, 19, 9, 8, 7, 6],
        "retained": {"X": 2, "Y": 10, "B": 1, "Z": 1},
        "owed_by_A": 14,
    }


def tap_report() -> TapReport:
    """Two numbered packets of stream 5 on the figure's links; the second one never came back."""
    amounts = {"AX": 20, "XY": 19, "YB": 9, "BZ": 8, "ZX": 7, "XA": 6}
    plan = make_plan(find_scenario("figure1"))
    empty = TallyReport(packets=0, nanodollars=0, passed_packets=0, passed_nanodollars=0, malformed=0, followed=())
    ends = []
    for cable in plan.cables:
        for end in cable.ends:
            amount = amounts.get(end.node + end.peer, 0)
            sequences = (1, 2) if end.node + end.peer in ("AX", "XY", "YB") else (1,)
            sent = TallyReport(
                packets=len(sequences),
                nanodollars=amount * len(sequences),
                passed_packets=0,
                passed_nanodollars=0,
                malformed=0,
                followed=tuple((5, sequence, amount) for sequence in sequences) if amount else (),
            )
            label = f"{cable.ends[0].node}-{cable.ends[1].node}@{end.node}"
            ends.append(EndReport(label=label, sent=sent if amount else empty, received=empty, captured=0, dropped=0))
    return TapReport(ends=tuple(ends))


@pytest.mark.row("BP-05")
def test_a_packet_is_followed_by_its_number_over_all_links() -> None:
    scenario = find_scenario("figure1")
    tallies = Tallies(make_plan(scenario), tap_report())
    found = exchange_result("it", 5, scenario.figure, tallies, Counted(sent=2, received=1))
    assert found.packet is not None
    assert found.packet.amounts_nanodollars == (20, 19, 9, 8, 7, 6)
    assert (found.seen_on_all_links, found.like_it) == (1, 1)
    assert found.crossings == {"A→X": 2, "X→A": 1, "X→Y": 2, "Y→B": 2, "B→Z": 1, "Z→X": 1}


def small_report() -> Report:
    scenario = find_scenario("figure1")
    outcome = Outcome(exchanges=[("under congestion", 5, Counted(sent=2, received=1))])
    return make_report(
        make_plan(scenario),
        outcome,
        {},
        tap_report(),
        family=4,
        drops={},
        wires=(),
        tracebacks=(),
        took_s=1.0,
        scale=1.0,
        directory="",
    )


def test_the_report_shows_the_packet_of_the_exchange_that_the_scenario_is_about() -> None:
    report = small_report()
    assert report.packet is not None
    assert report.packet.amounts_nanodollars == (20, 19, 9, 8, 7, 6)
    verdicts = {finding.what: finding.ok for finding in report.findings}
    assert verdicts["amounts under congestion are 20, 19, 9, 8, 7, 6"]
    assert not verdicts["amounts before congestion are 20, 19, 18, 17, 16, 15"]
    assert not verdicts["every nanodollar is accounted for"]  # nobody's books were read
    assert not report.ok


def test_a_shorter_run_needs_fewer_packets() -> None:
    faults = find_scenario("faults")
    whats = [finding.what for finding in findings_of(faults, small_report(), scale=0.25)]
    assert "hosts sent at least 15,000 paid packets" in whats
    assert "hosts sent at least 100,000 paid packets" in [f.what for f in findings_of(faults, small_report(), scale=3)]
