"""An offloaded packet pays for each of the packets that it becomes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from billpay.segments import Segments, segments_of
from billpay.tolls import EgressToll, TollSchedule

TCP_OPTIONS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]


def transfer(content: int, *, version: int = 4) -> bytes:
    network = IP(src="10.0.0.1", dst="10.0.1.1") if version == 4 else IPv6(src="fd00::1", dst="fd00:1::1")
    return bytes(network / TCP(options=TCP_OPTIONS) / Raw(b"t" * content))


def test_segments_are_counted_as_they_leave() -> None:
    assert segments_of(transfer(5000), 1448) == Segments(4, 5000 + 4 * 52, 52)
    assert segments_of(transfer(5000, version=6), 1428) == Segments(4, 5000 + 4 * 72, 72)
    assert segments_of(transfer(1448), 1448) == Segments(1, 1500, 52)
    datagrams = bytes(IP(src="10.0.0.1", dst="10.0.1.1") / UDP() / Raw(b"u" * 3601))
    assert segments_of(datagrams, 1200) == Segments(4, 3601 + 4 * 28, 28)


def test_what_is_not_cut_is_one_packet() -> None:
    assert segments_of(transfer(5000), 0) == Segments(1, 5052, 0)
    fragment = bytes(IP(src="10.0.0.1", dst="10.0.1.1", flags="MF") / UDP() / Raw(b"u" * 3000))
    assert segments_of(fragment, 1200) == Segments(1, len(fragment), 0)
    assert segments_of(b"", 1200) == Segments(1, 0, 0)
    assert segments_of(b"\x45" * 30, 1200) == Segments(1, 30, 0)


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 45), st.integers(40, 1500)), min_size=1, max_size=40),
    st.builds(
        TollSchedule,
        fixed_nanodollars_per_packet=st.integers(0, 100),
        fixed_picodollars_per_byte=st.integers(0, 50),
        proportional_ppm=st.integers(0, 1_000_000),
        cap_nanodollars=st.none() | st.integers(0, 1000),
    ),
)
def test_nothing_of_their_tolls_is_lost_and_none_pays_more_than_it_has(
    packets: list[tuple[int, int, int]], schedule: TollSchedule
) -> None:
    link, taken = EgressToll(schedule), 0
    kept_in_all = 0
    for amount, segments, size in packets:
        toll = link.picodollars(size * segments, amount, segments)
        assert toll <= link.picodollars(size, amount) * segments
        kept = link.retain(toll, amount, segments)
        assert 0 <= kept <= amount
        kept_in_all += kept * segments
        taken += min(toll, amount * 1000 * segments)
    assert kept_in_all * 1000 + link.carry_picodollars == taken
