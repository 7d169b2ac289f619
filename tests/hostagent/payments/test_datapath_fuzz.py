"""Whatever arrives, each packet goes on, nothing is raised, and no nanodollar that came is lost or made."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from gateway_network import A_V4, A_V6, B_V4, B_V6, FREE, X, Y, Z, header_of, named, paying, plain, segment
from hypothesis import given
from hypothesis import strategies as st
from one_host import BOTH, Host, plan_host, turned

from billpay.header import Slot
from dataplane.port import Packet, Verdict
from hostagent.payments.commands import SetUplink, Tick
from hostagent.payments.flowtable import IDLE_NS
from hostagent.payments.plan import INPUT_QUEUE, OUTPUT_QUEUE

FLOWS = [plain(*addresses, sport=port, size=20) for addresses in BOTH for port in (5, 6)] + [segment()]
OPPOSITES = [turned(addresses, dport=port, size=20) for addresses in BOTH for port in (5, 6)]
OPPOSITES.append(segment(B_V4, A_V4, sport=443, dport=40000))

which = st.sampled_from((0, 0, 0, *range(len(FLOWS))))
via = st.sampled_from("XXXZ")
amounts = st.sampled_from((0, 1, 9, 9, 20, 0xFF_FFFF))
arrive = st.tuples(st.just("arrive"), which, amounts, st.sampled_from((X, X, X, Z, Y)), via)
leave = st.tuples(st.just("leave"), which, st.integers(1, 3), via)
pay = st.tuples(st.just("pay"), which, amounts, st.integers(0, 2000), st.integers(0, 1))
give_back = st.tuples(
    st.just("give_back"), which, st.integers(0, 12), amounts, st.sampled_from((0, 30, 10**9)), st.integers(0, 1)
)
others = st.one_of(
    st.tuples(st.just("drop"), which),
    st.tuples(st.just("silence"), st.sampled_from((1, IDLE_NS // 2, IDLE_NS))),
    st.tuples(st.just("agree"), via, st.booleans()),
    st.just(("restart",)),
)
steps = st.lists(st.one_of(arrive, arrive, leave, leave, pay, give_back, others), min_size=10, max_size=60)


@dataclass(slots=True)
class Story:
    """A host and what an onlooker writes down: payments on the wire, and the greatest cap of every grant."""

    host: Host = field(default_factory=Host)
    on_wire: int = 0
    arrived: int = 0
    serial: int = 0
    caps: Counter[str] = field(default_factory=Counter)

    def tell(self, step: tuple[object, ...]) -> None:
        name, *arguments = step
        getattr(self, str(name))(*arguments)

    def arrive(self, flow: int, amount: int, by: int, via: str) -> None:
        packet = named(OPPOSITES[flow], amount, Slot(X, 0x801, 1), FREE, by=by)
        agreed = self.host.core.uplinks[via].agreed
        assert self.host.arrive(packet, via=via) == [packet]
        if agreed and by == {"X": X, "Z": Z}[via]:
            self.arrived += amount

    def leave(self, flow: int, times: int, via: str) -> None:
        for packet in self.host.leave(*[FLOWS[flow]] * times, via=via):
            header = header_of(packet)
            self.on_wire += header.amount if header is not None else 0

    def pay(self, flow: int, amount: int, cap: int, number: int) -> None:
        grant = f"{flow:016x}{number:016x}"
        self.serial += 1
        self.caps[grant] = max(self.caps[grant], cap)
        self.host.pay(FLOWS[flow], amount, FREE, cap=cap, grant=grant, serial=self.serial)

    def give_back(self, flow: int, share: int, ceiling: int, cap: int, number: int) -> None:
        grant = f"{flow:016x}{number + 8:016x}"
        self.serial += 1
        self.host.give_back(
            FLOWS[flow], share=share, ceiling=ceiling, cap=cap, grant=grant, serial=self.serial, burst=10**12
        )

    def drop(self, flow: int) -> None:
        self.host.drop(FLOWS[flow])

    def silence(self, duration_ns: int) -> None:
        self.host.plane.advance(duration_ns)
        self.host.obey(Tick())

    def agree(self, via: str, agreed: bool) -> None:
        self.host.obey(SetUplink(uplink=via, agreed=agreed))

    def restart(self) -> None:
        self.host = self.host.restarted()

    def check(self) -> None:
        host = self.host
        host.assert_conserved()
        assert host.received("X") + host.received("Z") == self.arrived
        assert host.sent("X") + host.sent("Z") == self.on_wire
        assert all(value >= 0 for value in host.counters.snapshot().values())
        for grant, cap in self.caps.items():
            assert host.count(f"grant/{grant}/spent_nanodollars") <= cap


@pytest.mark.row("BP-09")
@given(steps)
def test_money_is_conserved_to_the_nanodollar(story: list[tuple[object, ...]]) -> None:
    """received = share + refunded + returned + unreturned + pools in hand, whatever happens in whatever order."""
    told = Story()
    for step in story:
        told.tell(step)
        told.check()


def test_money_is_conserved_over_a_long_time() -> None:
    draw = random.Random(5)
    told = Story()
    names = ["arrive"] * 8 + ["leave"] * 8 + ["pay", "give_back"] * 2 + ["drop", "silence", "agree", "restart"]
    for _ in range(1500):
        flow, via, amount = draw.randrange(len(FLOWS)), draw.choice("XZ"), draw.choice((0, 1, 9, 20))
        match draw.choice(names):
            case "arrive":
                told.arrive(flow, amount, draw.choice((X, X, Z)), via)
            case "leave":
                told.leave(flow, 2, via)
            case "pay":
                told.pay(flow, amount, draw.randrange(3000), draw.randrange(2))
            case "give_back":
                told.give_back(flow, draw.randrange(3), 50, draw.randrange(10**5), draw.randrange(2))
            case "drop":
                told.drop(flow)
            case "silence":
                told.silence(draw.choice((1, IDLE_NS)))
            case "agree":
                told.agree(via, draw.random() < 0.8)
            case "restart":
                told.restart()
        told.check()
    assert told.host.books()["returned"] > 0 < told.host.books()["refunded"]
    assert told.host.books()["unreturned"] > 0 < told.host.books()["share"]


# --- any bytes -------------------------------------------------------------------------------------------------------

SOUND = [
    *FLOWS,
    *OPPOSITES,
    paying(FLOWS[0], 20, FREE, FREE),
    named(OPPOSITES[0], 9, Slot(X, 0x803, 1), by=X),
    named(OPPOSITES[2], 9, Slot(X, 0x803, 1), by=X),
    named(segment(B_V6, A_V6), 9, by=X),
    named(plain(B_V4, A_V4, sport=1, dport=7416), 9, FREE, by=X),
]


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A packet that was sound once: cut off, with bytes changed, or with bytes appended."""
    packet = bytearray(draw(st.sampled_from(SOUND)))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6)):
        if at < len(packet):
            packet[at] = value
    return bytes(packet[: draw(st.integers(0, len(packet)))]) + draw(st.binary(max_size=4))


