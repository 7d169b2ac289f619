"""Which engine is taken, what its numbers become, and when they are doubted; engines here are made of values."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from billpay.errors import EnvironmentFault
from dataplane.host_engine import Ability, EngineName, Limit, PacedFlow, Question
from dataplane.metering import UNATTRIBUTED, FlowKey, FlowMeter, Kind, LinkMeter, Program, ProgramMeter, Reading, Tally
from dataplane.shaping.plan import NO_SHAPING, ShapedLink, ShapingPlan
from hostagent import api
from hostagent.traffic import EngineMaker, Traffic, TrafficView, name_of

PLAN = ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="eth0"),))
CURL = Program(kind=Kind.PROGRAM, executable="/usr/bin/curl", user_id=0)
KEY = FlowKey(2, 6, b"\x0a\0\0\1", 40000, b"\x0a\0\0\2", 443)


class ValueEngine:
    """Each second it has counted as much again; `blind` counts nothing of what its interface does."""

    limits: tuple[Limit, ...] = (Limit(ability=Ability.PACE, cause="nobody asked"),)

    def __init__(self, name: EngineName, *, refuses: str = "", blind: bool = False) -> None:
        self.name = name
        self.is_closed = False
        self._refuses, self._blind = refuses, blind
        self._seconds = 0

    async def start(self, plan: ShapingPlan) -> None:
        if self._refuses:
            raise EnvironmentFault("use", self.name.value, self._refuses)

    async def apply(self, plan: ShapingPlan) -> None: ...

    async def on_second(self) -> None:
        self._seconds += 1

    async def read(self) -> Reading:
        counted = Tally() if self._blind else Tally(self._seconds * 1000, self._seconds * 1_000_000)
        link = LinkMeter(
            interface="eth0",
            sent=counted,
            received=Tally(),
            interface_sent_packets=self._seconds * 1000,
            interface_received_packets=0,
        )
        nobody = ProgramMeter(number=0, program=UNATTRIBUTED, sent=Tally(), received=Tally())
        both = [ProgramMeter(number=number, program=CURL, sent=counted, received=Tally()) for number in (1, 2)]
        return Reading(now_ns=self._seconds * 10**9, programs=(nobody, *both), links=(link,))

    async def flows(self) -> list[FlowMeter]:
        counted = Tally(self._seconds * 1000, self._seconds * 1_000_000)
        flow = FlowMeter(
            key=KEY,
            program_number=1,
            process_id=7,
            traffic_class=1,
            sent=counted,
            received=Tally(),
            first_ns=0,
            last_ns=0,
        )
        return [flow]

    async def meters(self, keys: Sequence[FlowKey]) -> list[FlowMeter | None]:
        found = {each.key: each for each in await self.flows()}
        return [found.get(key) for key in keys]

    async def pace(self, flows: Sequence[PacedFlow]) -> None: ...

    async def questions(self) -> list[Question]:
        return []

    async def answer(self, number: int, *, allow: bool) -> None: ...

    async def close(self) -> None:
        self.is_closed = True


def makers(*engines: ValueEngine) -> dict[EngineName, EngineMaker]:
    return {engine.name: (lambda engine=engine: engine) for engine in engines}  # type: ignore[misc]


async def seen(*engines: ValueEngine, seconds: int = 1) -> TrafficView:
    traffic = Traffic(PLAN, makers(*engines), on_change=lambda: None)
    async with traffic.running():
        for _ in range(seconds):
            await traffic._second(with_flows=True)
        return traffic.view()


async def test_the_first_engine_that_starts_is_taken_and_says_why_not_a_better_one() -> None:
    engines = [
        ValueEngine(EngineName.EBPF, refuses="no BTF"),
        ValueEngine(EngineName.NFQUEUE),
        ValueEngine(EngineName.SOCKETS),
    ]
    view = await seen(*engines)
    assert view.engine == "nfqueue"
    assert view.because == "nfqueue; not ebpf: use ebpf: no BTF"
    assert view.limits == (api.Limit(ability="pace TCP", cause="nobody asked"),)
    assert [engine.is_closed for engine in engines] == [False, True, False]


async def test_no_engine_at_all_is_one_line() -> None:
    traffic = Traffic(PLAN, makers(ValueEngine(EngineName.SOCKETS, refuses="no netlink")), on_change=lambda: None)
    with pytest.raises(EnvironmentFault, match="no netlink"):
        async with traffic.running():
            pass


async def test_an_engine_that_was_rejected_is_not_tried() -> None:
    traffic = Traffic(PLAN, makers(ValueEngine(EngineName.NFQUEUE)), on_change=lambda: None)
    traffic.reject(EngineName.NFQUEUE, "its queue is taken")
    with pytest.raises(EnvironmentFault, match="its queue is taken"):
        async with traffic.running():
            pass


async def test_identities_of_one_program_are_one_line_with_a_rate() -> None:
    view = await seen(ValueEngine(EngineName.EBPF), seconds=3)
    lines = {line.name: line for line in view.programs}
    assert lines["curl"].sent_bytes == 2 * 3_000_000
    assert lines["curl"].sent_packets == 2 * 3_000
    assert lines["curl"].sent_bit_s == 2 * 8_000_000
    assert lines["(unattributed)"].sent_bytes == 0
    assert view.links[0].sent_bit_s == 8_000_000


async def test_a_paying_flow_gets_the_name_and_the_others_follow() -> None:
    view = await seen(ValueEngine(EngineName.EBPF))
    (flow,) = view.flows
    assert flow.flow == "tcp 10.0.0.1:40000 → 10.0.0.2:443"
    (named,) = view.name_flows([api_flow(flow.flow)])
    assert (named.rule, named.program, named.traffic_class) == ("backup", "curl", "default")
    assert [each.program for each in view.name_flows([api_flow("udp 1:1 → 2:2")])] == ["", "curl"]


def api_flow(text: str) -> api.Flow:
    return api.Flow(
        flow=text,
        rule="backup",
        strategy="bulk",
        rate_bit_s=0,
        packets=0,
        bytes=0,
        amount_nanodollars=20,
        toll_nanodollars=None,
        spent_nanodollars=0,
        returned_nanodollars=0,
        goodput_bit_s=None,
        marks=0,
        path="",
        reason="",
        active=True,
    )


async def test_a_meter_that_stands_still_while_its_interface_does_not_is_doubted() -> None:
    assert (await seen(ValueEngine(EngineName.EBPF), seconds=3)).warnings(1) == []
    (warning,) = (await seen(ValueEngine(EngineName.EBPF, blind=True), seconds=3)).warnings(1)
    assert warning.code == "meter"
    assert "passed 1000 packets and we counted 0" in warning.message


async def test_work_goes_on_until_it_is_cancelled() -> None:
    changes: list[None] = []
    traffic = Traffic(PLAN, makers(ValueEngine(EngineName.EBPF)), on_change=lambda: changes.append(None))
    async with traffic.running():
        work = asyncio.get_running_loop().create_task(traffic.work())
        while not changes:
            await asyncio.sleep(0)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (CURL, "curl"),
        (None, "(unattributed)"),
        (Program(kind=Kind.PROGRAM), "(ended)"),
        (Program(kind=Kind.FORWARDED, interface="docker0"), "docker0"),
        (Program(kind=Kind.FORWARDED, interface="veth1", container="db"), "db"),
    ],
)
def test_names(program: Program | None, name: str) -> None:
    assert name_of(program) == name
