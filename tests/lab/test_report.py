"""The report for programs and for people."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from lab.books import SettlementLine
from lab.report import (
    ExchangeResult,
    Finding,
    FollowedPacket,
    LinkResult,
    Report,
    SettlementResult,
    TransferResult,
    show,
)

PACKET = FollowedPacket(
    amounts_nanodollars=(20, 19, 9, 8, 7, 6), retained={"X": 2, "Y": 10, "B": 1, "Z": 1}, owed=14, payer="A"
)
SETTLEMENT = SettlementLine(debtor="A", creditor="X", number=1, nanodollars=20_000, reason="threshold")
REPORT = Report(
    scenario="figure1",
    title="Figure 1",
    ip="4",
    seconds=1.0,
    packet=PACKET,
    exchanges=(
        ExchangeResult(
            name="it",
            sent=2,
            answered=2,
            median_us=900,
            crossings={"A→X": 2},
            packet=PACKET,
            seen_on_all_links=2,
            like_it=2,
        ),
    ),
    links=(
        LinkResult(
            sender="A",
            receiver="X",
            sent_nanodollars=40,
            received_nanodollars=40,
            counted_by_from=40,
            counted_by_to=None,
            packets=2,
            passed_packets=0,
            queue_drops=0,
        ),
    ),
    nodes=(),
    balances=(),
    conservation_error_nanodollars=0,
    unexplained={},
    goodput_mbit_s={"paying": 8.3, "unpaid": 0.2},
    transfers=(
        TransferResult(name="paying", paid=True, mbit_s=8.3, bytes=1, seconds=1, congestion_control="cubic"),
        TransferResult(
            name="unpaid", paid=False, mbit_s=0.2, bytes=1, seconds=1, congestion_control="cubic", trouble="late"
        ),
    ),
    packets=2,
    crossings=2,
    losses=(),
    settlements=(SettlementResult.of(SETTLEMENT),),
    wires=(),
    tap_drops=0,
    events=("1.0 s: SIGKILL to the daemon of Y",),
    tracebacks=(),
    findings=(Finding(what="it holds", ok=True, detail="yes"),),
    directory="",
)


@pytest.mark.row("BP-05")
def test_json_has_the_shape_that_programs_rely_on() -> None:
    document = json.loads(REPORT.to_json())
    assert document["packet"] == {
        "amounts_nanodollars": [20, 19, 9, 8, 7, 6],
        "retained": {"X": 2, "Y": 10, "B": 1, "Z": 1},
        "owed_by_A": 14,
    }
    assert document["links"][0]["from"] == "A"
    assert document["links"][0]["to"] == "X"
    assert document["links"][0]["counted_by_to"] is None
    assert document["settlements"] == [
        {"from": "A", "to": "X", "number": 1, "nanodollars": 20_000, "reason": "threshold"}
    ]
    assert (document["ip"], document["ok"], document["conservation_error_nanodollars"]) == ("4", True, 0)
    assert document["goodput_mbit_s"] == {"paying": 8.3, "unpaid": 0.2}


def test_people_see_who_paid_whom_and_what_it_bought() -> None:
    output = io.StringIO()
    show(REPORT, Console(file=output, width=120))
    text = output.getvalue()
    for part in ("A → X", "20 19 9 8 7 6", "A owes 14", "8.30 Mbit/s", "(late)", "SIGKILL", "holds  it holds: yes"):
        assert part in text


def test_what_fails_is_named_in_one_line() -> None:
    failed = REPORT.with_findings(
        (Finding(what="one", ok=False, detail="1 to 2"), Finding(what="b", ok=True, detail=""))
    )
    assert not failed.ok
    assert failed.shortfall == "one: 1 to 2"
