"""The packets that a gateway gets, made by the same code as the product's: with a valid header, or without one.

Decides nothing. A head is all of a frame in front of its payload; a payload is zeros. MACs are right for the minute in
which a head is made and for the next one, so heads are made again before each volley of a later minute.
"""

from __future__ import annotations

import enum
import struct
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from bench.payments.network import DESTINATION, SOURCE
from billpay.header import Header, Slot, base_word, encode, insert, last_gateway_field, slot_word
from billpay.mac import compute_mac, epoch_of
from billpay.messages import FlowSelector, Grant, GrantKind
from billpay.packet import FlowKey

KEY: Final = bytes(range(16))
AMOUNT: Final = 20
SLOTS: Final = (Slot(0, 0, 0), Slot(0, 0, 0), Slot(0, 0, 0))
GATEWAY_AS: Final = 64512
NEIGHBOUR_AS: Final = 64513
UDP, TCP = 17, 6
FIRST_PORT: Final = 20_000
PORTS_OF_A_SOURCE: Final = 100
"""As in generator.c."""

ETHER_TYPE: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
IP_BYTES: Final = {4: 20, 6: 40}
UDP_BYTES: Final = 8
_MTU: Final = 65535


class Carries(enum.Enum):
    """What the field behind the slots says."""

    NOTHING = "no header"
    MAC = "a host's MAC"
    NAME = "a neighbour's name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`size`: bytes of the IP packet before a header is put in."""

    family: int
    size: int
    flows: int

    @property
    def payload_bytes(self) -> int:
        return self.size - IP_BYTES[self.family] - UDP_BYTES

    @property
    def name(self) -> str:
        return f"IPv{self.family}, {self.size} B, {self.flows:,} flow{'s' * (self.flows > 1)}"


def grant(flow: FlowSelector, name: int) -> Grant:
    """As good as unlimited, for hours."""
    now = int(time.time())
    return Grant(
        grant=f"{name:032x}",
        serial=1,
        kind=GrantKind.SPEND,
        flow=flow,
        cap_nanodollars=1 << 60,
        rate_nanodollars_per_s=9_000_000_000,
        burst_nanodollars=9_000_000_000,
        not_before_unix_s=now - 100,
        expires_unix_s=now + 10_000,
        key=KEY.hex(),
    )


def selector(family: int, protocol: int, ports: tuple[int, int]) -> FlowSelector:
    return FlowSelector(
        source=SOURCE[family],
        destination=DESTINATION[family],
        protocol=protocol,
        source_port=ports[0],
        destination_port=ports[1],
    )


def ports_of(number: int) -> tuple[int, int]:
    """Of the flow with this number, as generator.c gives them."""
    source, destination = divmod(number, PORTS_OF_A_SOURCE)
    return FIRST_PORT + source, FIRST_PORT + destination


def heads(shape: Shape, carries: Carries, ethernet: bytes) -> tuple[bytes, int]:
    """All of the shape's heads one after the other, and the size of each."""
    front = ethernet + ETHER_TYPE[shape.family]
    made = [front + _head(shape, ports_of(number), carries) for number in range(shape.flows)]
    return b"".join(made), len(made[0])


def _head(shape: Shape, ports: tuple[int, int], carries: Carries) -> bytes:
    source, destination = (ip_address(ends[shape.family]).packed for ends in (SOURCE, DESTINATION))
    length = UDP_BYTES + shape.payload_bytes
    udp = struct.pack("!HHHH", *ports, length, 0)
    pseudo = source + destination + struct.pack("!IHBB", length, 0, 0, UDP)
    udp = udp[:6] + (_checksum(pseudo + udp) or 0xFFFF).to_bytes(2)
    if shape.family == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, shape.size, 1, 0, 64, UDP, 0) + source + destination
        ip = ip[:10] + _checksum(ip).to_bytes(2) + ip[12:]
    else:
        ip = struct.pack("!IHBB", 6 << 28, length, UDP, 64) + source + destination
    packet = ip + udp + bytes(shape.payload_bytes)
    if carries is Carries.NOTHING:
        return packet[: len(packet) - shape.payload_bytes]
    with_header = insert(packet, header(FlowKey(source, destination, UDP, *ports), carries), mtu=_MTU)
    assert isinstance(with_header, bytes)
    return with_header[: len(with_header) - shape.payload_bytes]


def header(flow: FlowKey, carries: Carries) -> bytes:
    if carries is Carries.NAME:
        return encode(Header(AMOUNT, 1, SLOTS, last_gateway_field(NEIGHBOUR_AS)))
    words = base_word(AMOUNT, 0, len(SLOTS)).to_bytes(4) + b"".join(slot_word(slot).to_bytes(4) for slot in SLOTS)
    return encode(Header(AMOUNT, 0, SLOTS, compute_mac(KEY, flow, epoch_of(int(time.time())), words)))


def option(protocol: int, ports: tuple[int, int], carries: Carries) -> str:
    """For IP_OPTIONS of a socket, in hexadecimal."""
    if carries is Carries.NOTHING:
        return "-"
    source, destination = (ip_address(ends[4]).packed for ends in (SOURCE, DESTINATION))
    made = header(FlowKey(source, destination, protocol, *ports), carries)
    return (bytes((0x9E, len(made) + 2)) + made).hex()


def _checksum(data: bytes) -> int:
    """RFC 1071; 2^16 is 1 modulo 65535. The payload is zeros and adds nothing."""
    return -int.from_bytes(data, "big") % 65535
