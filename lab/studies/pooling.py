"""What a campus service is worth: 20 hosts that share what they measured, against the same 20 alone.

Decides: how many choices a host makes until it goes the right way. Refuses to know: packets and addresses; a way is a
round trip with noise. Every host has the product's statistics, chooser, own samples and reporter; the service is the
product's pooling under its rules of privacy (nothing is told before three others have spoken, times in five minutes).
Both treatments see the same ways and, for the same sample of the same host, the same noise. Source: BP-32.

A host reports every five minutes, so the gain hangs on how many choices fall into them: with one every 20 s it is above
ten, with one every 2 s a host alone is as soon (docs/howto/campus-cartographer.md has a table).

Converged: from then on the regret stays under 5 %: what the chosen way costs above the best one, mean over hosts and
the last choices, with all that is chosen to find out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from cartographer.campus.messages import ESTIMATES_MAX, Prior, Priors, PriorsRequest, Receipt, Report, digest_of
from cartographer.campus.own import OwnSamples, primed
from cartographer.campus.pooling import Contribution, pooled
from cartographer.campus.privacy import HOSTS_MIN, PERIOD_S
from cartographer.campus.reporting import Reporter
from cartographer.chooser import Chooser
from cartographer.costing import belief_of
from cartographer.statistics import WayStatistics
from cartographer.values import Belief, Quantity, Wants, Way
from lab.simulator.chance import stream

HOSTS = 20
WAYS = 8
DESTINATION = "198.51.100.7"
STEP_S = 20  # between a host's choices
STEPS = 400
WORLDS = 3  # each with other ways
NEAR = 0.05
OVER = 20  # choices
HALF_LIFE_S = 3600
_BEST_MS = 60.0
_NEXT_MS = 66.0
_WORST_MS = 120.0
_NOISE = 0.4  # standard deviation of a round trip, of its mean
_PROBE_PICODOLLARS = 5_000_000
_WANTS = Wants(delay_nanodollars_per_ms=1000)
_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1_000_000


class PoolingOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """`converged_after`: choices of one host; None: not within the study. Regrets are parts of the best way's cost."""

    shared: bool
    converged_after: int | None
    mean_regret: float
    last_regret: float  # of the last hundred choices
    right_share: float  # of the last hundred choices: the best way itself
    probes: int  # of all hosts


class PoolingStudy(msgspec.Struct, frozen=True, kw_only=True):
    """`times_faster`: who never converged counts with the length of the study."""

    alone: PoolingOutcome
    together: PoolingOutcome
    times_faster: float


