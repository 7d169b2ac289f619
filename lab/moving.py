"""When an exchange's packets left a link, or came back to it, after something had changed: from the taps' times.

Decides: from when on the traffic is gone or back. The share of a link is its part of the exchange's packets that leave
the sender meanwhile; it is gone from the first moment on that begins HELD_NS with a share below the bound, so that one
lull between two packets is no departure.  Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from lab.measures import Hop, Tallies
from lab.noticing import Best, Said
from lab.plan import Plan
from lab.report import ExchangeResult, FoundResult, MoveResult
from lab.steps import Outcome
from lab.topology import Exchange, Found, Moves
from lab.witness import MOMENT_NS

HELD_NS = 300_000_000
HELD = HELD_NS // MOMENT_NS
HALF_PERCENT = 50
"""Who had less before the step had nothing to lose by it, and who had more nothing to win back."""
LEAST_PACKETS = 10
"""In HELD_NS; a share of fewer says nothing."""


def move_results(
    plan: Plan, outcome: Outcome, tallies: Tallies, exchanges: Sequence[ExchangeResult]
) -> tuple[MoveResult, ...]:
    """One for each expectation of the scenario that traffic moves."""
    steps = {step.name: step for step in plan.scenario.steps if isinstance(step, Exchange)}
    streams = {name: stream for name, stream, _ in outcome.exchanges}
    round_trips = {exchange.name: exchange.median_us for exchange in exchanges}
    results = []
    for item in plan.scenario.expect:
        if not isinstance(item, Moves):
            continue
        step, start_ns = steps[item.exchange], outcome.changed_ns.get(item.after)
        moved_ns = noticed = before = None
        if start_ns is not None:
            end_ns = min((ns for ns in outcome.changed_ns.values() if ns > start_ns), default=None)
            stream = streams.get(item.exchange, -1)
            link = moments_of(stream, [item.link], tallies)
            sent = moments_of(stream, [hop for hop, _ in tallies.ends() if hop[0] == step.source], tallies)
            before = share_percent(link, sent, start_ns // MOMENT_NS - HELD)
            if before is not None and (before < HALF_PERCENT) == item.back:
                moved_ns = moved_after_ns(link, sent, start_ns, end_ns, percent=item.percent, back=item.back)
            said = outcome.said.get(step.source, [])
            noticed = noticed_ns(said, alternatives_by(plan, step, item.link), start_ns, end_ns, back=item.back)
        results.append(_result(item, start_ns, noticed, moved_ns, before, round_trips.get(item.exchange)))
    return tuple(results)


def found_results(plan: Plan, outcome: Outcome) -> tuple[FoundResult, ...]:
    """One for each expectation that something is found out; what was said before the step was not about it."""
    results = []
    for item in plan.scenario.expect:
        if not isinstance(item, Found):
            continue
        key = f"AS{plan.scenario.node(item.isp).as_number}", item.kind
        start_ns = outcome.changed_ns.get(item.after)
        said = [one for one in outcome.said.get(item.by, []) if key in one.found]
        first = said[0] if said and start_ns is not None and said[0].unix_ns >= start_ns else None
        results.append(
            FoundResult(
                by=item.by,
                isp=item.isp,
                kind=item.kind,
                after=item.after,
                found_ms=None if first is None or start_ns is None else round((first.unix_ns - start_ns) / 1e6, 1),
                evidence="" if first is None else first.found[key],
            )
        )
    return tuple(results)


def alternatives_by(plan: Plan, step: Exchange, link: Hop) -> Best:
    """How an agent names this link as a part of a way for an exchange."""
    isp = plan.scenario.node(link[0])
    return frozenset(
        (plan.address(step.destination, family), f"AS{isp.as_number}", item.number)
        for item in plan.scenario.alternatives
        if (item.node, item.to, item.via) == (link[0], step.destination, link[1])
        for family in (4, 6)
    )


def noticed_ns(
    said: Sequence[Said], alternatives: Best, start_ns: int, end_ns: int | None, *, back: bool
) -> int | None:
    """From when on after the step another way was the best one for the agent, or the link was again (`back`)."""
    for since, until in zip_longest(said, said[1:]):
        after = until is None or until.unix_ns > start_ns
        if after and bool(since.best & alternatives) == back:
            at_ns = max(start_ns, since.unix_ns)
            return at_ns if end_ns is None or at_ns < end_ns else None
    return None


def _result(
    item: Moves,
    start_ns: int | None,
    noticed_ns: int | None,
    moved_ns: int | None,
    before_percent: float | None,
    round_trip_us: int | None,
) -> MoveResult:
    def ms_after(since_ns: int | None, at_ns: int | None) -> float | None:
        return None if since_ns is None or at_ns is None else round(max(0, at_ns - since_ns) / 1e6, 1)

    since_ns = noticed_ns or start_ns
    moving_ms = ms_after(since_ns, moved_ns)
    return MoveResult(
        exchange=item.exchange,
        link="→".join(item.link),
        after=item.after,
        back=item.back,
        percent=item.percent,
        before_percent=before_percent,
        noticed_ms=ms_after(start_ns, noticed_ns),
        moved_ms=ms_after(start_ns, moved_ns),
        round_trip_ms=None if round_trip_us is None else round_trip_us / 1000,
        round_trips=None if moving_ms is None or not round_trip_us else round(1000 * moving_ms / round_trip_us, 1),
    )


def moments_of(stream: int, hops: Sequence[Hop], tallies: Tallies) -> Counter[int]:
    """Packets of a stream that left by these links, in each MOMENT_NS of unix time."""
    counts: Counter[int] = Counter()
    for hop in hops:
        end = tallies.at(*hop)
        for number, at, packets in end.sent.moments if end else ():
            if number == stream:
                counts[at] += packets
    return counts


def moved_after_ns(
    link: Mapping[int, int], sent: Mapping[int, int], start_ns: int, end_ns: int | None, *, percent: float, back: bool
) -> int | None:
    """The unix time at which the share fell below `percent`, or rose to it (`back`); None: not between start and end
    (the next change, or the last packet)."""
    if not sent:
        return None
    first, last = start_ns // MOMENT_NS, (max(sent) if end_ns is None else end_ns // MOMENT_NS)
    for at in range(first, last - HELD + 2):
        share = share_percent(link, sent, at)
        if share is not None and (share >= percent if back else share < percent):
            return max(start_ns, at * MOMENT_NS)
    return None


def share_percent(link: Mapping[int, int], sent: Mapping[int, int], at: int) -> float | None:
    """A link's part of the packets in the HELD moments from `at` on; None: they are too few to say."""
    window = range(at, at + HELD)
    whole, part = sum(sent.get(one, 0) for one in window), sum(link.get(one, 0) for one in window)
    return None if whole < LEAST_PACKETS else round(100 * part / whole, 1)
