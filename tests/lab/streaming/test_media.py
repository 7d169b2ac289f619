from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab.streaming.media import PAYLOAD_BYTES, MediaPacket, cut, packet_bytes, parse_packet, wire_bytes

PACKETS = st.builds(
    MediaPacket,
    level=st.integers(0, 31),
    sequence=st.integers(0, 0xFFFF),
    media_ns=st.integers(0, 90_000 * 3_600).map(lambda stamp: -(-stamp * 1_000_000_000 // 90_000)),
    stream=st.integers(0, 2**32 - 1),
    ends_segment=st.booleans(),
    payload=st.binary(min_size=1, max_size=40),
)


@given(packet=PACKETS)
def test_there_and_back(packet: MediaPacket) -> None:
    assert parse_packet(packet_bytes(packet)) == packet


@given(data=st.binary(max_size=40))
def test_what_is_not_ours_is_none(data: bytes) -> None:
    packet = parse_packet(data)
    assert packet is None or packet_bytes(packet) == data


def test_the_header_is_that_of_rfc_3550() -> None:
    """Read by hand: version 2, payload type 98 with marker, sequence 5, two seconds at 90 kHz, its stream."""
    packet = MediaPacket(level=2, sequence=5, media_ns=2_000_000_000, stream=7, ends_segment=True, payload=b"G")
    assert packet_bytes(packet).hex() == "80e20005" + "0002bf20" + "00000007" + "47"


def test_a_segment_is_cut_evenly_over_its_time() -> None:
    segment = bytes(range(256)) * 20  # 5,120 bytes: three whole packets and a rest
    packets = cut(segment, level=1, start_ns=3_000, length_ns=512_000, sequence=0xFFFE, stream=9)
    assert b"".join(packet.payload for packet in packets) == segment
    assert [packet.sequence for packet in packets] == [0xFFFE, 0xFFFF, 0, 1]
    assert [packet.media_ns for packet in packets] == [3_000 + 100 * PAYLOAD_BYTES * number for number in range(4)]
    assert [packet.ends_segment for packet in packets] == [False, False, False, True]


def test_rates_count_at_the_ip_layer() -> None:
    assert wire_bytes(1_316, 4) == 1_316 + 12 + 8 + 20
    assert wire_bytes(1_316, 6) == 1_316 + 12 + 8 + 40
