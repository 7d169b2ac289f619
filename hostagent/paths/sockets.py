"""What the kernel knows anyway of the ways to those that programs talk to: round trips and losses of their sockets.

Decides: which sockets say something of the Internet (not those to this host or to the link's neighbours). No packet is
sent for it. Source: `dataplane.round_trips`.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import NamedTuple

from billpay.errors import EnvironmentFault
from dataplane.round_trips import RoundTrip, RoundTrips

LOG = logging.getLogger("hostagent")


class SocketsSaw(NamedTuple):
    """Since the last look, of all sockets between two addresses."""

    local: str
    remote: str
    round_trip_ns: int
    delivered_packets: int
    lost_packets: int  # that had to go again


class SocketLearning:
    """Bound to the network namespace that it is opened in."""

    def __init__(self) -> None:
        self._trips: RoundTrips | None = None
        self._is_deaf = False

    def open(self) -> None:
        """Where the kernel does not tell, nothing is learned."""
        try:
            self._trips = RoundTrips()
        except EnvironmentFault as fault:
            LOG.warning("nothing is learned from sockets: %s", fault)

    def close(self) -> None:
        if self._trips is not None:
            self._trips.close()
            self._trips = None

    def read(self) -> list[SocketsSaw]:
        if self._trips is None:
            return []
        try:
            trips = self._trips.read()
        except EnvironmentFault as fault:
            if not self._is_deaf:  # it is asked every two seconds
                LOG.warning("%s", fault)
            self._is_deaf = True
            return []
        self._is_deaf = False
        return [seen for trip in trips if (seen := _told(trip)) is not None]


def _told(trip: RoundTrip) -> SocketsSaw | None:
    if trip.now_us is None:
        return None
    remote = ip_address(trip.remote)
    if remote.is_loopback or remote.is_link_local or trip.local == trip.remote:
        return None
    return SocketsSaw(
        local=str(ip_address(trip.local)),
        remote=str(remote),
        round_trip_ns=trip.now_us * 1000,
        delivered_packets=trip.delivered_packets,
        lost_packets=min(trip.retransmitted_packets, trip.delivered_packets),
    )
