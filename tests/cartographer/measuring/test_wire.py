"""The prober on real interfaces: it keeps the contract that a told network keeps too, and its own bounds."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from probed_network import B, Node, ProbedNetwork, ToldNetwork, address, hops
from unprivileged import as_nobody

from billpay.errors import EnvironmentFault, LocalProtocolError
from cartographer.measuring.packets import AnswerKind, ProbePacket, Prober, Transport
from cartographer.measuring.wire import Pace, WireProber, WireTerms

Result = TypeVar("Result")
WAIT_NS = 300_000_000
CHAIN = {
    "start": Node(towards=("10.60.1.2",)),
    "10.60.1.2": Node(towards=("10.60.2.2",)),
    "10.60.2.2": Node(towards=("10.60.4.2",)),
    "10.60.4.2": Node(towards=("silent",)),
    "silent": Node(towards=(B[4],), is_silent=True),
    B[4]: Node(),
}


@pytest.fixture(scope="module")
def network() -> Iterator[ProbedNetwork]:
    made = ProbedNetwork()
    yield made
    made.close()


def to_b(version: int, transport: Transport, ttl: int, **changes: Any) -> ProbePacket:
    port = 80 if transport is Transport.TCP else 33_434
    return ProbePacket(destination=B[version], transport=transport, ttl=ttl, port=port, **changes)


def run(network: ProbedNetwork, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    return network["a"].call(lambda: asyncio.run(work()))


async def keeps_the_contract(prober: Prober, transport: Transport, version: int, most: int) -> None:
    """What every prober promises: see packets.Prober. To be called with a fresh one."""
    assert prober.sent == 0
    assert await prober.ask([], wait_ns=WAIT_NS) == []
    order = (5, 1, 4, 3)
    answers = await prober.ask([to_b(version, transport, ttl) for ttl in order], wait_ns=WAIT_NS)
    assert prober.sent == 4
    known = hops(version)
    for ttl, answer in zip(order, answers, strict=True):
        assert (answer.address if answer else None) in known[ttl - 1]
        if answer is not None:
            assert answer.is_final == (ttl == 5)
            assert 0 < answer.round_trip_ns < WAIT_NS
            assert (answer.quoted_ttl == 1) == (ttl != 5 or transport is Transport.UDP)
    with pytest.raises(LocalProtocolError):
        await prober.ask([to_b(version, transport, 1)] * (most - 3), wait_ns=WAIT_NS)
    assert prober.sent == 4  # all or nothing
    two = await asyncio.gather(*(prober.ask([to_b(version, transport, ttl)], wait_ns=WAIT_NS) for ttl in (1, 3)))
    for (answer,), ttl in zip(two, (1, 3), strict=True):
        assert answer is not None
        assert answer.address in known[ttl - 1]


@pytest.mark.parametrize("transport", Transport)
async def test_a_told_network_keeps_the_contract(transport: Transport) -> None:
    await keeps_the_contract(ToldNetwork(CHAIN, most_packets=10), transport, 4, 10)


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("transport", Transport)
def test_the_real_one_keeps_the_contract(network: ProbedNetwork, transport: Transport, version: int) -> None:
    async def work() -> None:
        with WireProber(WireTerms(most_packets=10)) as prober:
            await keeps_the_contract(prober, transport, version, 10)

    run(network, work)


def test_packets_are_paced_with_small_bursts() -> None:
    pace = Pace(packets_per_s=100, burst_packets=4)
    assert [pace.take(1_000) - 1_000 for _ in range(7)] == [0, 0, 0, 0, 10_000_000, 20_000_000, 30_000_000]
    assert pace.take(10**9) == 10**9  # a pause fills the burst again, and no more than that
    assert [pace.take(10**9) - 10**9 for _ in range(5)] == [0, 0, 0, 10_000_000, 20_000_000]
    late = Pace(packets_per_s=10, burst_packets=1)
    assert [late.take(now) for now in (0, 50_000_000, 500_000_000)] == [0, 100_000_000, 500_000_000]


@pytest.mark.netns
def test_a_tcp_answer_is_told_and_the_answers_own_marks_are_read(network: ProbedNetwork) -> None:
    async def work() -> None:
        listener = await asyncio.start_server(lambda _, writer: writer.close(), address(1, 1), 8080)
        with WireProber() as prober:
            own = ProbePacket(destination=address(1, 1), transport=Transport.TCP, ttl=9, port=8080, tcp_flags=0xC2)
            (open_port,) = await prober.ask([own], wait_ns=WAIT_NS)
            (closed,) = await prober.ask([replace(own, port=8081)], wait_ns=WAIT_NS)
            (six,) = await prober.ask([to_b(6, Transport.UDP, 3, dscp=46, ecn=1)], wait_ns=WAIT_NS)
        listener.close()
        assert open_port is not None
        assert closed is not None
        assert six is not None
        assert (open_port.tcp_flags or 0) & 0x12 == 0x12
        assert (closed.tcp_flags or 0) & 0x04
        assert (closed.kind, closed.ttl) == (AnswerKind.REPLY, 64)
        assert six.quoted_traffic_class == 46 << 2 | 1
        assert six.ttl == 62  # r4's 64, less two routers

    run(network, work)


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
def test_what_is_too_big_for_our_own_interface_is_an_answer(network: ProbedNetwork, version: int) -> None:
    async def work() -> None:
        with WireProber() as prober:
            big, fits = await prober.ask(
                [to_b(version, Transport.UDP, 1, size_bytes=size) for size in (1501, 1500)], wait_ns=WAIT_NS
            )
        assert big is not None
        assert fits is not None
        assert (big.kind, big.mtu, big.address) == (AnswerKind.TOO_BIG, 1500, address(1, 1, version))
        assert fits.kind is AnswerKind.TIME_EXCEEDED

    run(network, work)


@pytest.mark.netns
def test_two_runs_at_once_hear_each_their_own_answers(network: ProbedNetwork) -> None:
    async def work() -> None:
        with WireProber() as one, WireProber() as other:
            for transport in Transport:
                packets = [to_b(4, transport, ttl) for ttl in (1, 3, 5)]
                for answers in await asyncio.gather(*(each.ask(packets, wait_ns=WAIT_NS) for each in (one, other))):
                    assert [each.address for each in answers if each] == [address(1, 2), address(4, 2), B[4]]

    run(network, work)


@pytest.mark.netns
def test_what_is_cancelled_or_closed_leaves_nothing(network: ProbedNetwork) -> None:
    async def work() -> None:
        open_before = len(os.listdir("/proc/self/fd"))
        prober = WireProber(WireTerms(most_packets=40, burst_packets=2))
        asking = asyncio.create_task(prober.ask([to_b(4, Transport.ICMP, 4)] * 30, wait_ns=10**10))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not prober._asked
        assert prober._promised == prober.sent < 30  # what was not sent may still be
        last = asyncio.create_task(prober.ask([to_b(4, Transport.TCP, 4)], wait_ns=10**10))
        while not prober._asked:
            await asyncio.sleep(0)
        prober.close()
        assert await last == [None]
        assert len(os.listdir("/proc/self/fd")) == open_before

    run(network, work)


@pytest.mark.netns
def test_without_a_way_there_the_fault_says_so(network: ProbedNetwork) -> None:
    async def work() -> None:
        with WireProber(WireTerms(interface="nothing0")) as prober, pytest.raises(EnvironmentFault, match="nothing0"):
            await prober.ask([to_b(4, Transport.UDP, 1)], wait_ns=WAIT_NS)
        with WireProber(WireTerms(interface="l1", mark=7)) as prober:
            (answer,) = await prober.ask([to_b(4, Transport.UDP, 1)], wait_ns=WAIT_NS)
            assert answer is not None
            with pytest.raises(LocalProtocolError, match=r"r9\.example"):
                await prober.ask([replace(to_b(4, Transport.UDP, 1), destination="r9.example")], wait_ns=WAIT_NS)

    run(network, work)

    async def nowhere() -> None:
        far = replace(to_b(4, Transport.UDP, 1), destination="203.0.113.9")
        with WireProber() as prober, pytest.raises(EnvironmentFault, match="route"):
            await prober.ask([far], wait_ns=WAIT_NS)

    network["a"].run("ip", "route", "add", "unreachable", "203.0.113.0/24")
    run(network, nowhere)


@pytest.mark.netns
def test_without_the_right_the_fault_says_what_to_do() -> None:
    code = (
        "import asyncio\n"
        "from cartographer.measuring.packets import ProbePacket, Transport\n"
        "from cartographer.measuring.wire import WireProber, has_the_right\n"
        "assert not has_the_right()\n"
        "probe = ProbePacket(destination='127.0.0.1', transport=Transport.UDP, ttl=1)\n"
        "asyncio.run(WireProber().ask([probe], wait_ns=1))\n"
    )
    done = subprocess.run(as_nobody(sys.executable, "-c", code), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "EnvironmentFault" in done.stderr
    assert "CAP_NET_RAW" in done.stderr


def test_nobody_who_only_imports_it_loads_scapy() -> None:
    names = "forms, wire, tracing, multipath, names"
    code = f"import sys\nfrom cartographer.measuring import {names}\nassert 'scapy' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True)
