"""How probes look on the wire: builds them, and reads what comes back. The only module that knows scapy.

Decides: which bits of a probe are its flow and which tell it from others. Refuses to know: sockets, clocks, pacing,
and what an answer means for the path.

Everything that routers hash is the same for all probes of one flow to one destination: UDP ports and checksum; ICMP
type, code, identifier and checksum; TCP ports; IPv6 flow label 0. A flow looks alike in every run. What tells a probe
is its *token*: the IPv4 identification, the TCP sequence number, the ICMP sequence number, or the payload; two bytes of
balance beside it keep the checksum. Source: Augustin et al., "Avoiding traceroute anomalies with Paris traceroute" (IMC
2006) 3; RFC 792, 4443 (ICMP), 1191, 8201 (MTU), 4884 (what follows the quote is not read), 1624 (checksums).

Scapy takes 280 µs for a packet, so it builds one for each form and flow, and further ones are patched. It reads our
own probe where a router quotes it, from headers that have been cut out for it: it never sees a length that a stranger
chose. The envelope is fixed fields. Scapy is loaded when it is first needed.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from dataclasses import dataclass
from typing import Any, Final

from cartographer.measuring.packets import AnswerKind, ProbePacket, Transport

FLOWS: Final = 4096
FIRST_SOURCE_PORT: Final = 61_000
"""Above the ports that the kernel gives to programs (32768 to 60999): no socket's packets are taken for ours."""

TOKENS: Final = 65_535
"""1 to 65535: an IPv4 identification of 0 would be replaced by the kernel."""

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58

