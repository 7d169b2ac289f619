"""What lines carry that nobody configured: found out from traffic that is there anyway.

Decides: which socket's round trips are on which interface, and when an estimate is worth telling. Refuses to know: how
a rate is estimated (`hostagent.sharing.capacity`), and what it is used for.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.metering import Reading
from dataplane.round_trips import RoundTrip, RoundTrips
from hostagent.networks.situation import ActiveNetwork
from hostagent.sharing.capacity import Estimate, LinkCapacity, Look, Source, Trip
from hostagent.sharing.links import Rates

LOG = logging.getLogger("hostagent")
STEP_PPM: Final = 20_000
"""A smaller change of an estimate is not told: the kernel's classes need not move for it."""


class MeasuredRates:
    """One for an agent; bound to the network namespace that it is made in."""

    def __init__(self) -> None:
        self._trips: RoundTrips | None = None
        self._capacities: dict[str, LinkCapacity] = {}
        self._told: dict[str, Rates] = {}
        self.reasons: dict[str, str] = {}

    def open(self) -> None:
        """Without round trips nothing is estimated, and what was found before holds."""
        try:
            self._trips = RoundTrips()
        except EnvironmentFault as fault:
            LOG.warning("no line's rate can be found out: %s", fault)

    def close(self) -> None:
        if self._trips is not None:
            self._trips.close()
            self._trips = None

    def arrive(self, network: str, *, egress_bit_s: int | None, ingress_bit_s: int | None) -> None:
        """The host is on a network; the rates are those that were found there before."""
        if network not in self._capacities:
            capacity = LinkCapacity(egress_bit_s=egress_bit_s, ingress_bit_s=ingress_bit_s)
            self._capacities[network] = capacity
            self._tell(network, capacity)

    def leave_all_but(self, networks: Iterable[str]) -> None:
        for gone in self._capacities.keys() - set(networks):
            del self._capacities[gone]
            self._told.pop(gone, None)
            self.reasons.pop(gone, None)

    def look(self, reading: Reading, networks: Sequence[ActiveNetwork], acted_on: Collection[str]) -> dict[str, Rates]:
        """Once a second. By network key, as of now. `acted_on`: networks that are shaped to what was said of them."""
        if self._trips is None:
            return dict(self._told)
        try:
            trips = self._trips.read()
        except EnvironmentFault as fault:
            LOG.warning("%s", fault)
            return dict(self._told)
        links = {link.interface: link for link in reading.links}
        for network in networks:
            link, capacity = links.get(network.interface), self._capacities.get(network.key)
            if link is None or capacity is None:
                continue
            capacity.on_look(
                Look(
                    now_ns=reading.now_ns,
                    sent_bytes=link.sent.bytes,
                    received_bytes=link.received.bytes,
                    trips=_trips_on(network, trips),
                    acts=network.key in acted_on,
                )
            )
            self._tell(network.key, capacity)
        return dict(self._told)

    def _tell(self, network: str, capacity: LinkCapacity) -> None:
        found, before = capacity.estimate, self._told.get(network, Rates())
        out, into = found.egress, found.ingress
        known = Source.MEASURED in (out.source, into.source) or Source.REMEMBERED in (out.source, into.source)
        self._told[network] = Rates(
            egress_bit_s=_settled(out.rate_bit_s, before.egress_bit_s),
            ingress_bit_s=_settled(into.rate_bit_s, before.ingress_bit_s),
            egress_shape_bit_s=_settled(out.shape_bit_s, before.egress_shape_bit_s),
            ingress_shape_bit_s=_settled(into.shape_bit_s, before.ingress_shape_bit_s),
            source="measured" if known else "unknown",
        )
        self.reasons[network] = _reason(out, into)


def _trips_on(network: ActiveNetwork, trips: Sequence[RoundTrip]) -> list[Trip]:
    """Those from an address of this interface."""
    own = {ip_address(address).packed for address in network.addresses}
    near = [ip_network(prefix) for prefix in network.prefixes]
    found = []
    for trip in trips:
        if trip.local in own:
            remote = ip_address(trip.remote)
            found.append(
                Trip(
                    remote=trip.remote,
                    now_us=trip.now_us,
                    least_us=trip.least_us,
                    receiving_us=trip.receiving_us,
                    is_near=any(remote in prefix for prefix in near if prefix.version == remote.version),
                )
            )
    return found


def _settled(now: int | None, before: int | None) -> int | None:
    """The value of before while it is about right."""
    if now is None or before is None:
        return now
    return before if abs(now - before) * 1_000_000 < before * STEP_PPM else now


def _reason(out: Estimate, into: Estimate) -> str:
    return f"out: {out.reason}; in: {into.reason}"
