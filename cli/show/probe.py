"""A probing run as a table and some lines: hops, what is lost, what becomes of marks, how large packets may be.

Decides: the columns at each width, and what a number looks like. Refuses to know: where reports come from, and what
was concluded (reports say it in words). Pure: a report in, lines out.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from cartographer.measuring.report import Hop, Interface, ProbeReport
from cartographer.measuring.testimony import ECN_NAMES
from cli.show.text import PIPE_COLUMNS, WIDE_COLUMNS, Grid, facts, harmless, lines_of

NS_PER_MS: Final = 1_000_000
PPM_PER_PERCENT: Final = 10_000
SILENT: Final = "*"
LIMITED: Final = "~"
LEGEND: Final = "~ limits its answers: what it leaves unanswered is not lost"


def probe_lines(report: ProbeReport, width: int) -> list[str]:
    """The whole: header, table, verdicts."""
    lines = [*header(report, width), ""]
    lines += table(report, width) if report.hops else ["nobody has answered yet" if not report.final else _nobody()]
    if any(hop.limited for hop in report.hops):
        lines.append(LEGEND)
    pairs = _verdicts(report)
    if pairs:
        lines += ["", *lines_of(facts(pairs), width)]
    if report.links:
        lines += ["", *_links(report)]
    return lines


def header(report: ProbeReport, width: int) -> list[str]:
    by = report.transport.value.upper() + (f" port {report.port}" if report.port else "")
    name = harmless(report.destination)
    where = name if name == report.address else f"{name} ({report.address})"
    done = (
        f"{report.rounds_done} of {report.rounds} rounds, {report.packets_sent} packets, {report.seconds:.1f} s"
        f"{f': {report.doing}' if report.doing else ''}"
    )
    return [*lines_of(f"{where} by {by}", width), *lines_of(done, width)]


def table(report: ProbeReport, width: int) -> list[str]:
    """In a terminal of 80 columns with room for any IPv6 address; in a wide one, and into a pipe, with the rest."""
    is_wide, is_pipe = width >= WIDE_COLUMNS, width >= PIPE_COLUMNS
    more = (">least", ">dev", "AS", "ECN", ">DSCP") if is_wide else ()
    grid = Grid(">", "host", ">lost", ">answered", ">mean ms", ">worst", *more)
    for hop in report.hops:
        first, *others = hop.interfaces or (None,)
        grid.add(str(hop.ttl), _host(first, is_pipe=is_pipe), _lost(hop), _answered(hop), *_cells(first, hop, is_wide))
        for other in others:
            grid.add("", _host(other, is_pipe=is_pipe), "", str(other.answered), *_cells(other, None, is_wide))
    return lines_of(grid, width)


def _host(interface: Interface | None, *, is_pipe: bool) -> str:
    if interface is None:
        return SILENT
    if not interface.name:
        return interface.address
    return f"{interface.name} ({interface.address})" if is_pipe else interface.name


def _lost(hop: Hop) -> str:
    return "" if hop.loss is None else percent(hop.loss.ppm)


def _answered(hop: Hop) -> str:
    return f"{hop.answered}/{hop.sent}{LIMITED if hop.limited else ''}"


def _cells(interface: Interface | None, hop: Hop | None, is_wide: bool) -> tuple[str, ...]:
    narrow = (ms(interface.mean_ns if interface else None), ms(interface.worst_ns if interface else None))
    if not is_wide:
        return narrow
    return (
        *narrow,
        ms(interface.least_ns if interface else None),
        ms(interface.deviation_ns if interface else None),
        interface.origin_as if interface else "",
        "" if hop is None or hop.ecn is None else ECN_NAMES[hop.ecn],
        "" if hop is None or hop.dscp is None else str(hop.dscp),
    )


def ms(nanoseconds: int | None) -> str:
    """Three digits."""
    if nanoseconds is None:
        return ""
    value = nanoseconds / NS_PER_MS
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def percent(ppm: int) -> str:
    value = ppm / PPM_PER_PERCENT
    return f"{value:.1f} %" if 0 < value < 9.95 else f"{value:.0f} %"


def _verdicts(report: ProbeReport) -> list[tuple[str, str]]:
    pairs = []
    if report.loss.words and report.hops:
        pairs.append(("loss", report.loss.words))
    if report.ecn is not None:
        pairs.append(("ECN", f"{report.ecn.verdict.value}: {report.ecn.words}"))
    if report.dscp is not None:
        pairs.append(("DSCP", f"{report.dscp.verdict.value}: {report.dscp.words}"))
    if report.mtu is not None:
        pairs.append(("MTU", report.mtu.words))
    pairs += [("note", note) for note in report.notes]
    return pairs


def _links(report: ProbeReport) -> list[str]:
    """Where several ways are, each of them below the interface that they part from."""
    behind: dict[tuple[int, str], list[str]] = defaultdict(list)
    for link in report.links:
        behind[link.ttl, link.near].append(link.far)
    lines = []
    for (ttl, near), far in sorted(behind.items()):
        lines.append(f"{ttl:>3}  {near}")
        lines += [f"       → {each}" for each in far]
    return ["ways:", *lines]


def _nobody() -> str:
    return "nobody answered: the destination may not exist, or something on the way takes probes or answers"
