"""The report of a finished run, out of everything that was measured.

Decides nothing: `lab.measures` counts, `lab.findings` judges, this puts them side by side.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.books import NodeBooks
from lab.findings import findings_of
from lab.measures import (
    Hop,
    Tallies,
    balances,
    exchange_result,
    link_results,
    named_losses,
    node_results,
    unexplained,
)
from lab.moving import found_results, move_results
from lab.plan import Plan
from lab.report import ExchangeResult, FollowedPacket, LossResult, Report, SettlementResult, TransferResult, WireResult
from lab.steps import Outcome
from lab.taps import TapReport
from lab.topology import NodeKind, Scenario
from lab.wire import WireReport


def make_report(
    plan: Plan,
    outcome: Outcome,
    books: Mapping[str, NodeBooks],
    tap_report: TapReport,
    *,
    family: int,
    drops: Mapping[Hop, int],
    wires: Sequence[WireReport],
    tracebacks: tuple[str, ...],
    took_s: float,
    scale: float,
    directory: str,
) -> Report:
    """`drops`: what the lab itself dropped before the wire; `scale`: how much longer than usual the traffic ran;
    `directory`: of logs that were kept, "" when they were not."""
    scenario = plan.scenario
    tallies = Tallies(plan, tap_report)
    links = link_results(scenario, tallies, books, drops)
    losses = named_losses(books)
    exchanges = tuple(
        exchange_result(name, stream, scenario.figure, tallies, counted) for name, stream, counted in outcome.exchanges
    )
    missing = unexplained(links, losses, books)
    transfers = _transfers(scenario, outcome)
    hosts = {node.name for node in scenario.hosts()}
    report = Report(
        scenario=scenario.name,
        title=scenario.title,
        ip=str(family),
        seconds=round(took_s, 1),
        packet=_shown_packet(scenario, exchanges),
        exchanges=exchanges,
        links=tuple(links),
        nodes=tuple(node_results(books)),
        balances=tuple(balances(links)),
        conservation_error_nanodollars=sum(missing.values()) if books else None,
        unexplained=missing,
        goodput_mbit_s={transfer.name: transfer.mbit_s for transfer in transfers},
        transfers=transfers,
        packets=sum(link.packets for link in links if link.sender in hosts),
        crossings=sum(link.packets for link in links),
        losses=tuple(LossResult.of(line) for line in losses),
        settlements=_settlements(books),
        wires=tuple(WireResult.of(wire) for wire in wires),
        tap_drops=tallies.drops,
        events=tuple(outcome.events),
        tracebacks=tracebacks,
        findings=(),
        directory=directory,
        moves=move_results(plan, outcome, tallies, exchanges),
        found=found_results(plan, outcome),
        engines={name: node.engine for name, node in sorted(books.items()) if node.engine},
    )
    return report.with_findings(findings_of(scenario, report, scale=scale))


def _shown_packet(scenario: Scenario, exchanges: Sequence[ExchangeResult]) -> FollowedPacket | None:
    """Of the exchange that the scenario names, else of the last one."""
    wanted = [exchange for exchange in exchanges if scenario.shows in ("", exchange.name)]
    return wanted[-1].packet if wanted else None


def _transfers(scenario: Scenario, outcome: Outcome) -> tuple[TransferResult, ...]:
    paid = {
        (node.name, rule.to, rule.port) for node in scenario.nodes if node.kind is NodeKind.HOST for rule in node.rules
    }
    return tuple(
        TransferResult(
            name=done.goodput.name,
            paid=(done.source, done.destination, done.port) in paid,
            mbit_s=round(done.goodput.bit_s / 1e6, 3),
            bytes=done.goodput.bytes,
            seconds=round(done.goodput.seconds, 2),
            congestion_control=done.congestion_control,
            trouble=done.goodput.trouble,
        )
        for done in outcome.transfers
    )


def _settlements(books: Mapping[str, NodeBooks]) -> tuple[SettlementResult, ...]:
    """Each once, though both neighbours have it in their books."""
    lines = {(line.debtor, line.creditor, line.number): line for node in books.values() for line in node.settlements}
    return tuple(SettlementResult.of(line) for line in lines.values())
