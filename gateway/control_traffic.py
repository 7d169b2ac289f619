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
CONTROL_TCP_PORTS = frozenset(port.to_bytes(2, "big") for port in (CONTROL_PORT, BGP_PORT))
ECHO_PORTS = 2 * ECHO_PORT.to_bytes(2, "big")
ICMP_ERRORS = frozenset((3, 4, 11, 12))
ICMPV6_ERRORS_AND_NEIGHBOURS = frozenset((1, 2, 3, 4, 133, 134, 135, 136, 137))


def is_control(packet: bytes) -> bool:
    """By protocol, port and ICMP type; a fragment or a packet that does not parse is not."""
    transport = transport_of(packet) if _may_be_control(packet) else None
    if transport is None or transport.fragment:
        return False
    protocol, at = transport.protocol, transport.offset
    if protocol == UDP:
        return packet[at : at + 4] == ECHO_PORTS
    if protocol == TCP and len(packet) >= at + 4:
        return packet[at : at + 2] in CONTROL_TCP_PORTS or packet[at + 2 : at + 4] in CONTROL_TCP_PORTS
    if protocol == ICMP:
        return len(packet) > at and packet[at] in ICMP_ERRORS
    if protocol == ICMPV6:
        return len(packet) > at and packet[at] in ICMPV6_ERRORS_AND_NEIGHBOURS
    return protocol == OSPF


def _may_be_control(packet: bytes) -> bool:
    """False for most TCP and UDP packets, without a walk through the headers."""
    if len(packet) < 48:
        return True
    if packet[0] >> 4 == 4:
        protocol, at = packet[9], (packet[0] & 15) << 2
    elif packet[6]:
        protocol, at = packet[6], 40
    else:
        protocol, at = packet[40], 48 + (packet[41] << 3)
    if protocol == UDP:
        return packet[at : at + 4] == ECHO_PORTS
    if protocol == TCP:
        return packet[at : at + 2] in CONTROL_TCP_PORTS or packet[at + 2 : at + 4] in CONTROL_TCP_PORTS
    return True
