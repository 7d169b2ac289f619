"""The report as one HTML file: figures inline, nothing fetched, readable on a screen, light or dark, and in print.

Decides: what is said below each figure, and which numbers stand in tables. Refuses to know: how figures are drawn.
Figures are on white in both, as their colours are chosen for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Final

from lab.dph import plots
from lab.dph.parts.realshares import RealShares
from lab.dph.parts.shares import Point
from lab.dph.report import DphReport
from lab.dph.values import Expectation, Holds

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --rule: #cccccc; --good: #00694b; --bad: #a33c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181b; --rule: #44484d; --good: #4fd0a5; --bad: #ff9a5c; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 52rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-top: 1px solid var(--rule);
  padding-top: .8rem; }
figure { margin: 1rem 0; background: #ffffff; color: #1a1a1a; padding: .5rem; border: 1px solid var(--rule); }
figure svg { width: 100%; height: auto; display: block; } figcaption { font-size: .87rem; margin-top: .3rem; }
table { border-collapse: collapse; font-size: .85rem; margin: .8rem 0; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.yes { color: var(--good); } .no { color: var(--bad); font-weight: 600; }
@media print {
  :root { --ink: #000; --paper: #fff; --rule: #999; --good: #000; --bad: #000; }
  body { max-width: none; margin: 0; font-size: 10pt; } figure, table { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""

_SAID: Final = {Holds.YES: "holds", Holds.NO: "does not hold", Holds.NOT_JUDGED: "not judged"}
_CLASS: Final = {Holds.YES: "yes", Holds.NO: "no", Holds.NOT_JUDGED: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    svg: str
    says: str


def page_of(report: DphReport) -> str:
    """All of it."""
    sections = [
        _section(part.title, part.expectations, _figures(report, name), _tables(report, name))
        for name, part in report.parts().items()
    ]
    held = sum(1 for each in report.expectations() if each.holds is Holds.YES)
    verdict = "Every expectation holds." if report.holds else f"Does not hold: {escape(report.shortfall)}."
    real = "simulated, and on real packets" if report.real_shares is not None else "simulated"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(report.title)}</h1>",
            f"<p>Experiment B.2, {escape(report.effort)} form, {real}; {report.seeds} seeds.</p>",
            "<p>Intervals are 95&nbsp;% of Student's t; treatments share their random numbers.</p>",
            f"<p><b>{held} of {len(report.expectations())} expectations hold.</b> {verdict}</p>",
            _expectations(report.expectations()),
            *sections,
            "</body></html>",
            "",
        ]
    )


def _section(title: str, expectations: Sequence[Expectation], figures: Iterable[_Drawn], tables: Iterable[str]) -> str:
    drawn = "".join(
        f"<figure>{each.svg}<figcaption>{escape(each.says)} {_verdict(expectations)}</figcaption></figure>"
        for each in figures
    )
    return f"<section><h2>{escape(title)}</h2>{drawn}{''.join(tables)}</section>"


def _verdict(expectations: Sequence[Expectation]) -> str:
    failing = [each.name for each in expectations if each.holds is Holds.NO]
    judged = [each for each in expectations if each.holds is not Holds.NOT_JUDGED]
    if failing:
        return f'<span class="no">Does not hold: {escape("; ".join(failing))}.</span>'
    if not judged:
        return "Too short a run to say whether the expectation holds."
    return '<span class="yes">What theory expects holds.</span>'


def _expectations(found: Sequence[Expectation]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{escape(each.expected)}</td><td>{escape(each.measured)}</td>"
        f'<td class="{_CLASS[each.holds]}">{_SAID[each.holds]}</td></tr>'
        for each in found
    )
    return f"<table><tr><th>expectation</th><th>expected</th><th>measured</th><th></th></tr>{rows}</table>"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is words, the others are numbers."""
    top = "".join(f'<th class="{"n" if number else ""}">{escape(each)}</th>' for number, each in enumerate(headings))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{"n" if number else ""}">{escape(each)}</td>' for number, each in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _figures(report: DphReport, name: str) -> list[_Drawn]:
    draw = plots.draw
    match name:
        case "shares":
            says = "Who is willing to pay three times as much has three times the rate (grey: within 10 %)."
            return [_Drawn(svg=draw(partial(plots.shares, report.shares)), says=says)]
        case "real_shares":
            return _real_figures(report.real_shares)
        case "stability":
            says = "Rates stand still below the bound and swing above it; a gain as 1/round trip is stable at each."
            return [_Drawn(svg=draw(partial(plots.stability, report.stability)), says=says)]
        case "marking":
            return [
                _Drawn(
                    svg=draw(partial(plots.marking, report.marking)),
                    says="What a utilisation costs in waiting, by marking rule, over several virtual capacities.",
                ),
                _Drawn(
                    svg=draw(partial(plots.marking_tail, report.marking)),
                    says="The longest waits and the losses at the highest virtual capacity, with cross traffic.",
                ),
            ]
        case "prices":
            return [
                _Drawn(
                    svg=draw(partial(plots.prices, report.prices)),
                    says="Marks fall as one over the price, and what is paid stays what people are willing to pay.",
                ),
                _Drawn(
                    svg=draw(partial(plots.price_change, report.prices)),
                    says="The price doubles at the dashed line: half the marks, the same revenue (thick: of 11 s).",
                ),
            ]
        case "tasks":
            says = "A stream takes the steps of the closed form (grey: its hysteresis), up and down."
            return [_Drawn(svg=draw(partial(plots.staircase, report.tasks)), says=says)]
        case "payers":
            says = "Rates when the sender pays and when the receiver pays."
            return [_Drawn(svg=draw(partial(plots.payers, report.payers)), says=says)]
        case "honesty":
            says = "What a lying receiver's payer would be billed, and how soon the lie is found."
            return [_Drawn(svg=draw(partial(plots.honesty, report.honesty)), says=says)]
        case _:
            says = "What was spent of each budget, and how much rates changed within ten seconds."
            return [_Drawn(svg=draw(partial(plots.limits, report.limits)), says=says)]


