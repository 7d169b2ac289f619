"""The wire's core: what it delays, loses and lets others overtake; no clock, no sockets."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from lab.wire import Harm, WireCore

MS = 1_000_000
CLEAN = Harm()


def frames(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(count)]


def test_without_harm_frames_pass_at_once_and_in_order() -> None:
    core = WireCore(lambda: 0.0)
    for frame in frames(5):
        core.on_frame(frame, CLEAN, 7)
    assert core.take_due(7) == frames(5)
    assert core.next_deadline_ns() is None
    assert (core.forwarded, core.lost, core.reordered) == (5, 0, 0)


def test_delay_holds_each_frame_as_long() -> None:
    core = WireCore(lambda: 0.0)
    core.on_frame(b"a", Harm(delay_ns=20 * MS), 0)
    core.on_frame(b"b", Harm(delay_ns=20 * MS), 5 * MS)
    assert core.next_deadline_ns() == 20 * MS
    assert core.take_due(20 * MS - 1) == []
    assert core.take_due(20 * MS) == [b"a"]
    assert core.take_due(25 * MS) == [b"b"]


def test_an_overtaken_frame_comes_behind_later_ones() -> None:
    draws = iter([0.0, 0.9])  # the first frame is to be overtaken, the second not
    core = WireCore(lambda: next(draws))
    harm = Harm(reorder_ppm=500_000)
    core.on_frame(b"first", harm, 0)
    core.on_frame(b"second", harm, MS)
    assert core.take_due(10 * MS) == [b"second", b"first"]
    assert core.reordered == 1


def test_loss_is_as_frequent_as_asked_for_and_the_same_each_time() -> None:
    counts = []
    for _ in range(2):
        core = WireCore(random.Random(3).random)
        for frame in frames(20_000):
            core.on_frame(frame, Harm(loss_ppm=10_000), 0)
            core.take_due(0)
        counts.append(core.lost)
    assert counts[0] == counts[1]
    assert 150 < counts[0] < 250


def test_a_full_wire_drops_and_counts() -> None:
    core = WireCore(lambda: 0.0)
    for frame in frames(5000):
        core.on_frame(frame, Harm(delay_ns=MS), 0)
    assert core.overflowed == 1000
    assert len(core.take_due(MS)) == 4000


@given(
    st.integers(0, 1_000_000),
    st.integers(0, 1_000_000),
    st.integers(0, 10 * MS),
    st.lists(st.integers(0, MS)),
    st.randoms(),
)
def test_every_frame_is_forwarded_or_counted(
    loss_ppm: int, reorder_ppm: int, delay_ns: int, gaps: list[int], rng: random.Random
) -> None:
    core = WireCore(rng.random)
    now_ns = 0
    out = []
    for number, gap in enumerate(gaps):
        now_ns += gap
        core.on_frame(
            bytes([number % 256]), Harm(delay_ns=delay_ns, loss_ppm=loss_ppm, reorder_ppm=reorder_ppm), now_ns
        )
        out += core.take_due(now_ns)
    out += core.take_due(now_ns + 100 * MS)
    assert len(out) + core.lost == len(gaps)
