"""What a run has to show, and whether it did: the witnesses' own checks and the scenario's expectations.

Decides: whether the command fails.  Pure.
"""

from __future__ import annotations

from typing import assert_never

from lab.measures import link_text
from lab.report import ExchangeResult, Finding, Report
from lab.topology import (
    Alike,
    Amounts,
    Answered,
    AnyExpectation,
    Faster,
    Found,
    Loss,
    Moves,
    Packets,
    Passes,
    Scenario,
    Settled,
)

THRESHOLD = "threshold"
SHORT_RUN_SHARE = 0.6


def findings_of(scenario: Scenario, report: Report, *, scale: float = 1.0) -> tuple[Finding, ...]:
    """`scale`: how much longer than the scenario says the traffic ran."""
    findings = [_books(report), _statements(report), _settlements(scenario, report), _taps(report), _logs(report)]
    findings += [_expected(expectation, report, scale) for expectation in scenario.expect]
    return tuple(findings)


def _books(report: Report) -> Finding:
    error = report.conservation_error_nanodollars
    where = "".join(f", {amount:,} at {place}" for place, amount in report.unexplained.items())
    unexplained = f"{error or 0:,} nanodollars unexplained over {report.packets:,} packets{where}"
    detail = "no books were read" if error is None else unexplained
    return Finding(what="every nanodollar is accounted for", ok=error == 0, detail=detail)


def _statements(report: Report) -> Finding:
    doubting = [node.node for node in report.nodes if not node.statements_agree]
    detail = f"not yet at {', '.join(doubting)}" if doubting else f"at all {len(report.nodes)} nodes"
    return Finding(what="the neighbours' signed statements agree", ok=not doubting, detail=detail)


def _settlements(scenario: Scenario, report: Report) -> Finding:
    """Exactly at the threshold, never a nanodollar more or less."""
    threshold = scenario.settlement_threshold_nanodollars
    made = [item.nanodollars for item in report.settlements if item.reason == THRESHOLD]
    other = sorted({amount for amount in made if amount != threshold})
    detail = f"also of {', '.join(map(str, other))}" if other else f"{len(made)} of {threshold:,} nanodollars each"
    return Finding(what="debts were settled exactly at the threshold", ok=not other, detail=detail)


def _taps(report: Report) -> Finding:
    return Finding(
        what="the taps saw every packet", ok=report.tap_drops == 0, detail=f"{report.tap_drops:,} not captured"
    )


def _logs(report: Report) -> Finding:
    seen = report.tracebacks
    return Finding(what="no daemon's log shows a traceback", ok=not seen, detail="; ".join(seen) or "none")


def _expected(expectation: AnyExpectation, report: Report, scale: float) -> Finding:
    match expectation:
        case Amounts():
            return _amounts(expectation, report)
        case Faster():
            return _faster(expectation, report)
        case Alike():
            return _alike(expectation, report)
        case Passes():
            return _passes(expectation, report)
        case Answered():
            return _answered(expectation, report)
        case Moves():
            return _moves(expectation, report)
        case Found():
            return _found(expectation, report)
        case Packets():
            wanted = _fewer(expectation.at_least, scale)
            return Finding(
                what=f"hosts sent at least {wanted:,} paid packets",
                ok=report.packets >= wanted,
                detail=f"{report.packets:,}",
            )
        case Loss():
            return _loss(expectation, report)
        case Settled():
            count = sum(item.reason == THRESHOLD for item in report.settlements)
            wanted = _fewer(expectation.at_least, scale)
            return Finding(
                what=f"balances reached the threshold at least {wanted} times",
                ok=count >= wanted,
                detail=f"{count} times",
            )
        case _:
            assert_never(expectation)


def _fewer(count: int, scale: float) -> int:
    """What can be asked of a shorter run, of which the start, when nothing is paid yet, is a greater part."""
    return count if scale >= 1 else max(1, int(count * scale * SHORT_RUN_SHARE))


def _exchange(name: str, report: Report) -> ExchangeResult | None:
    return next((one for one in report.exchanges if one.name == name), None)


def _amounts(expectation: Amounts, report: Report) -> Finding:
    exchange = _exchange(expectation.exchange, report)
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


def _passes(expectation: Passes, report: Report) -> Finding:
    exchange = _exchange(expectation.exchange, report)
    link = link_text(*expectation.link)
    sent = exchange.sent if exchange else 0
    seen = exchange.crossings.get(link, 0) if exchange else 0
    return Finding(
        what=f"at least {expectation.at_least_percent:g} % of the requests “{expectation.exchange}” pass {link}",
        ok=sent > 0 and 100 * seen >= expectation.at_least_percent * sent,
        detail=f"{seen:,} of {sent:,}",
    )


def _answered(expectation: Answered, report: Report) -> Finding:
    exchange = _exchange(expectation.exchange, report)
    sent, answered = (exchange.sent, exchange.answered) if exchange else (0, 0)
    return Finding(
        what=f"at least {expectation.at_least_percent:g} % of the requests “{expectation.exchange}” are answered",
        ok=sent > 0 and 100 * answered >= expectation.at_least_percent * sent,
        detail=f"{answered:,} of {sent:,}",
    )


def _moves(expectation: Moves, report: Report) -> Finding:
    link = link_text(*expectation.link)
    found = next(
        one
        for one in report.moves
        if (one.exchange, one.after, one.back) == (expectation.exchange, expectation.after, expectation.back)
        and one.link == link
    )
    verb = "back to at least" if expectation.back else "below"
    in_time = found.moved_ms is not None and found.moved_ms <= 1000 * expectation.within_s
    limit = f"{expectation.within_s:g} s"
    if expectation.within_round_trips is not None:
        limit += f" and {expectation.within_round_trips:g} round trips"
        in_time = in_time and (found.round_trips or 0.0) <= expectation.within_round_trips
    what = f"after “{expectation.after}” the share of {link} is {verb} {expectation.percent:g} % within {limit}"
    return Finding(what=what, ok=in_time, detail=found.said)


def _found(expectation: Found, report: Report) -> Finding:
    key = expectation.by, expectation.isp, expectation.kind, expectation.after
    found = next(one for one in report.found if (one.by, one.isp, one.kind, one.after) == key)
    in_time = found.found_ms is not None and found.found_ms <= 1000 * expectation.within_s
    return Finding(
        what=f"{found.by} finds within {expectation.within_s:g} s of “{found.after}” that {found.isp} {found.kind}",
        ok=in_time,
        detail="it did not" if found.found_ms is None else f"after {found.found_ms:.0f} ms: {found.evidence}",
    )


def _loss(expectation: Loss, report: Report) -> Finding:
    lines = [line for line in report.losses if (line.sender, line.receiver) == expectation.link]
    lost = sum(line.nanodollars for line in lines if line.kind == "loss")
    return Finding(
        what=f"the books name what was lost on {link_text(*expectation.link)}",
        ok=lost > 0,
        detail=f"{lost:,} nanodollars in {len(lines)} lines",
    )
