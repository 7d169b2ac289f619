"""The engine without privilege, on real sockets; the interfaces' own counters are the witness."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from netns import Namespace, connect

from dataplane.host_engine import Ability, EngineName, HostEngine
from dataplane.metering import UNATTRIBUTED, LinkMeter, ProgramMeter, Reading, Tally
from dataplane.shaping.plan import NO_SHAPING, Match, Rule, ShapedLink, ShapingPlan, TrafficClass
from dataplane.sockets_engine import _NOTHING_YET, SocketsEngine, _advance, _Direction

netns = pytest.mark.netns
V4, V6 = "10.6.0.2", "fd06::2"
PYTHON = os.readlink("/proc/self/exe")
SHAPING = ShapingPlan(
    classes=(TrafficClass(name="control"), TrafficClass(name="default"), TrafficClass(name="bulk", cap_bit_s=64_000)),
    rules=(Rule(match=Match(program=PYTHON), traffic_class=2),),
    links=(ShapedLink(interface="a0", egress_bit_s=1_000_000),),
)


class Pair:
    """Hosts a and b on one link."""

    def __init__(self, a: Namespace, b: Namespace) -> None:
        self.a, self.b = a, b

    @contextmanager
    def connection(self, host: str = V4, to: Namespace | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Ours in a, and its other end in b."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with (to or self.b).call(lambda: socket.create_server((host, 0), family=family)) as listener:
            address = listener.getsockname()
            with self.a.call(lambda: socket.create_connection(address[:2])) as ours, listener.accept()[0] as theirs:
                yield ours, theirs

    def run(self, exercise: Callable[[HostEngine], Awaitable[None]], plan: ShapingPlan = NO_SHAPING) -> None:
        """With an engine that has started in a."""

        async def main() -> None:
            engine = SocketsEngine()
            await engine.start(plan)
            try:
                await exercise(engine)
            finally:
                await engine.close()
                await engine.close()

        self.a.call(lambda: asyncio.run(main()))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Namespace() as a, Namespace() as b:
        for each in (a, b):
            each.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        lay(a, b)
        yield Pair(a, b)


def lay(a: Namespace, b: Namespace) -> None:
    connect(a, "a0", b, "b0")
    for namespace, name, number in ((a, "a0", 1), (b, "b0", 2)):
        namespace.run("ip", "addr", "add", f"10.6.0.{number}/24", "dev", name)
        namespace.run("ip", "addr", "add", f"fd06::{number}/64", "dev", name, "nodad")


def move(sender: socket.socket, receiver: socket.socket, size_bytes: int) -> None:
    left = size_bytes
    while left:
        step = min(left, 50_000)
        sender.sendall(bytes(step))
        left -= step
        while step:
            step -= len(receiver.recv(step))


def ours(reading: Reading) -> ProgramMeter:
    return next(each for each in reading.programs if each.program.executable == PYTHON)


def unattributed(reading: Reading) -> ProgramMeter:
    assert reading.programs[0].number == 0
    assert reading.programs[0].program == UNATTRIBUTED
    return reading.programs[0]


def link(reading: Reading) -> LinkMeter:
    (found,) = reading.links
    return found


def check_sums(reading: Reading) -> None:
    for attribute in ("sent", "received"):
        programs, links = Tally(), Tally()
        for program in reading.programs:
            programs = programs.plus(getattr(program, attribute))
        for each in reading.links:
            links = links.plus(getattr(each, attribute))
        assert programs == links


@netns
@pytest.mark.parametrize("host", [V4, V6])
def test_tcp_is_its_programs_as_the_interface_counts_it(pair: Pair, host: str) -> None:
    async def exercise(engine: HostEngine) -> None:
        with pair.connection(host) as (here, there):
            move(here, there, 1_000_000)
            move(there, here, 300_000)
            reading = await engine.read()
        check_sums(reading)
        meter = ours(reading)
        header = 52 if host == V4 else 72
        assert meter.sent.packets == pytest.approx(link(reading).interface_sent_packets, abs=8)
        assert meter.received.packets == pytest.approx(link(reading).interface_received_packets, abs=8)
        assert meter.sent.bytes == 1_000_000 + header * meter.sent.packets
        assert meter.received.bytes == 300_000 + header * meter.received.packets
        # Options of the first segments, and who asked for whose address.
        assert unattributed(reading).sent.bytes < 600
        assert meter.program.user_id == os.getuid()
        (flow,) = await engine.flows()
        assert (flow.program_number, flow.process_id) == (meter.number, os.getpid())
        assert (flow.sent, flow.received) == (meter.sent, meter.received)
        assert flow.key.remote == socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        assert reading.flows_tracked == 1

    pair.run(exercise)


@netns
def test_a_closed_socket_stays_in_its_programs_total(pair: Pair) -> None:
    async def exercise(engine: HostEngine) -> None:
        with pair.connection() as (here, there):
            move(here, there, 100_000)
            await engine.on_second()
        before = ours(await engine.read())
        with pair.connection() as (here, there):
            move(here, there, 50_000)
            reading = await engine.read()
        check_sums(reading)
        assert ours(reading).number == before.number
        assert 150_000 < ours(reading).sent.bytes < 165_000

    pair.run(exercise)


@netns
def test_what_the_engine_cannot_see_is_unattributed_and_not_lost(pair: Pair) -> None:
    async def exercise(engine: HostEngine) -> None:
        with pair.a.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
            for _ in range(50):
                udp.sendto(bytes(1000), (V4, 9))
        with pair.connection() as (here, there):  # opens and closes between two looks
            move(here, there, 20_000)
        reading = await engine.read()
        check_sums(reading)
        rest = unattributed(reading)
        assert 50 * 1028 + 20_000 < rest.sent.bytes < 50 * 1028 + 24_000
        assert rest.sent.packets == link(reading).interface_sent_packets
        assert rest.received.packets == link(reading).interface_received_packets

    pair.run(exercise)


@netns
def test_what_was_before_does_not_count(pair: Pair) -> None:
    with pair.connection() as (here, there):
        move(here, there, 500_000)

        async def exercise(engine: HostEngine) -> None:
            reading = await engine.read()
            check_sums(reading)
            assert link(reading).sent.bytes < 1000
            move(here, there, 10_000)
            reading = await engine.read()
            assert 10_000 < ours(reading).sent.bytes < 12_000

        pair.run(exercise)


@netns
def test_what_a_host_says_to_itself_takes_no_link(pair: Pair) -> None:
    async def exercise(engine: HostEngine) -> None:
        for host in ("127.0.0.1", "10.6.0.1"):
            with pair.connection(host, to=pair.a) as (here, there):
                move(here, there, 10_000)
                reading = await engine.read()
            check_sums(reading)
            assert sum(each.sent.bytes for each in reading.programs) < 1000

    pair.run(exercise)


@netns
def test_a_plan_that_shapes_is_accepted_and_says_so_in_limits(pair: Pair) -> None:
    async def exercise(engine: HostEngine) -> None:
        assert engine.name == EngineName.SOCKETS
        causes = {limit.ability: limit.cause for limit in engine.limits}
        assert set(Ability) == set(causes)
        assert "not enforced" in causes[Ability.SHAPE_EGRESS]
        assert "unattributed" in causes[Ability.COUNT_UDP]
        with pair.connection() as (here, there):
            move(here, there, 100_000)
            await engine.on_second()
            (flow,) = await engine.flows()
            assert flow.traffic_class == 1
            await engine.apply(SHAPING)
            (flow,) = await engine.flows()
            assert flow.traffic_class == 2
            move(here, there, 100_000)
            reading = await engine.read()
        check_sums(reading)
        assert 200_000 < ours(reading).sent.bytes < 220_000
        assert await engine.questions() == []
        await engine.answer(1, allow=False)

    pair.run(exercise)


@netns
def test_only_the_links_of_a_plan_are_counted(pair: Pair) -> None:
    elsewhere = ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="other0"),))

    async def exercise(engine: HostEngine) -> None:
        with pair.connection() as (here, there):
            move(here, there, 100_000)
            reading = await engine.read()
            check_sums(reading)
            assert reading.links == ()
            await engine.apply(SHAPING)
            move(here, there, 10_000)
            assert 10_000 < link(await engine.read()).sent.bytes < 12_000
            await engine.apply(elsewhere)
            move(here, there, 100_000)
            await engine.apply(SHAPING)
            reading = await engine.read()
            check_sums(reading)
            assert link(reading).sent.bytes < 12_000
            assert link(reading).interface_sent_packets < 40

    pair.run(exercise, elsewhere)


@netns
def test_an_interface_that_comes_anew_goes_on_where_it_was(pair: Pair) -> None:
    async def exercise(engine: HostEngine) -> None:
        with pair.connection() as (here, there):
            move(here, there, 50_000)
            before = await engine.read()
        pair.a.run("ip", "link", "del", "a0")
        await engine.on_second()
        lay(pair.a, pair.b)
        with pair.connection() as (here, there):
            move(here, there, 50_000)
            reading = await engine.read()
        check_sums(reading)
        assert 50_000 < link(reading).sent.bytes - link(before).sent.bytes < 58_000
        assert ours(reading).sent.bytes > 100_000

    pair.run(exercise)


UNPRIVILEGED = """
import asyncio, json, os, socket, sys
from dataplane.shaping.plan import NO_SHAPING
from dataplane.sockets_engine import SocketsEngine

