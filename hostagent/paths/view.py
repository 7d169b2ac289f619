"""What people and programs see of paths: alternatives, ways, findings, and the map. Pure.

Decides: what is left out when there is too much, and the names of things on the map. Refuses to know how anything was
measured or judged.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from cartographer.cartographer import Cartographer
from cartographer.judging import ANY_ALTERNATIVE, Finding
from cartographer.seen import PathFact, WayFact
from cartographer.topology import DESTINATION, HERE, Description, Link
from cartographer.values import Estimate, Quantity
from hostagent import api

ALTERNATIVES_MAX: Final = 500
NODES_MAX: Final = 2000
WAYS_MAX: Final = 4000
"""On the map, the latest used first: the agent has other things to do, too."""
HERE_NAME: Final = "here"
ANYWHERE_NAME: Final = "destinations"
NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """By the monotonic clock, and by the time of day: findings and descriptions are told by the latter."""

    ns: int
    unix_s: int

    def unix_of(self, ns: int) -> int:
        return self.unix_s + (ns - self.ns) // NS_PER_S


def paths_of(
    cartographer: Cartographer,
    findings: Iterable[Finding],
    *,
    now: Now,
    checks: tuple[api.PathCheck, ...] = (),
    accesses: tuple[api.Access, ...] = (),
    campus: str = "",
) -> api.Paths:
    probes = cartographer.probes()
    return api.Paths(
        alternatives=tuple(_alternative(fact) for fact in islice(cartographer.view(now.ns), ALTERNATIVES_MAX)),
        findings=tuple(_finding(each, now) for each in findings),
        accesses=accesses,
        checks=checks,
        destinations=cartographer.destinations,
        probes_nanodollars=probes.nanodollars_per_hour - probes.left_nanodollars,
        probes_limit_nanodollars=probes.nanodollars_per_hour,
        campus=campus,
    )


def as_name(as_number: int) -> str:
    return f"AS{as_number}"


def _alternative(fact: PathFact) -> api.PathAlternative:
    return api.PathAlternative(
        destination=fact.destination,
        as_name=as_name(fact.as_number),
        alternative=fact.alternative,
        chosen=fact.chosen,
        toll_nanodollars=fact.toll_nanodollars,
        delay_ns=fact.delay_ns,
        age_s=fact.age_s,
        reason=fact.reason,
    )


def _finding(found: Finding, now: Now) -> api.Finding:
    return api.Finding(
        as_name=as_name(found.as_number),
        alternative=None if found.alternative in (None, ANY_ALTERNATIVE) else found.alternative,
        kind=found.kind.value,
        since_unix_s=now.unix_of(found.since_ns),
        until_unix_s=now.unix_of(found.until_ns),
        evidence=found.evidence,
    )


# --- ways -------------------------------------------------------------------------------------------------------------


def ways_of(cartographer: Cartographer, destination: str, limit: int, *, now: Now) -> tuple[api.Way, ...]:
    """`destination` "": all."""
    facts = cartographer.ways(now.ns, destination or None)
    return tuple(_way(fact, now) for fact in islice(facts, limit))


def _way(fact: WayFact, now: Now) -> api.Way:
    def figure(quantity: Quantity) -> api.Figure | None:
        estimate = fact.estimates.get(quantity)
        return None if estimate is None else _figure(estimate, now)

    return api.Way(
        destination=fact.destination,
        way=fact.way,
        wants=fact.wants,
        chosen=fact.chosen,
        share_ppm=fact.share_ppm,
        delay_ns=figure(Quantity.DELAY_NS),
        jitter_ns=figure(Quantity.JITTER_NS),
        loss_ppm=figure(Quantity.LOSS_PPM),
        marks_ppm=figure(Quantity.MARKS_PPM),
        throughput_bit_s=figure(Quantity.THROUGHPUT_BIT_S),
        forward_toll_picodollars=figure(Quantity.FORWARD_TOLL_PICODOLLARS),
        return_toll_picodollars=figure(Quantity.RETURN_TOLL_PICODOLLARS),
        cost_picodollars=fact.cost_picodollars,
        reason="; ".join(part for part in (fact.objection, fact.reason) if part),
    )


def _figure(estimate: Estimate, now: Now) -> api.Figure:
    """What nobody measured here a campus service has said. What ISPs promise is reckoned with, but never mixed with
    what is known of a way (`cartographer.choice`): it stands on the map.
    """
    return api.Figure(
        value=estimate.value,
        uncertainty=estimate.uncertainty,
        age_s=max(0, now.ns - estimate.measured_ns) // NS_PER_S if estimate.measured_ns is not None else None,
        source="measured" if estimate.measured_ns is not None else "campus",
    )


# --- the map ----------------------------------------------------------------------------------------------------------


def map_of(
    cartographer: Cartographer, findings: Iterable[Finding], title: str, destination: str, *, now: Now
) -> api.NetworkMap:
    """Who is behind whom, and what of it the traffic takes. `destination` "": everything."""
    topology = cartographer.topology
    lately = islice(cartographer.ways(now.ns, destination or None), WAYS_MAX)
    ways = [fact for fact in lately if fact.seen]
    links = topology.links()
    if destination:
        on_the_way = {hop for fact in ways for hop in _hops(fact.way)}
        links = tuple(link for link in links if _hop_of(link) in on_the_way)
    described: dict[int, list[Description]] = {}
    for description in topology.descriptions():
        described.setdefault(description.message.as_number, []).append(description)
    accused = {found.as_number: found.evidence for found in findings}
    numbers = {number for link in links for number in (link.as_number, link.following)}
    if not destination:
        numbers |= set(described)
    numbers -= {HERE, DESTINATION}
    nodes = [api.MapNode(name=HERE_NAME, kind="here")]
    nodes += [_node(number, described.get(number, ()), accused.get(number, "")) for number in sorted(numbers)]
    destinations = sorted({fact.destination for fact in ways})[: NODES_MAX - len(nodes)]
    nodes += [api.MapNode(name=destination, kind="destination") for destination in destinations]
    return api.NetworkMap(
        network=title,
        nodes=tuple(nodes),
        links=(*_links_between(links, ways, now), *_links_to(destinations, ways)),
    )


def _node(as_number: int, described: Iterable[Description], finding: str) -> api.MapNode:
    alternatives: dict[int, api.MapAlternative] = {}
    lines = []
    for each in described:
        message = each.message
        until = time.strftime("%H:%M", time.localtime(message.expires_unix_s))
        lines.append(f"{message.prefix}, serial {message.serial}, until {until}")
        for item in message.alternatives:
            alternatives[item.number] = api.MapAlternative(
                number=item.number,
                title=item.title,
                available=item.available,
                promised_delay_ns=item.delay_ns,
                promised_toll_nanodollars=item.toll_nanodollars,
            )
    return api.MapNode(
        name=as_name(as_number),
        kind="as",
        description="; ".join(lines),
        alternatives=tuple(alternatives[number] for number in sorted(alternatives)),
        finding=finding,
    )


_Hop = tuple[str, str, int | None]


def _hops(way: str) -> list[_Hop]:
    """ "AS1:2 AS3:1" → here-AS1, AS1-AS3 by 2; the last one leads to the destination."""
    found: list[_Hop] = []
    before, by = HERE_NAME, None
    for part in way.split():
        name, _, number = part.partition(":")
        found.append((before, name, by))
        before, by = name, int(number) if number.isdigit() else None
    return found


def _hop_of(link: Link) -> _Hop:
    source = HERE_NAME if link.as_number == HERE else as_name(link.as_number)
    return source, as_name(link.following), link.alternative or None


def _links_between(links: Iterable[Link], ways: Iterable[WayFact], now: Now) -> list[api.MapLink]:
    best: dict[_Hop, WayFact] = {}
    used: set[_Hop] = set()
    for fact in ways:
        for hop in _hops(fact.way):
            if fact.share_ppm:
                used.add(hop)
            if hop not in best or (fact.share_ppm, -(fact.age_s or 0)) > (best[hop].share_ppm, -(best[hop].age_s or 0)):
                best[hop] = fact
    seen: dict[_Hop, int] = {}
    for link in links:
        if link.following != DESTINATION:
            seen[_hop_of(link)] = link.seen_ns
    return [
        _link(hop, best.get(hop), used=hop in used, age_s=max(0, now.ns - seen_ns) // NS_PER_S)
        for hop, seen_ns in seen.items()
    ]


def _links_to(destinations: Iterable[str], ways: Iterable[WayFact]) -> list[api.MapLink]:
    """From the last AS of each way, or from here."""
    wanted = set(destinations)
    found: dict[_Hop, api.MapLink] = {}
    for fact in ways:
        if fact.destination in wanted:
            last, _, number = (fact.way.split() or [HERE_NAME])[-1].partition(":")
            hop = (last, fact.destination, int(number) if number.isdigit() else None)
            link = _link(hop, fact, used=bool(fact.share_ppm), age_s=fact.age_s)
            if hop not in found or (link.used and not found[hop].used):
                found[hop] = link
    return list(found.values())


def _link(hop: _Hop, fact: WayFact | None, *, used: bool, age_s: int | None) -> api.MapLink:
    estimates: Mapping[Quantity, Estimate] = fact.estimates if fact is not None else {}
    delay = estimates.get(Quantity.DELAY_NS)
    toll = estimates.get(Quantity.FORWARD_TOLL_PICODOLLARS)
    return api.MapLink(
        source=hop[0],
        target=hop[1],
        alternative=hop[2],
        used=used,
        delay_ns=delay.value if delay is not None else None,
        toll_picodollars=toll.value if toll is not None else None,
        age_s=age_s,
    )
