"""The host's payments in the kernel: whatever is true of `HostCore` is true of the programs."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import one_host
import pytest
from driven_payer import DrivenCounters, DrivenPayer
from gateway_network import (
    A_V4,
    A_V6,
    B_V4,
    B_V6,
    FREE,
    OTHER_KEY,
    UNIX_S,
    X,
    Y,
    Z,
    grant_for,
    header_of,
    named,
    plain,
    segment,
)
from netns import Namespace
from one_host import BOTH, INTERFACES, Host, flow_of, plan_host, turned
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.packet import Raw

from billpay.header import Slot
from billpay.messages import GrantKind
from billpay.packet import flow_key
from dataplane.counters import CounterFile
from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.fake import FakeDataPlane
from dataplane.port import Packet, Verdict
from hostagent.payments.commands import (
    Answer,
    AskFlows,
    Command,
    Done,
    DropFlow,
    FlowReports,
    PayFlow,
    Refused,
    ReturnFlow,
    SetUplink,
    Tick,
)
from hostagent.payments.datapath import HostCore
from hostagent.payments.flowtable import IDLE_NS
from hostagent.payments.kernel_datapath import BELIEVED_NS, KernelPayer, PayerPrograms
from hostagent.payments.plan import INPUT_QUEUE, OUTPUT_QUEUE, HostPlan, UplinkPlan

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
UDP_SEGMENT = 103  # linux/udp.h

pytestmark = pytest.mark.netns


# Of `HostCore` alone: its table is smaller, and the counters are made by the test.
OTHERWISE = {
    "test_without_a_free_counter_a_flow_goes_unpaid",
    "test_many_new_flows_do_not_push_out_those_that_pay",
    "test_when_all_pay_the_oldest_is_forgotten_with_its_pool_on_the_books",
}


def _tests_in(name: str) -> dict[str, Callable[..., Any]]:
    """The tests of another file, to be run here with the kernel's programs as the core."""
    path = Path(__file__).with_name(f"{name}.py")
    specification = importlib.util.spec_from_file_location(f"kernel_{name}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return {key: value for key, value in vars(module).items() if key.startswith("test_") and key not in OTHERWISE}


globals().update(_tests_in("test_datapath"))
globals().update(_tests_in("test_datapath_commands"))


@pytest.fixture(autouse=True)
def payers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[DrivenPayer]]:
    """Every `Host` has the programs as its core."""
    made: list[DrivenPayer] = []
    counted: list[DrivenCounters] = []

    def count(**more: int) -> DrivenCounters:
        counted.append(DrivenCounters.in_memory(**more))
        return counted[-1]

    def make(*arguments: Any) -> DrivenPayer:
        made.append(DrivenPayer(*arguments))
        return made[-1]

    monkeypatch.setattr(one_host, "HostCore", make)
    monkeypatch.setattr(one_host, "CounterFile", SimpleNamespace(in_memory=count))
    yield made
    for payer in made:
        payer.close()
    for counters in counted:
        counters.give_back()


# --- beside the core, packet by packet ------------------------------------------------------------------------------


class CoreHost(Host):
    """With `HostCore`, whatever the fixture says."""

    def __init__(self, plan: HostPlan) -> None:
        self.plan = plan
        self.counters = CounterFile.in_memory(capacity=512)
        self.core = HostCore(plan, self.counters)
        self.plane = FakeDataPlane(self.core, self.counters, unix_s=UNIX_S)
        self.ask(Tick())


