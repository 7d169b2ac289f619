"""The gateway whose packets programs treat: what commands write into their maps, and what the programs make of it.

That the programs decide as the core does, packet by packet, is for the differential tests.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_network import (
    A_V4,
    B_V4,
    B_V6,
    TO_B,
    UNIX_S,
    X,
    Y,
    fixed,
    grant_for,
    header_of,
    paying,
    plain,
    plan_x,
    routes,
    to_gateway,
    to_host,
)
from netns import Routed, connect

from billpay.messages import Grant, GrantState, GrantUsage
from billpay.tolls import TollSchedule
from dataplane.counters import CounterFile
from dataplane.ebpf import gateway_layout as layout
from dataplane.ebpf import libbpf
from dataplane.ebpf.gateway_layout import GATEWAY_OBJECT, NUMBER, PRICE, Layout
from dataplane.ebpf.interfaces import header_bytes, index_of, own_addresses
from dataplane.ebpf.kernel_counters import CountersView, KernelCounters, fold_pinned
from dataplane.supervisor import ReaderSupervisor
from gateway.commands import (
    Alarm,
    Answer,
    AskGrant,
    AskReport,
    CloseGrant,
    Command,
    Done,
    ForgetGrant,
    GrantAnswer,
    OpenGrant,
    Refused,
    Report,
    RouteTerms,
    SetLink,
    SetTerms,
    Tick,
    TollTerms,
)
from gateway.kernel_datapath import KernelGateway, engine_faults
from gateway.kernel_grants import place_key
from gateway.payments import place_of
from gateway.plan import Ceiling, GatewayPlan, MarkingRule

pytestmark = pytest.mark.netns

ETHERNET = {4: bytes(12) + b"\x08\x00", 6: bytes(12) + b"\x86\xdd"}
HEADER = GATEWAY_OBJECT.with_name("gateway.h")
MS = 1_000_000
S = 1_000_000_000
STRUCTS: dict[str, Layout] = {
    "settings": layout.SETTINGS,
    "link_terms": layout.LINK_TERMS,
    "link_state": layout.LINK_STATE,
    "route": layout.ROUTE,
    "place": layout.PLACE,
    "place_grants": layout.PLACE_GRANTS,
    "grant_terms": layout.GRANT_TERMS,
}


# --- layout ---------------------------------------------------------------------------------------------------------


def offsets(name: str) -> tuple[int, dict[str, int]]:
    """Size and members of a C struct, by the compiled object's BTF (linux/btf.h)."""
    lib = libbpf.library()
    opened = lib.bpf_object__open_file(str(GATEWAY_OBJECT).encode(), None)
    try:
        btf = lib.bpf_object__btf(opened)
        where = lib.btf__type_by_id(btf, lib.btf__find_by_name_kind(btf, name.encode(), 4))
        words = struct.Struct("=III")

        def at(address: int) -> tuple[int, int, int]:
            first, second, third = words.unpack(ctypes.string_at(address, words.size))
            return first, second, third

        _, information, size = at(where)
        members = [at(where + words.size * (1 + number)) for number in range(information & 0xFFFF)]
        return size, {lib.btf__name_by_offset(btf, each[0]).decode(): (each[2] & 0xFF_FFFF) // 8 for each in members}
    finally:
        lib.bpf_object__close(opened)


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_are_laid_out_alike(name: str) -> None:
    assert (STRUCTS[name].size, STRUCTS[name].offsets) == offsets(name)


def test_the_small_structs_have_their_sizes() -> None:
    assert offsets("price") == (PRICE.size, {"congestion_picodollars": 0, "until_ns": 8})
    assert offsets("alternative") == (layout.ALTERNATIVE.size, {"number": 0, "index": 1, "link": 2})


@pytest.mark.parametrize(("name", "wanted"), [("link_counter", layout.LINK_COUNTERS), ("reason", layout.REASONS)])
def test_names_have_the_order_of_the_header(name: str, wanted: tuple[str, ...]) -> None:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.search(rf"enum {name} \{{(.*?)\}}", text, flags=re.DOTALL)
    assert found is not None
    names = [each.lower() for each in re.findall(r"\w+", found[1])]
    assert tuple(names[:-1]) == wanted


@pytest.mark.parametrize("name", ["LINKS_MAX", "GRANTS_MAX", "ROUTES_MAX", "ALTERNATIVES_MAX", "GRANTS_PER_PLACE"])
def test_limits_are_the_headers(name: str) -> None:
    found = re.search(rf"#define GATEWAY_{name} (\d+)", HEADER.read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1]) == getattr(layout, name)


