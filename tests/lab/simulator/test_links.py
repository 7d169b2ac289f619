"""Links of the packet mode: queues against the textbook's recursion, marks against closed forms."""

from __future__ import annotations

import math
import random

import pytest

from billpay.marking import Draw, RedSettings, Rem, RemSettings, VirtualLink, VirtualQueue, VirtualRed, price_of_marks
from lab.simulator.events import Packet, Timeline
from lab.simulator.experiment import MARKING_DEFAULTS, Link, Marking, MarkingKind
from lab.simulator.links import FifoLink, LinkSettings
from lab.simulator.rules import rule_of
from lab.simulator.sources import PoissonSource, Receiver

MS = 1_000_000
TEN_MEGABIT = LinkSettings(rate_bit_s=10_000_000, delay_ns=5 * MS, buffer_bytes=10**9)
VIRTUAL = VirtualLink(capacity_bytes_per_s=1_250_000, buffer_bytes=10_000)


class Chance:
    """Marks with one probability."""

    def __init__(self, share: float) -> None:
        self._share = share

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:
        return draw() < self._share


class Noted:
    """The end of a route: when each packet came."""

    def __init__(self, line: Timeline) -> None:
        self._line = line
        self.seen: list[tuple[int, int]] = []

    def arrive(self, packet: Packet) -> None:
        self.seen.append((packet.number, self._line.now_ns))


def no_chance() -> float:
    raise AssertionError("nothing here hangs on chance")


def test_a_fifo_is_lindleys_recursion_and_drops_what_does_not_fit() -> None:
    line = Timeline()
    link = FifoLink(
        line, LinkSettings(rate_bit_s=8_000_000, delay_ns=7 * MS, buffer_bytes=5_000), None, no_chance
    )  # 1 µs for each byte
    end = Noted(line)
    chance = random.Random(3)
    now_ns, free_ns, expected, dropped = 0, 0, [], 0
    for number in range(2_000):
        now_ns += chance.randrange(0, 2 * MS)
        size = chance.randrange(40, 1500)
        packet = Packet((link, end), size, number, now_ns)
        line.schedule(now_ns, link.arrive, packet)
        leaves_ns = max(free_ns, now_ns) + size * 1000
        if leaves_ns - now_ns > 5_000_000:
            dropped += 1
        else:
            free_ns = leaves_ns
            expected.append((number, leaves_ns + 7 * MS))
    line.run_until(now_ns + 10**9)
    assert end.seen == expected
    assert link.dropped_packets == dropped > 0
    assert link.arrived_packets == 2_000
    assert link.backlog_bytes() == 0


def test_waits_are_those_of_an_md1_queue() -> None:
    """Mean wait of M/D/1 at load 0.8: rho/(2 (1 − rho)) of a service time."""
    line = Timeline()
    link = FifoLink(line, TEN_MEGABIT, None, no_chance)
    PoissonSource(line, (link, Receiver(line)), [(0, 8_000_000)], random.Random(1).random)
    line.run_until(120 * 10**9)
    assert link.waits.mean_ns == pytest.approx(0.8 / (2 * 0.2) * 800_000, rel=0.05)
    assert 6 < link.waits.quantile_ns(0.99) / 800_000 < 12


def test_marks_of_two_links_add_up_as_prices_do() -> None:
    line = Timeline()
    chance = random.Random(2).random
    rules = [Rem(VIRTUAL, RemSettings(gain=0.0)) for _ in range(2)]
    for rule, share in zip(rules, (0.1, 0.2), strict=True):
        rule.price = -math.log1p(-share) / math.log(1.001)
    links = tuple(FifoLink(line, TEN_MEGABIT, rule, chance) for rule in rules)
    end = Receiver(line)
    PoissonSource(line, (*links, end), [(0, 5_000_000)], random.Random(1).random)
    line.run_until(80 * 10**9)
    assert links[0].marked_packets / links[0].arrived_packets == pytest.approx(0.1, rel=0.05)
    assert end.marks / end.packets == pytest.approx(0.28, rel=0.02)
    assert price_of_marks(end.marks / end.packets, 1.001) == pytest.approx(sum(rule.price for rule in rules), rel=0.03)


