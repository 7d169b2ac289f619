"""The engine in the kernel shapes: caps, weights, minimums, priority; every transport, both IP versions, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from arrivals import NS_PER_S, Arrivals, listening
from two_hosts import HOSTS, TwoHosts, stop

from dataplane.ebpf_engine import EbpfEngine
from dataplane.shaping.plan import NO_SHAPING, Match, Rule, ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.trafficcontrol import TrafficControl
from lab.wire import Harm, WireOrder, Wires

pytestmark = [pytest.mark.netns, pytest.mark.exact]

CAP = 8_000_000
LINK = 20_000_000
TCP, UDP = 6, 17
FIRST_PORT = 5401


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    """As on a wire: what arrives is single packets."""
    with TwoHosts() as two:
        two.cut_into_frames()
        yield two


@contextlib.asynccontextmanager
async def engine_with(plan: ShapingPlan, directory: Path) -> AsyncIterator[EbpfEngine]:
    engine = EbpfEngine(
        control=TrafficControl(directory / "record.json"),
        ecn_record_path=directory / "ecn.json",
        now_ns=time.monotonic_ns,
    )
    await engine.start(plan)

    async def seconds() -> None:
        while True:
            await asyncio.sleep(1)
            await engine.on_second()

    ticking = asyncio.get_running_loop().create_task(seconds())
    try:
        yield engine
    finally:
        ticking.cancel()
        await asyncio.wait({ticking})
        await engine.close()


def plan_by_port(*classes: TrafficClass, egress: int | None = None, ingress: int | None = None) -> ShapingPlan:
    """The class at place n is that of port FIRST_PORT + n."""
    rules = tuple(
        Rule(match=Match(program="iperf3", ports=(FIRST_PORT + place, FIRST_PORT + place)), traffic_class=place + 2)
        for place in range(len(classes))
    )
    link = ShapedLink(interface="left", egress_bit_s=egress, ingress_bit_s=ingress)
    return ShapingPlan(classes=(*NO_SHAPING.classes, *classes), rules=rules, links=(link,))


@contextlib.contextmanager
def servers(hosts: TwoHosts, count: int) -> Iterator[None]:
    processes = [
        hosts.right.popen("iperf3", "-s", "-p", str(FIRST_PORT + place), stdout=subprocess.DEVNULL)
        for place in range(count)
    ]
    try:
        for place in range(count):
            hosts.wait_for_listener(hosts.right, FIRST_PORT + place)
        yield
    finally:
        for process in processes:
            stop(process)


def client(hosts: TwoHosts, place: int, family: int, *options: str, seconds: float) -> subprocess.Popen[bytes]:
    arguments = ["iperf3", "-c", HOSTS[family].right, "-p", str(FIRST_PORT + place), "-t", str(seconds)]
    arguments += ["--connect-timeout", "3000", *options]
    return hosts.left.popen(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def all_ended(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        while process.poll() is None:
            await asyncio.sleep(0.02)


KINDS = [
    (family, options)
    for family in (4, 6)
    for options in (("-C", "cubic"), ("-C", "reno"), ("-C", "bbr"), ("-u", "-b", "12M", "-l", "1200"))
]


def check_caps(hosts: TwoHosts, directory: Path) -> None:
    """Eight programs at once, each in a class of its own with the same cap."""
    plan = plan_by_port(*(TrafficClass(name=f"c{place}", cap_bit_s=CAP) for place in range(len(KINDS))))

    async def scenario() -> None:
        async with engine_with(plan, directory):
            await all_ended(
                [client(hosts, place, family, *options, seconds=4) for place, (family, options) in enumerate(KINDS)]
            )

    with servers(hosts, len(KINDS)), listening(hosts.right, "right") as arrivals:
        hosts.left.call(lambda: asyncio.run(scenario()))
    for place, (family, options) in enumerate(KINDS):
        protocol = UDP if "-u" in options else TCP
        what = f"IPv{family} {options}"
        assert max(arrivals.rates_bit_s(protocol, FIRST_PORT + place)) <= 1.05 * CAP, what
        assert min(arrivals.rates_bit_s(protocol, FIRST_PORT + place, start_ns=NS_PER_S)) >= 0.95 * CAP, what


@pytest.mark.expectation(4, 6)
def test_a_cap_holds_from_the_first_second_for_every_transport(hosts: TwoHosts, tmp_path: Path) -> None:
    check_caps(hosts, tmp_path)


def test_a_cap_is_reached_and_holds_at_80_ms(tmp_path: Path) -> None:
    with delayed_hosts(40_000_000) as hosts:
        check_caps(hosts, tmp_path)


@contextlib.contextmanager
def delayed_hosts(delay_ns: int) -> Iterator[TwoHosts]:
    """The wire between them takes so long in each direction."""
    with TwoHosts(wired=True) as two:
        order = WireOrder(name="wire", interfaces=("wl", "wr"), harm=Harm(delay_ns=delay_ns), seed=1)
        assert two.wire is not None
        wires = Wires([order], lambda words: two.wire.command(*words), subprocess.DEVNULL)
        try:
            yield two
        finally:
            wires.close()


def shares(arrivals: Arrivals, start_ns: int, end_ns: int) -> float:
    first, second = (arrivals.bytes_between(TCP, FIRST_PORT + place, start_ns, end_ns) for place in (0, 1))
    return second / first


@pytest.mark.parametrize("congestion_control", ["cubic", "bbr"])
@pytest.mark.expectation(6)
def test_weights_share_the_link_and_swap(hosts: TwoHosts, tmp_path: Path, congestion_control: str) -> None:
    def plan(first: int, second: int) -> ShapingPlan:
        classes = (TrafficClass(name="a", weight=first), TrafficClass(name="b", weight=second))
        return plan_by_port(*classes, egress=LINK)

    times: list[int] = []

    async def scenario() -> None:
        async with engine_with(plan(1, 3), tmp_path) as engine:
            clients = [
                client(hosts, place, family, "-C", congestion_control, seconds=9) for place, family in ((0, 4), (1, 6))
            ]
            await asyncio.sleep(1.5)
            times.append(time.time_ns())
            await asyncio.sleep(2)
            times.append(time.time_ns())
            await engine.apply(plan(3, 1))
            await asyncio.sleep(2)
            times.append(time.time_ns())
            await asyncio.sleep(2)
            times.append(time.time_ns())
            for process in clients:
                stop(process)

    with servers(hosts, 2), listening(hosts.right, "right") as arrivals:
        hosts.left.call(lambda: asyncio.run(scenario()))
    assert 2.7 <= shares(arrivals, times[0], times[1]) <= 3.3
    assert 2.7 <= 1 / shares(arrivals, times[2], times[3]) <= 3.3
    whole = sum(arrivals.bytes_between(TCP, FIRST_PORT + place, times[0], times[1]) for place in (0, 1))
    assert 0.9 * LINK <= whole * 8 * NS_PER_S / (times[1] - times[0]) <= 1.02 * LINK


def test_a_minimum_is_kept_and_control_traffic_goes_first(hosts: TwoHosts, tmp_path: Path) -> None:
    """A heavy class takes nothing of what is promised to a light one; a datagram of control traffic does not wait."""
    classes = (TrafficClass(name="heavy", weight=1000), TrafficClass(name="light", minimum_bit_s=6_000_000))
    waits_ms: list[float] = []

    async def scenario() -> None:
        async with engine_with(plan_by_port(*classes, egress=LINK), tmp_path):
            clients = [client(hosts, place, 4, seconds=5) for place in (0, 1)]
            await asyncio.sleep(1.5)
            times.append(time.time_ns())
            for _ in range(20):
                waits_ms.append(await asyncio.to_thread(hosts.ask_name_server))
                await asyncio.sleep(0.1)
            times.append(time.time_ns())
            for process in clients:
                stop(process)

    times: list[int] = []
    with servers(hosts, 2), hosts.name_server(), listening(hosts.right, "right") as arrivals:
        hosts.left.call(lambda: asyncio.run(scenario()))
    light = arrivals.bytes_between(TCP, FIRST_PORT + 1, *times) * 8 * NS_PER_S / (times[1] - times[0])
    assert light >= 0.95 * 6_000_000
    assert sorted(waits_ms)[10] < 20  # a frame or two of 1500 bytes at 20 Mbit/s, not the queue of a class


def test_each_flow_has_its_own_cap(hosts: TwoHosts, tmp_path: Path) -> None:
    plan = plan_by_port(TrafficClass(name="a", flow_cap_bit_s=2_000_000), TrafficClass(name="b", flow_cap_bit_s=CAP))

    async def scenario() -> None:
        async with engine_with(plan, tmp_path):
            await all_ended(
                [
                    client(hosts, 0, 4, "-P", "3", seconds=3),
                    client(hosts, 1, 6, "-u", "-b", "20M", "-l", "1200", seconds=3),
                ]
            )

    with servers(hosts, 2), listening(hosts.right, "right") as arrivals:
        hosts.left.call(lambda: asyncio.run(scenario()))
    assert 0.9 * 6_000_000 <= max(arrivals.rates_bit_s(TCP, FIRST_PORT)) <= 1.06 * 6_000_000
    assert 0.95 * CAP <= max(arrivals.rates_bit_s(UDP, FIRST_PORT + 1)) <= 1.05 * CAP


@pytest.mark.parametrize("family", [4, 6])
def test_arrivals_are_capped(hosts: TwoHosts, tmp_path: Path, family: int) -> None:
    plan = plan_by_port(TrafficClass(name="a", cap_bit_s=CAP))
    received: list[int] = []

    async def scenario() -> None:
        async with engine_with(plan, tmp_path) as engine:
            download = client(hosts, 0, family, "-R", seconds=4)
            for pause_s in (1, 1.5):
                await asyncio.sleep(pause_s)
                received.append(sum(flow.received.bytes for flow in await engine.flows()))
            stop(download)

    with servers(hosts, 1):
        hosts.left.call(lambda: asyncio.run(scenario()))
    rate_bit_s = (received[1] - received[0]) * 8 / 1.5
    assert 0.8 * CAP <= rate_bit_s <= 1.3 * CAP  # counted before the queue: what its drops cost is in it


def control_of(hosts: TwoHosts, place: int) -> str:
    """The congestion controls of the established connections to that server."""
    lines = hosts.left.run("ss", "-tinHO", "state", "established", "dport", "=", f":{FIRST_PORT + place}").splitlines()
    words = {word for line in lines for word in line.split()}
    return " ".join(sorted(words & {"cubic", "reno", "bbr", "price"}))


def test_a_class_chooses_its_sockets_congestion_control_and_gives_it_back(hosts: TwoHosts, tmp_path: Path) -> None:
    plan = plan_by_port(
        TrafficClass(name="a", congestion_control="reno"), TrafficClass(name="b", congestion_control="price", weight=3)
    )
    sysctl = ("sysctl", "-n", "net.ipv4.tcp_ecn")
    before = hosts.left.run(*sysctl)
    seen: list[str] = []

    async def scenario() -> None:
        older = client(hosts, 0, 6, "-C", "cubic", "-b", "1M", seconds=5)
        await asyncio.sleep(0.5)
        seen.append(control_of(hosts, 0))  # iperf3 has a connection of its own beside the one of its data
        async with engine_with(plan, tmp_path) as engine:
            assert [limit for limit in engine.limits if "congestion" in limit.ability.value] == []
            newer = client(hosts, 1, 4, "-b", "1M", seconds=5)
            await asyncio.sleep(0.7)
            seen.extend(control_of(hosts, place) for place in (0, 1))
            assert hosts.left.run(*sysctl).strip() == "1"  # it lives on marks
        seen.append(control_of(hosts, 0))
        for process in (older, newer):
            stop(process)

    with servers(hosts, 2):
        hosts.left.call(lambda: asyncio.run(scenario()))
    assert "cubic" in seen[0]
    assert seen[1:] == ["reno", "price", seen[0]]
    assert hosts.left.run(*sysctl) == before


TUN = """
import fcntl, os, struct, sys, time
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun", 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
os.system("ip addr add 10.9.3.1/24 dev tun && ip link set tun up")
sys.stdin.readline()
udp = struct.pack("!HHHH", 9, 7000, 1208, 0) + bytes(1200)
ip = struct.pack("!BBHHHBBH4B4B", 0x45, 0, 1228, 0, 0, 64, 17, 0, 10, 9, 3, 2, 10, 9, 3, 1)
total = sum(struct.unpack("!10H", ip))
for _ in range(2): total = (total & 0xFFFF) + (total >> 16)
packet = ip[:10] + struct.pack("!H", 0xFFFF - total) + ip[12:] + udp
begin = time.monotonic(); sent = 0
while time.monotonic() - begin < 3:
    while sent < (time.monotonic() - begin) * 2500: os.write(tun, packet); sent += 1
    time.sleep(0.002)
