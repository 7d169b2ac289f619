"""Sends probes with raw sockets and hears their answers: the one place where probing touches the machine.

Decides: when the next packet may go (a rate, small bursts), and when there are enough. Refuses to know: what probes
look like (`forms`), which are to be asked and what the answers say of a path.

Packets go out as built, with their IP header (raw(7), IP_HDRINCL; ipv6(7)). ICMP is heard on raw sockets that let only
the wanted types through, TCP on one with a packet filter on our ports (a kernel's RST to a SYN-ACK is welcome: nothing
stays half open). Round trips end at the kernel's receive time stamp (SO_TIMESTAMPNS), not when we come to read.
Needs CAP_NET_RAW, and CAP_NET_ADMIN for a mark.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import ipaddress
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from billpay.errors import EnvironmentFault, LocalProtocolError
from cartographer.measuring.forms import (
    FIRST_SOURCE_PORT,
    FLOWS,
    ICMP,
    ICMPV6,
    TCP,
    TOKENS,
    BuiltProbe,
    Forms,
    Reading,
)
from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Transport

PACKETS_PER_S: Final = 100
BURST_PACKETS: Final = 16
"""As many as traceroute(8) has under way by default (-N)."""

MOST_PACKETS: Final = 5_000

_SO_ATTACH_FILTER: Final = 26
_SO_TIMESTAMPNS: Final = 35
_ICMP_FILTER: Final = 1  # of SOL_RAW
_SOL_RAW: Final = 255
_ICMP6_FILTER: Final = 1
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_WANTED_ICMP: Final = (0, 3, 11)
_WANTED_ICMPV6: Final = (1, 2, 3, 129)
_RECEIVE_BUFFER_BYTES: Final = 1 << 20
_LARGEST_BYTES: Final = 65_535
_READ_AT_ONCE: Final = 64
_NS: Final = 1_000_000_000
_REMEDY: Final = "run it with sudo, or as a user with the capability CAP_NET_RAW"
_NO_ROUTE: Final = "is there a route, and the right interface?"
_QUIETLY_LOST: Final = (
    errno.EPERM,  # a packet filter of this host
    errno.ENOBUFS,
    errno.EAGAIN,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EINVAL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireTerms:
    """How much may be sent. most_packets: in the whole run."""

    packets_per_s: int = PACKETS_PER_S
    burst_packets: int = BURST_PACKETS
    most_packets: int = MOST_PACKETS
    interface: str | None = None
    mark: int | None = None

    def __post_init__(self) -> None:
        assert self.packets_per_s > 0
        assert self.burst_packets > 0
        assert 0 < self.most_packets < TOKENS  # no token twice


class Pace:
    """When the next packet may go: a rate with bursts (the virtual scheduling algorithm of ITU-T I.371). Pure."""

    def __init__(self, *, packets_per_s: int, burst_packets: int) -> None:
        self._each_ns = _NS // packets_per_s
        self._tolerance_ns = self._each_ns * (burst_packets - 1)
        self._due_ns: int | None = None

    def take(self, now_ns: int) -> int:
        """One packet is to go: when it may, `now_ns` or later."""
        due_ns = now_ns if self._due_ns is None else max(self._due_ns, now_ns)
        self._due_ns = due_ns + self._each_ns
        return max(now_ns, due_ns - self._tolerance_ns)


@dataclass(slots=True, kw_only=True, eq=False)
class _Asked:
    probe: BuiltProbe
    sent_ns: int
    answer: asyncio.Future[Answer | None]
    timer: asyncio.TimerHandle | None = field(default=None)


class WireProber:
    """A `Prober` on real interfaces, for one run. `with WireProber() as prober:` or call `close`.

    `ask` may be called again while an earlier one waits, and cancelled: what is under way for it is then forgotten.
    """

    def __init__(self, terms: WireTerms | None = None) -> None:
        self._terms = terms or WireTerms()
        self._forms = Forms(mark=secrets.randbelow(1 << 16))
        self._token = secrets.randbelow(TOKENS)
        self._pace = Pace(packets_per_s=self._terms.packets_per_s, burst_packets=self._terms.burst_packets)
        self._sent = 0
        self._promised = 0  # sent or still to be sent by an `ask` that runs
        self._asked: dict[tuple[Transport, str, int], list[_Asked]] = {}
        self._senders: dict[int, socket.socket] = {}
        self._ears: dict[tuple[int, int], socket.socket] = {}
        self._sources: dict[str, str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> WireProber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sent(self) -> int:
        return self._sent

    def close(self) -> None:
        """Whoever still waits hears that nothing came."""
        for asked in [each for several in self._asked.values() for each in several]:
            self._settle(asked, None)
        for ear in self._ears.values():
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(ear.fileno())
            ear.close()
        for sender in self._senders.values():
            sender.close()
        self._ears.clear()
        self._senders.clear()

    async def ask(self, packets: Sequence[ProbePacket], *, wait_ns: int) -> list[Answer | None]:
        """See `Prober`. Raises EnvironmentFault also where there is no route."""
        self._promised += len(packets)
        if self._promised > self._terms.most_packets:
            self._promised -= len(packets)
            raise LocalProtocolError(
                f"no more than {self._terms.most_packets} probes in a run: {self._promised} are out, "
                f"and {len(packets)} more are wanted"
            )
        ours: list[_Asked] = []
        try:
            for packet in packets:
                source = self._prepare(packet)
                now_ns = time.monotonic_ns()
                at_ns = self._pace.take(now_ns)
                if at_ns > now_ns:
                    await asyncio.sleep((at_ns - now_ns) / _NS)
                ours.append(self._send(packet, source, wait_ns))
            return [await asked.answer for asked in ours]
        finally:
            self._promised -= len(packets) - len(ours)
            for asked in ours:  # of one that was cancelled; the others are settled
                self._settle(asked, None)

    # --- out ---

    def _prepare(self, packet: ProbePacket) -> str:
        """Opens what is needed to send it and to hear its answer; the source address."""
        try:
            family = _family(packet.destination)
        except ValueError as error:
            raise LocalProtocolError(f"not an address to probe: {packet.destination}") from error
        if family not in self._senders:
            self._senders[family] = self._open(family, socket.IPPROTO_RAW)
        self._listen(family, ICMP if family == socket.AF_INET else ICMPV6)
        if packet.transport is Transport.TCP:
            self._listen(family, TCP)
        if packet.destination not in self._sources:
            with self._route(packet.destination) as route:
                self._sources[packet.destination] = str(route.getsockname()[0])
        return self._sources[packet.destination]

    def _send(self, packet: ProbePacket, source: str, wait_ns: int) -> _Asked:
        self._loop = asyncio.get_running_loop()
        self._token = self._token % TOKENS + 1
        probe = self._forms.build(packet, source=source, token=self._token)
        asked = _Asked(probe=probe, sent_ns=time.monotonic_ns(), answer=self._loop.create_future())
        self._asked.setdefault(_place(probe), []).append(asked)
        asked.timer = self._loop.call_later(wait_ns / _NS, self._settle, asked, None)
        try:
            self._senders[_family(packet.destination)].sendto(probe.datagram, (packet.destination, 0))
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._settle(asked, self._too_big_here(packet, source))
            elif error.errno in _QUIETLY_LOST:
                self._settle(asked, None)
            else:
                raise EnvironmentFault("send a probe to", packet.destination, error.strerror, _NO_ROUTE) from error
        self._sent += 1
        return asked

    def _too_big_here(self, packet: ProbePacket, source: str) -> Answer:
        """Our own interface is the narrowest so far."""
        is_v4 = _family(packet.destination) == socket.AF_INET
        with self._route(packet.destination) as route:
            level, option = (socket.IPPROTO_IP, _IP_MTU) if is_v4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
            mtu = route.getsockopt(level, option)
        return Answer(kind=AnswerKind.TOO_BIG, address=source, round_trip_ns=0, mtu=mtu)

    @contextlib.contextmanager
    def _route(self, destination: str) -> Iterator[socket.socket]:
        """A socket that goes where probes go, and sends nothing."""
        with self._bound(socket.socket(_family(destination), socket.SOCK_DGRAM)) as route:
            try:
                route.connect((destination, 9))
            except OSError as error:
                raise EnvironmentFault("find a way to", destination, error.strerror, _NO_ROUTE) from error
            yield route

    def _open(self, family: int, protocol: int) -> socket.socket:
        try:
            opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        except PermissionError as error:
            raise EnvironmentFault("open a raw socket", "for probes", error.strerror, _REMEDY) from error
        except OSError as error:
            version = "IPv4" if family == socket.AF_INET else "IPv6"
            raise EnvironmentFault("open a raw socket for", version, error.strerror, f"is {version} on?") from error
        return self._bound(opened) if protocol == socket.IPPROTO_RAW else opened

    def _bound(self, opened: socket.socket) -> socket.socket:
        """To the interface and with the mark of the terms."""
        try:
            if self._terms.interface is not None:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._terms.interface.encode())
            if self._terms.mark is not None:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._terms.mark)
        except OSError as error:
            opened.close()
            what = f"to {self._terms.interface or 'a mark'}"
            remedy = _REMEDY if isinstance(error, PermissionError) else "`ip link` shows the interfaces"
            raise EnvironmentFault("bind probes", what, error.strerror, remedy) from error
        return opened

    # --- in ---

    def _listen(self, family: int, protocol: int) -> None:
        if (family, protocol) in self._ears:
            return
        ear = self._open(family, protocol)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        ear.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if protocol == TCP:
            _let_through_our_ports(ear, family)
        elif protocol == ICMP:
            ear.setsockopt(_SOL_RAW, _ICMP_FILTER, _all_but(_WANTED_ICMP, words=1))
        else:
            ear.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _all_but(_WANTED_ICMPV6, words=8))
        if family == socket.AF_INET6:
            ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        self._ears[family, protocol] = ear
        asyncio.get_running_loop().add_reader(ear.fileno(), self._hear, ear, family, protocol)

    def _hear(self, ear: socket.socket, family: int, protocol: int) -> None:
        for _ in range(_READ_AT_ONCE):
            try:
                data, ancillary, _, address = ear.recvmsg(_LARGEST_BYTES, 256)
            except BlockingIOError:
                return
            except OSError:  # what ICMP said of our own packets may be reported here too: we read it as a packet
                continue
            numbers = _numbers(ancillary)
            if family == socket.AF_INET:
                reading = self._forms.read_ipv4(data)
            else:
                reading = self._forms.read_ipv6(
                    protocol,
                    data,
                    source=str(ipaddress.ip_address(str(address[0]).partition("%")[0])),
                    hop_limit=numbers.get(socket.IPV6_HOPLIMIT, 0),
                    traffic_class=numbers.get(socket.IPV6_TCLASS, 0),
                )
            if reading is not None:
                self._match(reading, _arrival_ns(ancillary))

    def _match(self, reading: Reading, arrival_ns: int) -> None:
        """To the one probe that it can be for; where little was quoted and several are under way, to none."""
        several = self._asked.get((reading.transport, reading.destination, reading.flow), ())
        fitting = [asked for asked in several if reading.tells(asked.probe)]
        if len(fitting) == 1:
            self._settle(fitting[0], _answer_of(reading, max(0, arrival_ns - fitting[0].sent_ns)))

    def _settle(self, asked: _Asked, answer: Answer | None) -> None:
        if asked.timer is not None:
            asked.timer.cancel()
        if not asked.answer.done():
            asked.answer.set_result(answer)
        several = self._asked.get(_place(asked.probe))
        if several is not None and asked in several:
            several.remove(asked)
            if not several:
                del self._asked[_place(asked.probe)]


def _answer_of(reading: Reading, round_trip_ns: int) -> Answer:
    return Answer(
        kind=reading.kind,
        address=reading.address,
        round_trip_ns=round_trip_ns,
        code=reading.code,
        ttl=reading.ttl,
        quoted_ttl=reading.quoted_ttl,
        quoted_traffic_class=reading.quoted_traffic_class,
        quoted_checksum_differs=reading.quoted_checksum_differs,
        mtu=reading.mtu,
        traffic_class=reading.traffic_class,
        tcp_flags=reading.tcp_flags,
    )


def _place(probe: BuiltProbe) -> tuple[Transport, str, int]:
    return (probe.transport, probe.destination, probe.flow)


def _family(destination: str) -> int:
    return socket.AF_INET if ipaddress.ip_address(destination).version == 4 else socket.AF_INET6


def _arrival_ns(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """On our monotonic clock; the kernel's stamp is on the real one, which may have been set meanwhile."""
    now_ns = time.monotonic_ns()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) >= 16:
            seconds, nanoseconds = struct.unpack_from("@qq", data)
            ago_ns: int = time.time_ns() - (seconds * _NS + nanoseconds)
            if 0 <= ago_ns < _NS:
                return now_ns - ago_ns
    return now_ns


