"""One contract for the data planes: the fake on its virtual clock, and NFQUEUE with real packets in namespaces."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from netns import Routed
from scripted_core import ScriptedCore, data_of, datagram

from dataplane import command, rules
from dataplane.command import Kind
from dataplane.counters import CounterFile
from dataplane.desired import Chain, DesiredState, QueueRule
from dataplane.fake import FakeDataPlane
from dataplane.nfqueue import QueueConfig
from dataplane.reader import run_reader

SOURCE = {4: "10.9.1.1", 6: "fd09:1::1"}
DESTINATION = {4: "10.9.2.1", 6: "fd09:2::1"}
QUEUE = 5
PATIENCE_S = 5


class DataPlane(Protocol):
    """What the contract needs of either."""

    counters: CounterFile

    def send(self, *data: bytes, version: int = 4) -> None: ...

    def arrived(self, count: int) -> list[bytes]:
        """The data of the next `count` datagrams at the far end (fewer if they do not come)."""
        ...

    def nothing_arrives(self) -> bool: ...

    def pass_time(self, milliseconds: int) -> None: ...

    def command(self, data: bytes) -> bytes | None: ...

    def event(self) -> bytes: ...

    def drain(self) -> None: ...


class Fake:
    def __init__(self) -> None:
        self.counters = CounterFile.in_memory()
        self.plane = FakeDataPlane(ScriptedCore(self.counters), self.counters)

    def send(self, *data: bytes, version: int = 4) -> None:
        packets = [datagram(SOURCE[version], DESTINATION[version], each) for each in data]
        self.plane.deliver(*packets, queue=QUEUE)

    def arrived(self, count: int) -> list[bytes]:
        out, self.plane.out = self.plane.out[:count], self.plane.out[count:]
        return [data_of(delivered.payload) for delivered in out]

    def nothing_arrives(self) -> bool:
        return not self.plane.out

    def pass_time(self, milliseconds: int) -> None:
        self.plane.advance(milliseconds * 1_000_000)

    def command(self, data: bytes) -> bytes | None:
        return self.plane.command(data)

    def event(self) -> bytes:
        return self.plane.events.pop(0)

    def drain(self) -> None:
        self.plane.drain()

    def close(self) -> None:
        self.counters.close()


class Kernel:
    """run_reader in a thread that is in the middle namespace; raw sockets at both ends."""

    def __init__(self, directory: Path) -> None:
        self.routed = Routed()
        self.record = directory / "record.json"
        queues = tuple(
            QueueRule(family=family, chain=Chain.PREROUTING, interface="ra", queue=QUEUE, skip_local=True)
            for family in (4, 6)
        )
        self.desired = DesiredState(owner="contract", queues=queues)
        self.routed.r.call(lambda: rules.apply(self.desired, self.record))
        self.counters = CounterFile.open(directory / "counters")
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(PATIENCE_S)
        self.senders = {4: self.routed.a.call(raw_sender), 6: self.routed.a.call(raw_sender_ipv6)}
        self.receiver = self.routed.b.call(capture)
        self.reader: threading.Thread | None = self.routed.r.thread(self._read)
        self.number = 0
        assert self._ask(Kind.GO, b"").kind is Kind.READY

    def _read(self) -> None:
        core = ScriptedCore(self.counters)
        queues = [QueueConfig(queue=QUEUE)]
        run_reader(core, queues=queues, counters=self.counters, command_fd=self.theirs.fileno())

    def _ask(self, kind: Kind, body: bytes) -> command.Frame:
        self.number += 1
        self.ours.send(command.encode(kind, self.number, body))
        while True:
            frame = command.decode(self.ours.recv(command.FRAME_LIMIT_BYTES))
            if frame.number == self.number:
                return frame

    def send(self, *data: bytes, version: int = 4) -> None:
        for each in data:
            packet = datagram(SOURCE[version], DESTINATION[version], each)
            address = (DESTINATION[version], 0) if version == 4 else (DESTINATION[version], 0, 0, 0)
            self.senders[version].sendto(packet, address)

    def arrived(self, count: int) -> list[bytes]:
        return [data for _ in range(count) if (data := self._next(PATIENCE_S)) is not None]

    def nothing_arrives(self) -> bool:
        return self._next(0.05) is None

    def _next(self, patience_s: float) -> bytes | None:
        until_s = time.monotonic() + patience_s
        while (left_s := until_s - time.monotonic()) > 0:
            if not select.select([self.receiver], [], [], left_s)[0]:
                return None
            packet, address = self.receiver.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING and is_ours(packet):
                return data_of(packet)
        return None

    def pass_time(self, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)

    def command(self, data: bytes) -> bytes | None:
        frame = self._ask(Kind.COMMAND, data)
        return frame.body if frame.kind is Kind.REPLY else None

    def event(self) -> bytes:
        frame = command.decode(self.ours.recv(command.FRAME_LIMIT_BYTES))
        assert frame.kind is Kind.EVENT
        return frame.body

    def drain(self) -> None:
        assert self.reader is not None
        self.ours.send(command.encode(Kind.STOP, 0))
        self.reader.join(PATIENCE_S)
        assert not self.reader.is_alive()
        self.reader = None

    def close(self) -> None:
        if self.reader is not None:
            self.drain()
        for open_socket in (*self.senders.values(), self.receiver, self.ours, self.theirs):
            open_socket.close()
        self.counters.close()
        self.routed.close()


def raw_sender() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def raw_sender_ipv6() -> socket.socket:
    return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)


def capture() -> socket.socket:
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    receiver.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
    receiver.bind(("b0", 3))
    return receiver


def is_ours(packet: bytes) -> bool:
    offset = 20 if packet[0] >> 4 == 4 else 40
    protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
    return protocol == 17 and packet[offset : offset + 4] == struct.pack("!HH", 7777, 7777)


@pytest.fixture(params=["fake", pytest.param("nfqueue", marks=pytest.mark.netns)])
def plane(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DataPlane]:
    made = Fake() if request.param == "fake" else Kernel(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("version", [4, 6])
def test_packets_of_both_families_pass_in_order(plane: DataPlane, version: int) -> None:
    sent = [b"accept %d" % number for number in range(200)]
    plane.send(*sent, version=version)
    assert plane.arrived(200) == sent
    assert plane.counters.value(plane.counters.index("test.sent")) == 200


def test_dropped_packets_do_not_arrive(plane: DataPlane) -> None:
    plane.send(b"drop", b"accept", b"drop")
    assert plane.arrived(1) == [b"accept"]
    assert plane.nothing_arrives()


@pytest.mark.parametrize("version", [4, 6])
def test_a_new_payload_may_be_longer(plane: DataPlane, version: int) -> None:
    plane.send(b"mangle", b"mangle abc", version=version)
    assert plane.arrived(2) == [b"mangle!!!!", b"mangle abc!!!!"]


def test_held_packets_are_released_by_the_timer_and_in_any_order(plane: DataPlane) -> None:
    plane.send(b"hold 60", b"hold 30", b"accept")
    assert plane.arrived(1) == [b"accept"]
    plane.pass_time(70)
    assert plane.arrived(2) == [b"hold 30", b"hold 60"]


def test_commands_are_answered_and_events_come(plane: DataPlane) -> None:
    assert plane.command(b"abc") == b"cba"
    assert plane.command(b"quiet") is None
    plane.send(b"say something")
    assert plane.arrived(1) == [b"say something"]
    assert plane.event() == b"something"


def test_an_injected_packet_goes_its_own_way(plane: DataPlane) -> None:
    plane.send(b"inject 1")
    assert sorted(plane.arrived(2)) == [b"copied 1", b"inject 1"]


def test_a_graceful_stop_loses_no_packet(plane: DataPlane) -> None:
    plane.send(b"hold 60000", b"forget", b"accept")
    assert plane.arrived(1) == [b"accept"]
    plane.drain()
    assert sorted(plane.arrived(2)) == [b"forget", b"hold 60000"]
    assert plane.counters.value(plane.counters.index("test.sent")) == 2
    plane.counters.snapshot()
