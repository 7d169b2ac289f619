"""A replay's summary: by week, from the third week on, and how well the secretary knew what people accept.

Decides: the columns. Refuses to know: how anything was decided, and how a table is laid out (`cli.show.text`).
"""

from __future__ import annotations

from collections.abc import Iterator

from cli.show.text import UNKNOWN, WIDE_COLUMNS, Grid, columns, facts, money, write, write_or
from secretary.hindsight import Calibration, Summary, Tally

PPM_PER_PERCENT = 10_000


def show_summary(summary: Summary) -> None:
    write_or(_weeks(summary), "no requests: the file is empty")
    if not summary.people:
        return
    write("", facts(_facts(summary)))
    deciles = _deciles(summary.calibration)
    if deciles:
        write("", deciles)


def _weeks(summary: Summary) -> Grid:
    is_wide = columns() >= WIDE_COLUMNS
    wide = (">paid", ">best", ">missed value", ">unjustified loss") if is_wide else ()
    grid = Grid(*(">week", ">requests", ">asked", ">a day", ">surplus", ">regret", ">missed", ">unjustified"), *wide)
    for week in range(summary.weeks):
        tally = summary.week(week)
        more = (
            str(tally.paid),
            money(tally.best_nanodollars),
            money(tally.missed_nanodollars),
            money(tally.unjustified_loss_nanodollars),
        )
        grid.add(
            str(week + 1),
            str(tally.requests),
            str(tally.questions),
            _number(summary.questions_per_day(week), 2),
            _number(tally.ratio, 3),
            money(_regret(tally)),
            str(tally.missed),
            str(tally.unjustified),
            *(more if is_wide else ()),
        )
    return grid


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    whole, settled = summary.whole(), summary.settled()
    yield "people", str(len(summary.people))
    yield "requests", f"{whole.requests}, {whole.paid} paid, {whole.questions} asked"
    yield "questions a day", f"{_number(summary.questions_per_day(), 2)} of a person"
    yield (
        "surplus",
        f"{money(whole.surplus_nanodollars)} of {money(whole.best_nanodollars)} ({_number(whole.ratio, 3)})",
    )
    yield "missed", f"{whole.missed}, worth {money(whole.missed_nanodollars)} more than their price"
    yield "unjustified", f"{whole.unjustified} paid unasked, worth {money(whole.unjustified_loss_nanodollars)} less"
    yield "regret", money(_regret(whole))
    if settled.requests:
        mean, worst = _number(summary.program_mean(), 3), _points(summary.settled_calibration)
        known = f"surplus {_number(settled.ratio, 3)}, in the mean over programs {mean}; worst decile {worst}"
        yield "from the third week", known
    yield "calibration", f"worst decile {_points(summary.calibration)}"


def _deciles(calibration: Calibration) -> Grid:
    grid = Grid("said that a yes is likely", ">requests", ">said", ">came true", ">points off")
    for each in calibration.by_range():
        grid.add(
            f"{each.from_ppm // PPM_PER_PERCENT} to {each.to_ppm // PPM_PER_PERCENT} %",
            str(each.requests),
            f"{each.predicted_ppm / PPM_PER_PERCENT:.1f} %",
            f"{each.accepted_ppm / PPM_PER_PERCENT:.1f} %",
            f"{each.gap_ppm / PPM_PER_PERCENT:.1f}",
        )
    return grid


def _points(calibration: Calibration) -> str:
    worst = calibration.worst_ppm()
    return f"{UNKNOWN} (too few requests)" if worst is None else f"{worst / PPM_PER_PERCENT:.1f} points off"


def _regret(tally: Tally) -> int:
    return tally.best_nanodollars - tally.surplus_nanodollars


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"
