"""One HTML file about paths: the picture, the ways with their numbers and reasons, findings, and quality over time.

Decides: the page's form and the charts' axes. Refuses to know: anything but what it is given. It loads nothing and
runs nothing. A stretch in which nothing was measured is a gap in a line, never a 0. All texts are escaped. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from typing import Final

from cli.show.map_picture import map_svg
from cli.show.paths import (
    EMPTY,
    MEASURES,
    Measure,
    age,
    bit_s,
    by_way,
    fact_pairs,
    figure,
    finding_lines,
    ms,
    nanodollars,
    percent,
    share,
    sources,
    way_name,
)
from cli.show.text import harmless, moment
from hostagent import api

CHARTS_MOST: Final = 12  # destinations with charts
WAYS_MOST: Final = 8  # lines in a chart
WIDTH, HEIGHT = 420, 150
LEFT, RIGHT, TOP, BOTTOM = 66, 8, 22, 20
COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d")
DASHES: Final = ("none", "6 3", "2 3", "8 3 2 3")
TITLES: Final = (
    *("way", "share", "delay ms", "jitter ms", "lost %", "marked %", "bit/s"),
    *("n$ there", "n$ back", "cost n$", "age", "by", "why"),
)
STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem;max-width:110rem;color:#1a1a1a;background:#fff}
h2{margin-top:2rem;font-size:1.15rem}table{border-collapse:collapse}td,th{padding:.25rem .6rem;text-align:right;
border-bottom:1px solid #bbb;white-space:nowrap}th{position:sticky;top:0}td:first-child,td:last-child,th:first-child,
th:last-child{text-align:left}td:last-child{white-space:normal;min-width:18rem}tr.chosen td{font-weight:600}
.wide{overflow-x:auto}tr.group td{background:#eee;font-weight:600;text-align:left}
.finding{border-left:4px solid #b91c1c;padding-left:.8rem}figure{display:inline-block;margin:.4rem}
.chart text{font:11px sans-serif;fill:#444}
.chart .axis{stroke:#999}.faint{color:#555}.key{display:inline-block;width:1.4rem;height:.3rem;
margin:0 .4rem .2rem 1rem}
@media (prefers-color-scheme:dark){body{color:#e5e5e5;background:#171717}tr.group td{background:#333}
.chart text{fill:#bbb}.faint{color:#b0b0b0}}
"""


def page_html(
    known: api.NetworkMap, ways: Sequence[api.Way], paths: api.Paths, rows: Sequence[api.QualityRow], *, unix_s: int
) -> str:
    title = f"paths from {known.network or 'this host'}"
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{STYLE}</style></head><body><h1>{_text(title)}</h1>",
        f'<p class="faint">as known at {moment(unix_s)}</p>',
        f'<div class="wide">{map_svg(known)}</div>',
        "<h2>Ways</h2>",
        *_way_table(ways),
        *_findings(paths.findings),
        "<h2>Quality over time</h2>",
        *_charts(rows),
        "<h2>What it rests on</h2><ul>",
        *(f"<li>{_text(name)}: {_text(text)}</li>" for name, text in fact_pairs(paths)),
        *(f"<li>{_text(each)}</li>" for each in _checks(paths.checks)),
        "</ul></body></html>",
    ]
    return "\n".join(parts) + "\n"


# --- ways -------------------------------------------------------------------------------------------------------------


def _way_table(ways: Sequence[api.Way]) -> Iterator[str]:
    if not ways:
        yield f"<p>{_text(EMPTY)}</p>"
        return
    yield f'<div class="wide"><table><tr>{"".join(f"<th>{_text(title)}</th>" for title in TITLES)}</tr>'
    last = None
    for way in ways:
        if (way.destination, way.wants) != last:
            last = (way.destination, way.wants)
            group = _text(f"{way.destination} for {way.wants}")
            yield f'<tr class="group"><td colspan="{len(TITLES)}">{group}</td></tr>'
        cells = (
            *(way_name(way.way), share(way.share_ppm), figure(way.delay_ns, ms), figure(way.jitter_ns, ms)),
            *(figure(way.loss_ppm, percent), figure(way.marks_ppm, percent), figure(way.throughput_bit_s, bit_s)),
            *(figure(way.forward_toll_picodollars, nanodollars), figure(way.return_toll_picodollars, nanodollars)),
            *(nanodollars(way.cost_picodollars), age(way), sources(way), way.reason),
        )
        style = ' class="chosen"' if way.chosen else ""
        yield f"<tr{style}>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"
    legend = "bold: the choice, traffic moves there; ( ): not measured here; ?: not known"
    yield f'</table></div><p class="faint">{legend}</p>'