# --- one gateway with injected time ---------------------------------------------------------------------------------


class Injected:
    """Programs that are run on packets by themselves."""

    def __init__(self, plan: GatewayPlan) -> None:
        self.counters = KernelCounters.in_memory()
        self.core = KernelGateway(plan, self.counters, injected=True)
        self.arrive = self.core.programs.program("gateway_arrive")
        self.now_ns = S
        self.ask(Tick())

    def ask(self, command: Command) -> Any:
        reply = self.core.on_message(msgspec.json.encode(command), self.now_ns, UNIX_S)
        answer: Answer = msgspec.json.decode(reply, type=Answer)  # type: ignore[arg-type]
        return answer

    def open(self, grant: Grant, link: str = "toA") -> None:
        assert isinstance(self.ask(OpenGrant(link=link, grant=grant)), GrantAnswer)

    def usage(self, grant: Grant) -> GrantUsage:
        answer: GrantAnswer = self.ask(AskGrant(link="toA", grant=grant.grant))
        return answer.usage

    def agree(self) -> None:
        for link in self.core.links:
            assert self.ask(SetLink(link=link, agreed=True, in_default=False)) == Done()

    def deliver(self, packet: bytes) -> libbpf.TestRun:
        """From the neighbour on the first link, whose interface is lo: that one is everywhere."""
        settings = self.core.programs.map("settings")
        entry = bytearray(settings.lookup(NUMBER.pack(0)) or b"")
        layout.SETTINGS.write(entry, now_ns=self.now_ns, draws_used=0)
        settings.update(NUMBER.pack(0), bytes(entry))
        run = self.arrive.test_run(ETHERNET[packet[0] >> 4] + packet, ifindex=1)
        return run._replace(data_out=run.data_out[14:])

    def entry(self, name: str, number: int) -> bytes:
        found = self.core.programs.map(name).lookup(NUMBER.pack(number))
        assert found is not None
        return found

    def close(self) -> None:
        self.core.close()
        self.counters.close()


@pytest.fixture
def make() -> Iterator[Callable[[GatewayPlan], Injected]]:
    made: list[Injected] = []

    def one(plan: GatewayPlan) -> Injected:
        made.append(Injected(plan))
        made[-1].agree()
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture
def x(make: Callable[[GatewayPlan], Injected]) -> Injected:
    return make(plan_x())


def test_a_payment_is_taken_from_its_grant(x: Injected) -> None:
    grant = grant_for(plain())
    x.open(grant)
    header = header_of(x.deliver(paying(plain(), 20)).data_out)
    assert header is not None
    assert header.amount == 19
    usage = x.usage(grant)
    assert (usage.spent_nanodollars, usage.packets, usage.state) == (20, 1, GrantState.OPEN)
    values = x.counters.snapshot()
    assert values["link/toA/received_nanodollars"] == 20
    assert values["link/toY/sent_nanodollars"] == 19
    assert values["link/toY/retained_nanodollars"] == 1


def test_a_closed_grant_pays_nothing_and_its_number_serves_another(x: Injected) -> None:
    grant, other = grant_for(plain()), grant_for(plain(), grant="00" * 15 + "02")
    x.open(grant)
    x.deliver(paying(plain(), 20))
    closed: GrantAnswer = x.ask(CloseGrant(link="toA", grant=grant.grant))
    assert closed.usage.spent_nanodollars == 20
    x.deliver(paying(plain(), 20))
    assert x.counters.committed("unpaid_no_grant") == 1
    x.ask(ForgetGrant(link="toA", grant=grant.grant))
    assert len(x.core.kernel_grants._free) == layout.GRANTS_MAX - 1
    x.open(other)
    assert x.usage(other).spent_nanodollars == 0
    x.deliver(paying(plain(), 20))
    assert x.usage(other).spent_nanodollars == 20


