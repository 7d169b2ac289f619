"""The engine NFQUEUE with real packets: caps, counts, questions, a killed reader, interfaces that go and come back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Final

import pytest
from netns import Namespace, connect

from billpay.errors import EnvironmentFault
from dataplane.host_engine import Ability, HostEngine
from dataplane.metering import FlowKey, Kind, Program, ProgramMeter, Reading
from dataplane.nfqueue_engine import NfqueueEngine, is_own_address
from dataplane.shaping.plan import DEFAULT, Match, Rule, ShapedLink, ShapingPlan, TrafficClass
from dataplane.supervisor import Health

pytestmark = pytest.mark.netns

CAP = 8_000_000
PORT = 7000
SECOND = 1_000_000_000
PATIENCE_S = 10
PROGRAM = Program(kind=Kind.PROGRAM, executable="/usr/bin/sender")
FAMILIES: Final[dict[int, tuple[socket.AddressFamily, str, str, int]]] = {
    4: (socket.AF_INET, "10.8.1.1", "10.8.1.2", 28),
    6: (socket.AF_INET6, "fd08::1", "fd08::2", 48),
}
SO_TIMESTAMPNS = 35

BLASTER = """
import socket, sys, time
family, address, port = sys.argv[1:4]
bit_s, duration_s = map(float, sys.argv[4:])
sender = socket.socket(socket.AF_INET if family == "4" else socket.AF_INET6, socket.SOCK_DGRAM)
sender.connect((address, int(port)))
print("ready", flush=True)
sys.stdin.readline()
began, sent = time.monotonic(), 0
while (now := time.monotonic() - began) < duration_s:
    while sent * 8 * 1200 < now * bit_s:
        sent += 1
        try:
            sender.send(sent.to_bytes(4, "big") + bytes(1168))
        except OSError:
            pass
    time.sleep(0.002)
"""


def plan_of(*classes: TrafficClass, rules: tuple[Rule, ...] = (), links: tuple[str, ...] = ("a0",)) -> ShapingPlan:
    return ShapingPlan(
        classes=(TrafficClass(name="control"), *(classes or (TrafficClass(name="default"),))),
        rules=rules,
        links=tuple(ShapedLink(interface=name) for name in links),
    )


CAPPED = plan_of(TrafficClass(name="default", cap_bit_s=CAP))


@dataclass(slots=True)
class Pair:
    """Two hosts on one wire; the engine works on a."""

    directory: Path
    a: Namespace = field(default_factory=Namespace)
    b: Namespace = field(default_factory=Namespace)

    def wire(self) -> None:
        for namespace in (self.a, self.b):
            namespace.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
        connect(self.a, "a0", self.b, "b0")
        for namespace, name, number in ((self.a, "a0", 1), (self.b, "b0", 2)):
            namespace.run("ip", "addr", "add", f"10.8.1.{number}/24", "dev", name)
            namespace.run("ip", "addr", "add", f"fd08::{number}/64", "dev", name, "nodad")

    def rules(self) -> str:
        return "".join(self.a.run(program) for program in ("iptables-save", "ip6tables-save"))

    def run(self, scenario: Callable[[NfqueueEngine], Awaitable[None]], plan: ShapingPlan) -> None:
        """The scenario with an engine that has been started, on a."""
        self.a.call(lambda: asyncio.run(self._running(scenario, plan)))

    async def _running(self, scenario: Callable[[NfqueueEngine], Awaitable[None]], plan: ShapingPlan) -> None:
        engine = NfqueueEngine(self.directory, owner_of)
        await engine.start(plan)
        try:
            async with asyncio.timeout(25):
                await scenario(engine)
        finally:
            await engine.close()


async def owner_of(key: FlowKey) -> Program | None:
    return PROGRAM if PORT in (key.local_port, key.remote_port) else None


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    made.wire()
    yield made
    made.a.close()
    made.b.close()


class Sink:
    """Receives datagrams in a namespace, with the time of each: the kernel's own where nothing holds them after it."""

    def __init__(self, namespace: Namespace, family: int, *, is_shaped: bool = False) -> None:
        self.times: list[int] = []
        self.bits: list[int] = []
        self.numbers: list[int] = []
        self._header_bytes = FAMILIES[family][3]
        self._socket = namespace.call(lambda: socket.socket(FAMILIES[family][0], socket.SOCK_DGRAM))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.settimeout(0.1)
        self._socket.bind(("", PORT))
        self._is_shaped = is_shaped
        self._stopping = False
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while not self._stopping:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(2000, 100)
            except TimeoutError:
                continue
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            self.times.append(time.monotonic_ns() if self._is_shaped else seconds * SECOND + nanoseconds)
            self.bits.append(8 * (len(data) + self._header_bytes))
            self.numbers.append(int.from_bytes(data[:4], "big"))

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._socket.close()

    def most_in_a_second(self) -> int:
        sums = [0, *accumulate(self.bits)]
        ends = [bisect_left(self.times, at + SECOND) for at in self.times]
        return max(sums[end] - sums[begin] for begin, end in enumerate(ends))


