"""The small programs between the two hosts: senders, receivers, servers, and a listener with the kernel's time stamps.

Decides nothing. Imports nothing of ours: each is started as a file by itself, so that it is there in milliseconds.
`python traffic.py NAME ARGUMENT...`; each prints one line when it is ready and one of JSON at its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import http.server
import json
import os
import select
import signal
import socket
import statistics
import struct
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Final

NS_PER_S: Final = 1_000_000_000
ECHO_PORT: Final = 7001
CONNECT_PORT: Final = 7002
STREAM_PORT: Final = 7003
BLAST_PORT: Final = 7004
BATCH: Final = 64
PAYLOAD_BYTES: Final = 22
PORTS_OF_A_SOURCE: Final = 50_000
DATAGRAM_BYTES: Final = 1200
PACE_BYTES_S: Final = 2_500_000
DATAGRAMS_OF_A_WINDOW: Final = 16
SO_TIMESTAMPNS: Final = 35
ETHERNET_BYTES: Final = 14
IPV6_CHECKSUM: Final = 7
STEP_NS: Final = 50_000_000


def keep_to_one_core() -> None:
    """Both ends of a short exchange on the same core: a wake-up of another one takes longer than what is measured."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def say(text: object = "ready") -> None:
    print(text, flush=True)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# -- packets as fast as one core sends them --------------------------------------------------------------------------


class Volley:
    """`flows` prepared small datagrams. One flow: from an ordinary socket; many: from a raw one, each its own ports."""

    def __init__(self, address: str, flows: int, *, first_port: int, arriving: bool) -> None:
        family = family_of(address)
        raw = flows > 1
        self.flows = flows
        self.socket = socket.socket(family, socket.SOCK_RAW if raw else socket.SOCK_DGRAM, 17 if raw else 0)
        if raw and family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 6)
        self.socket.connect((address, 0 if raw else BLAST_PORT))
        self._count = max(flows, BATCH)
        size = PAYLOAD_BYTES + 8 * raw
        self._payload = ctypes.create_string_buffer(size * self._count)
        base = ctypes.addressof(self._payload)
        vectors: list[int] = []
        for number in range(self._count):
            vectors += (base + size * number, size)
            if raw:
                source, other = divmod(number, PORTS_OF_A_SOURCE)
                ends = (other + first_port, BLAST_PORT + source) if arriving else (source + 1, other + first_port)
                struct.pack_into("!HHHH", self._payload, size * number, *ends, size, 0)
        self._vectors = (ctypes.c_size_t * len(vectors))(*vectors)
        first = ctypes.addressof(self._vectors)
        # struct mmsghdr is 8 words: name, its length, vector, its count, control, its length, flags; sent bytes.
        words = [word for number in range(self._count) for word in (0, 0, first + 16 * number, 1, 0, 0, 0, 0)]
        self._messages = (ctypes.c_size_t * len(words))(*words)
        self._send = ctypes.CDLL(None).sendmmsg
        self._send.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int]

    def fire(self, until_s: float = float("inf")) -> int:
        """One datagram of every flow; how many of them left."""
        base, sent, descriptor = ctypes.addressof(self._messages), 0, self.socket.fileno()
        for number in range(0, self._count, BATCH):
            count = min(BATCH, self._count - number)
            sent += max(0, self._send(descriptor, base + number * 64, count, 0))
            if time.monotonic() >= until_s:
                break
        return sent


def blast(address: str, flows: str, first_port: str, arriving: str, seconds: str, rounds: str) -> None:
    """For so long, or (rounds > 0) so often; the first round is over when it says "ready"."""
    keep_to_one_core()
    volley = Volley(address, int(flows), first_port=int(first_port), arriving=arriving == "1")
    sent = 0
    if int(rounds):
        for _ in range(int(rounds)):
            sent += volley.fire()
        say(sent)
        return
    sent += volley.fire()
    say()
    end_s = time.monotonic() + float(seconds)
    while time.monotonic() < end_s:
        sent += volley.fire(end_s)
    say(sent)


def sink(*ports: str) -> None:
    """Has the sockets that packets are for, and never reads them: what does not fit is dropped."""
    kept = []
    for port in ports:
        opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.bind(("::", int(port)))
        kept.append(opened)
    say()
    signal.pause()