class Pair:
    """One host by each of the two: every call has to have the same outcome, and to leave the same behind."""

    def __init__(self, plan: HostPlan | None = None) -> None:
        self.plan = plan or plan_host(peers=frozenset({ip_address(B_V4).packed}))
        self.core, self.kernel = CoreHost(self.plan), Host(self.plan, agreed=False)
        self.serial = 0
        for uplink in self.plan.uplinks:
            self.ask(SetUplink(uplink=uplink.name, agreed=True))

    def ask(self, command: Command) -> Answer:
        answer, by_kernel = self.core.ask(command), self.kernel.ask(command)
        assert by_kernel == answer, command
        return answer

    def carry(self, packet: bytes, queue: int, via: str, segment_bytes: int = 0) -> bytes:
        given = Packet(1, queue, INTERFACES[via], 7, packet, False, segment_bytes)
        (verdict,) = self.core.core.on_batch([given], self.core.plane.now_ns)
        (by_kernel,) = self.kernel.core.on_batch([given], self.kernel.plane.now_ns)
        assert by_kernel == verdict, (packet.hex(), queue)
        assert isinstance(verdict, Verdict)
        return verdict.payload or packet

    def look(self) -> None:
        """At everything that a user, a peer or the agent could see of them."""
        assert self.kernel.core.take_events() == self.core.core.take_events()
        assert self.kernel.reports() == self.core.reports()
        counted = {name: value for name, value in self.kernel.counters.snapshot().items() if value}
        assert counted == {name: value for name, value in self.core.counters.snapshot().items() if value}

    def silence(self, duration_ns: int) -> None:
        """Flows that were silent alike are forgotten alike once their changes were told of."""
        self.look()
        for host in (self.core, self.kernel):
            host.plane.advance(duration_ns)
            host.plane.unix_s += duration_ns // 10**9
        self.ask(Tick())

    def pay(self, packet: bytes, amount: int, *slots: Slot, **grant: Any) -> Answer:
        self.serial += 1
        document = grant_for(packet, **({"serial": self.serial} | grant))
        oads = tuple((slot.as_number, slot.alternatives, slot.choice) for slot in slots)
        return self.ask(PayFlow(flow=flow_of(packet), grant=document, amount_nanodollars=amount, slots=oads))

    def give_back(self, packet: bytes, share: int, ceiling: int, **grant: Any) -> Answer:
        self.serial += 1
        given = {"kind": GrantKind.RETURN, "key": OTHER_KEY.hex(), "serial": self.serial} | grant
        command = ReturnFlow(
            flow=flow_of(packet),
            grant=grant_for(packet, **given),
            share_nanodollars=share,
            ceiling_nanodollars=ceiling,
        )
        return self.ask(command)


def tcp(addresses: tuple[str, str], flags: str, *, port: int = 40000, content: int = 60, mss: int = 1460) -> bytes:
    source, destination = addresses
    layer = TCP(sport=port, dport=443, flags=flags, options=[("NOP", None), ("MSS", mss)] if "S" in flags else [])
    return bytes((IP if ":" not in source else IPv6)(src=source, dst=destination) / layer / Raw(b"t" * content))


def flows_out() -> list[list[bytes]]:
    """Packets of each flow that leaves, all of which may be paid for."""
    flows = []
    for pair in BOTH:
        flows.append([plain(*pair, sport=port, size=size) for port in (5, 6) for size in (0, 20, 1400, 1460)])
        flows.append(
            [tcp(pair, flags, content=size) for flags in ("S", "A", "PA", "R", "RA", "FA") for size in (0, 60)]
        )
        flows.append([plain(*pair, sport=7415, dport=7416)])
    options = bytes(IP(src=A_V4, dst=B_V4, options=b"\x01\x01\x01\x01") / UDP(sport=5, dport=5004) / Raw(b"o" * 30))
    fragment = bytes(IP(src=A_V4, dst=B_V4, proto=17, flags="MF") / Raw(b"f" * 40))
    tcp_fragment = bytes(IP(src=A_V4, dst=B_V4, proto=6, frag=4) / Raw(b"\xff" * 40))
    hop = bytes(IPv6(src=A_V6, dst=B_V6) / IPv6ExtHdrHopByHop() / UDP(sport=5, dport=5004) / Raw(b"h" * 30))
    flows.append([options, fragment, tcp_fragment, hop, named(plain(), 9, FREE, by=X)])
    flows.append([bytes(IP(src=A_V4, dst=B_V4) / ICMP() / Raw(b"p" * 30))])
    return flows