def _findings(findings: Sequence[api.Finding]) -> Iterator[str]:
    if findings:
        yield "<h2>Findings</h2>"
    for each in findings:
        first, *others = finding_lines((each,), 10_000)
        yield f'<p class="finding"><b>{_text(first)}</b><br>{"<br>".join(_text(line) for line in others)}</p>'


def _checks(checks: Sequence[api.PathCheck]) -> Iterator[str]:
    for each in checks:
        mtu = "MTU not known" if each.mtu is None else f"MTU {each.mtu}"
        yield f"to {each.destination}: ECN {each.ecn}, {mtu}: {each.reason}"


# --- charts -----------------------------------------------------------------------------------------------------------


def _charts(rows: Sequence[api.QualityRow]) -> Iterator[str]:
    groups: dict[str, dict[str, list[api.QualityRow]]] = {}
    for (destination, way), of_it in by_way(rows).items():
        groups.setdefault(destination, {})[way] = of_it
    if not groups:
        yield "<p>nothing was measured in that time</p>"
    fullest = sorted(groups, key=lambda name: -sum(map(len, groups[name].values())))
    for destination in fullest[:CHARTS_MOST]:
        ways = dict(sorted(groups[destination].items(), key=lambda item: -len(item[1]))[:WAYS_MOST])
        yield f"<h3>{_text(destination)}</h3><p>"
        for place, way in enumerate(ways):
            yield f'<span class="key" style="background:{COLOURS[place]}"></span>{_text(way_name(way))}'
        yield "</p>"
        yield from (chart for measure in MEASURES if (chart := chart_svg(measure, ways)))
    if len(fullest) > CHARTS_MOST:
        yield f"<p>{len(fullest) - CHARTS_MOST} more destinations: name one to see it</p>"


def chart_svg(measure: Measure, ways: dict[str, list[api.QualityRow]]) -> str:
    """A line for each way; "" where nothing was measured."""
    values = [value for rows in ways.values() for row in rows if (value := measure.value(row)) is not None]
    if not values:
        return ""
    most = max(values) or 1
    since = min(row.from_unix_s for rows in ways.values() for row in rows)
    until = max(row.from_unix_s + row.seconds for rows in ways.values() for row in rows)
    axes = _Axes(since=since, until=until, most=most)
    lines = [
        line for place, (way, rows) in enumerate(ways.items()) for line in _way_line(measure, way, rows, place, axes)
    ]
    base = HEIGHT - BOTTOM
    parts = [
        f'<figure><svg class="chart" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{_text(measure.name)}</title>",
        f'<text x="{LEFT}" y="12">{_text(measure.name)}</text>',
        f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>',
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{_text(measure.text(most))}</text>',
        f'<text x="{LEFT - 4}" y="{base}" text-anchor="end">0</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 5}">{_clock(since)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{_clock(until)}</text>',
        *lines,
        "</svg></figure>",
    ]
    return "\n".join(parts)


class _Axes:
    def __init__(self, *, since: int, until: int, most: int) -> None:
        self._since = since
        self._span = max(1, until - since)
        self._most = most

    def point(self, unix_s: float, value: int) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (unix_s - self._since) / self._span
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self._most
        return f"{x:.1f} {y:.1f}"


def _way_line(measure: Measure, way: str, rows: Sequence[api.QualityRow], place: int, axes: _Axes) -> Iterator[str]:
    """Points that follow each other are joined; one alone is a dot."""
    colour, dash = COLOURS[place % len(COLOURS)], DASHES[place // 2 % len(DASHES)]
    pieces: list[list[str]] = [[]]
    before: api.QualityRow | None = None
    for row in rows:
        value = measure.value(row)
        joined = before is not None and row.from_unix_s - before.from_unix_s <= before.seconds
        if pieces[-1] and (value is None or not joined):
            pieces.append([])
        if value is not None:
            pieces[-1].append(axes.point(row.from_unix_s + row.seconds / 2, value))
        before = row if value is not None else None
    title = f"<title>{_text(way_name(way))}</title>"
    for piece in pieces:
        if len(piece) == 1:
            x, y = piece[0].split()
            yield f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}">{title}</circle>'
        elif piece:
            style = f'fill="none" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"'
            yield f'<path {style} d="M{" L".join(piece)}">{title}</path>'


def _clock(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%m-%d %H:%M")


def _text(text: str) -> str:
    return escape(harmless(text))
