"""The figures of the scenario on real packets: six hosts, both ways to pay.

Decides: what has to be so after a run. Refuses to know: how it is made so (`lab.dph.figure31`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from billpay.sessions import Payer
from lab.dph.effort import Effort
from lab.dph.figure31 import Figure31, run_figure31
from lab.dph.parts.realshares import RealShares
from lab.dph.values import Expectation, PartResult, expect

BUSY: Final = 0.25


class Scenario31(PartResult, frozen=True, kw_only=True):
    runs: tuple[Figure31, ...]


class RealPackets(RealShares, frozen=True, kw_only=True):
    """All that was run on real packets, as one part of the report."""

    scenario: Scenario31


def run(effort: Effort) -> Scenario31:
    runs = []
    for payer in Payer:
        effort.progress(f"  {payer} pays: {effort.real_seconds:g} s")
        runs.append(measure(payer, seconds=effort.real_seconds))
    return Scenario31(
        title="A stream between two providers beside cross traffic: metered twice, charged and cleared",
        expectations=judged(runs),
        runs=tuple(runs),
    )


def measure(payer: Payer, *, seconds: float) -> Figure31:
    """A second time only where the machine kept the gateway waiting, so that marks are no sign of cross traffic."""
    found = _measure(payer, seconds)
    return _measure(payer, seconds) if found.waited_share >= BUSY and not found.reacted else found


def _measure(payer: Payer, seconds: float) -> Figure31:
    with tempfile.TemporaryDirectory(prefix="hostagent-lab-") as directory:
        return run_figure31(payer=payer, seconds=seconds, directory=Path(directory), progress=lambda _line: None)


def beside(shares: RealShares, scenario: Scenario31) -> RealPackets:
    """Both in the report's part on real packets."""
    fields = {name: getattr(shares, name) for name in shares.__struct_fields__}
    fields["expectations"] = (*shares.expectations, *scenario.expectations)
    return RealPackets(**fields, scenario=scenario)


def judged(runs: Sequence[Figure31]) -> tuple[Expectation, ...]:
    return (
        expect(
            "provider and payer count the same marks",
            expected="at the provider's edge, by its meter, on arrival and by the program: the same, to the mark",
            measured="; ".join(
                f"{it.payer} pays: {it.edge_marks}, {it.metered_marks}, {it.arrived_marks} and {it.program_marks} "
                f"of {it.edge_packets:,} packets"
                for it in runs
            ),
            holds=all(it.counts_agree for it in runs),
        ),
        expect(
            "a real session is billed and cleared to the nanodollar",
            expected="bill = marks × price = what the program reckoned; all books agree",
            measured="; ".join(
                f"{it.payer} pays: bill {it.bill:,}, reckoned {it.reckoned:,}, payer owes {it.owed_by_payer:,}, "
                f"provider gets {it.due_to_provider:,}, house keeps {it.kept_by_house:,}"
                for it in runs
            ),
            holds=all(it.bill_is_exact and it.ledgers_agree for it in runs),
        ),
        expect(
            "a real stream makes way for cross traffic",
            expected="fewer bits while it lasts, and more again afterwards, whoever pays",
            measured="; ".join(
                f"{it.payer} pays: encoding {it.level_before}, then {it.level_under}, then {it.level_after}"
                for it in runs
            ),
            holds=all(it.reacted for it in runs),
        ),
        expect(
            "nothing of the payer's policy is between the hosts",
            expected="0 bytes",
            measured="; ".join(
                f"{it.payer} pays: {it.leaked_bytes} of {it.control_bytes:,} bytes and {it.documents} documents"
                for it in runs
            ),
            holds=all(it.is_secret for it in runs),
        ),
    )