"""


def test_arrivals_on_a_link_without_an_ethernet_header_are_capped(hosts: TwoHosts, tmp_path: Path) -> None:
    """24.6 Mbit/s arrive on a tun."""
    classes = (*NO_SHAPING.classes, TrafficClass(name="a", cap_bit_s=CAP))
    rules = (Rule(match=Match(ports=(7000, 7000)), traffic_class=2),)
    plan = ShapingPlan(classes=classes, rules=rules, links=(ShapedLink(interface="tun"),))
    tunnel = hosts.left.popen("python3", "-c", TUN, stdin=subprocess.PIPE)
    hosts.wait_for_interface(hosts.left, "tun")

    async def scenario() -> list[tuple[float, int]]:
        loop, got = asyncio.get_running_loop(), []
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        receiver.bind(("10.9.3.1", 7000))
        async with engine_with(plan, tmp_path):
            assert tunnel.stdin is not None
            tunnel.stdin.write(b"\n")
            tunnel.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.5):
                    while True:
                        got.append((loop.time(), 28 + len(await loop.sock_recv(receiver, 2048))))
        receiver.close()
        return got

    try:
        got = hosts.left.call(lambda: asyncio.run(scenario()))
    finally:
        stop(tunnel)
    begin_s = got[0][0]
    rate_bit_s = sum(size for time_s, size in got if 0.5 <= time_s - begin_s < 2) * 8 / 1.5
    assert 0.95 * CAP <= rate_bit_s <= 1.05 * CAP
