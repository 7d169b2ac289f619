"""Part 7: a receiver that reports too few marks, and a sender that does not keep to its target.

Decides: how a run of the simulator is told to the product's detector of liars (`market.honesty`), as a provider and a
payer would tell it; when the simulated receiver, which has the product's `Obedience`, cut its sender. Refuses to know:
when evidence is enough.
Sender pays: the provider's meter counts the marks, the receiver reports half of them or none; the payer's bill by the
reports is half or nothing. Receiver pays: it sees what arrives against what it asked for. M3I scenarios 3.3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from billpay.sessions import Payer
from hostagent.reacting.obedience import JUDGED_FROM
from lab.dph.effort import Effort
from lab.dph.statistics import mean_of
from lab.dph.values import Expectation, Mean, PartResult, Value, expect
from lab.dph.worlds import bottleneck, one_to_three
from lab.simulator.packets import Behaviour, PacketRun
from market.honesty import Finding, ReceiverWatch, Reconciling

USERS: Final = 4
RTT_MS: Final = 40.0
MOST_MARKS: Final = 100
MOST_INTERVALS: Final = 2
PPM: Final = 1_000_000
LIAR: Final = "u0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lie:
    reported_ppm: int
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Defiance:
    obeys: bool
    seed: int
    seconds: float
    rtt_ms: float


class Lied(Value, frozen=True, kw_only=True):
    """bill_share: the payer's bill by the reports over the true one. marks_until_found: that the provider had counted;
    None: never found. gained: the liar's rate over an honest one's of its willingness."""

    reported_share: float
    bill_share: Mean
    gained: Mean
    found: int
    runs: int
    marks_until_found: Mean | None
    most_marks_until_found: float | None


class Defied(Value, frozen=True, kw_only=True):
    """intervals_until_found: since the first one that can be judged: four targets were told then."""

    obeys: bool
    rtt_ms: float
    found: int
    runs: int
    intervals_until_found: Mean | None
    most_intervals: float | None


class Honesty(PartResult, frozen=True, kw_only=True):
    lies: tuple[Lied, ...]
    defiances: tuple[Defied, ...]


def run(effort: Effort) -> Honesty:
    shares = (PPM, PPM // 2, 0)
    trips = effort.pick(full=(10.0, 40.0, 120.0), quick=(10.0, 120.0), tiny=(40.0,))
    seeds = range(1, effort.seeds + 1)
    lies = [Lie(reported_ppm=share, seed=seed, seconds=effort.seconds) for share in shares for seed in seeds]
    seen = effort.each(measure_lie, lies)
    count = effort.seeds
    lied = tuple(_lied(share / PPM, seen[number * count : (number + 1) * count]) for number, share in enumerate(shares))
    kinds = [(obeys, trip) for obeys in (True, False) for trip in trips]
    acts = [
        Defiance(obeys=obeys, rtt_ms=trip, seed=seed, seconds=min(20.0, effort.seconds))
        for obeys, trip in kinds
        for seed in seeds
    ]
    watched = effort.each(measure_defiance, acts)
    defied = tuple(
        _defied(obeys, trip, watched[number * count : (number + 1) * count])
        for number, (obeys, trip) in enumerate(kinds)
    )
    return Honesty(
        title="Who lies or does not obey is found; who is honest is not accused",
        expectations=_judged(lied, defied),
        lies=lied,
        defiances=defied,
    )


def measure_lie(it: Lie) -> tuple[float, float, int | None]:
    """(bill by the reports over the true bill, rate over that of the honest one, marks until it is found)."""
    flows = one_to_three(USERS, rtt_ms=RTT_MS, ratio=1.0)
    experiment = bottleneck(flows, seed=it.seed, seconds=it.seconds, warm_up_s=it.seconds / 3)
    packets = PacketRun(experiment, behaviours={LIAR: Behaviour(reported_ppm=it.reported_ppm)})
    results = packets.run()
    found = packets.flows[0]
    assert found.loop is not None
    bill = found.loop.reported_charge_nanodollars / max(1, found.receiver.charge_nanodollars)
    others = [flow.rate_bit_s for flow in results.flows[1:]]
    gained = results.flows[0].rate_bit_s / (sum(others) / len(others))
    return bill, gained, marks_until_found(found.readings.marks, it.reported_ppm)


def marks_until_found(marks: list[int], reported_ppm: int) -> int | None:
    """`marks`: cumulative, in tenths of a second; so often the meter is read, and so often the receiver reports."""
    watch = ReceiverWatch(Reconciling())
    for tick, counted in enumerate(marks):
        watch.on_provider(100 * tick, counted)
        if watch.on_report(100 * tick, counted * reported_ppm // PPM) is Finding.LYING_RECEIVER:
            return counted
    return None


def measure_defiance(it: Defiance) -> int | None:
    """Judged intervals until the receiver finds that its sender disobeys; None: it never does."""
    flows = one_to_three(USERS, rtt_ms=it.rtt_ms, ratio=1.0)
    experiment = bottleneck(flows, seed=it.seed, seconds=it.seconds, warm_up_s=1.0)
    behaviours = {
        flow.name: Behaviour(payer=Payer.RECEIVER, obeys=it.obeys or number > 0)
        for number, flow in enumerate(experiment.flows)
    }
    packets = PacketRun(experiment, behaviours=behaviours)
    packets.run()
    found = packets.flows[0]
    assert found.loop is not None
    if found.loop.disobeyed_ns is None:
        return None
    return len(found.loop.history) - JUDGED_FROM + 1  # the interval in which it is cut has no decision any more


def _lied(share: float, seen: list[tuple[float, float, int | None]]) -> Lied:
    marks = [each[2] for each in seen if each[2] is not None]
    return Lied(
        reported_share=share,
        bill_share=mean_of(each[0] for each in seen),
        gained=mean_of(each[1] for each in seen),
        found=len(marks),
        runs=len(seen),
        marks_until_found=mean_of(marks) if marks else None,
        most_marks_until_found=max(marks, default=None),
    )


def _defied(obeys: bool, rtt_ms: float, seen: list[int | None]) -> Defied:
    intervals = [each for each in seen if each is not None]
    return Defied(
        obeys=obeys,
        rtt_ms=rtt_ms,
        found=len(intervals),
        runs=len(seen),
        intervals_until_found=mean_of(intervals) if intervals else None,
        most_intervals=max(intervals, default=None),
    )


def _judged(lied: tuple[Lied, ...], defied: tuple[Defied, ...]) -> tuple[Expectation, ...]:
    liars = [each for each in lied if each.reported_share < 1]
    honest = [each for each in lied if each.reported_share == 1]
    late = max((each.most_marks_until_found or float("inf")) for each in liars)
    defiant = [each for each in defied if not each.obeys]
    longest = max((each.most_intervals or float("inf")) for each in defiant)
    accused = sum(each.found for each in honest) + sum(each.found for each in defied if each.obeys)
    asked = sum(each.runs for each in honest) + sum(each.runs for each in defied if each.obeys)
    return (
        expect(
            "a lying receiver lowers its payer's bill",
            expected="to as much of the true bill as it reports",
            measured=", ".join(f"{each.reported_share:.0%} reported: {each.bill_share.show()}" for each in lied),
            holds=all(abs(each.bill_share.mean - each.reported_share) < 0.01 for each in lied),
        ),
        expect(
            "a lying receiver is found",
            expected=f"in every run, by the provider's first {MOST_MARKS} marks",
            measured="; ".join(
                f"{each.reported_share:.0%} reported: {each.found} of {each.runs}, after "
                f"{'no' if each.marks_until_found is None else each.marks_until_found.show(digits=0)} marks, "
                f"{each.most_marks_until_found or 0:.0f} at most"
                for each in liars
            ),
            holds=all(each.found == each.runs for each in liars) and late <= MOST_MARKS,
        ),
        expect(
            "a sender that does not obey is found",
            expected=f"in every run, within {MOST_INTERVALS} intervals",
            measured=f"{sum(each.found for each in defiant)} of {sum(each.runs for each in defiant)}, "
            f"within {longest:.0f} intervals",
            holds=all(each.found == each.runs for each in defiant) and longest <= MOST_INTERVALS,
        ),
        expect(
            "nobody honest is accused",
            expected=f"none of {asked} sessions",
            measured=f"{accused}",
            holds=accused == 0,
        ),
    )