def test_a_newer_document_raises_the_cap_and_keeps_the_bucket(x: Injected) -> None:
    grant = grant_for(plain(), cap=100, rate=10, burst=30)
    x.open(grant)
    x.deliver(paying(plain(), 30))
    x.now_ns += S  # 10 more by the old rate
    wider = msgspec.structs.replace(grant, serial=grant.serial + 1, cap_nanodollars=1000, rate_nanodollars_per_s=100)
    x.open(wider)
    x.now_ns += S // 10  # and 10 by the new one
    widest = msgspec.structs.replace(wider, serial=grant.serial + 2, rate_nanodollars_per_s=0)
    x.open(widest)
    x.now_ns += S
    x.deliver(paying(plain(), 21))
    assert x.usage(grant).spent_nanodollars == 30
    x.deliver(paying(plain(), 20))
    assert x.usage(grant).spent_nanodollars == 50
    assert x.counters.committed("unpaid_over_cap") == 1


def test_a_grant_pays_only_in_its_time(x: Injected) -> None:
    grant = grant_for(plain(), expires_unix_s=UNIX_S + 10)
    x.open(grant)
    x.core.on_message(msgspec.json.encode(Tick()), x.now_ns, UNIX_S + 10)
    x.deliver(paying(plain(), 20))
    assert x.counters.committed("unpaid_grant_not_valid") == 1
    assert x.usage(grant).state is GrantState.EXPIRED


def test_places_hold_the_grants_in_the_order_in_which_they_were_opened(x: Injected) -> None:
    grants = [grant_for(plain(), grant=f"{number:032x}") for number in range(1, 6)]
    for grant in grants[:4]:
        x.open(grant)
    refused = x.ask(OpenGrant(link="toA", grant=grants[4]))
    assert isinstance(refused, Refused)
    assert refused.code == "too-many-grants"
    key = place_key(0, place_of(grants[0].flow))
    places = x.core.programs.map("places")
    assert struct.unpack("=5I", places.lookup(key) or b"") == (4, 1, 2, 3, 4)
    x.ask(CloseGrant(link="toA", grant=grants[1].grant))
    assert struct.unpack("=5I", places.lookup(key) or b"") == (3, 1, 3, 4, 0)
    for grant in grants[:4]:
        x.ask(CloseGrant(link="toA", grant=grant.grant))
    assert places.lookup(key) is None


def test_terms_hold_from_the_next_packet_on(x: Injected) -> None:
    x.open(grant_for(plain()))
    toll = TollTerms(link="toZ", schedule=fixed(5), congestion=False, target_utilisation_ppm=950_000)
    taken = RouteTerms(prefix=TO_B[0], default=2, withdrawn=(1,))
    assert x.ask(SetTerms(honours_preferences=True, tolls=(toll,), routes=(taken,))) == Done()
    run = x.deliver(paying(plain(), 20))
    header = header_of(run.data_out)
    assert header is not None
    assert header.amount == 15
    assert run.mark == 2 << 16
    again = RouteTerms(prefix=TO_B[0], default=0, withdrawn=())
    x.ask(SetTerms(honours_preferences=True, routes=(again,)))
    assert x.deliver(paying(plain(), 20)).mark == 0


def test_a_neighbour_in_default_pays_nothing(x: Injected) -> None:
    x.open(grant_for(plain()))
    x.ask(SetLink(link="toA", agreed=True, in_default=True))
    x.deliver(paying(plain(), 20))
    assert x.counters.committed("unpaid_in_default") == 1


def test_what_a_ceiling_cuts_is_told_once_a_second(make: Callable[[GatewayPlan], Injected]) -> None:
    links = (to_host("toA", 1, ceiling=Ceiling(packet_nanodollars=5)), to_gateway("toY", 2, Y))
    gateway = make(GatewayPlan(as_number=X, links=links, routes=routes(TO_B, "toY")))
    gateway.open(grant_for(plain()))
    gateway.core.take_events()
    gateway.deliver(paying(plain(), 20))
    gateway.deliver(paying(plain(), 20))
    gateway.core.on_timer(gateway.now_ns)
    told = [msgspec.json.decode(event, type=Alarm) for event in gateway.core.take_events()]
    assert told == [Alarm(kind="over_ceiling", link="toA", count=2)]
    assert gateway.core.take_events() == []


