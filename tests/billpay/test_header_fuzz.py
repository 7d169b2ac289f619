"""The packet path never raises, whatever a packet contains, and never takes damage for another header.

The corpus is what the specification shows plus the unusual layouts; each is cut at every length, and each bit of
it is flipped once.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay import header as h
from billpay import mac, packet, tunnel
from billpay.header import CannotCarry, Header, Located, Malformed

KEY = bytes(range(16))
HEADER = h.encode(Header(20, 0, (h.Slot(0, 0, 0),), bytes(6)))
CARRIERS = ("ipv4-first-hop", "ipv4-after-y", "ipv6-first-hop", "ipv6-no-slots")


def drive(data: bytes) -> Located | Malformed | None:
    """Everything that a gateway does to a packet, in its order; checks what must hold for any bytes at all."""
    located = h.locate(data, max_amount=1000)
    flow = packet.flow_key(data)
    inserted = h.insert(data, HEADER, mtu=1500)
    assert isinstance(inserted, CannotCarry) or h.strip(inserted, located_in(inserted)) == data
    packet.clamp_mss(data, 20)
    packet.finish_checksum(data)
    packet.decrement_ttl(data)
    tunnel.open_outer(data)
    tunnel.decapsulate(data, outer_tos=data[0] if data else 0)
    if not isinstance(located, Located):
        return located
    offset, count, version, start, length = located
    end_of_ip_header = (data[0] & 15) * 4 if version == 4 else 48 + 8 * data[41]
    assert start + length <= end_of_ip_header <= len(data)
    assert offset + h.header_size(count) <= start + length
    assert flow is not None
    assert h.amount_of(data, located) <= 1000
    index = h.find_slot(data, located, 64512)
    mac.matching_epoch(KEY, flow, 29_000_000, h.base_and_slots(data, located), h.mac_field(data, located))
    slot = None if index is None else h.isp_oad(64512, available=(1,), choice=1)
    field = h.last_gateway_field(64512)
    updated = h.update(data, located, amount=0, path_length=1, slot_index=index, slot=slot, mac_field=field)
    assert len(updated) == len(data)
    assert h.locate(updated, max_amount=0) == located
    assert len(h.strip(data, located)) == len(data) - length
    return located


def located_in(data: bytes) -> Located:
    located = h.locate(data)
    assert isinstance(located, Located)
    return located


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    drive(data)


@given(st.integers(0x45, 0x4F), st.binary(min_size=60, max_size=100))
def test_arbitrary_options_behind_an_ipv4_header(first: int, data: bytes) -> None:
    drive(bytes((first,)) + data)


@given(st.binary(min_size=19, max_size=19), st.lists(st.sampled_from(range(256)), max_size=4), st.data())
def test_arbitrary_ipv4_option_lists(rest: bytes, noise: list[int], data: st.DataObject) -> None:
    ours = b"\x9e" + bytes((len(HEADER) + 2,)) + HEADER
    pieces = data.draw(st.permutations([ours, b"\x01", b"\x94\x04\0\0", bytes(noise)]))
    drive(b"\x4f" + rest + b"".join(pieces).ljust(40, b"\0") + b"payload")


@given(st.integers(0, 255), st.integers(0, 8), st.binary(max_size=80))
def test_arbitrary_hop_by_hop_headers(following: int, words: int, data: bytes) -> None:
    drive(b"\x60" + bytes(5) + b"\0\x40" + bytes(32) + bytes((following, words, 0x3E)) + data)


def truncations(data: bytes) -> Iterator[bytes]:
    return (data[:size] for size in range(len(data)))


def bit_flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    whole = int.from_bytes(data, "big")
    size = len(data)
    return ((8 * size - 1 - bit, (whole ^ 1 << bit).to_bytes(size, "big")) for bit in range(8 * size))


@pytest.mark.parametrize("name", CARRIERS)
def test_every_truncation(vectors: dict[str, bytes], name: str) -> None:
    whole = vectors[name]
    located = located_in(whole)
    option_at, carrier_end = located.start + (2 if located.version == 6 else 0), located.start + located.length
    for cut in truncations(whole):
        outcome = drive(cut)
        if len(cut) >= carrier_end:
            assert outcome == located
        elif len(cut) > option_at:
            assert outcome is Malformed.TRUNCATED
        else:
            assert outcome is None


@pytest.mark.parametrize("name", CARRIERS)
def test_every_bit_flip(vectors: dict[str, bytes], name: str) -> None:
    whole = vectors[name]
    located = located_in(whole)
    mac_at = located.offset + 4 + 4 * located.oad_count
    free_bits = range(8 * located.offset + 24, 8 * located.offset + 28), range(8 * located.offset + 32, 8 * mac_at + 48)
    for bit, flipped in bit_flips(whole):
        outcome = drive(flipped)
        if any(bit in bits for bits in free_bits):  # path length, slots, MAC field: any value is well formed
            assert outcome == located
        elif 8 * located.start <= bit < 8 * located.offset and located.version == 4:
            assert outcome != located  # type and length
        elif 8 * located.offset + 28 <= bit < 8 * located.offset + 32:
            assert outcome is Malformed.OAD_COUNT


@pytest.mark.parametrize("name", ["tunnel-ipv4", "tunnel-ipv6"])
def test_tunnel_datagrams_damaged_anywhere(vectors: dict[str, bytes], name: str) -> None:
    whole = vectors[name]
    for cut in truncations(whole):
        drive(cut)
        assert not isinstance(tunnel.open_outer(cut), tunnel.Outer)
    for _, flipped in bit_flips(whole):
        drive(flipped)
    outer = tunnel.open_outer(whole)
    assert isinstance(outer, tunnel.Outer)
    for cut in truncations(outer.payload):
        result = tunnel.decapsulate(cut)
        assert isinstance(result, Malformed), "a cut inner packet is never let out"
    for _, flipped in bit_flips(outer.payload):
        tunnel.decapsulate(flipped, max_amount=1000)


def test_a_flipped_bit_under_the_tunnels_checksum_is_never_let_in(vectors: dict[str, bytes]) -> None:
    whole = vectors["tunnel-ipv4"]
    for bit, flipped in bit_flips(whole):
        if bit >= 8 * 28:  # the UDP payload
            assert tunnel.open_outer(flipped) is Malformed.TUNNEL_CHECKSUM