def _numbers(ancillary: Sequence[tuple[int, int, bytes]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IPV6 and len(data) >= 4:
            found[kind] = struct.unpack_from("@i", data)[0]
    return found


def _all_but(wanted: Sequence[int], *, words: int) -> bytes:
    """A set bit keeps a type out (linux/icmp.h, RFC 3542 3.2 as Linux has it)."""
    bits = (1 << 32 * words) - 1
    for number in wanted:
        bits &= ~(1 << number)
    return struct.pack(f"@{words}I", *(bits >> 32 * word & 0xFFFF_FFFF for word in range(words)))


def _let_through_our_ports(ear: socket.socket, family: int) -> None:
    """Classic BPF: a busy host's other segments never reach us. IPv4 packets come with their header, IPv6 without."""
    last = FIRST_SOURCE_PORT + FLOWS - 1
    load_port = [(0xB1, 0, 0, 0), (0x48, 0, 0, 2)] if family == socket.AF_INET else [(0x28, 0, 0, 2)]
    program = [
        *load_port,
        (0x35, 0, 2, FIRST_SOURCE_PORT),  # at least the first …
        (0x25, 1, 0, last),  # … and not above the last
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *each) for each in program))
    ear.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


def has_the_right() -> bool:
    """Whether raw sockets are allowed here: for whoever wants to know before it asks."""
    try:
        os.close(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).detach())
    except OSError:
        return False
    return True
