"""What the daemons' files say beside what the network itself does: prices, tasks, and links as the experiment has them.

Decides: that a gateway's link takes exactly the experiment's rate at the IP layer, one way; that weights are in the
payers' tasks and nowhere else. Refuses to know: processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast

from lab.bridge.layout import Hop, Layout, Place
from lab.configurations import AGENT, GATEWAY, Configurations, Places, Table
from lab.plan import Plan

ANNOUNCED_MS: Final = 200
LEAST_PACE_BIT_S: Final = 64_000
"""A program that is held lower than that may give up."""

_LEAST_PRICE_PERIOD_S: Final = 1.0
_ROUND_TRIPS_IN_A_PERIOD: Final = 20


def more_of(layout: Layout, plan: Plan, directory: Path, *, family: int = 4) -> dict[tuple[str, str], Table]:
    """By node and role."""
    places = Places(directory=directory)

    def certificate(node: str, role: str) -> str:
        return str(places.of(node, role) / "node.pem")

    usual = Configurations(plan, family=family, places=places, certificate=certificate)
    more: dict[tuple[str, str], Table] = {}
    for hop in layout.hops:
        table = usual.table(plan.scenario.node(hop.gateway), GATEWAY)
        more[hop.gateway, GATEWAY] = {
            "tariff": {"kind": "per-mark", "nanodollars_per_mark": layout.experiment.price_of(hop.link)},
            "marks": _marks(hop, layout, plan, family),
            # A tuple replaces what the network says, where a list would be added to it.
            "links": tuple(_exact(link, hop) for link in cast("list[Table]", table["links"])),
        }
    for sender in layout.payers():
        flows = [place for place in layout.places if place.sender == sender]
        provider = flows[0].provider
        more[sender, AGENT] = {
            "providers": [{"name": provider, "certificate": certificate(provider, GATEWAY)}],
            "tasks": [_task(place) for place in flows],
            "sessions": [
                {
                    "task": place.task,
                    "protocol": "udp" if place.is_udp else "tcp",
                    "remote": plan.address(place.receiver, family),
                    "ports": str(place.port),
                }
                for place in flows
            ],
        }
    return more


def _task(place: Place) -> Table:
    reactor = place.flow.reactor
    task: Table = {
        "name": place.task,
        "willingness_nanodollars_per_s": round(place.flow.willingness_nanodollars_per_s),
        "min_bit_s": max(LEAST_PACE_BIT_S, round(reactor.min_bit_s)),
    }
    if reactor.max_bit_s is not None:
        task["max_bit_s"] = max(LEAST_PACE_BIT_S, round(reactor.max_bit_s))
    return task


def _marks(hop: Hop, layout: Layout, plan: Plan, family: int) -> Table:
    """Its price goes to who pays it, and to their receivers, who read their counts where it changes."""
    charged = [place for place in layout.places if place.provider == hop.gateway and place.has_session]
    hosts = sorted({name for place in charged for name in (place.sender, place.receiver)})
    marks: Table = {"push_to": [plan.address(host, family) for host in hosts], "announced_ms": ANNOUNCED_MS}
    target = hop.link.target_utilisation
    if target is not None:
        longest_s = max(flow.rtt_ms for flow in layout.experiment.flows if hop.link.name in flow.path) / 1000
        period_s = hop.link.price_period_s or max(_LEAST_PRICE_PERIOD_S, _ROUND_TRIPS_IN_A_PERIOD * longest_s)
        marks |= {"target_utilisation_ppm": round(target * 1e6), "period_ms": max(100, round(period_s * 1000))}
    return marks


def _exact(link: Table, hop: Hop) -> Table:
    """Its own link has the experiment's rate, of packets without their frames; the way back neither queue nor marks."""
    if link["name"] == hop.onwards:
        return link | {"rate_bit_s": hop.rate_bit_s, "overhead_bytes": 0}
    if "rate_bit_s" not in link:
        return link
    return link | {"rate_bit_s": 0, "limit_bytes": 0, "marking": "none"}
