"""The engine in the kernel names every byte's program: short downloads, old sockets, both IP versions, forwarding."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from netns import Namespace, connect
from two_hosts import HOSTS, TwoHosts, stop

from dataplane.ebpf_engine import EbpfEngine
from dataplane.metering import Kind, Reading, Tally
from dataplane.shaping.plan import NO_SHAPING, Match, Rule, ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.trafficcontrol import TrafficControl

pytestmark = pytest.mark.netns

DOWNLOADS = 40
DOWNLOAD_BYTES = 200_000
LONG_BYTES = 20_000_000


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with TwoHosts() as two:
        yield two


def engine_in(directory: Path) -> EbpfEngine:
    return EbpfEngine(
        control=TrafficControl(directory / "record.json"),
        ecn_record_path=directory / "ecn.json",
        now_ns=time.monotonic_ns,
    )


def observed(hosts: TwoHosts, directory: Path, work: Callable[[EbpfEngine], Awaitable[None]]) -> Reading:
    """What the engine has counted on the left host's link after `work`."""

    async def scenario() -> Reading:
        engine = engine_in(directory)
        await engine.start(ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="left"),)))
        try:
            await work(engine)
            await engine.on_second()
            return await engine.read()
        finally:
            await engine.close()

    return hosts.left.call(lambda: asyncio.run(scenario()))