def arriving(draw: random.Random) -> bytes:
    source, destination = draw.choice(BOTH)
    kind = draw.randrange(4)
    if kind == 0:
        packet = tcp((destination, source), draw.choice(("S", "A", "PA", "SA")), port=443)
        packet = packet if draw.random() < 0.2 else segment(destination, source, sport=443, dport=40000)
    elif kind == 1:
        packet = plain(destination, source, sport=draw.choice((1, 7416)), dport=7416, size=draw.choice((0, 30, 700)))
    else:
        packet = plain(destination, source, dport=draw.choice((5, 6, 9)), tos=draw.choice((0, 3)))
    if draw.random() < 0.15:
        return packet
    slots = [
        draw.choice((FREE, Slot(X, 0x801, draw.randrange(3)), Slot(Y, 0x801, 1))) for _ in range(draw.randrange(5))
    ]
    amount = draw.choice((0, 1, 9, 9, 20, 0xFF_FFFF))
    made = bytearray(named(packet, amount, *slots, by=draw.choice((X, X, X, Z)), path_length=draw.randrange(4)))
    if draw.random() < 0.15:
        at = draw.choice([at for at in range(len(made)) if at not in (0, 2, 3, 4, 5)][:60])
        made[at] ^= 1 << draw.randrange(8)
    return bytes(made)


@pytest.mark.parametrize("seed", range(4))
def test_a_long_story_has_one_outcome(seed: int) -> None:
    draw, pair, flows = random.Random(seed), Pair(), flows_out()
    for step in range(500):
        packets = draw.choice(flows)
        via = draw.choice("XXXZ")
        name = draw.choice(["arrive"] * 8 + ["leave"] * 8 + ["pay", "give_back"] * 2 + ["drop", "silence", "agree"])
        if name == "arrive":
            pair.carry(arriving(draw), INPUT_QUEUE, via, draw.choice((0, 0, 0, 8, 500)))
        elif name == "leave":
            for packet in draw.choices(packets, k=4):
                pair.carry(packet, OUTPUT_QUEUE, via)
        elif name == "pay":
            grant = {"grant": f"{draw.randrange(40):032x}", "cap": draw.randrange(3000), "rate": draw.randrange(300)}
            slots = [FREE] * draw.randrange(8)
            pair.pay(draw.choice(packets), draw.choice((0, 1, 20, 300)), *slots, burst=draw.randrange(500), **grant)
        elif name == "give_back":
            grant = {"grant": f"{draw.randrange(40, 80):032x}", "cap": draw.choice((30, 10**6)), "burst": 10**11}
            pair.give_back(draw.choice(packets), draw.randrange(12), draw.choice((0, 1, 50, 2**70)), **grant)
        elif name == "drop":
            pair.ask(DropFlow(flow=flow_of(draw.choice(packets))))
        elif name == "silence":
            pair.silence(draw.choice((1, 10**6, 10**9, 61 * 10**9, IDLE_NS)))
        else:
            pair.ask(SetUplink(uplink=via, agreed=draw.random() < 0.8))
        if step % 10 == 0:
            pair.look()
    pair.look()


def test_reports_beyond_an_answers_room_come_late_in_the_same_order() -> None:
    pair = Pair()
    template = plain(sport=1)
    packets = [template[:20] + port.to_bytes(2) + template[22:] for port in range(1, 400)]
    pair.pay(packets[7], 5)
    for packet in packets:
        pair.carry(packet, OUTPUT_QUEUE, "X")
    turn = 0
    for round_ in range(5):
        answer = pair.ask(AskFlows(since_turn=turn))
        assert isinstance(answer, FlowReports)
        turn = answer.turn
        for packet in packets[round_ * 11 : round_ * 23]:
            pair.carry(packet, OUTPUT_QUEUE, "X")