def ready_host() -> Host:
    peers = frozenset({bytes((10, 0, 2, 1))})
    host = Host(plan_host(peers=peers))
    for number, packet in enumerate(FLOWS[:3]):
        host.pay(packet, 20, FREE, grant=f"{number:032x}")
    host.give_back(FLOWS[3])
    return host


@given(st.lists(st.one_of(st.binary(max_size=100), broken()), max_size=20), st.booleans())
def test_any_bytes_get_an_accepting_verdict(payloads: list[bytes], leaving: bool) -> None:
    host = ready_host()
    queue = OUTPUT_QUEUE if leaving else INPUT_QUEUE
    batch = [Packet(number, queue, 3, 7, payload, False) for number, payload in enumerate(payloads)]
    verdicts = host.core.on_batch(batch, 5)
    assert len(verdicts) == len(batch)
    for packet, verdict in zip(batch, verdicts, strict=True):
        assert isinstance(verdict, Verdict)
        assert verdict[:4] == (packet.packet_id, queue, True, 7)
        if verdict.payload is not None:
            assert verdict.payload[0] >> 4 == packet.payload[0] >> 4
            assert len(verdict.payload) >= len(packet.payload)
    host.plane.deliver()
    host.assert_conserved()
    assert host.core.on_timer(6) == host.core.on_drain(7) == ()
    assert host.core.next_deadline_ns() is None
