"""The queue of an egress: order of service, fairness, drops, and times to the nanosecond."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.tolls import CLASS_CONTROL, CLASS_PAID_HIGHEST, CLASS_UNPAID
from gateway.scheduler import NS_PER_S, QUANTUM_BYTES, Scheduler, SchedulerSettings, Waiting

RATE_BIT_S = 8_000_000  # a byte takes a microsecond
OVERHEAD = 14
S = NS_PER_S


def scheduler(**more: Any) -> Scheduler[int]:
    given_settings: dict[str, Any] = {"rate_bit_s": RATE_BIT_S, "limit_bytes": 10**9, "limit_packets": 10**6}
    return Scheduler(SchedulerSettings(**(given_settings | more)))


def waiting(item: int, *, size: int = 1000, flow: object = "flow", service_class: int = 1) -> Waiting[int]:
    return Waiting(item=item, size_bytes=size, flow=str(flow), service_class=service_class)


def served(queue: Scheduler[int], packets: int) -> list[Waiting[int]]:
    """The next packets in order of service, each at its deadline."""
    out: list[Waiting[int]] = []
    while len(out) < packets:
        deadline = queue.next_deadline_ns()
        assert deadline is not None
        out += queue.release(deadline)
    return out[:packets]


def keep_busy(
    queue: Scheduler[int], packets: int, next_packet: Callable[[int], list[Waiting[int]]]
) -> list[Waiting[int]]:
    """Serves that many; before each one the sources put in what they have."""
    out: list[Waiting[int]] = []
    for number in range(packets):
        for packet in next_packet(number):
            assert queue.offer(packet) == []
        out += served(queue, 1)
    return out


# --- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-13")
@pytest.mark.row("MV-35")
def test_higher_classes_go_first_and_control_before_all() -> None:
    queue = scheduler()
    order = list(range(CLASS_CONTROL + 1))
    random.Random(1).shuffle(order)
    for service_class in order:
        queue.offer(waiting(service_class, service_class=service_class))
    assert [packet.item for packet in served(queue, len(order))] == sorted(order, reverse=True)


def test_packets_of_a_flow_stay_in_order() -> None:
    queue = scheduler()
    for number in range(100):
        queue.offer(waiting(number, size=40 + number * 13, flow=number % 3))
    out = [packet.item for packet in served(queue, 100)]
    for flow in range(3):
        of_flow = [item for item in out if item % 3 == flow]
        assert of_flow == sorted(of_flow)


@pytest.mark.row("BP-13")
@pytest.mark.parametrize("paid_size", [40, 576, 1500])
@pytest.mark.parametrize("unpaid_size", [40, 576, 1500, 9000])
def test_the_lowest_class_keeps_its_share_under_any_load(paid_size: int, unpaid_size: int) -> None:
    queue = scheduler()

    def sources(number: int) -> list[Waiting[int]]:
        return [
            waiting(number, size=paid_size, service_class=CLASS_PAID_HIGHEST),
            waiting(number, size=unpaid_size, service_class=CLASS_UNPAID),
        ]

    out = keep_busy(queue, 6000, sources)
    lowest = sum(packet.size_bytes for packet in out if packet.service_class == CLASS_UNPAID)
    everything = sum(packet.size_bytes for packet in out)
    assert lowest >= 0.05 * everything - unpaid_size - QUANTUM_BYTES
    assert lowest <= 0.06 * everything + unpaid_size + QUANTUM_BYTES, "no more than the guarantee either"


@pytest.mark.row("BP-13")
def test_an_idle_lowest_class_saves_nothing_up() -> None:
    queue = scheduler()
    keep_busy(queue, 5000, lambda number: [waiting(number, service_class=4)])
    for number in range(50):
        queue.offer(waiting(number, service_class=CLASS_UNPAID))
        queue.offer(waiting(number, service_class=4))
    first = served(queue, 15)
    assert {packet.service_class for packet in first} == {4}


def test_without_a_guarantee_priority_is_strict() -> None:
    queue = scheduler(lowest_share_ppm=0)
    out = keep_busy(queue, 500, lambda n: [waiting(n, service_class=1), waiting(n, service_class=CLASS_UNPAID)])
    assert {packet.service_class for packet in out} == {1}


@pytest.mark.parametrize("sizes", [(1500, 1500, 1500), (1500, 40, 576), (9000, 100, 1500)])
def test_flows_of_a_class_share_evenly_whatever_their_packet_sizes(sizes: tuple[int, ...]) -> None:
    queue = scheduler()
    for flow, size in enumerate(sizes):
        for number in range(900_000 // size):
            queue.offer(waiting(number, size=size, flow=flow))
    out = served(queue, 1)
    while sum(packet.size_bytes for packet in out) < 600_000 * len(sizes):
        out += served(queue, 1)
    bytes_of: Counter[str] = Counter()
    for packet in out:
        bytes_of[str(packet.flow)] += packet.size_bytes
    fair = sum(bytes_of.values()) / len(sizes)
    assert all(abs(got - fair) <= 0.15 * fair for got in bytes_of.values()), bytes_of


def test_a_greedy_flow_does_not_delay_a_modest_one() -> None:
    queue = scheduler()
    for number in range(500):
        queue.offer(waiting(number, flow="greedy"))
    queue.offer(waiting(-1, size=100, flow="modest"))
    assert -1 in [packet.item for packet in served(queue, 5)]


# --- limit and drops -------------------------------------------------------------------------------------------------


def test_a_full_queue_drops_the_tail_of_the_longest_flow_of_the_lowest_class() -> None:
    queue = scheduler(limit_bytes=20_000)
    for number in range(6):
        queue.offer(waiting(number, flow="paid", service_class=3))
    for number in range(4):
        queue.offer(waiting(10 + number, flow="short", service_class=CLASS_UNPAID))
    for number in range(10):
        assert queue.offer(waiting(20 + number, flow="long", service_class=CLASS_UNPAID)) == []
    dropped = queue.offer(waiting(99, flow="short", service_class=CLASS_UNPAID))
    assert [packet.item for packet in dropped] == [29]
    dropped = queue.offer(waiting(100, flow="new", service_class=5))
    assert [packet.item for packet in dropped] == [28]
    assert queue.backlog_bytes == 20_000


def test_longest_is_in_bytes_to_within_a_full_packet() -> None:
    queue = scheduler(limit_bytes=20_000)
    for number in range(100):
        queue.offer(waiting(number, size=40, flow="many small"))
    for number in range(16):
        queue.offer(waiting(number, size=1000, flow="few big"))
    assert [packet.flow for packet in queue.offer(waiting(0, flow="another"))] == ["few big"]


def test_a_lower_class_never_pushes_a_higher_one_out() -> None:
    queue = scheduler(limit_bytes=10_000)
    for number in range(10):
        queue.offer(waiting(number, service_class=3))
    itself = waiting(77, flow="poor", service_class=2)
    assert queue.offer(itself) == [itself]
    richer = waiting(78, flow="rich", service_class=4)
    assert [packet.item for packet in queue.offer(richer)] == [9]


@pytest.mark.row("MV-35")
def test_control_traffic_is_never_dropped() -> None:
    queue = scheduler(limit_bytes=5_000, limit_packets=4)
    dropped = []
    for number in range(30):
        dropped += queue.offer(waiting(number, service_class=CLASS_CONTROL))
        dropped += queue.offer(waiting(number, service_class=CLASS_PAID_HIGHEST))
        dropped += queue.offer(waiting(number, service_class=CLASS_UNPAID))
    assert {packet.service_class for packet in dropped} == {CLASS_PAID_HIGHEST, CLASS_UNPAID}
    assert len([p for p in queue.drain() if p.service_class == CLASS_CONTROL]) == 30


def test_the_limit_counts_packets_too() -> None:
    """Held packets fill the kernel's queue, which lets packets pass when it is full: ours has to be full first."""
    queue = scheduler(limit_packets=100)
    dropped = [packet for number in range(250) for packet in queue.offer(waiting(number, size=40, flow=number % 7))]
    assert len(dropped) == 150
    assert queue.backlog_packets == 100


