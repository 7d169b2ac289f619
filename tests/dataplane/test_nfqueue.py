"""The netlink engine itself: messages of the kernel, segment offloading, marks, an interface that goes away."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netns import Routed
from scripted_core import ScriptedCore, datagram

from dataplane import command, rules
from dataplane.command import Kind
from dataplane.counters import CounterFile
from dataplane.desired import Chain, DesiredState, QueueRule
from dataplane.nfqueue import NfqueueSocket, QueueConfig
from dataplane.port import ACCEPT_BIT, Packet, Verdict
from dataplane.reader import run_reader

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

QUEUE = 5
PATIENCE_S = 10


# -- messages, without a kernel --------------------------------------------------------------------------------------


class SilentSocket(NfqueueSocket):
    """What is sent is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self._send = self.keep

    def keep(self, data: ReadableBuffer, _flags: int = 0) -> int:
        self.sent.append(bytes(data))
        return len(self.sent[-1])

    def refusals(self) -> tuple[int, int]:
        return self._trouble().refused_verdicts, self._trouble().refused_accepts


@pytest.fixture(scope="module")
def engine() -> Iterator[SilentSocket]:
    made = SilentSocket()
    yield made
    made.close()


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) & 3)


def message(*attributes: bytes, kind: int = 0x300) -> bytes:
    body = struct.pack("!BBH", 2, 0, QUEUE) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


HEADER = attribute(1, struct.pack("!IHB", 77, 0x800, 0))
WHOLE = message(
    HEADER,
    attribute(5, struct.pack("!I", 3)),
    attribute(3, struct.pack("!I", 0x1234 | ACCEPT_BIT)),
    attribute(9, struct.pack("!HH8s", 6, 0, b"hwaddr")),
    attribute(10, b"\x45payload"),
)


def parse(engine: SilentSocket, data: bytes) -> list[Packet]:
    packets: list[Packet] = []
    engine._parse(data, 0, len(data), packets)
    return packets


def test_a_packet_message_is_read_whatever_attributes_come_with_it(engine: SilentSocket) -> None:
    assert parse(engine, WHOLE) == [Packet(77, QUEUE, 3, 0x1234, b"\x45payload", False)]