_PROTOCOLS: Final = {Transport.ICMP: ICMP, Transport.TCP: TCP, Transport.UDP: UDP}
_TRANSPORTS: Final = {ICMP: Transport.ICMP, ICMPV6: Transport.ICMP, TCP: Transport.TCP, UDP: Transport.UDP}
_LEAST_BYTES: Final = {Transport.ICMP: 14, Transport.TCP: 20, Transport.UDP: 14}  # balance, token, and whose it is
_TCP_OPTIONS: Final = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
_TCP_OPTIONS_BYTES: Final = 20
_SYN: Final = 0x02
_RST: Final = 0x04
_ACK: Final = 0x10
_FORMS_KEPT: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltProbe:
    """A probe as it goes out. sequence: of TCP, which tells it there."""

    datagram: bytes
    transport: Transport
    destination: str
    flow: int
    token: int
    sequence: int = 0
    data_bytes: int = 0  # that a TCP answer may acknowledge


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An answer as it came, and what it says of the probe that it is for."""

    kind: AnswerKind
    address: str
    transport: Transport
    destination: str
    flow: int
    token: int | None  # None: so little was quoted that it can be any probe of the flow
    sequence: int | None = None  # of the TCP probe; in a reply, one that it acknowledges
    echoed: int | None = None  # of a TCP reply to a packet with an acknowledgement
    code: int = 0
    ttl: int = 0
    traffic_class: int = 0
    quoted_ttl: int | None = None
    quoted_traffic_class: int | None = None
    quoted_checksum_differs: bool = False
    mtu: int | None = None
    tcp_flags: int | None = None

    def tells(self, probe: BuiltProbe) -> bool:
        """Whether it can be the answer to this probe."""
        if (self.transport, self.flow, self.destination) != (probe.transport, probe.flow, probe.destination):
            return False
        if self.transport is not Transport.TCP:
            return self.token is None or self.token == probe.token
        if self.kind is not AnswerKind.REPLY:
            return self.sequence == probe.sequence
        if self.echoed == probe.sequence:
            return True
        return self.sequence is not None and (self.sequence - probe.sequence) % 2**32 <= probe.data_bytes


class Forms:
    """Builds and reads the probes of one run. mark: 16 bits that tell this run's packets from another process's."""

    def __init__(self, *, mark: int) -> None:
        self._mark = mark & 0xFFFF
        self._kept: dict[tuple[ProbePacket, str], bytes] = {}

    # --- out ---

    def build(self, packet: ProbePacket, *, source: str, token: int) -> BuiltProbe:
        """token: 1 to TOKENS, not that of another probe that is still under way."""
        assert 1 <= token <= TOKENS, token
        assert 0 <= packet.flow < FLOWS, packet.flow
        is_v4 = ipaddress.ip_address(packet.destination).version == 4
        datagram = bytearray(self._form(packet, source, is_v4=is_v4))
        head = 20 if is_v4 else 40
        if is_v4:
            datagram[8] = packet.ttl
            datagram[4:6] = token.to_bytes(2, "big")
            datagram[10:12] = b"\0\0"
            datagram[10:12] = _checksum(datagram[:20]).to_bytes(2, "big")
        else:
            datagram[7] = packet.ttl
        balance_at, token_at, checksum_at = _places(packet)
        before = int.from_bytes(datagram[head + checksum_at : head + checksum_at + 2], "big")
        wanted = flow_checksum(packet.flow)
        with_both = packet.transport is Transport.TCP and bool(packet.tcp_flags & _ACK)
        balance = _balance(before, wanted, token, times=2 if with_both else 1)
        for shift in (0, 4) if with_both else (0,):
            struct.pack_into("!H", datagram, head + token_at + shift, token)
            struct.pack_into("!H", datagram, head + balance_at + shift, balance)
        struct.pack_into("!H", datagram, head + checksum_at, wanted)
        data_bytes = len(datagram) - head - (datagram[head + 12] >> 4) * 4 if packet.transport is Transport.TCP else 0
        return BuiltProbe(
            datagram=bytes(datagram),
            transport=packet.transport,
            destination=str(ipaddress.ip_address(packet.destination)),
            flow=packet.flow,
            token=token,
            sequence=token << 16 | balance if packet.transport is Transport.TCP else 0,
            data_bytes=data_bytes,
        )

    def _form(self, packet: ProbePacket, source: str, *, is_v4: bool) -> bytes:
        """As scapy makes it, with token and balance 0; the TTL does not count for it."""
        key = (_without_ttl(packet), source)
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= _FORMS_KEPT:
                self._kept.clear()
            kept = self._kept[key] = bytes(self._compose(packet, source, is_v4=is_v4))
        return kept

    def _compose(self, packet: ProbePacket, source: str, *, is_v4: bool) -> Any:
        layers = _layers()
        traffic_class = packet.dscp << 2 | packet.ecn
        if is_v4:
            flags = "DF" if packet.dont_fragment else 0
            head = layers.IP(src=source, dst=packet.destination, tos=traffic_class, id=1, flags=flags, ttl=64)
        else:
            head = layers.IPv6(src=source, dst=packet.destination, tc=traffic_class, fl=0, hlim=64)
        room = max(packet.size_bytes - (20 if is_v4 else 40), _LEAST_BYTES[packet.transport])
        port = FIRST_SOURCE_PORT + packet.flow
        if packet.transport is Transport.UDP:
            return head / layers.UDP(sport=port, dport=packet.port) / self._payload(room - 8)
        if packet.transport is Transport.ICMP:
            echo = layers.ICMP(type=8, id=port, seq=0) if is_v4 else layers.ICMPv6EchoRequest(id=port, seq=0)
            return head / echo / self._payload(room - 8)
        room -= 20
        options = _TCP_OPTIONS if packet.tcp_flags & _SYN and room >= _TCP_OPTIONS_BYTES else []
        data = bytes(room - _TCP_OPTIONS_BYTES) if options else bytes(room)
        segment = layers.TCP(
            sport=port, dport=packet.port, seq=0, ack=0, flags=packet.tcp_flags, window=64_240, options=options
        )
        return head / segment / data

    def _payload(self, length: int) -> bytes:
        """Balance, token (of UDP), whose it is; the rest says nothing."""
        return (bytes(4) + self._mark.to_bytes(2, "big")).ljust(length, b"\0")

    # --- in ---

    def read_ipv4(self, datagram: bytes) -> Reading | None:
        """A whole IPv4 packet with ICMP or TCP in it. None: not for us, whatever it is."""
        if len(datagram) < 28 or datagram[0] >> 4 != 4:
            return None
        head = (datagram[0] & 15) * 4
        protocol, body = datagram[9], datagram[head:]
        if head < 20 or len(body) < 8 or protocol not in (ICMP, TCP):
            return None
        if protocol == TCP and not _may_be_tcp_reply(body):
            return None
        if protocol == ICMP and (body[0] not in (0, 3, 11) or _checksum(body)):
            return None
        source = str(ipaddress.IPv4Address(datagram[12:16]))
        common = {"address": source, "ttl": datagram[8], "traffic_class": datagram[1]}
        return self._read_tcp(body, common) if protocol == TCP else self._read_icmp(body, common)

    def read_ipv6(
        self, protocol: int, body: bytes, *, source: str, hop_limit: int, traffic_class: int
    ) -> Reading | None:
        """What follows an IPv6 header: ICMPv6, whose checksum the kernel has checked, or TCP."""
        common = {"address": source, "ttl": hop_limit, "traffic_class": traffic_class}
        if protocol == TCP:
            return self._read_tcp(body, common) if _may_be_tcp_reply(body) else None
        if protocol != ICMPV6 or len(body) < 8 or body[0] not in (1, 2, 3, 129):
            return None
        return self._read_icmpv6(body, common)

    def _read_tcp(self, body: bytes, common: dict[str, Any]) -> Reading | None:
        segment = _layers().TCP(body[:20])
        flags = int(segment.flags)
        if not flags & _RST and flags & (_SYN | _ACK) != _SYN | _ACK:
            return None
        return Reading(
            kind=AnswerKind.REPLY,
            transport=Transport.TCP,
            destination=common["address"],
            flow=segment.dport - FIRST_SOURCE_PORT,
            token=None,
            sequence=(segment.ack - 1) % 2**32 if flags & _ACK else None,
            echoed=segment.seq if flags & _RST else None,
            tcp_flags=body[13],
            **common,
        )

    def _read_icmp(self, body: bytes, common: dict[str, Any]) -> Reading | None:
        number, code = body[0], body[1]
        if number == 0:
            return self._read_echo(body, common)
        kind = AnswerKind.TIME_EXCEEDED if number == 11 else AnswerKind.UNREACHABLE
        if number == 11 and code != 0:
            return None  # a reassembly that took too long
        common["code"] = code
        if number == 3 and code == 4:
            kind, common["mtu"] = AnswerKind.TOO_BIG, int.from_bytes(body[6:8], "big") or None
        quote = body[8:]
        if len(quote) < 28 or quote[0] >> 4 != 4:
            return None
        inner = _layers().IP(quote[:20])
        head = int(inner.ihl) * 4
        if head < 20 or len(quote) < head + 8 or inner.frag:
            return None
        common |= {"quoted_ttl": int(inner.ttl), "quoted_traffic_class": int(inner.tos), "destination": inner.dst}
        return self._read_quote(kind, int(inner.proto), quote[head:], common, identification=int(inner.id))

    def _read_icmpv6(self, body: bytes, common: dict[str, Any]) -> Reading | None:
        kind_number, code = body[0], body[1]
        if kind_number == 129:
            return self._read_echo(body, common)
        if kind_number == 3 and code != 0:
            return None
        kind = {1: AnswerKind.UNREACHABLE, 2: AnswerKind.TOO_BIG, 3: AnswerKind.TIME_EXCEEDED}[kind_number]
        common["code"] = code
        if kind is AnswerKind.TOO_BIG:
            common["mtu"] = int.from_bytes(body[4:8], "big") or None
        quote = body[8:]
        if len(quote) < 48 or quote[0] >> 4 != 6:
            return None
        inner = _layers().IPv6(quote[:40])
        destination = str(ipaddress.ip_address(inner.dst))
        common |= {"quoted_ttl": int(inner.hlim), "quoted_traffic_class": int(inner.tc), "destination": destination}
        return self._read_quote(kind, int(inner.nh), quote[40:], common, identification=None)

    def _read_echo(self, body: bytes, common: dict[str, Any]) -> Reading | None:
        identifier, sequence = struct.unpack_from("!HH", body, 4)
        is_ours = body[12:14] == self._mark.to_bytes(2, "big")
        if not is_ours or not 0 <= identifier - FIRST_SOURCE_PORT < FLOWS:
            return None
        return Reading(
            kind=AnswerKind.REPLY,
            transport=Transport.ICMP,
            destination=common["address"],
            flow=identifier - FIRST_SOURCE_PORT,
            token=sequence,
            **common,
        )

    def _read_quote(
        self, kind: AnswerKind, protocol: int, quote: bytes, common: dict[str, Any], *, identification: int | None
    ) -> Reading | None:
        """The probe's transport header as it was quoted, or what there is of it; 8 bytes at least."""
        transport = _TRANSPORTS.get(protocol)
        if transport is None:
            return None
        token, sequence, checksum = identification, None, None
        if transport is Transport.ICMP:
            port, checksum, token = _echo_of(quote, is_v4=identification is not None)
        elif transport is Transport.TCP:
            segment = _layers().TCP(quote[:20].ljust(20, b"\0"))
            port, sequence = int(segment.sport), int(segment.seq)
            checksum = int(segment.chksum) if len(quote) >= 18 else None
        else:
            datagram = _layers().UDP(quote[:8])
            port, checksum = int(datagram.sport), int(datagram.chksum)
            token = int.from_bytes(quote[10:12], "big") if len(quote) >= 12 else token
        is_marked = transport is Transport.TCP or len(quote) < 14 or quote[12:14] == self._mark.to_bytes(2, "big")
        if not is_marked or not 0 <= port - FIRST_SOURCE_PORT < FLOWS:
            return None
        flow = port - FIRST_SOURCE_PORT
        return Reading(
            kind=kind,
            transport=transport,
            flow=flow,
            token=token,
            sequence=sequence,
            quoted_checksum_differs=checksum is not None and checksum != flow_checksum(flow),
            **common,
        )