class Service:
    """The server without a network: reports in memory, and the same rules."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, Way, Quantity], dict[str, tuple[Contribution, int]]] = {}

    def take(self, host: str, report: Report, period: int) -> Receipt:
        for line in report.lines:
            said = Contribution(count=line.count, mean=line.mean, spread=line.spread, age_periods=0)
            key = (line.prefix, line.way, line.quantity)
            self._lines.setdefault(key, {})[host] = (said, period - line.age_periods)
        return Receipt(sequence=report.sequence, digest=digest_of(report))

    def answer(self, asker: str, question: PriorsRequest, period: int) -> Priors:
        found: list[Prior] = []
        for prefix in question.prefixes:
            lines = {key: said for key, said in self._lines.items() if key[0] == prefix}
            others = {host for said in lines.values() for host in said} - {asker}
            if len(others) >= HOSTS_MIN:
                found += [prior for key in sorted(lines, key=str) if (prior := _prior(key, lines[key], asker, period))]
        return Priors(estimates=tuple(found[:ESTIMATES_MAX]))


def _prior(
    key: tuple[str, Way, Quantity], said: dict[str, tuple[Contribution, int]], asker: str, period: int
) -> Prior | None:
    theirs = [replace(one, age_periods=period - measured) for host, (one, measured) in said.items() if host != asker]
    found = pooled(theirs, half_life_s=HALF_LIFE_S)
    if found is None:
        return None
    return Prior(
        prefix=key[0],
        way=key[1],
        quantity=key[2],
        value=found.estimate.value,
        uncertainty=found.estimate.uncertainty,
        spread=found.estimate.spread,
        samples_milli=max(1, round(found.estimate.samples * 1000)),
        hosts=found.hosts,
        age_periods=found.age_periods,
    )


@dataclass(slots=True, kw_only=True)
class Host:
    """A host as the product makes it. `means_ms`: what is true of each way, and known to nobody."""

    name: str
    world: int
    seed: int
    means_ms: dict[Way, float]
    reporter: Reporter
    own: OwnSamples = field(default_factory=OwnSamples)
    chooser: Chooser = field(default_factory=Chooser)
    statistics: dict[Way, WayStatistics] = field(default_factory=dict)
    seen: dict[Way, int] = field(default_factory=dict)
    looked_ns: dict[Way, int | None] = field(default_factory=dict)
    probes: int = 0

    def choose(self, now_ns: int) -> Way:
        """One choice with its sample, and those of the probes."""
        beliefs = [belief for way in self.means_ms if (belief := self._belief(way, now_ns)) is not None]
        said = self.chooser.deliberate(beliefs, now_ns=now_ns)
        self.probes += len(said.probes)
        for way in dict.fromkeys((said.way, *said.probes)):
            self._measure(way, now_ns)
        return said.way

    def _belief(self, way: Way, now_ns: int) -> Belief | None:
        statistics = self.statistics.setdefault(way, WayStatistics())
        belief = belief_of(way, statistics, _WANTS, now_ns=now_ns, probe_picodollars=_PROBE_PICODOLLARS)
        looked_ns = self.looked_ns.get(way)
        if belief is None or looked_ns is None or looked_ns <= (belief.measured_ns or 0):
            return belief
        return replace(belief, measured_ns=looked_ns)

    def _measure(self, way: Way, now_ns: int) -> None:
        number = self.seen[way] = self.seen.get(way, 0) + 1
        chance = stream(self.seed, "noise", f"{self.name}/{way}/{number}")
        mean_ms = self.means_ms[way]
        delay_ns = max(0.2 * mean_ms, chance.gauss(mean_ms, _NOISE * mean_ms)) * _NS_PER_MS
        self.statistics[way].on_sample(Quantity.DELAY_NS, delay_ns, now_ns)
        own = self.own.of(DESTINATION, way)
        if own is not None:
            own.on_sample(Quantity.DELAY_NS, delay_ns, now_ns)

    def exchange(self, service: Service, now_ns: int) -> None:
        """As the courier does it."""
        period = now_ns // _NS_PER_S // PERIOD_S
        self.reporter.priors(DESTINATION, now_ns)
        report = self.reporter.report(self.own.quality(now_ns), now_ns=now_ns)
        if report is not None:
            self.reporter.on_receipt(report, service.take(self.name, report, period))
        question = self.reporter.question(now_ns)
        if question is not None:
            self.reporter.learn(question, service.answer(self.name, question, period), now_ns)
        self.reporter.on_success(now_ns)
        for way in self.means_ms:
            self.looked_ns[way] = self.reporter.looked_at_ns(DESTINATION, way, now_ns)
            fresh = primed(self.reporter, self.own, DESTINATION, way, now_ns)
            if fresh is not None:
                self.statistics[way] = fresh


def run(seed: int, *, steps: int = STEPS, worlds: int = WORLDS) -> PoolingStudy:
    alone, together = (treat(seed, shared=shared, steps=steps, worlds=worlds) for shared in (False, True))
    times = (alone.converged_after or steps) / (together.converged_after or steps)
    return PoolingStudy(alone=alone, together=together, times_faster=times)


def ways_of(seed: int, world: int) -> dict[Way, float]:
    """The best one is anywhere among them."""
    chance = stream(seed, "ways", world)
    means = [_BEST_MS, _NEXT_MS, *(chance.uniform(_NEXT_MS, _WORST_MS) for _ in range(WAYS - 2))]
    chance.shuffle(means)
    return {f"AS64512:{number % 4 + 1} AS64514:{number // 4 + 1}": mean for number, mean in enumerate(means)}


def treat(seed: int, *, shared: bool, steps: int, worlds: int) -> PoolingOutcome:
    """Several worlds together: one alone is luck."""
    hosts = [host for world in range(worlds) for host in _world(seed, world)]
    services = [Service() for _ in range(worlds)]
    regrets: list[float] = []
    right: list[float] = []
    for step in range(steps):
        now_ns = (step + 1) * STEP_S * _NS_PER_S
        chosen = []
        for host in hosts:
            if shared and not host.reporter.wait_ns(now_ns):
                host.exchange(services[host.world], now_ns)
            chosen.append(host.means_ms[host.choose(now_ns)])
        regrets.append(sum(chosen) / len(chosen) / _BEST_MS - 1)
        right.append(sum(mean_ms == _BEST_MS for mean_ms in chosen) / len(chosen))
    last = min(100, steps)
    return PoolingOutcome(
        shared=shared,
        converged_after=converged_after(regrets),
        mean_regret=sum(regrets) / steps,
        last_regret=sum(regrets[-last:]) / last,
        right_share=sum(right[-last:]) / last,
        probes=sum(host.probes for host in hosts),
    )


def _world(seed: int, world: int) -> list[Host]:
    means_ms = ways_of(seed, world)
    return [
        Host(
            name=f"{world}/{number}",
            world=world,
            seed=seed,
            means_ms=means_ms,
            reporter=Reporter(stream(seed, "calls", f"{world}/{number}").random),
        )
        for number in range(HOSTS)
    ]


def converged_after(regrets: Sequence[float]) -> int | None:
    """The first choice from which on the mean of `OVER` choices never reaches 5 % again."""
    for start in range(len(regrets) - OVER, -1, -1):
        if sum(regrets[start : start + OVER]) / OVER >= NEAR:
            after = start + 1
            return after if after <= len(regrets) - OVER else None
    return 0