@given(cut=st.integers(0, len(WHOLE)), position=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_no_message_stops_the_engine(engine: SilentSocket, cut: int, position: int, value: int) -> None:
    flipped = bytearray(WHOLE)
    flipped[position] = value
    for data in (WHOLE[:cut], bytes(flipped)):
        for packet in parse(engine, data):
            assert len(packet.payload) <= 8


@given(data=st.binary(max_size=300))
def test_nor_does_noise(engine: SilentSocket, data: bytes) -> None:
    parse(engine, data)
    parse(engine, message(data))


def test_a_packet_that_was_not_copied_whole_goes_on_as_it_is(engine: SilentSocket) -> None:
    engine.sent.clear()
    cut = message(HEADER, attribute(13, struct.pack("!I", 70_000)), attribute(10, b"\x45the beginning"))
    assert parse(engine, cut) == []
    assert struct.unpack_from("!II", engine.sent[0], 24) == (1, 77)


def test_a_refused_accept_is_taken_back(engine: SilentSocket) -> None:
    before = engine.refusals()
    for verdict in (Verdict(1, QUEUE, True), Verdict(2, QUEUE, False)):
        original = engine.build([verdict]).chunks[0]
        body = struct.pack("=i", -2) + original
        parse(engine, struct.pack("=IHHII", 16 + len(body), 2, 0, 0, 0) + body)
    assert engine.refusals() == (before[0] + 2, before[1] + 1)


def test_a_batch_is_one_send_and_a_huge_one_is_cut_between_verdicts(engine: SilentSocket) -> None:
    small = engine.build([Verdict(number, QUEUE, number % 2 == 0, 7, bytes(1000)) for number in range(64)])
    assert (small.accepts, small.drops, len(small.chunks)) == (32, 32, 1)
    huge = engine.build([Verdict(number, QUEUE, True, 7, bytes(60_000)) for number in range(600)])
    assert len(huge.chunks) > 1
    for chunk in huge.chunks:
        offset = 0
        while offset < len(chunk):
            offset += struct.unpack_from("=I", chunk, offset)[0]
        assert offset == len(chunk)


def test_an_impossible_payload_leaves_the_packet_as_it_is(engine: SilentSocket) -> None:
    for payload in (b"", bytes(70_000)):
        assert len(engine.build([Verdict(1, QUEUE, True, 0, payload)]).chunks[0]) == 40


# -- real packets ----------------------------------------------------------------------------------------------------


class Engine:
    """run_reader in the middle namespace, for both families and directions."""

    def __init__(self, directory: Path, *, gso: bool, offloads: bool, chain: Chain = Chain.PREROUTING) -> None:
        self.routed = Routed(offloads=offloads)
        interface = "ra" if chain is Chain.PREROUTING else "rb"
        queues = tuple(QueueRule(family=family, chain=chain, interface=interface, queue=QUEUE) for family in (4, 6))
        desired = DesiredState(owner="engine", queues=queues)
        self.routed.r.call(lambda: rules.apply(desired, directory / "record"))
        self.counters = CounterFile.open(directory / "counters")
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(PATIENCE_S)
        self.gso = gso
        self.reader = self.routed.r.thread(self._read)
        self.tell(Kind.GO)

    def _read(self) -> None:
        queues = [QueueConfig(queue=QUEUE, gso=self.gso)]
        core = ScriptedCore(self.counters)
        run_reader(core, queues=queues, counters=self.counters, command_fd=self.theirs.fileno())

    def tell(self, kind: Kind, body: bytes = b"") -> None:
        self.ours.send(command.encode(kind, 1, body))
        self.ours.recv(command.FRAME_LIMIT_BYTES)

    def close(self) -> None:
        self.ours.close()
        self.reader.join(PATIENCE_S)
        assert not self.reader.is_alive()
        self.theirs.close()
        self.counters.close()
        self.routed.close()


def send_all(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def bound(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(family, kind)
    made.settimeout(PATIENCE_S)
    made.bind(("", 7777))
    return made


@pytest.mark.netns
@pytest.mark.parametrize("gso", [False, True], ids=["segments", "gso"])
@pytest.mark.parametrize("rewrite", [False, True], ids=["accept", "rewrite"])
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "10.9.2.1"), (socket.AF_INET6, "fd09:2::1")])
def test_offloaded_packets_arrive_whole_with_right_checksums(
    directory: Path, gso: bool, rewrite: bool, family: socket.AddressFamily, address: str
) -> None:
    """Checksums left to the hardware and 64 kB segments come from a; b's kernel drops what has a wrong checksum."""
    engine = Engine(directory, gso=gso, offloads=True)
    try:
        if rewrite:
            engine.tell(Kind.COMMAND, b"rewrite all")
        datagrams = engine.routed.b.call(lambda: bound(family, socket.SOCK_DGRAM))
        sender = engine.routed.a.call(lambda: bound(family, socket.SOCK_DGRAM))
        with datagrams, sender:
            for number in range(5):
                sender.sendto(b"accept %d" % number, (address, 7777))
                assert datagrams.recv(100) == b"accept %d" % number
        listener = engine.routed.b.call(lambda: bound(family, socket.SOCK_STREAM))
        client = engine.routed.a.call(lambda: socket.socket(family, socket.SOCK_STREAM))
        with listener, client:
            listener.listen()
            client.connect((address, 7777))
            server, _ = listener.accept()
            data = os.urandom(3_000_000)
            writer = threading.Thread(target=send_all, args=(client, data))
            writer.start()
            digest = hashlib.sha256()
            with server:
                server.settimeout(PATIENCE_S)
                while chunk := server.recv(1 << 20):
                    digest.update(chunk)
            writer.join()
            assert digest.digest() == hashlib.sha256(data).digest()
        engine.tell(Kind.COMMAND)
        counters = engine.counters.snapshot()
        assert counters["dataplane.malformed"] == counters["dataplane.refused_verdicts"] == 0
        assert (counters["test.packets"] < 1000) == gso  # 2,000 segments, or a few dozen whole ones
    finally:
        engine.close()