def _real_figures(found: RealShares | None) -> list[_Drawn]:
    if found is None:
        return []
    says = "Rate over willingness of real programs; one colour is one network (hatched: agents that do not react)."
    figures = [_Drawn(svg=plots.draw(partial(plots.real_shares, found), height_in=3.6), says=says)]
    for case in found.cases:
        if case.name.startswith("mixed"):
            series = plots.draw(partial(plots.real_series, case))
            figures.append(_Drawn(svg=series, says=f"Rates over time, {case.name}; the first seconds settle."))
    return figures


def _tables(report: DphReport, name: str) -> list[str]:
    match name:
        case "shares":
            points = [*report.shares.by_users, *report.shares.by_rtt, *report.shares.mixed]
            return [
                _table(
                    ("marking", "users", "round trip ms", "ratio", "worst user off", "utilisation", "marked"),
                    [_share_row(point) for point in points],
                )
            ]
        case "real_shares" if report.real_shares is not None:
            rows = [
                (case.name, case.utilisation.show(), case.queue_mean_ms.show(), case.dropped_packets.show(digits=0),
                 f"{case.worst:.1%}")
                for case in report.real_shares.cases
            ]  # fmt: skip
            return [_table(("case", "utilisation", "mean wait ms", "dropped packets", "worst off"), rows)]
        case "marking":
            marks = [
                (p.marking, f"{p.theta:g}" if p.theta else "–", "yes" if p.cross else "no", p.utilisation.show(),
                 p.queue_mean_ms.show(digits=2), p.queue_p99_ms.show(digits=1), p.lost_share.show(digits=5))
                for p in report.marking.points
                if p.theta in (0.0, 0.7, 0.95, 0.98)
            ]  # fmt: skip
            return [_table(("marking", "θ or γ", "cross", "utilisation", "wait ms", "99 % ms", "lost"), marks)]
        case "tasks":
            prices = [
                (each.price_nanodollars_per_mb.show(1000, 0) + "k", each.level.show(digits=2),
                 f"{each.lowest_level} to {each.highest_level}")
                for each in report.tasks.wide
            ]  # fmt: skip
            return [_table(("price per MB", "step", "steps that it leaves"), prices)]
        case "payers":
            books = [
                (each.payee, f"{each.marks:,}", f"{each.bill:,}", f"{each.owed_by_payer:,}",
                 f"{each.due_to_provider:,}", f"{each.due_to_customer:,}", f"{each.kept_by_house:,}")
                for each in report.payers.books
            ]  # fmt: skip
            return [
                _table(
                    ("money goes to", "marks", "bill", "payer owes", "provider gets", "customer gets back", "house"),
                    books,
                )
            ]
        case _:
            return []


def _share_row(point: Point) -> tuple[str, ...]:
    return (
        point.marking,
        str(point.users),
        " and ".join(f"{trip:g}" for trip in point.rtt_ms),
        point.ratio.show(),
        point.worst.show(),
        point.utilisation.show(),
        point.marked_share.show(),
    )
