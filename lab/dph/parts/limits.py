"""Part 8: what a policy limits is kept to: the most that a session may spend, and how fast its rate may change.

Decides: budgets as parts of what the session would spend without one; the rate's limit over each ten seconds. Refuses
to know: how the guard does it (`pricereactor.spending`). The spend is the receiver's true charge, not what is reported.
Hard cases are part of it: the price doubles in mid-session, and a tenth of the reports is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from billpay.sessions import Payer
from lab.dph.effort import Effort
from lab.dph.statistics import mean_of
from lab.dph.values import Expectation, Mean, PartResult, Value, expect
from lab.dph.worlds import PRICE, bottleneck, one_to_three
from lab.simulator.packets import Behaviour, PacketRun
from pricereactor.elastic import ElasticPlan, ElasticRate
from pricereactor.rates import Verdict

USERS: Final = 4
RTT_MS: Final = 40.0
CALM_S: Final = 10.0
PPM: Final = 1_000_000
LOST_REPORTS: Final = 0.1
LIMITED: Final = "u1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgeted:
    """`share`: of w × seconds."""

    share: float
    payer: Payer
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    change_ppm: int
    seed: int
    seconds: float


class Spend(Value, frozen=True, kw_only=True):
    """spent_share: of the limit; most: in the worst run. used: of its time, until it had to stop."""

    payer: str
    budget_share: float
    spent_share: Mean
    most_spent_share: float
    used: Mean
    runs: int


class Change(Value, frozen=True, kw_only=True):
    """largest_change: of a rate within ten seconds, over the least or the greatest in them; up and down."""

    limit: float
    largest_up: float
    largest_down: float
    runs: int


class Limits(PartResult, frozen=True, kw_only=True):
    spends: tuple[Spend, ...]
    changes: tuple[Change, ...]


def run(effort: Effort) -> Limits:
    shares = effort.pick(full=(0.05, 0.1, 0.25, 0.5, 1.0), quick=(0.1, 0.5, 1.0), tiny=(0.25,))
    limits = effort.pick(full=(100_000, 250_000, 500_000, 1_000_000), quick=(100_000, 500_000), tiny=(250_000,))
    seeds = range(1, effort.seeds + 1)
    kinds = [(payer, share) for payer in Payer for share in shares]
    budgeted = [
        Budgeted(share=share, payer=payer, seed=seed, seconds=effort.seconds)
        for payer, share in kinds
        for seed in seeds
    ]
    count = effort.seeds
    spent = effort.each(measure_budget, budgeted)
    spends = tuple(
        _spend(payer, share, spent[number * count : (number + 1) * count])
        for number, (payer, share) in enumerate(kinds)
    )
    calm = [Calm(change_ppm=limit, seed=seed, seconds=effort.seconds) for limit in limits for seed in seeds]
    moved = effort.each(measure_change, calm)
    changes = tuple(
        _change(limit / PPM, moved[number * count : (number + 1) * count]) for number, limit in enumerate(limits)
    )
    return Limits(
        title="What a policy limits is kept to",
        expectations=_judged(spends, changes),
        spends=spends,
        changes=changes,
    )


def measure_budget(it: Budgeted) -> tuple[float, float]:
    """(what it cost over the budget's limit, the part of its time that it went on)."""
    flows = one_to_three(USERS, rtt_ms=RTT_MS)
    willing = float(flows[1]["willingness_nanodollars_per_s"])
    budget = round(it.share * willing * it.seconds)
    dearer = [{"at_s": it.seconds / 2, "price_factor": 2}]
    experiment = bottleneck(flows, seed=it.seed, seconds=it.seconds, warm_up_s=1.0, events=dearer)
    behaviour = Behaviour(payer=it.payer, budget_nanodollars=budget, lost_reports=LOST_REPORTS)
    packets = PacketRun(experiment, behaviours={LIMITED: behaviour})
    packets.run()
    found = packets.flows[1]
    assert found.loop is not None
    going = [each for each in found.loop.history if each.verdict is Verdict.GO and each.target_bit_s]
    used = going[-1].now_ns / 1e9 / it.seconds if going else 0.0
    return found.receiver.charge_nanodollars / budget, used


def measure_change(it: Calm) -> tuple[float, float]:
    """The largest change up and down of its target within any ten seconds, while the price doubles in between."""
    flows = one_to_three(USERS, rtt_ms=RTT_MS)
    dearer = [{"at_s": it.seconds / 2, "price_factor": 2}]
    experiment = bottleneck(flows, seed=it.seed, seconds=it.seconds, warm_up_s=1.0, events=dearer)
    packets = PacketRun(experiment)
    found = packets.flows[1]
    assert found.loop is not None
    assert found.handler is not None
    plan = ElasticPlan(
        willingness_nanodollars_per_s=round(found.flow.willingness_nanodollars_per_s),
        start_bit_s=found.handler.start_bit_s,
        interval_ns=found.handler.reactor.interval_ns,
        largest_rate_change_ppm=it.change_ppm,
    )
    found.loop.replace_reactor(ElasticRate(plan))
    packets.run()
    rates = [(each.now_ns / 1e9, each.target_bit_s) for each in found.loop.history if each.target_bit_s]
    return largest_changes(rates)


def largest_changes(rates: list[tuple[float, int]]) -> tuple[float, float]:
    """Up, over the least of the ten seconds before; down, over the greatest."""
    up = down = 0.0
    first = 0
    for number, (at, rate) in enumerate(rates):
        while at - rates[first][0] > CALM_S:
            first += 1
        window = [each for _, each in rates[first : number + 1]]
        up = max(up, rate / min(window) - 1)
        down = max(down, 1 - rate / max(window))
    return up, down


def _spend(payer: Payer, share: float, seen: list[tuple[float, float]]) -> Spend:
    return Spend(
        payer=payer.value,
        budget_share=share,
        spent_share=mean_of(each[0] for each in seen),
        most_spent_share=max(each[0] for each in seen),
        used=mean_of(each[1] for each in seen),
        runs=len(seen),
    )


def _change(limit: float, seen: list[tuple[float, float]]) -> Change:
    return Change(
        limit=limit,
        largest_up=max(each[0] for each in seen),
        largest_down=max(each[1] for each in seen),
        runs=len(seen),
    )


def _judged(spends: tuple[Spend, ...], changes: tuple[Change, ...]) -> tuple[Expectation, ...]:
    most = max(each.most_spent_share for each in spends)
    over = [each for each in changes if max(each.largest_up, each.largest_down) > each.limit + 1e-6]
    return (
        expect(
            "no session costs more than its budget",
            expected=f"at most 100% of it, with {LOST_REPORTS:.0%} of reports lost and the price doubling from {PRICE}",
            measured=f"at most {most:.2%} in {sum(each.runs for each in spends)} sessions",
            holds=most <= 1.0,
        ),
        expect(
            "no rate changes faster than its policy allows",
            expected="within ten seconds by its limit at most, up and down",
            measured="; ".join(
                f"{each.limit:.0%}: {each.largest_up:.1%} up, {each.largest_down:.1%} down" for each in changes
            ),
            holds=not over,
        ),
    )
