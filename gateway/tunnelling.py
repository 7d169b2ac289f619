"""Our end of the UDP tunnel to one neighbour, with a transit network between us that knows nothing of payments.

Decides: what is a datagram of this tunnel, how a packet goes into it, and whether the other end is there. Refuses to
know: what a payment is worth and who is paid. A tunnel that was silent for `SILENT_NS` is dead: no header is sent into
it until it speaks again, so that a neighbour whose reader died gets ordinary packets.

A packet goes into the tunnel by being dropped and sent anew: a source address of our own on a packet that came in from
outside is one that the kernel throws away (a martian). It comes out by a verdict where the IP versions are the same.
Source: docs/spec/wire.md, Tunnel. Pure: `now_ns` is an argument.
"""

from __future__ import annotations

from enum import Enum

from billpay.header import Located, Malformed, header_bytes_of, strip
from billpay.packet import clamp_mss, decrement_ttl
from billpay.tunnel import (
    Decapsulated,
    decapsulate,
    encapsulate,
    keepalive,
    open_outer,
    outer_packet,
    outer_tos,
    tunnel_bytes,
)

KEEPALIVE_NS = 200_000_000
SILENT_NS = 700_000_000
"""Three keepalives may be lost."""
NETWORK_CONTROL = 0xC0
"""The traffic class of a keepalive (DSCP CS6): it must arrive when the transit network is full."""


class Nothing(Enum):
    """What a packet was that carries none for us to handle."""

    NOT_OURS = "not a datagram of this tunnel"
    KEEPALIVE = "keepalive"


class TunnelEnd:
    """`own` and `peer` are packed addresses of one family; `mtu_bytes` bounds the outer packet."""

    __slots__ = ("_keepalive", "_mtu_bytes", "_next_keepalive_ns", "_own", "_peer", "_spoke", "_version", "heard_ns")

    def __init__(self, own: bytes, peer: bytes, *, mtu_bytes: int) -> None:
        self._own = own
        self._peer = peer
        self._version = 4 if len(own) == 4 else 6
        self._mtu_bytes = mtu_bytes
        self._keepalive = outer_packet(keepalive(), source=own, destination=peer, tos=NETWORK_CONTROL)
        self._next_keepalive_ns = 0
        self._spoke = False
        self.heard_ns: int | None = None

    def is_alive(self, now_ns: int) -> bool:
        return self.heard_ns is not None and now_ns - self.heard_ns < SILENT_NS

    def fell_silent(self, now_ns: int) -> bool:
        """Whether it is dead and was not when last asked."""
        spoke, self._spoke = self._spoke, self.is_alive(now_ns)
        return spoke and not self._spoke

    # --- time -------------------------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int:
        return self._next_keepalive_ns

    def keepalive_due(self, now_ns: int) -> bytes | None:
        """The packet to send now, if it is time for one."""
        if now_ns < self._next_keepalive_ns:
            return None
        self._next_keepalive_ns = now_ns + KEEPALIVE_NS
        return self._keepalive

    # --- in and out -------------------------------------------------------------------------------------------------

    def open(self, packet: bytes, *, max_amount: int, now_ns: int) -> Decapsulated | Malformed | Nothing:
        """What arrived on the tunnel's interface, if it came out of the tunnel."""
        addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
        if addresses != self._peer + self._own:
            return Nothing.NOT_OURS
        outer = open_outer(packet)
        if outer is None:
            return Nothing.NOT_OURS
        if isinstance(outer, Malformed):
            return outer
        carried = decapsulate(outer.payload, outer_tos=outer.tos, max_amount=max_amount)
        if isinstance(carried, Malformed):
            return carried
        self.heard_ns = now_ns
        return Nothing.KEEPALIVE if carried is None else carried

    def size_in_tunnel(self, packet: bytes, located: Located) -> int:
        """Of the outer packet around a packet with this header."""
        return len(packet) - located.length + tunnel_bytes(outer_version=self._version, oad_count=located.oad_count)

    def fits(self, packet: bytes, located: Located) -> bool:
        return self.size_in_tunnel(packet, located) <= self._mtu_bytes

    def wrap(self, packet: bytes, located: Located) -> bytes:
        """The whole outer packet. It does not go on by the kernel's forwarding, so the inner TTL is counted here."""
        inner = decrement_ttl(strip(packet, located))
        assert inner is not None, "the caller lets the kernel answer what expires"
        return outer_packet(
            encapsulate(inner, header_bytes_of(packet, located)),
            source=self._own,
            destination=self._peer,
            tos=outer_tos(inner),
        )

    def with_room(self, packet: bytes) -> bytes:
        """A SYN with its MSS lowered by what the tunnel takes more than a carrier: full segments must fit into it."""
        carrier = 12 if packet[0] >> 4 == 4 else 16
        clamped = clamp_mss(packet, tunnel_bytes(outer_version=self._version, oad_count=0) - carrier)
        return packet if clamped is None else clamped
