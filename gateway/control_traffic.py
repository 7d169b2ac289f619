"""Which packets are control traffic: served first and never dropped (MV-35).

Routing protocols, our own control connections, echoes between agents, and the ICMP that keeps paths working. Whoever
abuses these ports gets a reserved place in one queue for as long as the traffic is small; the queue's limit still
holds for all others.  Pure.
"""

from __future__ import annotations

from billpay.messages import CONTROL_PORT, ECHO_PORT
from billpay.packet import transport_of

TCP, UDP, OSPF, ICMP, ICMPV6 = 6, 17, 89, 1, 58
BGP_PORT = 179
CONTROL_TCP_PORTS = frozenset((CONTROL_PORT, BGP_PORT))
ICMP_ERRORS = frozenset((3, 4, 11, 12))
ICMPV6_ERRORS_AND_NEIGHBOURS = frozenset((1, 2, 3, 4, 133, 134, 135, 136, 137))


def is_control(packet: bytes) -> bool:
    """By protocol, port and ICMP type; a fragment or a packet that does not parse is not."""
    transport = transport_of(packet)
    if transport is None or transport.fragment:
        return False
    protocol, at = transport.protocol, transport.offset
    if protocol in (TCP, UDP) and len(packet) >= at + 4:
        source, destination = int.from_bytes(packet[at : at + 2]), int.from_bytes(packet[at + 2 : at + 4])
        if protocol == UDP:
            return source == ECHO_PORT == destination
        return source in CONTROL_TCP_PORTS or destination in CONTROL_TCP_PORTS
    if protocol == ICMP:
        return len(packet) > at and packet[at] in ICMP_ERRORS
    if protocol == ICMPV6:
        return len(packet) > at and packet[at] in ICMPV6_ERRORS_AND_NEIGHBOURS
    return protocol == OSPF
