"""Where a packet goes: longest prefix match, then the choice among the alternatives that the route offers.

Decides the egress link and the ISP-OAD; refuses to know payments.  A user-OAD is a wish: the wanted choice if it
exists, else the first alternative that is not undesirable, else the first of all; the route's default comes first.
A withdrawn alternative does not exist. Source: Bill-Pay 2.2.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

from billpay.header import ISP_WRITTEN, Slot
from gateway.plan import RoutePlan

MAX_CACHED_DESTINATIONS = 65_536
ROUTE_BITMAP = ISP_WRITTEN - 1


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way on: the egress by name, its number, the routing index (0: the kernel's own route)."""

    number: int
    link: str
    index: int


@dataclass(frozen=True, slots=True)
class Route:
    """The alternatives towards a prefix in the ISP's order of preference, and their bitmap as an ISP-OAD shows it."""

    alternatives: tuple[Alternative, ...]
    bitmap: int

    def choose(self, wish: Slot | None) -> Alternative:
        """The alternative for a packet whose user-OAD for us is `wish`."""
        if wish is None or wish.alternatives & ISP_WRITTEN:
            return self.alternatives[0]
        for alternative in self.alternatives:
            if alternative.number == wish.choice:
                return alternative
        for alternative in self.alternatives:
            if not wish.alternatives >> (alternative.number - 1) & 1:
                return alternative
        return self.alternatives[0]

    def isp_oad(self, as_number: int, chosen: Alternative) -> Slot:
        return Slot(as_number, self.bitmap, chosen.number)


class Routes:
    """Longest prefix match with a bounded cache of destinations (packed addresses)."""

    def __init__(self, plans: tuple[RoutePlan, ...]) -> None:
        by_length: dict[tuple[int, int], dict[int, Route]] = {}
        for plan in plans:
            network = plan.prefix.network_address
            shift = plan.prefix.max_prefixlen - plan.prefix.prefixlen
            table = by_length.setdefault((len(network.packed), shift), {})
            table.setdefault(int(network) >> shift, _route_of(plan))
        # Address size in bytes, how many bits are not the prefix's, the prefixes of that length; longest first.
        self._tables = [(size, shift, table) for (size, shift), table in sorted(by_length.items(), key=itemgetter(0))]
        self._cache: dict[bytes, Route | None] = {}

    def find(self, destination: bytes) -> Route | None:
        """The route to a packed IPv4 or IPv6 address; None: not ours to decide, the kernel's routing does.

        Bytes of any other length have no route.
        """
        try:
            return self._cache[destination]
        except KeyError:
            if len(self._cache) >= MAX_CACHED_DESTINATIONS:
                self._cache.clear()
            found = self._cache[destination] = self._search(destination)
            return found

    def _search(self, destination: bytes) -> Route | None:
        number, size = int.from_bytes(destination, "big"), len(destination)
        for address_bytes, shift, table in self._tables:
            if address_bytes == size:
                route = table.get(number >> shift)
                if route is not None:
                    return route
        return None


def _route_of(plan: RoutePlan) -> Route:
    offered = [(index, item) for index, item in enumerate(plan.alternatives) if item.available]
    offered.sort(key=lambda each: each[1].number != plan.default)  # the others stay in their order
    alternatives = tuple(Alternative(item.number, item.link, index) for index, item in offered)
    bitmap = ISP_WRITTEN
    for item in alternatives:
        bitmap |= 1 << (item.number - 1)
    return Route(alternatives, bitmap)