async def ended(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        while process.poll() is None:
            await asyncio.sleep(0.005)
        assert process.returncode == 0, process.args


def by_name(reading: Reading) -> dict[str, Tally]:
    """Sent and received together."""
    totals: dict[str, Tally] = {}
    for meter in reading.programs:
        name = meter.program.executable.rpartition("/")[2] or meter.program.kind.value
        totals[name] = totals.get(name, Tally()).plus(meter.sent).plus(meter.received)
    return totals


@pytest.mark.expectation(4, 5)
def test_short_and_long_downloads_over_tcp_and_udp_are_their_programs(hosts: TwoHosts, tmp_path: Path) -> None:
    long_copy = tmp_path / "longget"
    shutil.copy("/usr/bin/curl", long_copy)
    served = hosts.serve_files({"short": DOWNLOAD_BYTES, "long": LONG_BYTES}, tmp_path)
    datagrams = hosts.serve_datagrams(DOWNLOAD_BYTES)
    udp_get = hosts.udp_client(tmp_path / "quicget", DOWNLOAD_BYTES)

    async def work(engine: EbpfEngine) -> None:
        long = hosts.left.popen(str(long_copy), "-sfo", "/dev/null", f"http://{HOSTS[4].right}:8000/long")
        for number in range(DOWNLOADS):
            family = HOSTS[4 if number % 2 else 6]
            await ended(
                hosts.left.popen("curl", "-sfgo", "/dev/null", f"http://{family.url_right}:8000/short"),
                hosts.left.popen(*udp_get(family.right)),
            )
        await ended(long)

    try:
        reading = observed(hosts, tmp_path, work)
    finally:
        stop(served)
        stop(datagrams)
    totals = by_name(reading)
    link = sum(each.sent.bytes + each.received.bytes for each in reading.links)
    assert sum(tally.bytes for tally in totals.values()) == link
    assert totals["curl"].bytes > DOWNLOADS * DOWNLOAD_BYTES
    assert totals["quicget"].bytes > DOWNLOADS * DOWNLOAD_BYTES
    assert totals["longget"].bytes > LONG_BYTES
    assert totals["curl"].bytes < DOWNLOADS * DOWNLOAD_BYTES * 1.15
    assert totals["quicget"].bytes < DOWNLOADS * DOWNLOAD_BYTES * 1.15
    named = sum(totals[name].bytes for name in ("curl", "quicget", "longget"))
    assert named >= 0.999 * link


def test_the_bytes_are_those_on_the_wire(hosts: TwoHosts, tmp_path: Path) -> None:
    """As the other end's interface counts them, one by one without offloads, and with their Ethernet headers."""
    hosts.set_offloads(False)
    served = hosts.serve_files({"long": LONG_BYTES}, tmp_path)

    async def work(engine: EbpfEngine) -> None:
        before.append(hosts.interface_counts())
        await ended(hosts.left.popen("curl", "-sfo", "/dev/null", f"http://{HOSTS[4].right}:8000/long"))
        await asyncio.sleep(0.1)
        before.append(hosts.interface_counts())

    before: list[tuple[int, int, int, int]] = []
    try:
        reading = observed(hosts, tmp_path, work)
    finally:
        stop(served)
        hosts.set_offloads(True)
    sent_packets, sent_bytes, received_packets, received_bytes = (
        after - earlier for earlier, after in zip(*before, strict=True)
    )
    link = reading.links[0]
    assert (link.interface_sent_packets, link.interface_received_packets) >= (sent_packets, received_packets)
    assert abs(link.sent.packets - sent_packets) <= 4  # neighbour discovery and ARP beside it
    assert abs(link.received.packets - received_packets) <= 4
    assert abs(link.sent.bytes - (sent_bytes - 14 * sent_packets)) <= 400
    assert abs(link.received.bytes - (received_bytes - 14 * received_packets)) <= 400


def test_a_server_and_sockets_that_are_older_than_the_agent_are_named(hosts: TwoHosts, tmp_path: Path) -> None:
    server = hosts.left.popen("iperf3", "-s", "-1", "-p", "5301", stdout=subprocess.DEVNULL)
    hosts.wait_for_listener(hosts.left, 5301)

    async def work(engine: EbpfEngine) -> None:
        await ended(
            hosts.right.popen("iperf3", "-c", HOSTS[6].left, "-p", "5301", "-n", "2M", stdout=subprocess.DEVNULL)
        )

    reading = observed(hosts, tmp_path, work)
    server.wait()
    assert by_name(reading)["iperf3"].bytes > 1_500_000  # it ends before everything that it has written is sent
    assert by_name(reading)["iperf3"].bytes >= 0.999 * sum(
        each.sent.bytes + each.received.bytes for each in reading.links
    )


@pytest.mark.expectation(3)
def test_forwarded_traffic_is_named_by_where_it_came_in(hosts: TwoHosts, tmp_path: Path) -> None:
    with Namespace() as container:
        connect(hosts.left, "toctr", container, "eth0")
        hosts.left.run("ip", "addr", "add", "10.9.77.1/24", "dev", "toctr")
        container.run("ip", "addr", "add", "10.9.77.2/24", "dev", "eth0")
        container.run("ip", "route", "add", "default", "via", "10.9.77.1")
        hosts.left.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        hosts.right.run("ip", "route", "add", "10.9.77.0/24", "via", HOSTS[4].left)
        served = hosts.serve_files({"short": DOWNLOAD_BYTES}, tmp_path)

        async def work(engine: EbpfEngine) -> None:
            await ended(container.popen("curl", "-sfo", "/dev/null", f"http://{HOSTS[4].right}:8000/short"))

        try:
            reading = observed(hosts, tmp_path, work)
        finally:
            stop(served)
    forwarded = [meter for meter in reading.programs if meter.program.kind is Kind.FORWARDED]
    assert [meter.program.interface for meter in forwarded] == ["toctr"]
    assert forwarded[0].received.bytes > DOWNLOAD_BYTES


@pytest.mark.expectation(3)
def test_behind_a_bridge_each_port_is_named(hosts: TwoHosts, tmp_path: Path) -> None:
    with Namespace() as one, Namespace() as other:
        hosts.left.run("ip", "link", "add", "bridge", "type", "bridge")
        hosts.left.run("ip", "addr", "add", "10.9.78.1/24", "dev", "bridge")
        hosts.left.run("ip", "link", "set", "bridge", "up")
        for number, (name, container) in enumerate((("port-one", one), ("port-other", other)), start=2):
            connect(hosts.left, name, container, "eth0")
            hosts.left.run("ip", "link", "set", name, "master", "bridge")
            container.run("ip", "addr", "add", f"10.9.78.{number}/24", "dev", "eth0")
            container.run("ip", "route", "add", "default", "via", "10.9.78.1")
        hosts.left.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        hosts.right.run("ip", "route", "add", "10.9.78.0/24", "via", HOSTS[4].left)
        served = hosts.serve_files({"short": DOWNLOAD_BYTES}, tmp_path)

        async def work(engine: EbpfEngine) -> None:
            url = f"http://{HOSTS[4].right}:8000/short"
            for container in (one, other, other):
                await ended(container.popen("curl", "-sfo", "/dev/null", url))

        try:
            reading = observed(hosts, tmp_path, work)
        finally:
            stop(served)
            hosts.left.run("ip", "link", "del", "bridge")
    received = {
        meter.program.interface: meter.received.bytes
        for meter in reading.programs
        if meter.program.kind is Kind.FORWARDED
    }
    assert set(received) == {"port-one", "port-other"}
    assert DOWNLOAD_BYTES < received["port-one"] < 1.2 * DOWNLOAD_BYTES
    assert 2 * DOWNLOAD_BYTES < received["port-other"] < 2.4 * DOWNLOAD_BYTES


def test_a_full_flow_table_loses_no_counts(hosts: TwoHosts, tmp_path: Path) -> None:
    datagrams, flows_max = 3000, 256

    async def scenario() -> Reading:
        control = TrafficControl(tmp_path / "record.json")
        engine = EbpfEngine(
            control=control, ecn_record_path=tmp_path / "ecn.json", now_ns=time.monotonic_ns, flows_max=flows_max
        )
        await engine.start(ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="left"),)))
        try:
            await ended(hosts.left.popen(*hosts.port_sweeper(datagrams)))
            reading = await engine.read()
            assert len(await engine.flows()) == flows_max
            return reading
        finally:
            await engine.close()

    reading = hosts.left.call(lambda: asyncio.run(scenario()))
    assert by_name(reading)["perl"].packets == datagrams
    assert reading.packets_beyond_table >= datagrams - flows_max


