"""One small echo request by one interface, unpaid: what an access without traffic is measured by.

Decides: nothing; who is asked, and how often, is decided in `hostagent.paths.access`. Refuses to know what an answer
means. Source: RFC 792, RFC 4443; icmp(7) for sockets that need no privilege, SO_BINDTODEVICE in socket(7).
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import struct
import time
from ipaddress import ip_address
from typing import Final

from billpay.errors import EnvironmentFault

PATIENCE_S: Final = 2.0
_REQUEST: Final = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY: Final = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL: Final = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_HEADER: Final = struct.Struct("!BBHHH")
_ICMP6_FILTER: Final = 1
_NONCE_BYTES: Final = 16
_NO_WAY: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL}
)


async def ping(interface: str, address: str) -> int | None:
    """Nanoseconds there and back; None: no answer. Raises EnvironmentFault where such packets may not be sent."""
    family = socket.AF_INET if ip_address(address.partition("%")[0]).version == 4 else socket.AF_INET6
    try:
        with _opened(family, interface) as endpoint:
            return await _ask(endpoint, family, interface, address)
    except OSError as error:
        if error.errno in _NO_WAY:
            return None
        raise EnvironmentFault("probe by", interface, error.strerror or error) from error


def _opened(family: socket.AddressFamily, interface: str) -> socket.socket:
    try:
        found = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _PROTOCOL[family])
    except PermissionError:  # net.ipv4.ping_group_range leaves us out
        found = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _PROTOCOL[family])
        if family == socket.AF_INET6:
            only_replies = bytearray(b"\xff" * 32)
            only_replies[_REPLY[family] // 8] &= ~(1 << _REPLY[family] % 8) & 0xFF
            found.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _in_words(only_replies))
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except OSError:
        found.close()
        raise
    return found


def _in_words(bits: bytes | bytearray) -> bytes:
    """The kernel's filter is of 32-bit words of this machine."""
    return struct.pack("=8I", *struct.unpack("<8I", bits))


async def _ask(endpoint: socket.socket, family: socket.AddressFamily, interface: str, address: str) -> int | None:
    loop = asyncio.get_running_loop()
    nonce = secrets.token_bytes(_NONCE_BYTES)
    where = (address, 0) if family == socket.AF_INET else (address, 0, 0, _scope(address, interface))
    sent_ns = time.monotonic_ns()
    await loop.sock_sendto(endpoint, echo_request(family, nonce), where)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                data = await loop.sock_recv(endpoint, 2048)
                if is_reply(family, data, nonce):
                    return time.monotonic_ns() - sent_ns
    except TimeoutError:
        return None


def _scope(address: str, interface: str) -> int:
    return socket.if_nametoindex(interface) if ip_address(address.partition("%")[0]).is_link_local else 0


def echo_request(family: socket.AddressFamily, nonce: bytes) -> bytes:
    """The nonce tells its answer from all others. ICMPv6 is summed up by the kernel."""
    identifier = int.from_bytes(nonce[:2], "big")
    checksum = 0
    if family == socket.AF_INET:
        checksum = _checksum(_HEADER.pack(_REQUEST[family], 0, 0, identifier, 1) + nonce)
    return _HEADER.pack(_REQUEST[family], 0, checksum, identifier, 1) + nonce


def is_reply(family: socket.AddressFamily, data: bytes, nonce: bytes) -> bool:
    """With the IPv4 header before it where the socket is a raw one."""
    if family == socket.AF_INET and data[:1] and data[0] >> 4 == 4 and len(data) > 20:
        data = data[(data[0] & 15) * 4 :]
    return data[:1] == bytes([_REPLY[family]]) and data[_HEADER.size :] == nonce


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