def test_many_flows_cost_no_more_than_few() -> None:
    """A flood of flows with a packet each must not make each drop a search through all of them."""
    queue = scheduler(limit_packets=3000)
    for number in range(3000):
        queue.offer(waiting(number, size=40, flow=number, service_class=CLASS_UNPAID))
    looked_at = 0

    class Watched(str):
        def __hash__(self) -> int:
            nonlocal looked_at
            looked_at += 1
            return super().__hash__()

    for number in range(100):
        packet = Waiting(item=number, size_bytes=40, flow=Watched(f"x{number}"), service_class=CLASS_UNPAID)
        assert len(queue.offer(packet)) == 1
    assert looked_at < 100 * 20


# --- time ------------------------------------------------------------------------------------------------------------


def test_release_times_follow_the_rate_exactly() -> None:
    queue = scheduler(burst_ns=0)
    assert queue.passes_at_once(986, S)
    for number in range(5):
        assert not queue.passes_at_once(986, S)
        queue.offer(waiting(number, size=986))
    for number in range(5):
        due = S + (number + 1) * 1_000_000  # 1000 bytes with the frame's overhead
        assert queue.next_deadline_ns() == due
        assert queue.release(due - 1) == []
        assert [packet.item for packet in queue.release(due)] == [number]
    assert queue.next_deadline_ns() is None