def test_the_first_rule_that_agrees_chooses_the_class_of_a_flow(hosts: TwoHosts, tmp_path: Path) -> None:
    classes = (*NO_SHAPING.classes, *(TrafficClass(name=name) for name in ("one", "two", "three", "four", "five")))
    rules = (
        Rule(match=Match(program="nobody-has-this"), traffic_class=6),
        Rule(match=Match(program="/no/such/file"), traffic_class=6),
        Rule(match=Match(program="/usr/bin/perl", remote="10.9.1.2", ports=(7001, 7001)), traffic_class=2),
        Rule(match=Match(program="perl", remote="fd09:1::/64", ports=(7002, 7009)), traffic_class=3),
        Rule(match=Match(user_id=0, protocol="udp", ports=(7010, 7010)), traffic_class=4),  # type: ignore[arg-type]
        Rule(match=Match(remote="10.9.0.0/16", ports=(7011, 7011)), traffic_class=5),
    )
    plan = ShapingPlan(classes=classes, rules=rules, links=(ShapedLink(interface="left"),))
    targets = [(HOSTS[4], 7001, 2), (HOSTS[6], 7001, 1), (HOSTS[6], 7005, 3), (HOSTS[4], 7005, 1)]
    targets += [(HOSTS[4], 7010, 4), (HOSTS[6], 7010, 4), (HOSTS[4], 7011, 5), (HOSTS[6], 53, 0)]

    async def scenario() -> dict[tuple[int, int], int]:
        engine = engine_in(tmp_path)
        await engine.start(plan)
        try:
            for family, port, _ in targets:
                await ended(hosts.left.popen(*hosts.one_datagram(family.right, port)))
            found = {(len(flow.key.local), flow.key.remote_port): flow.traffic_class for flow in await engine.flows()}
            await engine.apply(ShapingPlan(classes=classes, links=plan.links))
            for family, port, _ in targets:
                await ended(hosts.left.popen(*hosts.one_datagram(family.right, port, local_port=port + 1000)))
            later = {flow.traffic_class for flow in await engine.flows() if flow.key.local_port}
            assert 1 in later
            return found
        finally:
            await engine.close()

    found = hosts.left.call(lambda: asyncio.run(scenario()))
    for family, port, traffic_class in targets:
        assert found[(family.address_bytes, port)] == traffic_class, (family, port)


def test_idle_flows_leave_the_table_and_no_total(hosts: TwoHosts, tmp_path: Path) -> None:
    datagrams = 500

    async def scenario() -> tuple[Reading, Reading, int]:
        late_ns = 0
        engine = EbpfEngine(
            control=TrafficControl(tmp_path / "record.json"),
            ecn_record_path=tmp_path / "ecn.json",
            now_ns=lambda: time.monotonic_ns() + late_ns,
        )
        await engine.start(ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="left"),)))
        try:
            await ended(hosts.left.popen(*hosts.port_sweeper(datagrams)))
            before = await engine.read()
            assert len(await engine.flows()) >= datagrams
            late_ns = 300 * 10**9
            for _ in range(10):
                await engine.on_second()
            return before, await engine.read(), len(await engine.flows())
        finally:
            await engine.close()

    before, after, left = hosts.left.call(lambda: asyncio.run(scenario()))
    assert left == 0
    assert by_name(after)["perl"] == by_name(before)["perl"]
    assert by_name(after)["perl"].packets == datagrams
