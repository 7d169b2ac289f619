from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.streaming.reception import Buffer, Counter, Counts, Ecn, Screen

S = 1_000_000_000


def buffer(*, seconds: int = 30, buffer_s: int = 8) -> Buffer:
    return Buffer(buffer_ns=buffer_s * S, duration_ns=seconds * S, tail_ns=S)


def test_marks_are_counted_apart_from_packets() -> None:
    counter = Counter()
    for sequence, ecn in enumerate((Ecn.ECT_0, Ecn.CE, Ecn.NOT_ECT, Ecn.CE, Ecn.ECT_1)):
        counter.on_packet(sequence=sequence, wire_bytes=1_000, ecn=ecn)
    assert counter.counts == Counts(packets=5, bytes=5_000, ce=2, ect=2, lost=0)


@given(first=st.integers(0, 0xFFFF), gone=st.sets(st.integers(1, 198)), swaps=st.lists(st.integers(0, 150), max_size=9))
def test_what_is_lost(first: int, gone: set[int], swaps: list[int]) -> None:
    """Over the wrap of the sequence, and in any order that is not too far off."""
    sent = [(first + number) & 0xFFFF for number in range(200) if number not in gone]
    for place in swaps:
        if 0 < place < len(sent) - 2:
            sent[place], sent[place + 1] = sent[place + 1], sent[place]
    counter = Counter()
    for sequence in sent:
        counter.on_packet(sequence=sequence, wire_bytes=1, ecn=Ecn.ECT_0)
    assert counter.counts.lost == len(gone)


def test_a_far_jump_is_no_loss() -> None:
    counter = Counter()
    for sequence in (10, 11, 30_000, 12):
        counter.on_packet(sequence=sequence, wire_bytes=1, ecn=Ecn.ECT_0)
    assert counter.counts.lost == 0


@pytest.mark.row("DPH-31")
def test_it_plays_when_the_buffer_is_there_and_bears_as_long_an_outage() -> None:
    """8 s are buffered; after 10 s of video nothing comes for 7.9 s: nobody sees it."""
    held = buffer()
    for second in range(1, 11):
        held.on_media(second * S, second * S)
        assert held.screen is (Screen.PLAYING if second >= 8 else Screen.FILLING)
    held.look(int(17.9 * S))
    assert held.filled_ns == pytest.approx(0.1 * S)
    held.on_media(int(17.9 * S), 18 * S)
    assert (held.stalls, held.stalled_ns, held.screen) == (0, 0, Screen.PLAYING)


@pytest.mark.row("DPH-31")
def test_a_longer_outage_stalls_for_what_is_beyond() -> None:
    held = buffer()
    held.on_media(0, 8 * S)  # plays at once
    held.look(5 * S)
    held.look(11 * S)
    assert (held.stalls, held.stalled_ns, held.screen) == (1, 3 * S, Screen.STALLED)
    held.on_media(12 * S, 9 * S)  # one second is too little to go on with
    assert held.screen is Screen.STALLED
    held.on_media(13 * S, 10 * S)
    assert (held.stalls, held.stalled_ns, held.screen) == (1, 5 * S, Screen.PLAYING)


def test_the_end_is_no_stall() -> None:
    held = buffer(seconds=10)
    held.on_media(0, 8 * S)
    held.on_media(2 * S, 10 * S)
    held.look(9 * S)
    assert held.screen is Screen.PLAYING
    held.look(10 * S)
    assert (held.screen, held.stalls, held.filled_ns) == (Screen.OVER, 0, 0)


def test_nobody_waits_for_a_tail_that_was_lost() -> None:
    held = buffer(seconds=4, buffer_s=8)
    held.on_media(0, int(3.2 * S))
    held.look(5 * S)
    assert (held.screen, held.stalls) == (Screen.OVER, 0)


@given(
    steps=st.lists(st.tuples(st.integers(0, 4 * S), st.integers(0, 3 * S)), max_size=40),
    buffer_s=st.integers(1, 10),
)
def test_time_is_shown_or_stalled_or_filling(steps: list[tuple[int, int]], buffer_s: int) -> None:
    held = buffer(seconds=60, buffer_s=buffer_s)
    now_ns = arrived_ns = 0
    began_ns: int | None = None
    for passed_ns, more_ns in steps:
        now_ns += passed_ns
        arrived_ns = min(60 * S, arrived_ns + more_ns)
        held.on_media(now_ns, arrived_ns)
        assert 0 <= held.filled_ns <= arrived_ns
        if began_ns is None and held.screen is Screen.PLAYING:
            began_ns = now_ns
        if began_ns is not None and held.screen is not Screen.OVER:
            assert now_ns - began_ns == arrived_ns - held.filled_ns + held.stalled_ns