def flow_checksum(flow: int) -> int:
    """Of every probe of a flow: neither 0 (UDP: none) nor its twin 0xFFFF; different for all flows."""
    return 1 + (flow * 40_503 + 21_846) % 65_534


def least_bytes(transport: Transport, *, is_v4: bool) -> int:
    """The smallest probe that can be told; smaller sizes are raised to it."""
    return (20 if is_v4 else 40) + _LEAST_BYTES[transport]


def _places(packet: ProbePacket) -> tuple[int, int, int]:
    """Where balance, token and checksum are, from the end of the IP header."""
    if packet.transport is Transport.TCP:
        return 6, 4, 16
    return (8, 6, 2) if packet.transport is Transport.ICMP else (8, 10, 6)


def _echo_of(quote: bytes, *, is_v4: bool) -> tuple[int, int, int]:
    """Identifier, checksum and sequence number of a quoted echo request; an identifier of nobody if it is none."""
    layers = _layers()
    echo = layers.ICMP(quote[:8]) if is_v4 else layers.ICMPv6EchoRequest(quote[:8])
    if quote[0] != (8 if is_v4 else 128):
        return 0, 0, 0
    return int(echo.id), int(echo.chksum if is_v4 else echo.cksum), int(echo.seq)


def _may_be_tcp_reply(body: bytes) -> bool:
    """Cheaply: this is asked for every segment that the host receives on our ports."""
    return len(body) >= 20 and 0 <= int.from_bytes(body[2:4], "big") - FIRST_SOURCE_PORT < FLOWS


