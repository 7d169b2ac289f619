"""One contract for every engine of the host's data plane, as far as its own `limits` say that it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_gateway import kernel_state
from two_hosts import HOSTS, TwoHosts, stop

from dataplane.engines import makers
from dataplane.host_engine import Ability, EngineName, HostEngine
from dataplane.metering import Kind, Reading
from dataplane.shaping.plan import NO_SHAPING, Match, Rule, ShapedLink, ShapingPlan, TrafficClass

pytestmark = pytest.mark.netns

BYTES = 3_000_000
CAP = 8_000_000
LINKS = (ShapedLink(interface="left"),)
OPEN = ShapingPlan(classes=NO_SHAPING.classes, links=LINKS)
CAPPED = ShapingPlan(
    classes=(*NO_SHAPING.classes, TrafficClass(name="slow", cap_bit_s=CAP)),
    rules=(Rule(match=Match(program="curl"), traffic_class=2),),
    links=LINKS,
)


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with TwoHosts() as two:
        yield two


async def download(hosts: TwoHosts, engine: HostEngine, family: int) -> float:
    """Seconds that a download of BYTES took; the engine's seconds go on meanwhile."""
    url = f"http://{HOSTS[family].url_right}:8000/file"
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    process = hosts.left.popen("curl", "-sfgo", "/dev/null", url)
    try:
        looked_s = begun_s
        while process.poll() is None:
            await asyncio.sleep(0.005)
            if loop.time() - looked_s > 0.5:
                await engine.on_second()
                looked_s = loop.time()
    finally:
        stop(process)
    took_s = loop.time() - begun_s
    await engine.on_second()
    assert process.returncode == 0
    return took_s


def totals(reading: Reading) -> tuple[int, int]:
    """Sent bytes and received ones, over programs; the links must say the same."""
    programs = [sum(meter.sent.bytes for meter in reading.programs), sum(m.received.bytes for m in reading.programs)]
    links = [sum(link.sent.bytes for link in reading.links), sum(link.received.bytes for link in reading.links)]
    assert programs == links
    return programs[0], programs[1]


@pytest.mark.parametrize("name", EngineName)
def test_the_contract(hosts: TwoHosts, tmp_path: Path, name: EngineName) -> None:
    before = kernel_state(hosts.left)
    served = hosts.serve_files({"file": BYTES}, tmp_path)

    async def scenario() -> None:
        engine = makers(name.value, state_directory=tmp_path)[name]()
        lacking = {limit.ability for limit in engine.limits}
        await engine.start(OPEN)
        try:
            await engine.read()
            for family in (4, 6):
                await download(hosts, engine, family)
            reading = await engine.read()
            assert totals(reading)[1] >= 2 * BYTES
            assert any(meter.number == 0 and meter.program.kind is Kind.UNATTRIBUTED for meter in reading.programs)
            if Ability.ATTRIBUTE_FIRST_PACKET not in lacking:
                (curl,) = (meter for meter in reading.programs if meter.program.executable.endswith("/curl"))
                assert curl.received.bytes > 2 * BYTES
                flows = [flow for flow in await engine.flows() if flow.program_number == curl.number]
                assert {len(flow.key.remote) for flow in flows} == {4, 16}
                assert {flow.key.remote_port for flow in flows} == {8000}
                later = (meter for meter in (await engine.read()).programs if meter.number == curl.number)
                most = sum(meter.received.bytes for meter in later)  # an acknowledgement may have come meanwhile
                assert curl.received.bytes <= sum(flow.received.bytes for flow in flows) <= most
            await engine.apply(CAPPED)
            assert totals(await engine.read()) >= totals(reading), "counts go on under another plan"
            if Ability.SHAPE_INGRESS not in {limit.ability for limit in engine.limits}:
                assert await download(hosts, engine, 6) > 0.9 * BYTES * 8 / CAP
                latest = max(await engine.flows(), key=lambda flow: (flow.key.remote_port == 8000, flow.last_ns))
                assert latest.traffic_class == 2
            assert await engine.questions() == []
            await engine.answer(12345, allow=True)
        finally:
            await engine.close()
        await engine.close()

    try:
        hosts.left.call(lambda: asyncio.run(scenario()))
    finally:
        stop(served)
    assert kernel_state(hosts.left) == before