def test_without_a_header_the_gateway_takes_what_the_grant_says() -> None:
    pair = Pair(plan_host(header=False, implied=True))
    packet = plain()
    pair.pay(packet, 20, cap=70)
    for _ in range(5):
        assert pair.carry(packet, OUTPUT_QUEUE, "X") == packet
    pair.look()
    assert pair.kernel.sent() == 60


def test_an_offloaded_packet_pays_for_each_of_its_segments_without_a_header() -> None:
    """With one too, but a packet of a test run does not say what kind of offload it is, and so cannot grow: the tests
    with real packets show that.
    """
    pair = Pair(plan_host(header=False, implied=True))
    packet = tcp((A_V4, B_V4), "PA", content=1000)
    pair.pay(packet, 20, cap=10**6)
    pair.carry(packet, OUTPUT_QUEUE, "X", 300)
    pair.look()
    assert pair.kernel.sent() == 80


def test_where_the_table_is_full_traffic_goes_on_unpaid_and_the_books_balance() -> None:
    counters = DrivenCounters.in_memory()
    small = PayerPrograms(counters.map, peers_max=1, flows_max=2, injected=True)
    counters.programs, large = small, counters.programs
    host = Host(counters=counters)
    first, second = plain(sport=1), plain(sport=2)
    host.pay(first, 20)
    host.leave(plain(sport=9))
    refused = host.ask(PayFlow(flow=flow_of(second), grant=grant_for(second, grant="7" * 32), amount_nanodollars=20))
    assert isinstance(refused, Refused)
    assert refused.code == "no-room"
    assert host.leave(second) == [second]
    assert host.amounts(first) == [20]
    brought = named(turned((A_V4, B_V4), dport=3), 9, by=X)
    assert host.arrive(brought) == [brought]
    assert (host.count("flows_full_packets"), host.received(), host.books()["unreturned"]) == (2, 9, 9)
    host.assert_conserved()
    counters.programs = large
    small.close()


def test_a_silent_reader_pays_nothing(payers: list[DrivenPayer]) -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20)
    assert host.amounts(packet) == [20]
    payers[0].is_awake = False
    host.plane.now_ns += BELIEVED_NS + 1
    assert host.amounts(packet) == [0]
    assert (host.count("unpaid_reader_silent"), host.sent()) == (1, 20)
    payers[0].on_timer(host.plane.now_ns)
    assert host.amounts(packet) == [20]


# --- real packets ---------------------------------------------------------------------------------------------------