def _balance(before: int, wanted: int, token: int, *, times: int) -> int:
    """What makes the checksum `wanted` that was `before` with token and balance 0 (RFC 1624), each there `times`."""
    total = (~wanted & 0xFFFF) + before + times * (~token & 0xFFFF)
    if times == 1:
        return total % 0xFFFF
    return (total % 0xFFFF) * 0x8000 % 0xFFFF  # 0x8000 is a half: 2 · 0x8000 = 1 modulo 0xFFFF


def _checksum(data: bytes | bytearray) -> int:
    """RFC 1071; 0 over what contains its own right checksum."""
    padded = bytes(data) + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _without_ttl(packet: ProbePacket) -> ProbePacket:
    if packet.ttl == 0:
        return packet
    return ProbePacket(
        destination=packet.destination,
        transport=packet.transport,
        ttl=0,
        flow=packet.flow,
        port=packet.port,
        ecn=packet.ecn,
        dscp=packet.dscp,
        size_bytes=packet.size_bytes,
        dont_fragment=packet.dont_fragment,
        tcp_flags=packet.tcp_flags,
    )


@functools.cache
def _layers() -> Any:
    """Scapy's layers: loaded once, in a quarter of a second, by whoever really probes."""
    return _Layers()


class _Layers:
    def __init__(self) -> None:
        from scapy.layers import inet, inet6  # here, since most who import this module never probe

        self.IP, self.ICMP, self.UDP, self.TCP = inet.IP, inet.ICMP, inet.UDP, inet.TCP
        self.IPv6 = inet6.IPv6
        self.ICMPv6EchoRequest = inet6.ICMPv6EchoRequest
