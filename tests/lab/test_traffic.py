"""When datagrams are due, what numbered ones look like, and what is read of TCP's own counters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab.traffic import Pace, numbered_payload
from lab.transfers import read_received

S = 1_000_000_000


def test_a_steady_pace_sends_one_at_a_time() -> None:
    pace = Pace(packets_per_s=100, start_ns=0)
    assert pace.due(0) == 1
    assert pace.due(9_999_999) == 0
    assert pace.wait_s(5_000_000) == 0.005
    assert pace.due(10_000_000) == 1
    assert pace.due(30_000_000) == 2


def test_after_a_long_stop_there_is_no_burst() -> None:
    pace = Pace(packets_per_s=1000, start_ns=0)
    assert pace.due(10 * S) == 32
    assert pace.due(10 * S) == 1
    assert pace.due(10 * S) == 0


@given(st.integers(1, 20_000), st.lists(st.integers(0, S // 100), min_size=1, max_size=200))
def test_never_more_than_the_rate(packets_per_s: int, gaps: list[int]) -> None:
    pace = Pace(packets_per_s=packets_per_s, start_ns=0)
    now_ns = sent = 0
    for gap in gaps:
        now_ns += gap
        sent += pace.due(now_ns)
        assert sent <= now_ns // (S // packets_per_s) + 1


def test_numbered_payloads_have_the_wanted_size() -> None:
    assert len(numbered_payload(1, 2, 200)) == 200
    assert len(numbered_payload(1, 2, 0)) == 16
    assert numbered_payload(3, 258, 0).endswith(b"\0\3" + (258).to_bytes(8, "big"))


def test_received_bytes_are_read_for_each_peer() -> None:
    output = (
        "ESTAB 0 0 10.77.200.2:5201 10.77.200.1:37514 cubic wscale:7,7 rto:204 bytes_received:1234 segs_in:3\n"
        "ESTAB 0 0 10.77.200.2:5201 10.77.200.1:37515 cubic bytes_received:99 segs_in:3\n"
        "ESTAB 0 0 10.77.200.2:5201 10.77.200.1:37516 cubic segs_in:3\n"
    )
    assert read_received(output) == {"10.77.200.1:37514": 1234, "10.77.200.1:37515": 99}
