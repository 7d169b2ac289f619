"""Flows with a pace of their own, on real packets through a router that marks: one contract for the engines that can.

Four paced flows (TCP and UDP, IPv4 and IPv6) and two that are left alone, all at once, since all of it takes time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from arrivals import NS_PER_S, Arrivals, listening
from netns import Namespace, Routed
from real_gateway import kernel_state

from billpay.errors import EnvironmentFault
from dataplane.engines import makers
from dataplane.host_engine import PACED_MAX, Ability, EngineName, HostEngine, PacedFlow
from dataplane.marks_seen import MarksSeen, SenderView
from dataplane.metering import FlowKey, FlowMeter
from dataplane.shaping.plan import NO_SHAPING, ShapedLink, ShapingPlan

pytestmark = [pytest.mark.netns, pytest.mark.exact]

Result = TypeVar("Result")
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
ADDRESSES = {4: ("10.9.1.1", "10.9.2.1"), 6: ("fd09:1::1", "fd09:2::1")}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
FIRST_PORTS = {EngineName.EBPF: 7000, EngineName.NFQUEUE: 7100}
PATIENCE_S = 30
SETTLES_S = 0.1
MARK_EVERY = 20
TRIES = 3
OFFERED = {TCP: bytes(1 << 16), UDP: bytes(1200)}
PACES = {(TCP, 4): 8_000_000, (TCP, 6): 4_000_000, (UDP, 4): 6_000_000, (UDP, 6): 1_000_000}
OTHER_PACES = {(TCP, 4): 2_000_000, (TCP, 6): 9_000_000, (UDP, 4): 2_000_000, (UDP, 6): 5_000_000}


class Remote:
    """An engine in a namespace, in a thread and a loop of its own."""

    def __init__(self, namespace: Namespace, name: EngineName, directory: Path, interface: str) -> None:
        directory.mkdir()
        plan = ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface=interface),))
        self._loop = asyncio.new_event_loop()
        self._thread = namespace.thread(self._loop.run_forever)

        async def start() -> HostEngine:
            engine = makers(name.value, state_directory=directory)[name]()
            await engine.start(plan)
            return engine

        self.engine = self._wait(start())

    def _wait(self, call: Awaitable[Result]) -> Result:
        async def answer() -> Result:
            return await call

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(PATIENCE_S)

    def pace(self, *flows: PacedFlow) -> None:
        self._wait(self.engine.pace(flows))

    def second(self) -> None:
        self._wait(self.engine.on_second())

    def meters(self, keys: list[FlowKey]) -> list[FlowMeter]:
        found = self._wait(self.engine.meters(keys))
        assert None not in found
        return [each for each in found if each is not None]

    def meter(self, key: FlowKey) -> FlowMeter | None:
        return self._wait(self.engine.meters([key]))[0]

    def close(self) -> None:
        self._wait(self.engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(slots=True)
class Talk:
    """A flow from a to b that sends as much as it may, or one message each `pause_s`."""

    family: int
    protocol: int
    port: int
    pause_s: float = 0.0
    sending: socket.socket = field(init=False)
    receiving: socket.socket = field(init=False)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, world: Routed) -> None:
        here, there = ADDRESSES[self.family]

        def socket_at(address: str) -> socket.socket:
            made = socket.socket(FAMILIES[self.family], KINDS[self.protocol])
            made.bind((address, self.port))
            return made

        listener = world.b.call(lambda: socket_at(there))
        self.sending = world.a.call(lambda: socket_at(here))
        if self.protocol == TCP:
            listener.listen()
            self.sending.connect((there, self.port))
            self.receiving = listener.accept()[0]
            listener.close()
        else:
            self.receiving = listener
            self.sending.connect((there, self.port))
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def key(self, *, at_receiver: bool = False) -> FlowKey:
        here, there = (socket.inet_pton(FAMILIES[self.family], each) for each in ADDRESSES[self.family])
        if at_receiver:
            here, there = there, here
        return FlowKey(0, self.protocol, here, self.port, there, self.port)

    def _send(self) -> None:
        data = OFFERED[self.protocol][: 20_000 if self.pause_s else None]
        pause_s = self.pause_s or (0.0008 if self.protocol == UDP else 0.0)
        with contextlib.suppress(OSError):
            while not self._ended.wait(pause_s):
                self.sending.sendall(data)

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while self.receiving.recv(1 << 16) and not (self.protocol == UDP and self._ended.is_set()):
                pass

    def end(self) -> None:
        self._ended.set()
        if self.protocol == TCP:
            self.sending.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        with contextlib.suppress(OSError):
            self.receiving.shutdown(socket.SHUT_RD)
        self._threads[1].join()
        self.sending.close()
        self.receiving.close()


@pytest.fixture(scope="module")
def world() -> Iterator[Routed]:
    """The router marks every so many ECN-capable packets on their way from a to b."""
    with Routed() as made:
        for host in (made.a, made.b):
            host.run("sysctl", "-qw", "net.ipv4.tcp_ecn=1")
        for program in ("iptables", "ip6tables"):
            rule = "-t mangle -A FORWARD -i ra -m ecn --ecn-ip-ect 2 -j TOS --set-tos 0x03/0x03"
            every = f"-m statistic --mode nth --every {MARK_EVERY} --packet 0"
            made.r.run(program, *rule.split(), *every.split())
        yield made


def marks_made(world: Routed) -> int:
    """By the router, since the rules are there."""
    total = 0
    for program in ("iptables", "ip6tables"):
        lines = world.r.run(program, "-t", "mangle", "-L", "FORWARD", "-v", "-x", "-n").splitlines()
        total += int(lines[2].split()[0])
    return total


def measure(arrivals: Arrivals, talks: list[Talk], duration_s: float) -> dict[tuple[int, int], float]:
    """Bit/s at b, by the kernel's time stamps."""
    begin_ns = time.time_ns()
    time.sleep(duration_s)
    end_ns = time.time_ns()
    time.sleep(0.02)
    return {
        (each.protocol, each.family): arrivals.bytes_between(each.protocol, each.port, begin_ns, end_ns)
        * 8
        * NS_PER_S
        / (end_ns - begin_ns)
        for each in talks
    }


