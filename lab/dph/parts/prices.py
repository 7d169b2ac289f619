"""Part 4, simulated: another price per mark. Marks become fewer as it becomes dearer; what is paid stays.

Decides: "halves" and "stays" are within a tenth; a unit is 400 nanodollars, so that at 1 unit four packets in five are
marked, and at 10 units one in twelve: as far as a sweep can go with one willingness. Only the doubling is judged.
Refuses to know: how reactors do it.
Theory: at rest Σ w_i = π m y, so marks times price is the willingness of all, whatever the price (algorithms C.1).
A bill is marks times price, to the nanodollar: marks are whole, and so is the price of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.dph.effort import Effort
from lab.dph.parts.shares import USUAL_RTT_MS, USUAL_USERS
from lab.dph.statistics import mean_of
from lab.dph.values import Expectation, Mean, PartResult, Value, expect
from lab.dph.worlds import ALL_WILLING, AVQ, VQ, Rule, bottleneck, one_to_three
from lab.simulator.packets import PacketRun

WITHIN: Final = 0.10
CHANGE_FACTOR: Final = 2
UNIT: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    rule: Rule
    units: int
    seed: int
    seconds: float
    warm_up_s: float
    changes: bool = False


class Point(Value, frozen=True, kw_only=True):
    """units: the price per mark in 400 nanodollars. Marks and revenue in a second of the measured time."""

    marking: str
    units: int
    marked_share: Mean
    marks_per_s: Mean
    revenue_nanodollars_per_s: Mean
    utilisation: Mean


class Second(Value, frozen=True, kw_only=True):
    """One second of the run in which the price doubles, in the mean of all seeds."""

    at_s: float
    marks_per_s: float
    revenue_nanodollars_per_s: float
    rate_bit_s: float


class Prices(PartResult, frozen=True, kw_only=True):
    """wrong_bills: flows whose bill is not Σ marks × price, of `bills`."""

    points: tuple[Point, ...]
    changing: tuple[Second, ...]
    changes_at_s: float
    marks_after_over_before: Mean
    revenue_after_over_before: Mean
    rate_after_over_before: Mean
    bills: int
    wrong_bills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    marked_share: float
    marks_per_s: float
    revenue: float
    utilisation: float
    seconds: tuple[tuple[float, float, float], ...]  # marks, revenue, rate in each second
    bills: int
    wrong_bills: int


def run(effort: Effort) -> Prices:
    units = effort.pick(full=(1, 2, 5, 10), quick=(1, 2, 5, 10), tiny=(1, 2))
    wanted = [(rule, each) for rule in (VQ, AVQ) for each in units]
    steady = [
        Run(rule=rule, units=each, seed=seed, seconds=effort.seconds, warm_up_s=effort.warm_up_s)
        for rule, each in wanted
        for seed in range(1, effort.seeds + 1)
    ]
    long_s = 2 * effort.seconds
    changing = [
        Run(rule=VQ, units=1, seed=seed, seconds=long_s, warm_up_s=effort.warm_up_s, changes=True)
        for seed in range(1, effort.seeds + 1)
    ]
    seen = effort.each(measure, [*steady, *changing])
    points = tuple(
        _point(rule, each, seen[number * effort.seeds : (number + 1) * effort.seeds])
        for number, (rule, each) in enumerate(wanted)
    )
    changed = seen[len(steady) :]
    marks, revenue, rate = (_after_over_before(changed, column, effort.warm_up_s) for column in range(3))
    bills, wrong = sum(each.bills for each in seen), sum(each.wrong_bills for each in seen)
    return Prices(
        title="Another price per mark: other marks, the same revenue",
        expectations=_judged(points, marks, revenue, bills, wrong, effort),
        points=points,
        changing=_mean_seconds(changed),
        changes_at_s=long_s / 2,
        marks_after_over_before=marks,
        revenue_after_over_before=revenue,
        rate_after_over_before=rate,
        bills=bills,
        wrong_bills=wrong,
    )


def measure(it: Run) -> _Seen:
    """One run. Each receiver's charge is reckoned anew from the marks of each tick and the price of that tick."""
    events = []
    if it.changes:
        events = [{"at_s": it.seconds / 2, "price_factor": CHANGE_FACTOR}]
    experiment = bottleneck(
        one_to_three(USUAL_USERS, rtt_ms=USUAL_RTT_MS),
        rule=it.rule,
        seed=it.seed,
        seconds=it.seconds,
        warm_up_s=it.warm_up_s,
        price_nanodollars_per_mark=UNIT * it.units,
        events=events,
    )
    packets = PacketRun(experiment)
    results = packets.run()
    link = results.links[0]
    prices = packets.link_readings[0].price_nanodollars
    wrong = 0
    for found in packets.flows:
        marks = found.readings.marks
        owed = sum((marks[t] - marks[t - 1]) * prices[t] for t in range(1, len(marks)))
        wrong += owed != found.receiver.charge_nanodollars
    return _Seen(
        marked_share=link.marked_share,
        marks_per_s=link.marks_per_s,
        revenue=link.revenue_nanodollars_per_s,
        utilisation=link.utilisation,
        seconds=_seconds(packets) if it.changes else (),
        bills=len(packets.flows),
        wrong_bills=wrong,
    )


