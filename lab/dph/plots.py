"""The figures of the report, as inline SVG.

Decides: what is drawn, and in which colours (of Okabe and Ito, which differ for everybody; with lines and markers that
differ in print). Refuses to know: how things were measured, and where a figure stands. Nothing else imports
matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

from lab.dph.parts.honesty import Honesty
from lab.dph.parts.limits import Limits
from lab.dph.parts.marking import Markings
from lab.dph.parts.payers import Payers
from lab.dph.parts.prices import UNIT, Prices
from lab.dph.parts.realshares import RealCase, RealShares
from lab.dph.parts.shares import WANTED, WITHIN, Shares
from lab.dph.parts.stability import BOUND_AT_MS, Stability, Swing
from lab.dph.parts.tasks import HYSTERESIS, Tasks
from lab.dph.values import Mean
from lab.dph.worlds import ALL_WILLING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

mpl.use("svg")

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
WIDTH_IN: Final = 7.2
_STYLE: Final[Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "dph",  # the same figures give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def draw(paint: Callable[[Figure], None], *, height_in: float = 2.9) -> str:
    """One figure as an <svg> element."""
    import matplotlib.pyplot as plt

    with mpl.rc_context(_STYLE):
        figure = plt.figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        try:
            paint(figure)
            written = io.StringIO()
            figure.savefig(written, format="svg", metadata={"Date": None})
        finally:
            plt.close(figure)
    text = written.getvalue()
    return text[text.index("<svg") :]


def _line(axes: Axes, number: int, x: list[float], means: list[Mean], name: str, unit: float = 1.0) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    axes.errorbar(
        x,
        [each.mean / unit for each in means],
        yerr=[(each.half or 0.0) / unit for each in means],
        color=colour,
        marker=marker,
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=name,
    )


def _names(found: list[str]) -> list[str]:
    return list(dict.fromkeys(found))


def shares(found: Shares, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, points, what in ((left, found.by_users, "users"), (right, found.by_rtt, "round trip (ms)")):
        for number, name in enumerate(_names([point.marking for point in found.by_users])):
            mine = [point for point in points if point.marking == name]
            if mine:
                x = [float(point.users) if axes is left else point.rtt_ms[0] for point in mine]
                _line(axes, number, x, [point.ratio for point in mine], name)
        axes.axhspan(WANTED * (1 - WITHIN), WANTED * (1 + WITHIN), color="#cccccc", alpha=0.5, linewidth=0)
        axes.set_xlabel(what)
    left.set_xscale("log", base=2)
    left.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    left.set_ylabel("rate of willingness 3 / of 1")
    left.legend(ncols=2)


def real_shares(found: RealShares, figure: Figure) -> None:
    axes = figure.subplots()
    names: list[str] = []
    at = 0
    for number, case in enumerate(found.cases):
        for flow in case.flows:
            axes.bar(
                at,
                flow.per_willingness.mean,
                yerr=flow.per_willingness.half or 0.0,
                color=COLOURS[number % len(COLOURS)],
                hatch=None if case.reacts else "///",
                edgecolor="white",
                capsize=2,
            )
            names.append(f"{flow.program} IPv{flow.family}\n{flow.round_trip_ms} ms, w {flow.willingness:g}")
            at += 1
    axes.axhspan(0.9, 1.1, color="#cccccc", alpha=0.5, linewidth=0)
    axes.set_xticks(range(at), names, rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("rate / willingness (1: its worth)")


def real_series(case: RealCase, figure: Figure) -> None:
    axes = figure.subplots()
    for number, (flow, series) in enumerate(zip(case.flows, case.series_bit_s, strict=True)):
        at = [0.25 * (step + 1) for step in range(len(series))]
        axes.plot(
            at, [rate / 1e6 for rate in series], color=COLOURS[number], linewidth=1.2,
            label=f"{flow.program} IPv{flow.family}, {flow.round_trip_ms} ms, willingness {flow.willingness:g}",
        )  # fmt: skip
    axes.set_xlabel("seconds")
    axes.set_ylabel("Mbit/s")
    axes.legend(ncols=2)


def stability(found: Stability, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    trips = _ordered({swing.rtt_ms for swing in found.by_gain})
    for number, trip in enumerate(trips):
        mine = [swing for swing in found.by_gain if swing.rtt_ms == trip]
        _swings(left, number, [swing.gain_of_bound for swing in mine], mine, f"round trip {trip:g} ms")
    left.axvline(1.0, color="#555555", linestyle="--", linewidth=1)
    left.set_xlabel("gain / bound")
    left.set_ylabel("amplitude of the rate / its mean")
    _swings(right, 0, [swing.rtt_ms for swing in found.fixed], list(found.fixed), f"bound at {BOUND_AT_MS:g} ms")
    _swings(right, 1, [swing.rtt_ms for swing in found.following], list(found.following), "gain as 1/round trip")
    right.axvline(BOUND_AT_MS, color="#555555", linestyle="--", linewidth=1)
    right.set_xlabel("round trip (ms)")
    for axes in (left, right):
        axes.legend(loc="upper left", fontsize=7)


def _swings(axes: Axes, number: int, x: list[float], swings: list[Swing], name: str) -> None:
    axes.plot(
        x, [swing.amplitude for swing in swings], color=COLOURS[number], marker=MARKERS[number], markersize=4,
        markerfacecolor="none", linewidth=1.2, label=name,
    )  # fmt: skip


def _ordered(values: set[float]) -> list[float]:
    return sorted(values)


def marking(found: Markings, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, cross in ((left, False), (right, True)):
        for number, name in enumerate(_names([point.marking for point in found.points])):
            mine = [point for point in found.points if point.marking == name and point.cross is cross]
            axes.plot(
                [point.utilisation.mean for point in mine], [point.queue_mean_ms.mean for point in mine],
                color=COLOURS[number], marker=MARKERS[number], markersize=4, linewidth=1.0, label=name,
            )  # fmt: skip
        axes.set_xlabel("utilisation")
        axes.set_title("with cross traffic" if cross else "reacting users alone", fontsize=9)
    left.set_ylabel("mean wait (ms)")
    left.legend()


def marking_tail(found: Markings, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    names = _names([point.marking for point in found.points])
    best = [max((p for p in found.points if p.marking == name), key=lambda p: (p.theta, p.cross)) for name in names]
    for axes, values, label in (
        (left, [point.queue_p99_ms for point in best], "99 % wait (ms)"),
        (right, [point.lost_share for point in best], "lost share"),
    ):
        axes.bar(
            range(len(names)), [each.mean for each in values], yerr=[each.half or 0.0 for each in values],
            color=COLOURS[: len(names)], capsize=2,
        )  # fmt: skip
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_ylabel(label)


def prices(found: Prices, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(_names([point.marking for point in found.points])):
        mine = [point for point in found.points if point.marking == name]
        units = [float(point.units) for point in mine]
        _line(left, number, units, [point.marks_per_s for point in mine], f"{name}: marks/s")
        _line(right, number, units, [point.revenue_nanodollars_per_s for point in mine], name, ALL_WILLING)
    units = sorted({float(point.units) for point in found.points})
    left.plot(
        units, [ALL_WILLING / UNIT / each for each in units], color="#555555", linestyle="--", linewidth=1,
        label="theory",
    )  # fmt: skip
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_ylabel("marks in a second")
    right.axhline(1.0, color="#555555", linestyle="--", linewidth=1)
    right.set_ylim(0, 1.6)
    right.set_ylabel("revenue / willingness of all")
    for axes in (left, right):
        axes.set_xlabel("price per mark (units)")
        axes.legend()


def price_change(found: Prices, figure: Figure) -> None:
    marks, money = figure.subplots(2, 1, sharex=True)
    at = [second.at_s for second in found.changing]
    for axes, number, values in (
        (marks, 0, [second.marks_per_s for second in found.changing]),
        (money, 1, [second.revenue_nanodollars_per_s / ALL_WILLING for second in found.changing]),
    ):
        axes.plot(at, values, color=COLOURS[number], linewidth=0.5, alpha=0.5)
        half = round(found.changes_at_s)
        for begin, end in ((0, half), (half, len(values))):  # no mean over the change itself
            axes.plot(at[begin:end], _running_means(values[begin:end]), color=COLOURS[number], linewidth=1.6)
    marks.set_ylabel("marks/s")
    money.set_ylabel("revenue /\nwillingness")
    money.set_ylim(bottom=0)
    money.set_xlabel("seconds")
    for axes in (marks, money):
        axes.axvline(found.changes_at_s, color="#555555", linestyle="--", linewidth=1)


def _running_means(values: list[float], reach: int = 5) -> list[float]:
    """Over so many values on each side, as far as there are any."""
    parts = [values[max(0, at - reach) : at + reach + 1] for at in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def staircase(found: Tasks, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    half = max(range(len(found.staircase)), key=lambda n: found.staircase[n].price)
    settled = next((n for n, step in enumerate(found.staircase) if step.at_s > 60), 0)
    for number, (steps, name) in enumerate(
        ((found.staircase[settled:half], "price rises"), (found.staircase[half:], "price falls"))
    ):
        left.plot(
            [step.price * 8e6 / 1e3 for step in steps], [step.level for step in steps], color=COLOURS[number],
            linestyle="-" if number == 0 else "--", linewidth=1.4, label=name,
        )  # fmt: skip
    for edge in found.thresholds:
        low, high = (edge * (1 + sign * HYSTERESIS) * 8e6 / 1e3 for sign in (-1, 1))
        left.axvspan(low, high, color="#cccccc", alpha=0.6, linewidth=0)
    left.set_xscale("log")
    left.set_xlabel("price (1,000 nanodollars a megabyte)")
    left.set_ylabel("step")
    left.legend()
    right.step([at for at, _ in found.first], [level for _, level in found.first], color=COLOURS[0], where="post")
    right.set_xlabel("seconds")
    right.set_title("on packets, cross traffic 0, 0.5, 0.9, 0.2", fontsize=9)


def payers(found: Payers, figure: Figure) -> None:
    axes = figure.subplots()
    for offset, name, values in (
        (-0.18, "sender pays", [group.sender_pays_bit_s for group in found.groups]),
        (0.18, "receiver pays", [group.receiver_pays_bit_s for group in found.groups]),
    ):
        axes.bar(
            [number + offset for number in range(len(values))], [each.mean / 1e6 for each in values], width=0.34,
            yerr=[(each.half or 0.0) / 1e6 for each in values], capsize=2, label=name,
            color=COLOURS[0] if offset < 0 else COLOURS[1], hatch=None if offset < 0 else "///", edgecolor="white",
        )  # fmt: skip
    axes.set_xticks(range(len(found.groups)), [f"willingness {group.willingness:g}" for group in found.groups])
    axes.set_ylabel("Mbit/s")
    axes.legend()


def honesty(found: Honesty, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    names = [f"{each.reported_share:.0%}" for each in found.lies]
    left.bar(names, [each.bill_share.mean for each in found.lies], color=COLOURS[0])
    left.set_ylabel("bill / true bill")
    marks = [each.most_marks_until_found or 0.0 for each in found.lies]
    right.bar(names, marks, color=COLOURS[1])
    right.axhline(100, color="#555555", linestyle="--", linewidth=1)
    right.set_ylabel("marks until found, at most")
    for axes in (left, right):
        axes.set_xlabel("of its marks reported")


def limits(found: Limits, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    for number, payer in enumerate(_names([spend.payer for spend in found.spends])):
        mine = [spend for spend in found.spends if spend.payer == payer]
        _line(left, number, [each.budget_share for each in mine], [each.spent_share for each in mine], f"{payer} pays")
    left.axhline(1.0, color="#555555", linestyle="--", linewidth=1)
    left.set_ylim(0, 1.1)
    left.set_xlabel("budget / willingness × time")
    left.set_ylabel("spent / budget")
    left.legend()
    allowed = [each.limit for each in found.changes]
    right.plot(allowed, allowed, color="#555555", linestyle="--", linewidth=1, label="limit")
    right.plot(allowed, [each.largest_up for each in found.changes], "o", color=COLOURS[0], markersize=4, label="up")
    right.plot(
        allowed, [each.largest_down for each in found.changes], "s", color=COLOURS[1], markersize=4,
        markerfacecolor="none", label="down",
    )  # fmt: skip
    right.set_xlabel("limit of change in 10 s")
    right.set_ylabel("largest change")
    right.legend()
