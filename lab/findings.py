"""What a run has to show, and whether it did: the witnesses' own checks and the scenario's expectations.

Decides: whether the command fails.  Pure.
"""

from __future__ import annotations

from typing import assert_never

from lab.report import Finding, Report
from lab.topology import Alike, Amounts, AnyExpectation, Faster, Scenario


def findings_of(scenario: Scenario, report: Report) -> tuple[Finding, ...]:
    findings = [_books(report), _taps(report)]
    findings += [_expected(expectation, report) for expectation in scenario.expect]
    return tuple(findings)


def _books(report: Report) -> Finding:
    error = report.conservation_error_nanodollars
    unexplained = f"{error or 0:,} nanodollars unexplained over {report.packets:,} packets"
    detail = "no books were read" if error is None else unexplained
    return Finding(what="every nanodollar is accounted for", ok=error == 0, detail=detail)


def _taps(report: Report) -> Finding:
    return Finding(
        what="the taps saw every packet", ok=report.tap_drops == 0, detail=f"{report.tap_drops:,} not captured"
    )


def _expected(expectation: AnyExpectation, report: Report) -> Finding:
    match expectation:
        case Amounts():
            return _amounts(expectation, report)
        case Faster():
            return _faster(expectation, report)
        case Alike():
            return _alike(expectation, report)
        case _:
            assert_never(expectation)


def _amounts(expectation: Amounts, report: Report) -> Finding:
    exchange = next((one for one in report.exchanges if one.name == expectation.exchange), None)
    packet = exchange.packet if exchange else None
    seen = packet.amounts_nanodollars if packet else ()
    wanted = ", ".join(map(str, expectation.are))
    return Finding(
        what=f"amounts {expectation.exchange} are {wanted}",
        ok=tuple(seen) == expectation.are,
        detail=", ".join(map(str, seen)) if seen else "no packet was seen on all links",
    )


def _faster(expectation: Faster, report: Report) -> Finding:
    fast, slow = (report.goodput_mbit_s.get(name, 0.0) for name in (expectation.transfer, expectation.than))
    return Finding(
        what=f"“{expectation.transfer}” gets at least {expectation.times:g} times as much as “{expectation.than}”",
        ok=fast > 0 and fast >= expectation.times * slow,
        detail=f"{fast:.2f} to {slow:.2f} Mbit/s",
    )


def _alike(expectation: Alike, report: Report) -> Finding:
    one, other = (report.goodput_mbit_s.get(name, 0.0) for name in expectation.transfers)
    most = max(one, other)
    apart = 100 * abs(one - other) / most if most else 100.0
    return Finding(
        what=f"“{expectation.transfers[0]}” and “{expectation.transfers[1]}” differ by less than "
        f"{expectation.within_percent:g} %",
        ok=apart < expectation.within_percent,
        detail=f"{one:.2f} and {other:.2f} Mbit/s, {apart:.1f} % apart",
    )