# -- round trips and connections -------------------------------------------------------------------------------------


def echo() -> None:
    keep_to_one_core()
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", ECHO_PORT))
    say()
    while True:
        data, peer = server.recvfrom(2048)
        server.sendto(data, peer)


def ping(address: str, count: str) -> None:
    """Median round trip, in nanoseconds."""
    keep_to_one_core()
    asking = socket.socket(family_of(address), socket.SOCK_DGRAM)
    asking.settimeout(2)
    asking.connect((address, ECHO_PORT))
    times = []
    for _ in range(int(count) + 20):
        begun_ns = time.perf_counter_ns()
        asking.send(b"?" * 40)
        asking.recv(100)
        times.append(time.perf_counter_ns() - begun_ns)
    say(statistics.median(times[20:]))


def accept() -> None:
    keep_to_one_core()
    server = socket.create_server(("::", CONNECT_PORT), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
    say()
    while True:
        connection, _ = server.accept()
        connection.close()


def connect(address: str, count: str) -> None:
    """Median time that connect() takes, in nanoseconds."""
    keep_to_one_core()
    times = []
    for _ in range(int(count) + 10):
        calling = socket.socket(family_of(address), socket.SOCK_STREAM)
        begun_ns = time.perf_counter_ns()
        calling.connect((address, CONNECT_PORT))
        times.append(time.perf_counter_ns() - begun_ns)
        calling.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        calling.close()
    say(statistics.median(times[10:]))


def receive() -> None:
    """One stream after the other; bit/s of each."""
    server = socket.create_server(("::", STREAM_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    say()
    buffer = bytearray(1 << 20)
    while True:
        connection, _ = server.accept()
        received, begun_s = 0, time.monotonic()
        while count := connection.recv_into(buffer):
            received += count
        say(received * 8 / (time.monotonic() - begun_s))
        connection.close()


def stream(address: str, seconds: str) -> None:
    calling = socket.create_connection((address, STREAM_PORT))
    end_s, chunk = time.monotonic() + float(seconds), bytes(1 << 18)
    while time.monotonic() < end_s:
        calling.sendall(chunk)
    calling.shutdown(socket.SHUT_WR)
    calling.recv(1)


# -- downloads -------------------------------------------------------------------------------------------------------


class _DualStack(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Paced(http.server.SimpleHTTPRequestHandler):
    """What is called "long" takes as long as `PACE_BYTES_S` says."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it had enough
            while chunk := source.read(PACE_BYTES_S // 100):
                outputfile.write(chunk)
                if self.path == "/long":
                    time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def serve_files(port: str, directory: str) -> None:
    server = _DualStack(("::", int(port)), functools.partial(_Paced, directory=directory))
    say()
    server.serve_forever()


def serve_datagrams(port: str, is_paced: str) -> None:
    """ "get BYTES" is answered with so many, a window at a time, and "end" after the last; one peer at a time."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", int(port)))
    say()
    while True:
        request, peer = server.recvfrom(2048)
        if not request.startswith(b"get "):
            continue
        left = int(request[4:])
        while left > 0:
            for _ in range(DATAGRAMS_OF_A_WINDOW):
                server.sendto(bytes(min(DATAGRAM_BYTES, max(left, 1))), peer)
                left -= DATAGRAM_BYTES
                if left <= 0:
                    break
            if select.select([server], [], [], 0.05)[0]:
                server.recvfrom(2048)
            if is_paced == "1":
                time.sleep(DATAGRAM_BYTES * DATAGRAMS_OF_A_WINDOW / PACE_BYTES_S)
        server.sendto(b"end", peer)


GET_DATAGRAMS: Final = """
use IO::Socket::IP; use Socket;
my ($host, $port, $want) = @ARGV;
my $s = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Proto => 'udp', Type => SOCK_DGRAM) or die "$@";
$s->send("get $want");
my ($count, $waits) = (0, 0);
while ($waits < 3) {
    my $r = ''; vec($r, fileno($s), 1) = 1;
    if (!select($r, undef, undef, 0.3)) { $waits++; $s->send("ack"); next }
    $waits = 0;
    $s->recv(my $d, 2048);
    last if $d eq "end";
    $s->send("ack") if ++$count % 16 == 0;
}
"""

SEND_TCP: Final = """
use IO::Socket::IP; use Socket; use Time::HiRes 'time';
my ($host, $port, $seconds) = @ARGV;
my $s = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Proto => 'tcp', Type => SOCK_STREAM) or die "$@";
my ($end, $chunk) = (time + $seconds, "x" x 16384);
while (time < $end) { last unless syswrite($s, $chunk) }
setsockopt($s, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
"""

SEND_UDP: Final = """
use IO::Socket::IP; use Socket; use Time::HiRes qw(time sleep);
my ($host, $port, $seconds) = @ARGV;
my $s = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Proto => 'udp', Type => SOCK_DGRAM) or die "$@";
my ($begun, $sent, $chunk) = (time, 0, "x" x 1200);
while ((my $now = time - $begun) < $seconds) {
    while ($sent * 8 < $now * 12_000_000) { syswrite($s, $chunk); $sent += 1200 }
    sleep 0.002;
}
"""


def drain(*ports: str) -> None:
    """Reads every stream that comes to these ports."""
    poll, opened = select.poll(), {}
    for port in ports:
        server = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
        opened[server.fileno()] = server
        poll.register(server, select.POLLIN)
    listeners, buffer = set(opened), bytearray(1 << 18)
    say()
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in listeners:
                connection, _ = opened[descriptor].accept()
                opened[connection.fileno()] = connection
                poll.register(connection, select.POLLIN)
                continue
            try:
                alive = opened[descriptor].recv_into(buffer)
            except OSError:
                alive = 0
            if not alive:
                poll.unregister(descriptor)
                opened.pop(descriptor).close()


# -- what arrives, packet by packet ----------------------------------------------------------------------------------


def listen(interface: str) -> None:
    """Until standard input ends: by "protocol/port" what `summary` says."""
    arrivals: dict[str, list[tuple[int, int]]] = {}
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    opened.bind((interface, 0x0003))
    opened.setblocking(False)
    say()
    while True:
        readable, _, _ = select.select([opened, sys.stdin], [], [])
        with contextlib.suppress(BlockingIOError):
            while opened in readable:
                frame, ancillary, _, address = opened.recvmsg(128, 64)
                if address[2] != socket.PACKET_OUTGOING and frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
                    seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
                    where, size = _place_and_size(frame[ETHERNET_BYTES:])
                    arrivals.setdefault(where, []).append((seconds * NS_PER_S + nanoseconds, size))
        if sys.stdin in readable:
            break
    say(json.dumps({where: summary(packets) for where, packets in arrivals.items()}))


def _place_and_size(packet: bytes) -> tuple[str, int]:
    if packet[0] >> 4 == 4:
        protocol, at, size = packet[9], (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    else:
        protocol, at, size = packet[6], 40, 40 + int.from_bytes(packet[4:6], "big")
    return f"{protocol}/{int.from_bytes(packet[at + 2 : at + 4], 'big')}", size


def summary(packets: list[tuple[int, int]]) -> dict[str, float]:
    """Bit/s of the first second, of the worst, and the mean after 1 s; bytes of the IP layer.

    Time begins with the first packet of data; a second begins at every 50 ms. Empty when it was over too soon.
    """
    begun_ns = next((time_ns for time_ns, size in packets if size > 200), packets[0][0])
    times = [time_ns for time_ns, _ in packets]
    sums = [0, *accumulate(size for _, size in packets)]
    last_ns = times[-1]

    def bits(start_ns: int, end_ns: int) -> int:
        return 8 * (sums[bisect_left(times, end_ns)] - sums[bisect_left(times, start_ns)])

    starts = range(begun_ns, last_ns - NS_PER_S, STEP_NS)
    settled_ns = begun_ns + NS_PER_S
    if not starts or last_ns - settled_ns < NS_PER_S // 2:
        return {}
    return {
        "first": bits(begun_ns, settled_ns),
        "worst": max(bits(start_ns, start_ns + NS_PER_S) for start_ns in starts),
        "mean": bits(settled_ns, last_ns) * NS_PER_S / (last_ns - settled_ns),
    }


PROGRAMS: Final[dict[str, Callable[..., None]]] = {
    each.__name__: each
    for each in (
        blast,
        sink,
        echo,
        ping,
        accept,
        connect,
        receive,
        stream,
        serve_files,
        serve_datagrams,
        drain,
        listen,
    )
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