def test_the_price_follows_what_arrives_and_nobody_stands_behind_an_old_one(
    make: Callable[[GatewayPlan], Injected],
) -> None:
    toll = TollSchedule(cap_nanodollars=1000)
    queue: dict[str, Any] = {"rate_bit_s": 80_000, "toll": toll, "congestion": True}
    links = (to_host("toA", 1), to_gateway("toY", 2, Y, **queue))
    gateway = make(GatewayPlan(as_number=X, links=links, routes=routes(TO_B, "toY")))
    gateway.open(grant_for(plain()))
    price = 0
    for _ in range(5):
        gateway.core.on_timer(gateway.now_ns)
        price, until_ns = PRICE.unpack(gateway.entry("prices", 1))
        assert until_ns == gateway.now_ns + S
        for _ in range(20):
            gateway.deliver(plain(size=200))
        gateway.now_ns += 100 * MS
        assert gateway.core.next_deadline_ns() == gateway.now_ns
    assert price > 0
    report: Report = gateway.ask(AskReport())
    assert report.links[1].congestion_picodollars == price
    ended = TollTerms(link="toY", schedule=toll, congestion=False, target_utilisation_ppm=950_000)
    gateway.ask(SetTerms(honours_preferences=True, tolls=(ended,)))
    assert PRICE.unpack(gateway.entry("prices", 1))[0] == 0


def test_destinations_that_are_not_for_forwarding_pass_untouched() -> None:
    counters = KernelCounters.in_memory()
    core = KernelGateway(plan_x(), counters, injected=True, untouched=lambda: [ip_network(B_V4), ip_network(B_V6)])
    try:
        for destination, source in ((B_V4, A_V4), (B_V6, "fd00:1::1")):
            packet = plain(source, destination)
            run = core.programs.program("gateway_arrive").test_run(ETHERNET[packet[0] >> 4] + packet, ifindex=1)
            assert run.data_out[14:] == packet
        assert not any(counters.snapshot().values())
    finally:
        core.close()
        counters.close()


# --- on real interfaces ---------------------------------------------------------------------------------------------

CONFIGURED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from gateway_network import X, Y, fixed, routes, to_gateway, to_host
from dataplane.ebpf.kernel_reader import serve_kernel
from billpay.tolls import TollSchedule
from dataplane.links import read_link
from gateway.kernel_datapath import KernelGateway
from gateway.kernel_queue import KernelQueues
from gateway.plan import GatewayPlan

rate_bit_s, record = int(sys.argv[2]), Path(sys.argv[3])

def build(counters):
    links = (
        to_host("toA", read_link("ra").index, toll=fixed(1)),
        to_gateway(
            "toB", read_link("rb").index, Y,
            toll=TollSchedule(fixed_nanodollars_per_packet=1, cap_nanodollars=1000),
            rate_bit_s=rate_bit_s, congestion=bool(rate_bit_s),
        ),
    )
    there = routes(("10.9.1.0/24",), "toA") + routes(("10.9.2.0/24",), "toB")
    queues = KernelQueues(links, record) if rate_bit_s else None
    if queues is not None:
        queues.apply()
    return KernelGateway(GatewayPlan(as_number=X, links=links, routes=there), counters, queues=queues)

sys.exit(serve_kernel(build))
"""


@pytest.fixture
def routed() -> Iterator[Routed]:
    made = Routed()
    yield made
    made.close()


def echoed(routed: Routed, count: int = 3) -> int:
    """How many datagrams went from a to b and came back."""
    with routed.a.call(datagrams) as here, routed.b.call(datagrams) as there:
        there.bind(("10.9.2.1", 7777))
        for number in range(count):
            here.sendto(b"%d" % number, ("10.9.2.1", 7777))
            data, sender = there.recvfrom(100)
            there.sendto(data, sender)
            assert here.recv(100) == b"%d" % number
    return count


def datagrams() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(5)
    return made


def comes_back(routed: Routed) -> None:
    """The interface to b is made anew: with its address and its neighbour, but another index."""
    routed.r.run("ip", "link", "delete", "rb")
    connect(routed.b, "b0", routed.r, "rb")
    routed.b.run("ip", "addr", "add", "10.9.2.1/24", "dev", "b0")
    routed.b.run("ip", "route", "add", "default", "via", "10.9.2.2")
    routed.r.run("ip", "addr", "add", "10.9.2.2/24", "dev", "rb")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Of the counters, with nothing left in the kernel."""
    yield tmp_path / "counters"
    fold_pinned(tmp_path / "counters")


def supervised(routed: Routed, path: Path, started: list[object], *, rate_bit_s: int = 0) -> ReaderSupervisor:
    arguments = (str(Path(__file__).parent.parent), str(rate_bit_s), str(path.with_name("queue.json")))
    return ReaderSupervisor(
        routed.r.command(sys.executable, "-c", CONFIGURED, *arguments),
        counters_path=path,
        owner="kernel",
        on_event=lambda _: None,
        snapshot=list,
        on_started=started.append,
    )


