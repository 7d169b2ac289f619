"""A probe and its answer as values: what is to be sent, and what came back.

Nothing is built, sent or concluded here (`forms` builds and reads with scapy, `wire` sends, the others conclude).
Everything that a router may hash for load balancing is in `flow`: probes of one flow take one path, as Paris traceroute
asks for.  Sources: RFC 792, 4443 (ICMP), 4884 (quoted length), 1191 and 8201 (path MTU), 3168 (ECN), 2474 (DSCP);
Augustin et al., Paris traceroute (IMC 2006).  Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Transport(enum.Enum):
    ICMP = "icmp"
    UDP = "udp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePacket:
    """One packet to be sent. `flow`: 0…4095, the flow identifier (ports, or the ICMP checksum); IPv6 flow label 0."""

    destination: str
    transport: Transport
    ttl: int
    flow: int = 0
    port: int = 33434  # of the destination; TCP usually 80 or 443, unused for ICMP
    ecn: int = 0  # the two bits
    dscp: int = 0  # the six bits
    size_bytes: int = 60  # the whole IP packet
    dont_fragment: bool = True
    tcp_flags: int = 0x02  # SYN; 0xC2: SYN with ECE and CWR asks for ECN


class AnswerKind(enum.Enum):
    TIME_EXCEEDED = "time exceeded"
    UNREACHABLE = "unreachable"
    TOO_BIG = "packet too big"  # ICMPv4: fragmentation needed
    REPLY = "reply"  # echo reply, SYN-ACK, RST: from the destination itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    kind: AnswerKind
    address: str  # who answered
    round_trip_ns: int
    code: int = 0  # of ICMP
    ttl: int = 0  # with which the answer arrived
    quoted_ttl: int | None = None  # the rest is of the probe as the answering node quoted it; None: not quoted
    quoted_traffic_class: int | None = None  # ECN in the two lowest bits, DSCP above
    quoted_checksum_differs: bool = False  # a NAT on the way has rewritten the flow
    mtu: int | None = None
    traffic_class: int = 0  # of the answer itself
    tcp_flags: int | None = None

    @property
    def is_final(self) -> bool:
        """Nothing is behind whoever says so."""
        return self.kind in (AnswerKind.REPLY, AnswerKind.UNREACHABLE)


class Prober(Protocol):
    """Sends, paced and bounded. One for each run; every answer is matched to its probe."""

    @property
    def sent(self) -> int: ...

    async def ask(self, packets: Sequence[ProbePacket], *, wait_ns: int) -> list[Answer | None]:
        """One answer for each packet, in their order; None: nothing within `wait_ns` of its sending.

        Raises LocalProtocolError beyond the run's bound of packets, EnvironmentFault where raw sockets are forbidden.
        """
        ...
