"""Which flow is meant: a request's, or a message's, as our engine and as both ends name it; and sockets for both.

Decides: what is one exact flow. Refuses to know: sessions.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from billpay.messages import FlowSelector
from dataplane.metering import FlowKey
from hostagent import api
from hostagent.desk import Refused

PROTOCOLS: Final = {"tcp": int(socket.IPPROTO_TCP), "udp": int(socket.IPPROTO_UDP)}


def plain_address(text: str) -> IPv4Address | IPv6Address:
    """As it is on the wire: without a zone, and IPv4 where an IPv6 socket speaks to IPv4. Raises ValueError."""
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def key_of(request: api.SessionRequest) -> FlowKey:
    """As our engine has it. Raises Refused."""
    try:
        local, remote = plain_address(request.local), plain_address(request.remote)
    except ValueError as error:
        raise Refused("bad-address", str(error)) from error
    if local.version != remote.version:
        raise Refused("bad-address", "one address is IPv4, the other one IPv6")
    return FlowKey(0, PROTOCOLS[request.protocol], local.packed, request.local_port, remote.packed, request.remote_port)


def selector_of(request: api.SessionRequest) -> FlowSelector:
    """From the sender to the receiver."""
    local, remote = str(plain_address(request.local)), str(plain_address(request.remote))
    ends = [(local, request.local_port), (remote, request.remote_port)]
    (source, source_port), (destination, destination_port) = ends if request.sends else reversed(ends)
    return FlowSelector(
        source=source,
        destination=destination,
        protocol=PROTOCOLS[request.protocol],
        source_port=source_port,
        destination_port=destination_port,
    )


def key_of_selector(flow: FlowSelector) -> FlowKey | None:
    """Of a flow that arrives here. None: it is not one exact flow."""
    if flow.protocol not in PROTOCOLS.values() or not flow.source_port or not flow.destination_port:
        return None
    try:
        source, destination = ip_address(flow.source), ip_address(flow.destination)
    except ValueError:
        return None
    if (str(source), str(destination)) != (flow.source, flow.destination):
        return None
    return FlowKey(0, flow.protocol, destination.packed, flow.destination_port, source.packed, flow.source_port)
