"""Real packets through a gateway that is a plain FIFO with marks: rates are as users are willing, whatever sends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.dph.sharing import SharedFlow, SharedLink, Shares, Sharing

pytestmark = [pytest.mark.netns, pytest.mark.exact]

PRICE = 3_000
BUSY = 0.25
MIXED = tuple(
    SharedFlow(
        name=f"{program}-{times}",
        program=program,
        willingness_nanodollars_per_s=times * 100_000,
        round_trip_ms=10 if (number + times) % 4 < 2 else 80,
        family=4 if (number + times) % 2 else 6,
    )
    for number, program in enumerate(("reno", "cubic", "bbr", "udp"))
    for times in (1, 3)
)
"""Both weights of each program; over either family and either round trip, each weight has both."""


def revenue_per_s(shares: Shares) -> float:
    return sum(flow.spent_nanodollars for flow in shares.flows) / shares.seconds


def check(sharing: Sharing, directory: Path, holds: Callable[[SharedLink], None]) -> None:
    """A second time only where the machine kept the gateway waiting; a bad run without that stays bad."""
    for attempt in (1, 2):
        (directory / str(attempt)).mkdir()
        with SharedLink(sharing, directory / str(attempt)) as link:
            try:
                holds(link)
            except AssertionError:
                if attempt == 2 or link.waited_share < BUSY:
                    raise
            else:
                return


@pytest.mark.row("DPH-02", "DPH-03", "DPH-06", "DPH-12", "DPH-13", "DPH-22", "DPH-33")
def test_shares_are_as_willingness_and_fall_to_the_transports_without_feedback(tmp_path: Path) -> None:
    assert {(flow.round_trip_ms, flow.willingness_nanodollars_per_s) for flow in MIXED} == {
        (trip, worth) for trip in (10, 80) for worth in (100_000, 300_000)
    }
    assert {flow.family for flow in MIXED} == {4, 6}

    def holds(link: SharedLink) -> None:
        link.start_all(seconds=60)
        link.watch(3)  # a cold start
        shares = link.watch(5)
        assert all(0.9 <= share <= 1.1 for share in shares.per_willingness().values()), shares
        assert shares.utilisation >= 0.9, shares
        assert shares.mean_queue_ms < 6, shares  # of 36 that it may hold
        link.set_mark_price(2 * PRICE)
        link.watch(2.5)
        doubled = link.watch(4)
        marks = doubled.marked_packets / doubled.seconds / (shares.marked_packets / shares.seconds)
        assert 0.4 < marks < 0.62, (marks, doubled)
        assert 0.85 < revenue_per_s(doubled) / revenue_per_s(shares) < 1.2, doubled
        link.cut_feedback()
        link.watch(3.5)
        cut = link.watch(4)
        sessions = link.sessions()
        assert all(session.target_bit_s is None for session in sessions), sessions
        assert any(not 0.7 < share < 1.4 for share in cut.per_willingness().values()), cut
        assert all(session.spent_nanodollars % PRICE == 0 for session in sessions)

    check(Sharing(flows=MIXED, rate_bit_s=20_000_000, nanodollars_per_mark=PRICE), tmp_path, holds)


@pytest.mark.deep
@pytest.mark.row("DPH-05", "DPH-08", "DPH-30", "DPH-33")
def test_the_same_where_the_receiver_pays_and_the_senders_agents_hold_packets_in_queues(tmp_path: Path) -> None:
    def holds(link: SharedLink) -> None:
        link.start_all(seconds=60)
        link.watch(4)
        shares = link.watch(5)
        assert all(0.85 <= share <= 1.15 for share in shares.per_willingness().values()), shares
        assert shares.utilisation >= 0.9, shares
        assert {session.sends for session in link.sessions()} == {False}

    flows = tuple(flow for flow in MIXED if flow.program in ("cubic", "udp"))
    check(Sharing(flows=flows, nanodollars_per_mark=PRICE, senders_pay=False, engine="nfqueue"), tmp_path, holds)