async def test_it_attaches_goes_on_after_a_kill_and_leaves_nothing(routed: Routed, path: Path) -> None:
    """An interface that goes and comes back is attached again; the gateway's own addresses are not its business."""
    started: list[object] = []
    async with supervised(routed, path, started) as supervisor:
        view = CountersView(path)
        assert echoed(routed) == 3
        assert view.committed("link/toB/unpaid_packets") == view.committed("link/toA/unpaid_packets") == 3
        with routed.a.call(datagrams) as here:
            here.sendto(b"to the gateway itself", ("10.9.1.2", 7777))
        assert view.committed("link/toA/unpaid_packets") == 3
        assert supervisor.reader_pid is not None
        routed.r.run("kill", "-KILL", str(supervisor.reader_pid))
        async with asyncio.timeout(20):
            while len(started) < 2:
                await asyncio.sleep(0.01)
        assert echoed(routed) == 3
        assert view.committed("link/toB/unpaid_packets") == 6
        pid = supervisor.reader_pid
        comes_back(routed)
        async with asyncio.timeout(20):
            while view.committed("link/toA/unpaid_packets") < 7:  # what comes from b's side is counted again
                assert echoed(routed, 1) == 1
                await asyncio.sleep(0.02)
        assert supervisor.reader_pid == pid
        to_b = view.committed("link/toB/unpaid_packets")
        view.close()
    assert echoed(routed) == 3
    view = CountersView(path)
    assert view.committed("link/toB/unpaid_packets") == to_b
    view.close()


async def test_what_is_too_much_for_a_link_waits_raises_the_price_and_is_refused(routed: Routed, path: Path) -> None:
    before = routed.r.run("tc", "qdisc", "show", "dev", "rb")
    with routed.a.call(datagrams) as here, routed.b.call(datagrams) as there:
        there.bind(("10.9.2.1", 7777))
        async with supervised(routed, path, [], rate_bit_s=2_000_000) as supervisor:
            assert "htb" in routed.r.run("tc", "qdisc", "show", "dev", "rb")
            packets, report = 0, None
            async with asyncio.timeout(20):
                while report is None or not report.links[1].congestion_picodollars:
                    for _ in range(20):
                        here.sendto(bytes(1000), ("10.9.2.1", 7777))
                        packets += 1
                    await asyncio.sleep(0.02)  # four times what the link takes
                    said = await supervisor.request(msgspec.json.encode(AskReport()))
                    report = msgspec.json.decode(said, type=Report)
            assert report.links[1].backlog_bytes > 0
            values = CountersView(path).snapshot()
            assert values["link/toB/unpaid_packets"] == packets
    values = CounterFile.attach(path).snapshot()
    assert values["link/toB/dropped_packets"] > 0
    assert routed.r.run("tc", "qdisc", "show", "dev", "rb") == before


async def test_a_queue_comes_back_with_its_interface_by_another_reader(routed: Routed, path: Path) -> None:
    started: list[object] = []
    async with supervised(routed, path, started, rate_bit_s=2_000_000):
        comes_back(routed)
        async with asyncio.timeout(20):
            while len(started) < 2:
                await asyncio.sleep(0.01)
        assert "htb" in routed.r.run("tc", "qdisc", "show", "dev", "rb")
        assert echoed(routed) == 3
        assert CountersView(path).committed("link/toB/unpaid_packets") == 3


def test_what_interfaces_are_like(routed: Routed) -> None:
    assert routed.r.call(lambda: header_bytes("ra")) == 14
    assert routed.r.call(lambda: header_bytes("lo")) == 14
    assert routed.r.call(lambda: index_of("ra")) > 0
    assert routed.r.call(lambda: index_of("nowhere")) == 0
    assert ip_network("10.9.1.2/32") in routed.r.call(own_addresses)


# --- may it be used -------------------------------------------------------------------------------------------------


def test_what_the_programs_cannot_do_is_said() -> None:
    links = (
        to_host("toA", 1, rate_bit_s=1_000_000, marking=MarkingRule.REM),
        to_gateway("toY", 2, Y, tunnel=(bytes(4), bytes(4))),
    )
    plan = GatewayPlan(as_number=X, links=links, routes=())
    assert engine_faults(plan) == ("link toY has a tunnel", "link toA marks by rem")
    assert engine_faults(plan_x()) == ()