def tap_of(interface: str, kind: int) -> socket.socket:
    """Sees every packet of one EtherType there."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
    tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
    tap.bind((interface, kind))
    tap.setblocking(False)
    return tap


def send_and_count(source: tuple[str, int], server: socket.socket, content: bytes) -> int:
    """Sends it all by TCP and waits for its end; how many bytes came."""
    with socket.socket(server.family, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.bind(source)
        client.connect(server.getsockname()[:2])
        connection, _ = server.accept()
        sender = threading.Thread(target=lambda: (client.sendall(content), client.shutdown(socket.SHUT_WR)))
        sender.start()
        with connection:
            connection.settimeout(10)
            came = 0
            while data := connection.recv(1 << 18):
                came += len(data)
        sender.join()
        assert client.recv(1) == b""
        return came


@pytest.mark.parametrize("offload", ["off", "on"])
@pytest.mark.parametrize("addresses", [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")], ids=["ipv4", "ipv6"])
def test_every_segment_on_the_wire_is_paid_once(addresses: tuple[str, str], offload: str) -> None:
    """TCP hands down packets of many segments; who cuts them, this kernel or a device, copies the header."""
    source, destination = addresses
    family, kind = (socket.AF_INET, 0x0800) if ":" not in source else (socket.AF_INET6, 0x86DD)
    counters = KernelCounters.in_memory()
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        here.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", str(there.pid))
        for namespace, device, address in ((here, "up0", source), (there, "down0", destination)):
            prefix = [f"{address}/64", "nodad"] if kind == 0x86DD else [f"{address}/24"]
            namespace.run("ip", "addr", "add", *prefix, "dev", device)
            namespace.run("ip", "link", "set", device, "up")
        here.run("ethtool", "-K", "up0", "tso", offload, "gso", "on")
        server = stack.enter_context(there.call(lambda: socket.create_server((destination, 443), family=family)))
        tap = stack.enter_context(there.call(lambda: tap_of("down0", kind)))
        payer = here.call(lambda: KernelPayer(real_plan("up0"), counters))
        stack.callback(payer.close)
        here.call(lambda: payer.on_go(time.monotonic_ns()))
        packet = segment(source, destination, sport=40001)
        grant = grant_for(packet, not_before_unix_s=0, cap=10**12, rate=10**12, burst=10**12)
        for command in (
            SetUplink(uplink="X", agreed=True),
            PayFlow(flow=flow_of(packet), grant=grant, amount_nanodollars=20, slots=((0, 0, 0),) * 3),
        ):
            reply = payer.on_message(msgspec.json.encode(command), time.monotonic_ns(), UNIX_S)
            assert reply == msgspec.json.encode(Done())
        assert here.call(lambda: send_and_count((source, 40001), server, b"z" * 1_000_000)) == 1_000_000
        seen = [data for data in everything_from(tap) if flow_key(data) == flow_key(packet)]
    sent = counters.committed("link/X/sent_packets")
    assert all(header is not None and header.amount == 20 for header in map(header_of, seen))
    assert counters.committed("link/X/sent_nanodollars") == 20 * sent
    assert sent == len(seen) if offload == "off" else sent > 600 > len(seen)


@pytest.mark.parametrize("checksums", ["on", "off"])
def test_what_a_sender_cut_out_for_a_device_arrives_in_any_case(checksums: str) -> None:
    """UDP_SEGMENT, as QUIC uses it: where the device computes no checksums the kernel would drop it if it grew."""
    counters = KernelCounters.in_memory()
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        here.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", str(there.pid))
        for namespace, device, address in ((here, "up0", "10.9.0.1/24"), (there, "down0", "10.9.0.2/24")):
            namespace.run("ip", "addr", "add", address, "dev", device)
            namespace.run("ip", "link", "set", device, "up")
        here.run("ethtool", "-K", "up0", "tx", checksums)
        receiver = stack.enter_context(there.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        receiver.bind(("10.9.0.2", 9000))
        receiver.settimeout(10)
        sender = stack.enter_context(here.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        sender.bind(("10.9.0.1", 5004))
        payer = here.call(lambda: KernelPayer(real_plan("up0"), counters))
        stack.callback(payer.close)
        here.call(lambda: payer.on_go(time.monotonic_ns()))
        packet = plain("10.9.0.1", "10.9.0.2", sport=5004, dport=9000)
        grant = grant_for(packet, not_before_unix_s=0)
        for command in (
            SetUplink(uplink="X", agreed=True),
            PayFlow(flow=flow_of(packet), grant=grant, amount_nanodollars=20),
        ):
            assert payer.on_message(msgspec.json.encode(command), time.monotonic_ns(), UNIX_S)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 500)
        sender.sendto(b"u" * 2000, ("10.9.0.2", 9000))
        assert [len(receiver.recv(4000)) for _ in range(4)] == [500] * 4
    assert counters.committed("link/X/sent_nanodollars") == (80 if checksums == "on" else 0)
    assert counters.committed("passed_unchanged") == (0 if checksums == "on" else 4)


def everything_from(tap: socket.socket) -> list[bytes]:
    packets = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packets.append(tap.recv(1 << 17))
    return packets


def real_plan(interface: str) -> HostPlan:
    uplink = UplinkPlan(name="X", interface_index=socket.if_nametoindex(interface), gateway_as=X)
    return HostPlan(uplinks=(uplink,))
