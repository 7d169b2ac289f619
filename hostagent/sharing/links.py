"""Which interfaces are counted, which network each belongs to, and what each can carry.

Decides: a configured rate before a measured one, and by how much a link of ours must be slower than the line behind it
for the queue to stand here and not there. Refuses to know: how networks are found and rates measured. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from dataplane.shaping.plan import ShapedLink

PPM: Final = 1_000_000
EGRESS_PPM: Final = 970_000
INGRESS_PPM: Final = 930_000
"""Of what the line carries: what leaves, and what arrives. Arriving packets have been through the line's queue already,
so it needs more room to stay empty (cake-autorate and sqm-scripts advise 85 to 95 %)."""


class OnNetwork(Protocol):
    """What is asked of a network that the host is on."""

    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def interface(self) -> str: ...


class Said(Protocol):
    """A [[networks]] table."""

    @property
    def match(self) -> str: ...
    @property
    def egress_bit_s(self) -> int | None: ...
    @property
    def ingress_bit_s(self) -> int | None: ...


SaidT = TypeVar("SaidT", bound=Said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a line carries, at the IP layer, and what it is to be shaped to. None: not known; not at all."""

    egress_bit_s: int | None = None
    ingress_bit_s: int | None = None
    egress_shape_bit_s: int | None = None
    ingress_shape_bit_s: int | None = None
    source: str = "unknown"  # "configured", "measured", "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedLink:
    """An interface that is counted; `rates`: of the line, not what we shape to."""

    interface: str
    network: str  # its network's key, "" for none
    rates: Rates
    shaped: ShapedLink


def said_of(sections: Sequence[SaidT], network: OnNetwork) -> SaidT | None:
    """The first table that means the network."""
    names = (network.title, network.key, network.interface)
    return next((each for each in sections if any(_matches(each.match, name) for name in names)), None)


def choose_links(
    configured: Sequence[ShapedLink],
    networks: Sequence[OnNetwork],
    sections: Sequence[Said],
    measured: Mapping[str, Rates],
    limits: Mapping[str, int],
) -> tuple[CountedLink, ...]:
    """The configuration's links if it names any, else the interface of each network.

    `measured`: by network key. `limits`: by interface, what somebody else's qdisc limits it to, and ours takes over.
    """
    by_interface = {network.interface: network for network in networks}
    if configured:
        return tuple(
            CountedLink(
                interface=link.interface,
                network=by_interface[link.interface].key if link.interface in by_interface else "",
                rates=Rates(egress_bit_s=link.egress_bit_s, ingress_bit_s=link.ingress_bit_s, source=_source(link)),
                shaped=link,  # as it was written: whoever names a rate for a link means that rate
            )
            for link in (_within(link, limits.get(link.interface)) for link in configured)
        )
    return tuple(
        _link_of(network, sections, measured, limits.get(network.interface)) for network in by_interface.values()
    )


def _link_of(
    network: OnNetwork, sections: Sequence[Said], measured: Mapping[str, Rates], limit_bit_s: int | None
) -> CountedLink:
    said, found = said_of(sections, network), measured.get(network.key, Rates())
    said_egress = (said.egress_bit_s if said is not None else None) or limit_bit_s
    said_ingress = said.ingress_bit_s if said is not None else None
    rates = Rates(
        egress_bit_s=said_egress or found.egress_bit_s,
        ingress_bit_s=said_ingress or found.ingress_bit_s,
        egress_shape_bit_s=_part(said_egress, EGRESS_PPM) or found.egress_shape_bit_s,
        ingress_shape_bit_s=_part(said_ingress, INGRESS_PPM) or found.ingress_shape_bit_s,
        source="configured" if said_egress or said_ingress else found.source,
    )
    shaped = ShapedLink(
        interface=network.interface,
        egress_bit_s=rates.egress_shape_bit_s,
        ingress_bit_s=rates.ingress_shape_bit_s,
    )
    return CountedLink(interface=network.interface, network=network.key, rates=rates, shaped=shaped)


def _within(link: ShapedLink, limit_bit_s: int | None) -> ShapedLink:
    """Without a rate of its own it keeps the limit that somebody's qdisc had set."""
    if link.egress_bit_s is not None or limit_bit_s is None:
        return link
    return msgspec.structs.replace(link, egress_bit_s=_part(limit_bit_s, EGRESS_PPM))


def _source(link: ShapedLink) -> str:
    return "configured" if link.egress_bit_s or link.ingress_bit_s else "unknown"


def _part(rate_bit_s: int | None, ppm: int) -> int | None:
    return None if rate_bit_s is None else max(64_000, rate_bit_s * ppm // PPM)


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
