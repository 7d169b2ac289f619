"""What a pool of hosts believes of the ways to prefixes, until this host has measured them itself.

Decides which beliefs are about a destination (the longest prefix that says something of a way) and keeps a bounded
number of them.  Refuses to know who pools them and whether to trust that (the caller has checked).  Source: Bill-Pay
2.2, campus-wide service.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network

from billpay.header import ISP_WRITTEN, MAX_ALTERNATIVE, MAX_AS_NUMBER, MAX_OADS, Slot
from cartographer.map import Destination, WayRecord
from cartographer.topology import address_of
from cartographer.values import Estimate, Quantity, Way

MAX_PREFIXES = 4096
MAX_WAYS = 16  # of one prefix


class Priors:
    """The longest unheard prefix goes first."""

    def __init__(self) -> None:
        self._prefixes: dict[str, tuple[IPv4Network | IPv6Network, dict[Way, dict[Quantity, Estimate]]]] = {}

    def put(self, prefix: str, way: Way, estimates: Mapping[Quantity, Estimate]) -> bool:
        """False for what is no prefix or no way."""
        try:
            network = ip_network(prefix)
        except ValueError:
            return False
        if not slots_of(way):
            return False
        known = self._prefixes.pop(prefix, None) or (network, {})
        while len(self._prefixes) >= MAX_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        self._prefixes[prefix] = known
        ways = known[1]
        if way in ways or len(ways) < MAX_WAYS:
            ways[way] = dict(estimates)
        return True

    def apply(self, destination: str, record: Destination, now_ns: int, *, only: str | None = None) -> None:
        """Tells a destination's ways what is believed of them; adds ways that its ISPs say they have."""
        if not self._prefixes:
            return
        address = address_of(destination)
        if address is None:
            return
        found: dict[Way, tuple[int, dict[Quantity, Estimate]]] = {}
        for name in (only,) if only is not None else tuple(self._prefixes):
            network, ways = self._prefixes[name]
            if address.version != network.version or address not in network:
                continue
            for way, estimates in ways.items():
                if way not in found or found[way][0] <= network.prefixlen:
                    found[way] = (network.prefixlen, estimates)
        for way, (_, estimates) in found.items():
            known = record.ways.get(way) or _opened(way, record, now_ns)
            if known is None:
                continue
            record.version += 1
            for quantity, estimate in estimates.items():
                known.statistics.on_prior(quantity, estimate)


def _opened(way: Way, record: Destination, now_ns: int) -> WayRecord | None:
    """A way that others have seen, if the first ISP that deviates says that it has this alternative."""
    slots = slots_of(way)
    for slot in slots:
        isp = record.isps.get(slot.as_number)
        if isp is not None and not isp.bitmap >> (slot.choice - 1) & 1:
            return None
    if not slots or slots[0].as_number not in record.isps:
        return None
    for slot in slots:
        isp = record.isps.get(slot.as_number)
        if isp is not None and not isp.facts(slot.choice).seen:
            isp.alternatives[slot.choice] = replace(isp.facts(slot.choice), seen=True)
    record.ways[way] = WayRecord(way, slots, now_ns)
    return record.ways[way]


def slots_of(way: Way) -> tuple[Slot, ...]:
    """A way's text read back; the bitmaps know of the choices alone. () for anything else."""
    slots = []
    for hop in way.split():
        number, _, choice = hop.removeprefix("AS").partition(":")
        if not (
            hop.startswith("AS") and number.isascii() and number.isdecimal() and choice.isascii() and choice.isdecimal()
        ):
            return ()
        slot = Slot(int(number[:6]), 0, int(choice[:3]))
        if not (1 <= slot.as_number <= MAX_AS_NUMBER and 1 <= slot.choice <= MAX_ALTERNATIVE):
            return ()
        slots.append(slot._replace(alternatives=ISP_WRITTEN | 1 << (slot.choice - 1)))
    if len(slots) > MAX_OADS or len({slot.as_number for slot in slots}) != len(slots):
        return ()
    return tuple(slots)
