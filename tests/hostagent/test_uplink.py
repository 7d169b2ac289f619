"""The reason to run it: on a narrow uplink behind a modem that queues, a call and pages stay quick beside an upload.

With the real agent, real sockets and real packets. Whatever is compared is compared within the same run, and the
margins are wide: the strict figures are those of `python -m bench.uplink`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator
from threading import Thread

import pytest

from bench.hostplane.hosts import result_of
from bench.uplink.measure import Felt, Household, Side, figures_of, side_of, swap
from bench.uplink.rig import BACKUP, BROWSER, PAGE_PORT, SERVER, UPLINK, Modem, Rig, rig
from dataplane.ebpf_engine import EbpfEngine
from dataplane.round_trips import RoundTrips
from dataplane.shaping.plan import NO_SHAPING, Match, Rule, ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.trafficcontrol import TrafficControl
from hostagent.sharing.capacity import LinkCapacity, Look, Source, Trip

pytestmark = [pytest.mark.netns, pytest.mark.exact]
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x4000_0000
SECONDS = 2.0
FILL_S = 1.2


@pytest.fixture(scope="module")
def household() -> Iterator[Household]:
    with rig() as made:
        yield Household(made, 4)


@pytest.fixture(scope="module")
def idle(household: Household) -> Felt:
    return household.feel(SECONDS, "")


def test_a_call_and_pages_stay_quick_while_an_upload_fills_the_line(household: Household, idle: Felt) -> None:
    bare = figures_of([household.feel(SECONDS, "cubic", fill_s=FILL_S)], [idle])
    with side_of(household.rig, Side.AGENT):
        felt = household.feel(SECONDS, "cubic", fill_s=FILL_S)
    agent = figures_of([felt], [idle])
    assert bare.added_ms(0.5) > 50  # the modem queues, as it does at home
    assert agent.added_ms(0.5) < bare.added_ms(0.5) / 5
    assert agent.added_ms(0.9) < bare.added_ms(0.9) / 2
    assert len(agent.pages_ms) > len(bare.pages_ms)
    assert statistics.median(agent.pages_ms) < 1.5 * statistics.median(idle.pages_ms)
    assert agent.share[0] > 0.8


def test_worth_decides_and_swapping_it_swaps_the_service_within_two_seconds(household: Household) -> None:
    with side_of(household.rig, Side.AGENT) as agent:
        assert agent is not None
        found = swap(household, agent, "cubic", fill_s=2, seconds=3)
    assert found.before > 1.8
    assert found.after > 1.8
    assert found.took_s is not None
    assert found.took_s <= 2


# -- the rate that nobody said -----------------------------------------------------------------------------------------


class Learner:
    """The estimator before a real engine on the host of a rig: a look a second, and the plan follows it."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.capacity = LinkCapacity()
        self.found: list[int | None] = []
        self._after: list[tuple[float, Callable[[], object]]] = []

    def at(self, second: float, do: Callable[[], object]) -> None:
        self._after.append((second, do))

    def run(self, seconds: float, *, until_found: bool = False) -> None:
        """In a thread that is on the host."""
        faults: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/proc/{self._rig.host.pid}/ns/net", "rb") as file:
                    assert LIBC.setns(file.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
                asyncio.run(self._learn(seconds, until_found=until_found))
            except BaseException as fault:  # told to the test, which raises it
                faults.append(fault)

        thread = Thread(target=enter)
        thread.start()
        thread.join()
        if faults:
            raise faults[0]

    async def _learn(self, seconds: float, *, until_found: bool) -> None:
        directory = self._rig.directory
        engine = EbpfEngine(
            control=TrafficControl(directory / "record.json"),
            ecn_record_path=directory / "ecn.json",
            now_ns=time.monotonic_ns,
        )
        trips = RoundTrips()
        trips.read()
        await engine.start(self._plan(None, None))
        try:
            begun_s, shaped = time.monotonic(), (None, None)
            while time.monotonic() - begun_s < seconds:
                while self._after and self._after[0][0] <= time.monotonic() - begun_s:
                    self._after.pop(0)[1]()
                await asyncio.sleep(1)
                await engine.on_second()
                [link] = (await engine.read()).links
                estimate = self.capacity.on_look(
                    Look(
                        now_ns=time.monotonic_ns(),
                        sent_bytes=link.sent.bytes,
                        received_bytes=link.received.bytes,
                        trips=[
                            Trip(
                                remote=each.remote,
                                now_us=each.now_us,
                                receiving_us=each.receiving_us,
                                least_us=each.least_us,
                            )
                            for each in trips.read()
                        ],
                    )
                )
                self.found.append(estimate.egress.rate_bit_s)
                if until_found and estimate.egress.rate_bit_s is not None:
                    return
                wanted = (estimate.egress.shape_bit_s, estimate.ingress.shape_bit_s)
                if wanted != shaped:
                    await engine.apply(self._plan(*wanted))
                    shaped = wanted
        finally:
            trips.close()
            await engine.close()

    def _plan(self, egress: int | None, ingress: int | None) -> ShapingPlan:
        names = (BROWSER, BACKUP)
        classes = (TrafficClass(name=BROWSER, weight=100, minimum_bit_s=500_000), TrafficClass(name=BACKUP))
        rules = tuple(
            Rule(match=Match(program=str(self._rig.directory / name)), traffic_class=place + 2)
            for place, name in enumerate(names)
        )
        link = ShapedLink(interface=UPLINK, egress_bit_s=egress, ingress_bit_s=ingress)
        return ShapingPlan(classes=(*NO_SHAPING.classes, *classes), rules=rules, links=(link,))


def assert_near(found: int | None, line_bit_s: int, part: float = 0.15) -> None:
    """The line counts Ethernet's headers too."""
    expected = line_bit_s * 1500 / 1514
    assert found is not None
    assert abs(found - expected) <= part * expected, (found, expected)


def test_a_rate_that_nobody_configured_is_found() -> None:
    """12 Mbit/s, by watching one upload; nothing is sent to find out."""
    with rig(Modem(up_bit_s=12_000_000)) as made:
        household, learner = Household(made, 6), Learner(made)
        upload = household.upload(BACKUP, 4.5, "cubic")
        learner.run(4)
        result_of(upload)
        assert learner.capacity.estimate.egress.source is Source.MEASURED, learner.capacity.estimate
        assert_near(learner.found[-1], 12_000_000)


@pytest.mark.deep
@pytest.mark.parametrize(("family", "congestion_control"), [(4, "cubic"), (6, "cubic"), (4, "bbr"), (6, "bbr")])
def test_a_rate_is_found_kept_and_followed(family: int, congestion_control: str) -> None:
    """20 Mbit/s, then half of it, with pages beside the upload."""
    with rig() as made:
        household, learner = Household(made, family), Learner(made)
        running = [household.upload(BACKUP, 62, congestion_control)]
        running.append(made.on_host(BROWSER, SERVER[family], PAGE_PORT, 58))
        learner.at(30, lambda: made.set_rates(10_000_000, 50_000_000))
        learner.run(60)
        for each in running:
            result_of(each)
    for found in learner.found[6:30]:
        assert_near(found, 20_000_000)
    for found in learner.found[50:]:
        assert_near(found, 10_000_000)