def _seconds(packets: PacketRun) -> tuple[tuple[float, float, float], ...]:
    """Marks, money and bits of all flows in each second."""
    found = []
    for begin in range(0, round(packets.experiment.seconds) * 10, 10):
        marks = sum(flow.readings.marks[begin + 10] - flow.readings.marks[begin] for flow in packets.flows)
        money = sum(
            flow.readings.charge_nanodollars[begin + 10] - flow.readings.charge_nanodollars[begin]
            for flow in packets.flows
        )
        size = sum(
            flow.readings.received_bytes[begin + 10] - flow.readings.received_bytes[begin] for flow in packets.flows
        )
        found.append((float(marks), float(money), 8.0 * size))
    return tuple(found)


def _point(rule: Rule, units: int, seen: list[_Seen]) -> Point:
    return Point(
        marking=rule.name,
        units=units,
        marked_share=mean_of(each.marked_share for each in seen),
        marks_per_s=mean_of(each.marks_per_s for each in seen),
        revenue_nanodollars_per_s=mean_of(each.revenue for each in seen),
        utilisation=mean_of(each.utilisation for each in seen),
    )


def _after_over_before(changed: list[_Seen], column: int, settle_s: float) -> Mean:
    """The time after the change against the time before it, each without as long as things need to settle."""
    ratios = []
    for each in changed:
        half = len(each.seconds) // 2
        skip = min(round(settle_s), half // 2)
        before = [second[column] for second in each.seconds[skip:half]]
        after = [second[column] for second in each.seconds[half + skip :]]
        ratios.append(sum(after) / len(after) / max(1.0, sum(before) / len(before)))
    return mean_of(ratios)


def _mean_seconds(changed: list[_Seen]) -> tuple[Second, ...]:
    count = len(changed)
    return tuple(
        Second(
            at_s=number + 0.5,
            marks_per_s=sum(each[0] for each in alike) / count,
            revenue_nanodollars_per_s=sum(each[1] for each in alike) / count,
            rate_bit_s=sum(each[2] for each in alike) / count,
        )
        for number, alike in enumerate(zip(*(each.seconds for each in changed), strict=True))
    )


def _judged(
    points: tuple[Point, ...], marks: Mean, revenue: Mean, bills: int, wrong: int, effort: Effort
) -> tuple[Expectation, ...]:
    judged = not effort.is_tiny
    of_vq = [point for point in points if point.marking == VQ.name]
    one, two = of_vq[0], of_vq[1]
    ratio = two.marks_per_s.mean / max(1e-9, one.marks_per_s.mean)
    paid = two.revenue_nanodollars_per_s.mean / max(1e-9, one.revenue_nanodollars_per_s.mean)
    lowered = one.utilisation.mean - two.utilisation.mean
    return (
        expect(
            "marks halve when the price doubles",
            expected=f"half of them within {WITHIN:.0%}: from 1 to 2 units, and by a change in mid-session",
            measured=f"{ratio:.3f} of them; in mid-session {marks.show()}",
            holds=abs(2 * ratio - 1) <= WITHIN and abs(2 * marks.mean - 1) <= WITHIN if judged else None,
        ),
        expect(
            "the revenue stays when the price doubles",
            expected=f"the same within {WITHIN:.0%}: from 1 to 2 units, and by a change in mid-session",
            measured=f"{paid:.3f} of it; in mid-session {revenue.show()}; of what all are willing to pay: "
            + ", ".join(
                f"{point.marking} {point.units} units {point.revenue_nanodollars_per_s.mean / ALL_WILLING:.2f}"
                for point in points
            ),
            holds=abs(paid - 1) <= WITHIN and abs(revenue.mean - 1) <= WITHIN if judged else None,
        ),
        expect(
            "a dearer mark lowers the utilisation slightly",
            expected="less at 2 units than at 1, by 10 percentage points at most",
            measured=f"from {one.utilisation.mean:.1%} to {two.utilisation.mean:.1%}",
            holds=0 <= lowered <= 0.1 if judged else None,
        ),
        expect(
            "a bill is marks times price",
            expected="to the nanodollar, for every flow of every run, also when the price changes",
            measured=f"{bills - wrong} of {bills} bills",
            holds=wrong == 0,
        ),
    )
