"""What came out of an experiment, for people."""

from __future__ import annotations

from typing import Final

from cli.show.text import UNKNOWN, Grid, money, rate, write
from lab.simulator.results import FlowResult, LinkResult, Phase, Results

FLOWS_SHOWN: Final = 40
"""More are in the JSON document."""


def show_results(results: Results) -> None:
    title = f": {results.title}" if results.title else ""
    step = f", in steps of {results.step_ms:.3g} ms" if results.step_ms is not None else ""
    write(f"{results.name}{title}")
    write(f"{results.mode}, {results.seconds:g} s{step}; means from {results.measured_from_s:g} s on")
    write("")
    write(_flows(results.flows[:FLOWS_SHOWN]))
    if len(results.flows) > FLOWS_SHOWN:
        write(f"and {len(results.flows) - FLOWS_SHOWN} more flows: --json has all of them")
    write("")
    write(_links(results.links[:FLOWS_SHOWN]))
    if len(results.links) > FLOWS_SHOWN:
        write(f"and {len(results.links) - FLOWS_SHOWN} more links")
    for phase in results.phases if len(results.flows) <= FLOWS_SHOWN else ():
        write("", f"from {phase.from_s:g} to {phase.to_s:g} s, when it had settled", _phase(phase))
    for note in results.notes:
        write("", f"note: {note}")


def _flows(flows: tuple[FlowResult, ...]) -> Grid:
    titles = (">bit/s", ">expected", ">share", ">price", ">marks/s", ">n$/s", ">per MB", ">moves by", ">settled")
    grid = Grid("flow", ">weight", *titles)
    for flow in flows:
        per_mb = flow.cost_nanodollars_per_mb
        grid.add(
            flow.name,
            f"{flow.weight:.3g}",
            _rate(flow.rate_bit_s),
            "" if flow.expected_bit_s is None else _rate(flow.expected_bit_s),
            f"{flow.share:.1%}",
            _number(flow.price),
            f"{flow.marks_per_s:.3g}",
            f"{flow.cost_nanodollars_per_s:,.0f}",
            UNKNOWN if per_mb is None else money(round(per_mb)),
            _part(flow.amplitude),
            "never" if flow.settled_s is None else f"{flow.settled_s:.1f} s",
        )
    return grid


def _links(links: tuple[LinkResult, ...]) -> Grid:
    titles = (">used", ">expected", ">marked", ">price", ">expected", ">n$ a mark", ">queue", ">99 %", ">lost")
    grid = Grid("link", ">bit/s", *titles)
    for link in links:
        grid.add(
            link.name,
            _rate(link.rate_bit_s),
            f"{link.utilisation:.1%}",
            _part(link.expected_utilisation),
            f"{link.marked_share:.2%}",
            _number(link.price),
            _number(link.expected_price),
            f"{link.price_nanodollars_per_mark:,.0f}",
            f"{link.queue_mean_ms:.2f} ms",
            f"{link.queue_p99_ms:.2f} ms",
            f"{link.lost_share:.2%}" if link.lost_share else "",
        )
    return grid


def _phase(phase: Phase) -> Grid:
    grid = Grid("flow", ">bit/s", ">marks/s", ">n$/s")
    for flow in phase.flows:
        cost = f"{flow.cost_nanodollars_per_s:,.0f}"
        grid.add(flow.name, _rate(flow.rate_bit_s), f"{flow.marks_per_s:.3g}", cost)
    return grid


def _rate(bit_s: float) -> str:
    return rate(round(bit_s), nothing="0")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _part(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