def paced(talks: list[Talk], paces: dict[tuple[int, int], int]) -> list[PacedFlow]:
    return [
        PacedFlow(key=each.key(), pace_bit_s=paces[(each.protocol, each.family)], answers_marks=True) for each in talks
    ]


def sender_views(world: Routed, *talks: Talk) -> list[SenderView]:
    def look() -> list[SenderView | None]:
        seen = MarksSeen()
        try:
            return [seen.read_sender_view(each.key()) for each in talks]
        finally:
            seen.close()

    found = world.a.call(look)
    assert None not in found
    return [each for each in found if each is not None]


@pytest.mark.row("DPH-33")
@pytest.mark.parametrize("name", [EngineName.EBPF, EngineName.NFQUEUE])
def test_pace_and_marks(world: Routed, tmp_path: Path, name: EngineName) -> None:
    before = [kernel_state(world.a), kernel_state(world.b)]
    made_before = marks_made(world)
    sender = Remote(world.a, name, tmp_path / "a", "a0")
    receiver = Remote(world.b, name, tmp_path / "b", "b0")
    port = FIRST_PORTS[name]
    held = [Talk(family, protocol, port + n) for n, (protocol, family) in enumerate(PACES)]
    left_alone = [Talk(4, TCP, port + 10, 0.02), Talk(4, UDP, port + 11, 0.02)]
    tcp = [each for each in held if each.protocol == TCP]
    talks = held + left_alone
    assert Ability.PACE_FLOW not in {limit.ability for limit in sender.engine.limits}
    try:
        with listening(world.b, "b0") as arrivals:
            sender.pace(*paced(held, PACES))
            for each in talks:
                each.begin(world)
            time.sleep(2 * SETTLES_S)
            check_rates(arrivals, held, PACES)
            sender.pace(*paced(held, OTHER_PACES))
            time.sleep(SETTLES_S)
            check_rates(arrivals, held, OTHER_PACES)
            receiver.second()
            sender.second()
            check_ecn(receiver, held, left_alone)
            (*paced_views, free_view) = sender_views(world, *tcp, left_alone[0])
            assert all(view.capable and not view.accurate and view.delivered_packets for view in paced_views)
            assert [view.delivered_ce for view in paced_views] == [0, 0], "their transports hear of no mark"
            assert free_view.delivered_ce > 0, "the flow that is left alone answers its marks itself"
            check_refusals(sender, held)
            sender.pace(*(PacedFlow(key=each.key(), answers_marks=True) for each in held if each.protocol == UDP))
            time.sleep(SETTLES_S)
            free = measure(arrivals, held, 0.2)
            assert free[(TCP, 4)] > 2 * PACES[(TCP, 4)]
            assert sum(view.delivered_ce for view in sender_views(world, *tcp)) > 0, "it hears of marks again"
            sender.pace()
            for each in talks:
                each.end()
        time.sleep(SETTLES_S)
        meters = receiver.meters([each.key(at_receiver=True) for each in talks])
        assert sum(meter.received.ce_packets for meter in meters) == marks_made(world) - made_before
        errors = world.a.run("nstat", "-az", "TcpInCsumErrors") + world.b.run(
            "nstat", "-az", "TcpInCsumErrors", "UdpInCsumErrors", "IpInHdrErrors"
        )
        assert all(line.split()[1] == "0" for line in errors.splitlines() if not line.startswith("#")), errors
    finally:
        sender.close()
        receiver.close()
    assert [kernel_state(world.a), kernel_state(world.b)] == before