@pytest.mark.row("DPH-01")
@pytest.mark.parametrize(
    ("load", "buffer_packets", "share"), [(0.8, 10, 0.0878), (0.9, 10, 0.327), (0.95, 10, 0.492), (1.0, 10, 0.659)]
)
def test_a_virtual_queue_marks_poisson_arrivals_as_known(load: float, buffer_packets: int, share: float) -> None:
    """The open-loop table; marks begin where nothing is lost yet."""
    line = Timeline()
    virtual = VirtualLink(capacity_bytes_per_s=1_250_000, buffer_bytes=buffer_packets * 1000)
    real = LinkSettings(rate_bit_s=10_000_000, delay_ns=0, buffer_bytes=100_000 + buffer_packets * 10_000)
    link = FifoLink(line, real, VirtualQueue(virtual), no_chance)
    PoissonSource(line, (link, Receiver(line)), [(0, round(load * 10_000_000))], random.Random(1).random)
    line.run_until(round(80_000 * 800_000 / load))
    assert link.arrived_packets == pytest.approx(80_000, rel=0.02)
    assert link.marked_packets / link.arrived_packets == pytest.approx(share, rel=0.1)
    if load < 0.95:
        assert link.dropped_packets == 0


@pytest.mark.row("DPH-20")
def test_red_of_an_experiment_is_altqs() -> None:
    marking = Marking(kind=MarkingKind.RED, **MARKING_DEFAULTS[MarkingKind.RED])
    rule = rule_of(Link(name="a", rate_bit_s=1e7, marking=marking), packet_bytes=1000)
    assert isinstance(rule, VirtualRed)
    assert rule._settings == RedSettings()  # the settings themselves are tested with the rule


@pytest.mark.parametrize("kind", list(MarkingKind))
def test_every_rule_marks_an_overload_and_not_an_idle_link(kind: MarkingKind) -> None:
    line = Timeline()
    link = Link(name="a", rate_bit_s=1e7, marking=Marking(kind=kind, **MARKING_DEFAULTS[kind]))
    fifo = FifoLink(line, TEN_MEGABIT, rule_of(link, packet_bytes=1000), random.Random(5).random)
    end = Receiver(line)
    PoissonSource(line, (fifo, end), [(0, 1_000_000), (8 * 10**9, 13_000_000)], random.Random(4).random)
    line.run_until(8 * 10**9)
    quiet = fifo.marked_packets
    line.run_until(14 * 10**9)
    if kind is MarkingKind.NONE:
        assert fifo.marked_packets == 0
        return
    assert quiet <= 5
    assert fifo.marked_packets - quiet > (20 if kind is MarkingKind.REM else 300)  # at REM's own slow gain


@pytest.mark.parametrize(
    ("mean", "marked", "loss"), [(7, 0.169504, None), (8, 0.283376, 0.425864), (10, 0.542070, None)]
)
def test_overloaded_slots_cost_what_one_more_packet_makes_them_lose(
    mean: int, marked: float, loss: float | None
) -> None:
    """Gibbens and Kelly's shadow price: mark all packets of a slot with more than C = 10, and the marked share is
    P(Y ≥ C), the derivative of what is lost."""
    line = Timeline()
    end = Noted(line)
    slots = 10_000
    PoissonSource(line, (end,), [(0, mean * 8_000_000)], random.Random(6).random)  # `mean` packets of 1000 B in a ms
    line.run_until(slots * MS)
    counts = [0] * slots
    for _, when_ns in end.seen:
        counts[when_ns // MS] += 1
    over = sum(count for count in counts if count > 10)
    assert over / len(end.seen) == pytest.approx(marked, rel=0.1)
    if loss is not None:
        assert sum(max(0, count - 10) for count in counts) / len(counts) == pytest.approx(loss, rel=0.1)
