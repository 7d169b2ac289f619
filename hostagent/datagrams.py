"""UDP sockets that this agent listens on: never blocking, one for each IP version."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from billpay.errors import EnvironmentFault


def udp_socket(address: str, port: int) -> socket.socket:
    """Bound; port 0: any. Raises EnvironmentFault."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        target = f"UDP port {port} ({'IPv6' if family == socket.AF_INET6 else 'IPv4'})"
        raise EnvironmentFault("listen on", target, error.strerror, "stop what uses it (another agent?)") from error
    return sock