def check_rates(arrivals: Arrivals, held: list[Talk], paces: dict[tuple[int, int], int]) -> None:
    """Within 3 %; once more if the machine stood still meanwhile, which may make a flow slower, but never faster."""
    for _ in range(TRIES):
        rates = measure(arrivals, held, 0.8)
        ratios = {each: rates[each] / pace for each, pace in paces.items()}
        assert max(ratios.values()) < 1.03, ratios
        if min(ratios.values()) > 0.97:
            return
    raise AssertionError(ratios)


def check_ecn(receiver: Remote, held: list[Talk], left_alone: list[Talk]) -> None:
    """Everything that a held flow sends is ECN-capable, but for its SYN; what another one sends is as it was."""
    for each, meter in zip(held, receiver.meters([each.key(at_receiver=True) for each in held]), strict=True):
        got = meter.received
        plain = got.packets - got.ect_packets - got.ce_packets
        assert plain <= (1 if each.protocol == TCP else 0), (each, got)
        assert got.ce_packets > 0
    (udp,) = receiver.meters([left_alone[1].key(at_receiver=True)])
    assert udp.received.packets > 10
    assert udp.received.ect_packets == udp.received.ce_packets == 0


def check_refusals(sender: Remote, held: list[Talk]) -> None:
    """What cannot be is refused, and the flows stay as they are."""
    nobody = held[0].key()._replace(remote_port=1)
    assert sender.meter(nobody) is None
    many = [PacedFlow(key=nobody._replace(local_port=n), pace_bit_s=8_000) for n in range(1, PACED_MAX + 2)]
    with pytest.raises(EnvironmentFault):
        sender.pace(*many)


async def test_the_engine_that_has_no_privilege_says_so() -> None:
    engine = makers("sockets", state_directory=Path("unused"))[EngineName.SOCKETS]()
    assert Ability.PACE_FLOW in {limit.ability for limit in engine.limits}
    key = FlowKey(0, TCP, bytes(4), 1, bytes(4), 2)
    assert await engine.meters([key]) == [None]
    await engine.pace([])
    with pytest.raises(EnvironmentFault):
        await engine.pace([PacedFlow(key=key, pace_bit_s=8_000)])