@asynccontextmanager
async def blasting(
    namespace: Namespace, family: int, address: str, *, bit_s: float, duration_s: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A sender in a process of its own, which has begun."""
    child = await asyncio.create_subprocess_exec(
        *namespace.command(sys.executable, "-c", BLASTER, str(family), address, str(PORT), str(bit_s), str(duration_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    await child.stdout.readline()
    child.stdin.write(b"\n")
    try:
        yield child
        await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def read_until(engine: HostEngine, condition: Callable[[Reading], bool]) -> Reading:
    async with asyncio.timeout(PATIENCE_S):
        while not condition(reading := await engine.read()):
            await asyncio.sleep(0.02)
    return reading


def of_sender(reading: Reading) -> ProgramMeter | None:
    return next((each for each in reading.programs if each.program == PROGRAM), None)


def check_sums(reading: Reading) -> None:
    for direction in ("sent", "received"):
        programs = [getattr(each, direction) for each in reading.programs]
        links = [getattr(each, direction) for each in reading.links]
        assert [sum(column) for column in zip(*programs, strict=True)] == [
            sum(column) for column in zip(*links, strict=True)
        ]


# -- caps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["egress", "ingress"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.exact
def test_a_cap_holds_for_datagrams_in_any_second_and_is_used(pair: Pair, family: int, direction: str) -> None:
    source, target = (pair.a, pair.b) if direction == "egress" else (pair.b, pair.a)
    address = FAMILIES[family][2] if direction == "egress" else FAMILIES[family][1]

    async def scenario(engine: NfqueueEngine) -> None:
        with Sink(target, family, is_shaped=direction == "ingress") as sink:
            async with blasting(source, family, address, bit_s=1.5 * CAP, duration_s=1.1):
                pass
            await asyncio.sleep(0.3)
        assert sink.most_in_a_second() <= 1.05 * CAP
        assert sink.most_in_a_second() >= 0.9 * CAP
        assert sink.numbers == sorted(sink.numbers)
        reading = await read_until(engine, lambda reading: of_sender(reading) is not None)
        check_sums(reading)
        meter = of_sender(reading)
        assert meter is not None
        if direction == "egress":
            assert meter.sent.packets == len(sink.numbers)
            assert meter.sent.bytes * 8 == sum(sink.bits)
        else:
            assert meter.received.packets >= len(sink.numbers)

    pair.run(scenario, CAPPED)


@pytest.mark.parametrize("direction", ["egress", "ingress"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.exact
def test_a_cap_holds_for_a_stream_and_is_used(pair: Pair, family: int, direction: str) -> None:
    kind, a_address, b_address, _ = FAMILIES[family]
    source, target = (pair.a, pair.b) if direction == "egress" else (pair.b, pair.a)
    listener = target.call(lambda: socket.create_server(("", PORT), family=kind))
    client = source.call(lambda: socket.socket(kind, socket.SOCK_STREAM))

    async def scenario(engine: NfqueueEngine) -> None:
        loop = asyncio.get_running_loop()
        for each in (listener, client):
            each.setblocking(False)
        await loop.sock_connect(client, (b_address if direction == "egress" else a_address, PORT))
        server, _ = await loop.sock_accept(listener)
        server.setblocking(False)
        received = 0

        async def read() -> None:
            nonlocal received
            while data := await loop.sock_recv(server, 1 << 16):
                received += len(data)

        async def write() -> None:
            while True:
                await loop.sock_sendall(client, bytes(1 << 14))

        tasks = [loop.create_task(work()) for work in (read, write)]
        began_s = loop.time()
        await asyncio.sleep(1)
        bits, elapsed_s = received * 8 * 1500 / 1448, loop.time() - began_s
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        assert 0.75 * CAP <= bits / elapsed_s <= 1.05 * CAP
        reading = await read_until(engine, lambda reading: of_sender(reading) is not None)
        check_sums(reading)
        (flow,) = [each for each in await engine.flows() if each.key.protocol == 6]
        assert min(flow.sent.packets, flow.received.packets) > 100
        assert flow.traffic_class == DEFAULT

    with listener, client:
        pair.run(scenario, CAPPED)


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_traffic_goes_on_when_the_reader_is_killed_and_counts_go_on_with_its_successor(pair: Pair) -> None:
    async def scenario(engine: NfqueueEngine) -> None:
        with Sink(pair.b, 4) as sink:
            async with blasting(pair.a, 4, FAMILIES[4][2], bit_s=CAP / 4, duration_s=1.5):
                await until(lambda: len(sink.numbers) > 30)
                before = of_sender(await read_until(engine, lambda reading: of_sender(reading) is not None))
                assert before is not None
                first = engine.reader_pid
                assert first is not None
                os.kill(first, signal.SIGKILL)
                await until(lambda: engine.health is not Health.RUNNING)
                assert "signal 9" in engine.why or engine.health is Health.STARTING
                between = of_sender(await engine.read())
                assert between is not None
                assert between.sent.packets >= before.sent.packets
                await until(lambda: engine.health is Health.RUNNING)
                assert engine.reader_pid != first
                after = await read_until(
                    engine, lambda reading: (found := of_sender(reading)) is not None and found.sent > between.sent
                )
                await engine.on_second()
            await asyncio.sleep(0.2)
        check_sums(after)
        gaps = [later - earlier for earlier, later in zip(sink.times, sink.times[1:], strict=False)]
        assert max(gaps) < SECOND // 2
        assert len(sink.numbers) >= 0.9 * max(sink.numbers)

    pair.run(scenario, CAPPED)


def test_an_interface_that_is_away_and_comes_back_is_shaped_and_counted_again(pair: Pair) -> None:
    async def scenario(engine: NfqueueEngine) -> None:
        async with blasting(pair.a, 4, FAMILIES[4][2], bit_s=CAP / 4, duration_s=0.3):
            pass
        before = of_sender(await read_until(engine, lambda reading: of_sender(reading) is not None))
        assert before is not None
        await asyncio.to_thread(pair.a.run, "ip", "link", "del", "a0")
        await engine.on_second()
        await asyncio.to_thread(pair.wire)
        await engine.on_second()
        with Sink(pair.b, 4) as sink:
            async with blasting(pair.a, 4, FAMILIES[4][2], bit_s=1.5 * CAP, duration_s=1.1):
                pass
            await asyncio.sleep(0.3)
        assert 0.9 * CAP <= sink.most_in_a_second() <= 1.05 * CAP
        reading = await read_until(
            engine,
            lambda reading: (
                (found := of_sender(reading)) is not None
                and found.sent.packets >= before.sent.packets + len(sink.numbers)
            ),
        )
        check_sums(reading)
        (link,) = reading.links
        assert link.interface_sent_packets >= link.sent.packets

    pair.run(scenario, CAPPED)


def test_a_link_that_is_not_there_is_a_fault_and_nothing_is_left_behind(pair: Pair) -> None:
    before = pair.rules()

    async def start() -> None:
        engine = NfqueueEngine(pair.directory, owner_of)
        with pytest.raises(EnvironmentFault, match="nowhere"):
            await engine.start(plan_of(links=("a0", "nowhere")))
        bad = plan_of(rules=(Rule(match=Match(remote="nowhere"), traffic_class=1),))
        with pytest.raises(EnvironmentFault, match="nowhere"):
            await engine.start(bad)
        with pytest.raises(EnvironmentFault, match="not running"):
            await engine.apply(CAPPED)
        await engine.start(CAPPED)
        with pytest.raises(EnvironmentFault, match="nowhere"):
            await engine.apply(plan_of(links=("nowhere",)))
        assert engine.health is Health.RUNNING
        await engine.close()
        await engine.close()

    pair.a.call(lambda: asyncio.run(start()))
    assert pair.rules() == before


# -- plans, names, questions -----------------------------------------------------------------------------------------


def test_another_plan_with_other_links_starts_anew_and_keeps_the_counts(pair: Pair) -> None:
    pair.a.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
    pair.a.run("ip", "link", "set", "d0", "up")

    async def scenario(engine: NfqueueEngine) -> None:
        async with blasting(pair.a, 4, FAMILIES[4][2], bit_s=CAP / 4, duration_s=0.3):
            pass
        before = of_sender(await read_until(engine, lambda reading: of_sender(reading) is not None))
        assert before is not None
        reader = engine.reader_pid
        await engine.apply(plan_of())
        assert engine.reader_pid == reader
        await engine.apply(plan_of(links=("a0", "d0")))
        assert engine.reader_pid != reader
        async with blasting(pair.a, 4, FAMILIES[4][2], bit_s=CAP / 4, duration_s=0.3):
            pass
        reading = await read_until(
            engine, lambda reading: (found := of_sender(reading)) is not None and found.sent > before.sent
        )
        check_sums(reading)
        assert {link.interface for link in reading.links} == {"a0", "d0"}

    pair.run(scenario, CAPPED)


@pytest.mark.expectation(6)
def test_rules_by_program_hold_from_the_first_packet(pair: Pair) -> None:
    slow = TrafficClass(name="slow", cap_bit_s=CAP)
    plan = plan_of(TrafficClass(name="default"), slow, rules=(Rule(match=Match(program="sender"), traffic_class=2),))

    async def scenario(engine: NfqueueEngine) -> None:
        with Sink(pair.b, 4) as sink:
            async with blasting(pair.a, 4, FAMILIES[4][2], bit_s=1.5 * CAP, duration_s=1.1):
                pass
            await asyncio.sleep(0.3)
        assert 0.9 * CAP <= sink.most_in_a_second() <= 1.05 * CAP
        assert sink.numbers[0] == 1
        reading = await read_until(engine, lambda reading: of_sender(reading) is not None)
        meter = of_sender(reading)
        assert meter is not None
        assert meter.sent.packets == len(sink.numbers)
        (flow,) = [each for each in await engine.flows() if each.key.remote_port == PORT]
        assert (flow.traffic_class, flow.program_number) == (2, meter.number)

    pair.run(scenario, plan)


def test_a_question_holds_a_flow_until_it_is_answered(pair: Pair) -> None:
    plan = plan_of(
        TrafficClass(name="default"),
        TrafficClass(name="ask", ask_first=True),
        rules=(Rule(match=Match(program="sender"), traffic_class=2),),
    )

    async def scenario(engine: NfqueueEngine) -> None:
        with Sink(pair.b, 4) as sink:
            for allow in (False, True):
                sender = pair.a.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                with sender:
                    sender.connect((FAMILIES[4][2], PORT))
                    sender.send(b"\0\0\0\1")
                    while not (questions := await engine.questions()):
                        await asyncio.sleep(0.01)
                    (question,) = questions
                    assert question.program == PROGRAM
                    assert question.key.local_port == sender.getsockname()[1]
                    assert not sink.numbers
                    await engine.answer(question.number, allow=allow)
                    assert await engine.questions() == []
                    await engine.answer(question.number, allow=allow)
                    sender.send(b"\0\0\0\2")
            await until(lambda: sink.numbers == [1, 2])

    pair.run(scenario, plan)


def test_what_has_no_owner_is_the_kernels_or_crosses_this_host(pair: Pair) -> None:
    async def scenario(engine: NfqueueEngine) -> None:
        pair.a.run("ip", "route", "add", "blackhole", "10.99.0.0/24")
        pair.a.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        pair.b.run("ip", "route", "add", "10.99.0.0/24", "via", "10.8.1.1")
        sender = pair.b.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with sender:
            sender.sendto(b"through", ("10.99.0.1", 9))
            sender.sendto(b"to nobody", ("10.8.1.1", 9))
            reading = await read_until(engine, lambda reading: len(reading.programs) > 1)
        forwarded = next(each for each in reading.programs if each.number)
        assert forwarded.program == Program(kind=Kind.FORWARDED, interface="a0")
        assert forwarded.received[:2] == (1, 35)

    pair.run(scenario, plan_of())


def test_limits_say_what_is_missing() -> None:
    async def made() -> NfqueueEngine:
        return NfqueueEngine(Path("/nonexistent"), owner_of)

    engine: HostEngine = asyncio.run(made())
    abilities = {limit.ability for limit in engine.limits}
    assert abilities == {Ability.PACE, Ability.CONGESTION_CONTROL, Ability.PRICE_CONGESTION_CONTROL}


@pytest.mark.parametrize(
    ("address", "expected"), [("127.0.0.1", True), ("192.0.2.1", False), ("::1", True), ("2001:db8::1", False)]
)
def test_own_addresses_are_known(address: str, expected: bool) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    key = FlowKey(1, 17, socket.inet_pton(family, address), 1, bytes(4), 2)
    assert is_own_address(key) == expected