async def main():
    engine = SocketsEngine()
    await engine.start(NO_SHAPING)
    ours = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    ours.sendall(bytes(10_000))
    print(flush=True)
    input()
    reading = await engine.read()
    await engine.close()
    ours.close()
    print(json.dumps({
        "user": os.geteuid(),
        "limits": [limit.cause for limit in engine.limits],
        "programs": [[each.program.executable, each.program.user_id, each.sent.bytes] for each in reading.programs],
        "sums": [sum(each.sent.bytes for each in part) for part in (reading.programs, reading.links)],
    }))

asyncio.run(main())
"""


@netns
def test_it_works_without_any_privilege(pair: Pair) -> None:
    with pair.b.call(lambda: socket.create_server((V4, 0))) as listener, pair.connection() as (here, there):
        process = pair.a.popen(
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"),
            *(sys.executable, "-c", UNPRIVILEGED, V4, str(listener.getsockname()[1])),
            stdin=-1,
            stdout=-1,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        with process, listener.accept()[0] as accepted:
            left = 10_000
            while left:
                left -= len(accepted.recv(left))
            move(here, there, 30_000)  # root's, while the engine looks on
            output, _ = process.communicate(b"\n")
    told = json.loads(output)
    sent = {(executable, user): size for executable, user, size in told["programs"]}
    assert told["user"] == 65534
    assert 10_000 < sent[PYTHON, 65534] < 12_000
    assert 30_000 < sent["", 0] < 34_000
    assert told["sums"][0] == told["sums"][1]
    assert any("we are not root" in cause for cause in told["limits"])


def test_segment_counters_wrap_and_headers_follow_the_family() -> None:
    before = _NOTHING_YET._replace(segments_out=2**32 - 2, bytes_sent=5)
    after = before._replace(segments_out=1, bytes_sent=1005, has_timestamps=True)
    assert _advance(before, after, 4) == (Tally(3, 1000 + 3 * 52), Tally())
    assert _advance(before, after._replace(has_timestamps=False), 16) == (Tally(3, 1000 + 3 * 60), Tally())


def test_what_nobody_claims_never_falls() -> None:
    direction = _Direction()
    direction.advance(10, 1000)
    direction.claimed = Tally(4, 400)
    direction.settle()
    assert direction.rest == Tally(6, 600)
    direction.claimed = Tally(30, 3000)  # ahead of the interface
    direction.settle()
    assert direction.rest == Tally(6, 600)
    direction.advance(5, 500)  # smaller than before: it began anew
    assert (direction.packets, direction.bytes) == (15, 1500)