@pytest.mark.netns
def test_the_packets_own_mark_survives_and_ours_is_not_seen(directory: Path) -> None:
    engine = Engine(directory, gso=False, offloads=False)
    try:
        lines = "*mangle\n-A POSTROUTING -m mark --mark {}\nCOMMIT\n"
        for mark in ("0x7", "0x20000007", "0x30005"):
            engine.routed.r.run("iptables-restore", "--noflush", text=lines.format(mark))
        engine.routed.r.run("iptables", "-t", "raw", "-I", "PREROUTING", "1", "-j", "MARK", "--set-mark", "7")
        receiver = engine.routed.b.call(lambda: bound(socket.AF_INET, socket.SOCK_DGRAM))
        sender = engine.routed.a.call(lambda: bound(socket.AF_INET, socket.SOCK_DGRAM))
        with receiver, sender:
            for data in (b"accept", b"accept", b"mark 196613"):
                sender.sendto(data, ("10.9.2.1", 7777))
                receiver.recv(100)
        saved = engine.routed.r.run("iptables-save", "-c", "-t", "mangle").splitlines()
        counts = {line.rpartition(" ")[2]: line.partition(":")[0] for line in saved if "POSTROUTING -m mark" in line}
        assert counts == {"0x7": "[2", "0x20000007": "[0", "0x30005": "[1"}
    finally:
        engine.close()


@pytest.mark.netns
def test_what_a_host_sends_itself_is_queued_by_its_egress_interface(directory: Path) -> None:
    engine = Engine(directory, gso=False, offloads=False, chain=Chain.OUTPUT)
    try:
        receiver = engine.routed.b.call(lambda: bound(socket.AF_INET, socket.SOCK_DGRAM))
        forwarded = engine.routed.a.call(lambda: bound(socket.AF_INET, socket.SOCK_DGRAM))
        own = engine.routed.r.call(lambda: bound(socket.AF_INET, socket.SOCK_DGRAM))
        with receiver, forwarded, own:
            own.sendto(b"mangle", ("10.9.2.1", 7777))
            assert receiver.recv(100) == b"mangle!!!!"
            forwarded.sendto(b"mangle", ("10.9.2.1", 7777))
            assert receiver.recv(100) == b"mangle"
        kernel = engine.routed.r.call(lambda: rules.read_rule_counters("engine"))
        found = next(counters for rule, counters in kernel.items() if rule.family == 4)
        assert (found.queued_packets, found.accepted_packets, found.bypassed_packets) == (1, 1, 0)
    finally:
        engine.close()


@pytest.mark.netns
def test_a_verdict_for_a_packet_whose_interface_is_gone_is_counted_as_refused(directory: Path) -> None:
    engine = Engine(directory, gso=False, offloads=False)
    try:
        receiver = engine.routed.b.call(lambda: bound(socket.AF_INET, socket.SOCK_DGRAM))
        sender = engine.routed.a.call(lambda: bound(socket.AF_INET, socket.SOCK_DGRAM))
        with receiver, sender:
            sender.sendto(b"hold 300", ("10.9.2.1", 7777))
            sender.sendto(b"accept", ("10.9.2.1", 7777))
            receiver.recv(100)
            engine.routed.r.run("ip", "link", "set", "ra", "down")
            engine.routed.r.run("ip", "link", "set", "ra", "up")
            engine.routed.r.run("sleep", "0.4")
            sender.sendto(b"accept", ("10.9.2.1", 7777))
            receiver.recv(100)
        engine.tell(Kind.COMMAND)  # answered in a turn after that verdict's
        counters = engine.counters.snapshot()
        assert counters["dataplane.refused_accepts"] == 1
        kernel = engine.routed.r.call(lambda: rules.read_kernel_accepts("engine"))
        assert counters["dataplane.accepts"] == kernel == 2
    finally:
        engine.close()


def test_the_datagrams_of_these_tests_are_sound() -> None:
    assert len(datagram("10.0.0.1", "10.0.0.2", b"x")) == 29