def test_a_burst_may_run_ahead_by_its_time_and_no_more() -> None:
    queue = scheduler(burst_ns=3_000_000)
    passed = 0
    while queue.passes_at_once(986, S):
        passed += 1
    assert passed == 4, "three that fit the burst and the one that fills it"


def test_late_release_loses_no_more_than_the_lateness() -> None:
    """A timer that comes late must not make the link idle for longer than it was late."""
    queue = scheduler(burst_ns=2_000_000)
    for number in range(100):
        queue.offer(waiting(number, size=986))
    out = queue.release(S)
    assert len(out) == 3
    late = queue.release(S + 10_000_000)
    assert len(late) == 3
    assert len(queue.release(S + 11_000_000)) == 1


@given(st.lists(st.tuples(st.integers(20, 3000), st.integers(0, 20_000_000)), min_size=1, max_size=80))
def test_it_conserves_work_and_never_beats_the_rate(arrivals: list[tuple[int, int]]) -> None:
    """The link is never idle while something waits, and never ahead of its rate by more than the burst."""
    queue = scheduler(burst_ns=0)
    now = free_at = S
    for size, pause in arrivals:
        end = now + pause
        while (due := queue.next_deadline_ns()) is not None and due <= end:
            assert due == free_at, "released as soon as the link is free"
            for packet in queue.release(due):
                free_at += (packet.size_bytes + OVERHEAD) * 1000
        now = end
        if queue.passes_at_once(size, now):
            assert free_at <= now
            free_at = now + (size + OVERHEAD) * 1000
        else:
            assert free_at > now, "it waits only while the link is busy"
            queue.offer(waiting(0, size=size))


steps = st.one_of(
    st.tuples(st.just("offer"), st.integers(20, 9000), st.integers(0, 5), st.integers(CLASS_UNPAID, CLASS_CONTROL)),
    st.tuples(st.just("release"), st.integers(0, 30_000_000), st.just(0), st.just(0)),
)


@given(st.lists(steps, max_size=150), st.integers(3028, 40_000), st.integers(1, 30))
def test_nothing_is_lost_and_nothing_comes_twice(
    script: list[tuple[str, int, int, int]], limit_bytes: int, limit_packets: int
) -> None:
    queue = scheduler(limit_bytes=limit_bytes, limit_packets=limit_packets)
    now = S
    put_in: list[int] = []
    came_out: list[int] = []
    for number, (what, value, flow, service_class) in enumerate(script):
        if what == "offer":
            put_in.append(number)
            packet = waiting(number, size=value, flow=flow, service_class=service_class)
            came_out += [dropped.item for dropped in queue.offer(packet)]
        else:
            now += value
            came_out += [released.item for released in queue.release(now)]
        assert queue.backlog_packets == len(put_in) - len(came_out)
    came_out += [left.item for left in queue.drain()]
    assert sorted(came_out) == put_in
    assert (queue.backlog_packets, queue.backlog_bytes) == (0, 0)
    assert queue.next_deadline_ns() is None
