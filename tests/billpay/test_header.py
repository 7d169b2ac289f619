"""The header codec and the carriers, with scapy as the independent judge of what is on the wire."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, IPOption_EOL, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from billpay import header as h
from billpay.errors import LocalProtocolError
from billpay.header import CannotCarry, Header, Located, Malformed, Slot
from billpay.packet import checksum16, finish_checksum

X, Y = 64512, 64513
FREE = Slot(0, 0, 0)
V4 = {"src": "10.0.0.1", "dst": "10.0.1.1"}
V6 = {"src": "fd00::1", "dst": "fd00:1::1"}
BIG_MTU = 65535

slots = st.builds(Slot, st.integers(0, 0xFFFF), st.integers(0, 0xFFF), st.integers(0, 11))
headers = st.builds(
    Header,
    st.integers(0, h.MAX_AMOUNT_NANODOLLARS),
    st.integers(0, 15),
    st.lists(slots, max_size=7).map(tuple),
    st.binary(min_size=6, max_size=6),
)
uppers = st.one_of(
    st.builds(lambda p, d: UDP(sport=p, dport=53) / Raw(d), st.integers(0, 0xFFFF), st.binary(max_size=50)),
    st.builds(
        lambda p, d: TCP(sport=p, dport=443, flags="PA") / Raw(d), st.integers(0, 0xFFFF), st.binary(max_size=50)
    ),
)
plain_packets = st.one_of(
    st.builds(lambda i, t, u: bytes(IP(**V4, id=i, tos=t) / u), st.integers(0, 0xFFFF), st.integers(0, 255), uppers),
    st.builds(lambda f, t, u: bytes(IPv6(**V6, fl=f, tc=t) / u), st.integers(0, 0xFFFFF), st.integers(0, 255), uppers),
)


def carrying(packet: bytes, header: Header) -> bytes:
    carried = h.insert(packet, h.encode(header), mtu=BIG_MTU)
    assert isinstance(carried, bytes), carried
    return carried


def found(packet: bytes) -> Located:
    located = h.locate(packet)
    assert isinstance(located, Located), located
    return located


def assert_valid(packet: bytes) -> Packet:
    """Every length and every checksum is what scapy would have made it; gives scapy's view of the packet."""
    network = IP if packet[0] >> 4 == 4 else IPv6
    seen = network(packet)
    rebuilt = seen.copy()
    for layer in (IP, IPv6, TCP, UDP):
        if layer in rebuilt:
            for computed in ("chksum", "len", "plen", "ihl"):
                if computed in rebuilt[layer].fields:
                    delattr(rebuilt[layer], computed)
    assert bytes(rebuilt) == packet
    return seen


# --- words and sizes -------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-33")
def test_header_sizes_of_the_paper() -> None:
    mac = bytes(6)
    for count, paper_bytes in ((0, 4), (4, 20), (7, 32)):
        encoded = h.encode(Header(20, 0, (FREE,) * count, mac))
        assert len(encoded) - len(mac) == paper_bytes


@pytest.mark.row("BP-33")
def test_carrier_sizes() -> None:
    assert [h.carrier_bytes_ipv4(n) for n in range(8)] == [12, 16, 20, 24, 28, 32, 36, 40]
    assert [h.carrier_bytes_ipv6(n) for n in range(8)] == [16, 24, 24, 32, 32, 40, 40, 48]
    for count in range(8):
        header = Header(20, 0, (FREE,) * count, bytes(6))
        for plain, size in ((IP(**V4) / UDP(), h.carrier_bytes_ipv4), (IPv6(**V6) / UDP(), h.carrier_bytes_ipv6)):
            raw = bytes(plain)
            carried = carrying(raw, header)
            assert len(carried) - len(raw) == size(count) == found(carried).length


@pytest.mark.row("BP-25")
def test_vectors_of_base_word_and_slots() -> None:
    def words(amount: int, path_length: int, *slots: Slot) -> str:
        return h.encode(Header(amount, path_length, slots, bytes(6)))[:-6].hex()

    def without_isp_bit(slot: Slot) -> Slot:
        return slot._replace(alternatives=slot.alternatives & ~h.ISP_WRITTEN)

    after_x = h.isp_oad(X, available=(1, 2), choice=1)
    after_y = h.isp_oad(Y, available=(1,), choice=1)
    assert words(20, 0) == "00001400"
    assert words(19, 1, without_isp_bit(after_x), FREE) == "00001312fc00003100000000"
    assert words(19, 1, after_x, FREE) == "00001312fc00803100000000"
    assert words(9, 2, without_isp_bit(after_x), without_isp_bit(after_y)) == "00000922fc000031fc010011"
    assert words(9, 2, after_x, after_y) == "00000922fc008031fc018011"
    assert words(20, 0, h.user_oad(X, undesirable=(1,), choice=2)) == "00001401fc000012"


@pytest.mark.row("BP-25")
def test_a_slot_says_who_wrote_it_and_which_alternatives_it_means() -> None:
    asked = h.user_oad(X, undesirable=(1, 11), choice=2)
    assert not h.is_isp_written(asked)
    assert h.alternatives_in(asked.alternatives) == (1, 11)
    answered = h.isp_oad(X, available=(1, 2, 11), choice=11)
    assert h.is_isp_written(answered)
    assert h.alternatives_in(answered.alternatives) == (1, 2, 11)
    assert h.parse_slot(h.slot_word(answered)) == answered


@pytest.mark.parametrize("alternative", [0, -1, 12])
def test_there_are_eleven_alternatives(alternative: int) -> None:
    with pytest.raises(LocalProtocolError):
        h.user_oad(X, undesirable=(alternative,))


@given(st.sets(st.integers(1, 11)))
def test_alternatives_round_trip(alternatives: set[int]) -> None:
    assert set(h.alternatives_in(h.alternatives_bitmap(alternatives))) == alternatives


@given(headers)
def test_encode_decode_round_trip(header: Header) -> None:
    encoded = h.encode(header)
    assert len(encoded) == h.header_size(len(header.slots))
    assert h.decode(encoded) == header


@given(st.binary(max_size=50))
def test_decode_never_raises(data: bytes) -> None:
    assert isinstance(h.decode(data), Header | Malformed)


@pytest.mark.parametrize(
    "header",
    [
        Header(-1, 0, (), bytes(6)),
        Header(1 << 24, 0, (), bytes(6)),
        Header(0, 16, (), bytes(6)),
        Header(0, 0, (FREE,) * 8, bytes(6)),
        Header(0, 0, (), bytes(5)),
        Header(0, 0, (Slot(0x10000, 0, 0),), bytes(6)),
        Header(0, 0, (Slot(1, 0x1000, 0),), bytes(6)),
        Header(0, 0, (Slot(1, 0, 12),), bytes(6)),
    ],
)
def test_encode_refuses_what_does_not_fit(header: Header) -> None:
    with pytest.raises(LocalProtocolError):
        h.encode(header)


@given(st.integers(0, 0xFFFFFF), st.integers(0, 15), st.integers(0, 7))
def test_base_word_round_trip(amount: int, path_length: int, count: int) -> None:
    assert h.split_base_word(h.base_word(amount, path_length, count)) == (amount, path_length, count)


# --- the specification's packets -------------------------------------------------------------------------------------


def test_whole_option_of_the_specification(vectors: dict[str, bytes]) -> None:
    option = bytes.fromhex("9e14000014020000000000000000fa7232cf00ad")
    assert vectors["ipv4-first-hop"][20:40] == option
    seen = assert_valid(vectors["ipv4-first-hop"])
    (parsed,) = seen.options
    assert (parsed.copy_flag, parsed.optclass, parsed.option, parsed.length) == (1, 0, 30, 20)
    assert parsed.value == option[2:]


@pytest.mark.parametrize("name", ["ipv4", "ipv6"])
def test_the_specifications_first_hop(vectors: dict[str, bytes], name: str) -> None:
    plain, carried = vectors[f"{name}-plain"], vectors[f"{name}-first-hop"]
    header = h.read(carried, found(carried))
    assert header.amount == 20
    assert carrying(plain, header) == carried
    assert h.strip(carried, found(carried)) == plain


@pytest.mark.row("BP-25")
def test_the_specifications_way_through_x_and_y(vectors: dict[str, bytes]) -> None:
    first = vectors["ipv4-first-hop"]
    located = found(first)
    index = h.find_slot(first, located, X)
    after_x = h.update(
        first,
        located,
        amount=19,
        path_length=1,
        slot_index=index,
        slot=h.isp_oad(X, available=(1, 2), choice=1),
        mac_field=h.last_gateway_field(X),
    )
    assert after_x == vectors["ipv4-after-x"]
    index = h.find_slot(after_x, located, Y)
    after_y = h.update(
        after_x,
        located,
        amount=9,
        path_length=2,
        slot_index=index,
        slot=h.slot_word(h.isp_oad(Y, available=(1,), choice=1)),
        mac_field=h.last_gateway_field(Y),
    )
    assert after_y == vectors["ipv4-after-y"]
    assert h.read(after_y, located).slots == (
        h.isp_oad(X, available=(1, 2), choice=1),
        h.isp_oad(Y, available=(1,), choice=1),
    )
    assert h.find_slot(after_y, located, 64514) is None
    for packet in (after_x, after_y):
        assert_valid(packet)


def test_the_specifications_way_through_x_over_ipv6(vectors: dict[str, bytes]) -> None:
    first = vectors["ipv6-first-hop"]
    located = found(first)
    asked = h.read_slot(first, located, 0)
    assert asked == h.user_oad(X, undesirable=(1,), choice=2)
    after_x = h.update(
        first,
        located,
        amount=19,
        path_length=1,
        slot_index=h.find_slot(first, located, X),
        slot=h.isp_oad(X, available=(1, 2), choice=2),
        mac_field=h.last_gateway_field(X),
    )
    assert after_x == vectors["ipv6-after-x"]
    shortest = vectors["ipv6-no-slots"]
    assert h.read(shortest, found(shortest)) == Header(19, 1, (), h.last_gateway_field(X))


def test_scapy_sees_the_ipv6_option(vectors: dict[str, bytes]) -> None:
    for name in ("ipv6-first-hop", "ipv6-after-x", "ipv6-no-slots"):
        seen = assert_valid(vectors[name])
        option, padding = seen[IPv6ExtHdrHopByHop].options
        assert option.otype == 0x3E
        assert h.decode(option.optdata) == h.read(vectors[name], found(vectors[name]))
        assert padding.otype == 1
        assert seen[TCP].dport == 443


# --- insert, locate, update, strip -----------------------------------------------------------------------------------


@given(plain_packets, headers)
def test_insert_then_strip_is_the_identity(packet: bytes, header: Header) -> None:
    carried = carrying(packet, header)
    located = found(carried)
    assert h.read(carried, located) == header
    assert h.header_bytes_of(carried, located) == h.encode(header)
    assert h.mac_field(carried, located) == header.mac
    assert h.base_and_slots(carried, located) == h.encode(header)[:-6]
    assert h.amount_of(carried, located) == h.read_base_word(carried, located) >> 8 == header.amount
    assert h.strip(carried, located) == packet


@given(plain_packets, headers)
def test_a_carrying_packet_is_valid_and_its_upper_layer_untouched(packet: bytes, header: Header) -> None:
    carried = carrying(packet, header)
    seen = assert_valid(carried)
    upper_at = 20 if packet[0] >> 4 == 4 else 40
    assert carried.endswith(packet[upper_at:])
    assert bytes(seen[TCP if TCP in seen else UDP]) == packet[upper_at:]
    assert finish_checksum(carried) == carried


@given(plain_packets, headers, st.data())
def test_update_keeps_size_and_validity(packet: bytes, header: Header, data: st.DataObject) -> None:
    carried = carrying(packet, header)
    located = found(carried)
    amount, path_length = data.draw(st.integers(0, 0xFFFFFF)), data.draw(st.integers(0, 20))
    field = data.draw(st.none() | st.binary(min_size=6, max_size=6))
    index = data.draw(st.integers(0, len(header.slots) - 1)) if header.slots else None
    slot = data.draw(slots) if header.slots else None
    updated = h.update(
        carried, located, amount=amount, path_length=path_length, slot_index=index, slot=slot, mac_field=field
    )
    assert len(updated) == len(carried)
    assert_valid(updated)
    assert found(updated) == located
    expected = list(header.slots)
    if index is not None and slot is not None:
        expected[index] = slot
    assert h.read(updated, located) == Header(amount, min(path_length, 15), tuple(expected), field or header.mac)
    assert h.strip(updated, located) == packet


@pytest.mark.row("BP-34")
@given(plain_packets, headers.filter(lambda header: bool(header.slots)), st.data())
def test_a_router_writes_two_fields_its_name_and_the_checksum(
    packet: bytes, header: Header, data: st.DataObject
) -> None:
    carried = carrying(packet, header)
    located = found(carried)
    index = data.draw(st.integers(0, len(header.slots) - 1))
    updated = h.update(
        carried,
        located,
        amount=data.draw(st.integers(0, header.amount)),
        path_length=min(header.path_length + 1, 15),
        slot_index=index,
        slot=data.draw(slots),
        mac_field=h.last_gateway_field(data.draw(st.integers(1, 0xFFFF))),
    )
    changed = {at for at, (old, new) in enumerate(zip(carried, updated, strict=True)) if old != new}
    base, own = located.offset, located.offset + 4 + 4 * index
    field = located.offset + 4 + 4 * located.oad_count
    allowed = {*range(base, base + 4), *range(own, own + 4), *range(field, field + 6)}
    assert changed <= allowed | ({10, 11} if located.version == 4 else set())


def test_without_a_slot_or_field_only_the_base_word_changes(vectors: dict[str, bytes]) -> None:
    first = vectors["ipv6-first-hop"]
    located = found(first)
    updated = h.update(first, located, amount=3, path_length=4)
    assert updated[located.offset : located.offset + 4].hex() == "00000341"
    assert updated[: located.offset] == first[: located.offset]
    assert updated[located.offset + 4 :] == first[located.offset + 4 :]


def test_an_amount_that_does_not_fit_is_our_own_bug(vectors: dict[str, bytes]) -> None:
    first = vectors["ipv4-first-hop"]
    for amount in (-1, 1 << 24):
        with pytest.raises(OverflowError):
            h.update(first, found(first), amount=amount, path_length=1)


@pytest.mark.row("BP-01")
@pytest.mark.parametrize(
    "built",
    [
        IP(**V4) / UDP() / Raw(b"x" * 40),
        IP(**V4, options=[IPOption_Router_Alert()]) / UDP() / Raw(b"x" * 40),
        IP(**V4, options=[IPOption_NOP(), IPOption_EOL()]) / UDP(),
        IP(**V4, options=[IPOption(copy_flag=1, optclass=2, option=30, length=12, value=b"x" * 10)]) / UDP(),
        IP(**V4, flags="MF") / UDP(),
        IP(**V4) / ICMP(),
        IPv6(**V6) / UDP() / Raw(b"x" * 40),
        IPv6(**V6) / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / UDP(),
        IPv6(**V6) / IPv6ExtHdrDestOpt() / UDP(),
    ],
    ids=["udp", "router alert", "end of list", "option 222", "fragment", "icmp", "udp6", "hop-by-hop", "destination"],
)
def test_a_packet_without_header_is_plain(built: Packet) -> None:
    assert h.locate(bytes(built), max_amount=0) is None


def test_the_slot_an_isp_uses() -> None:
    def slot_for(as_number: int, *slots: Slot) -> int | None:
        packet = carrying(bytes(IP(**V4) / UDP()), Header(20, 0, slots, bytes(6)))
        return h.find_slot(packet, found(packet), as_number)

    own, other = h.user_oad(X, choice=2), h.user_oad(Y, choice=1)
    assert slot_for(X) is None
    assert slot_for(X, other) is None
    assert slot_for(X, FREE, FREE) == 0
    assert slot_for(X, other, FREE) == 1
    assert slot_for(X, FREE, other, own) == 2
    assert slot_for(0xFC, Slot(1, 0, 0), Slot(0, 0xFC, 0)) == 1  # only whole AS numbers count


# --- what cannot carry -----------------------------------------------------------------------------------------------

NO_SLOTS = h.encode(Header(20, 0, (), bytes(6)))
SEVEN_SLOTS = h.encode(Header(20, 0, (FREE,) * 7, bytes(6)))
REFUSALS: list[tuple[str, bytes, bytes, CannotCarry]] = [
    ("empty", b"", NO_SLOTS, CannotCarry.NOT_IP),
    ("arp", bytes.fromhex("0001080006040001") + bytes(20), NO_SLOTS, CannotCarry.NOT_IP),
    ("truncated", bytes(IP(**V4) / UDP() / Raw(b"xxxx"))[:-1], NO_SLOTS, CannotCarry.NOT_IP),
    ("truncated6", bytes(IPv6(**V6) / UDP() / Raw(b"xxxx"))[:-1], NO_SLOTS, CannotCarry.NOT_IP),
    ("short6", bytes(IPv6(**V6))[:39], NO_SLOTS, CannotCarry.NOT_IP),
    ("IHL below 5", b"\x44" + bytes(IP(**V4) / UDP())[1:], NO_SLOTS, CannotCarry.NOT_IP),
    ("IHL past the end", b"\x4f" + bytes(IP(**V4) / UDP())[1:], NO_SLOTS, CannotCarry.NOT_IP),
    (
        "options that do not parse",
        bytes(IP(**V4, options=[IPOption(copy_flag=1, option=20, length=9, value=b"xx")]) / UDP()),
        NO_SLOTS,
        CannotCarry.NOT_IP,
    ),
    ("first fragment", bytes(IP(**V4, flags="MF") / UDP()), NO_SLOTS, CannotCarry.FRAGMENT),
    ("later fragment", bytes(IP(**V4, frag=1) / Raw(b"x")), NO_SLOTS, CannotCarry.FRAGMENT),
    ("fragment6", bytes(IPv6(**V6) / IPv6ExtHdrFragment() / UDP()), NO_SLOTS, CannotCarry.FRAGMENT),
    (
        "fragment6 further on",
        bytes(IPv6(**V6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment() / UDP()),
        NO_SLOTS,
        CannotCarry.FRAGMENT,
    ),
    ("ah", bytes(IP(**V4) / AH() / UDP()), NO_SLOTS, CannotCarry.AH),
    ("ah6", bytes(IPv6(**V6) / AH() / UDP()), NO_SLOTS, CannotCarry.AH),
    ("ah6 further on", bytes(IPv6(**V6) / IPv6ExtHdrDestOpt() / AH() / UDP()), NO_SLOTS, CannotCarry.AH),
    ("hop-by-hop", bytes(IPv6(**V6) / IPv6ExtHdrHopByHop() / UDP()), NO_SLOTS, CannotCarry.HOP_BY_HOP_PRESENT),
    (
        "ours is there (6)",
        carrying(bytes(IPv6(**V6) / UDP()), Header(1, 0, (), bytes(6))),
        NO_SLOTS,
        CannotCarry.HOP_BY_HOP_PRESENT,
    ),
    (
        "ours is there (4)",
        carrying(bytes(IP(**V4) / UDP()), Header(1, 0, (), bytes(6))),
        NO_SLOTS,
        CannotCarry.ALREADY_PRESENT,
    ),
    (
        "options full",
        bytes(IP(**V4, options=[IPOption_Router_Alert()]) / UDP()),
        SEVEN_SLOTS,
        CannotCarry.OPTIONS_FULL,
    ),
    ("too big", bytes(IP(**V4) / Raw(bytes(1469))), NO_SLOTS, CannotCarry.TOO_BIG),
    ("too big 6", bytes(IPv6(**V6, nh=17) / Raw(bytes(1445))), NO_SLOTS, CannotCarry.TOO_BIG),
]


@pytest.mark.parametrize(("packet", "header", "reason"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_what_cannot_carry(packet: bytes, header: bytes, reason: CannotCarry) -> None:
    assert h.insert(packet, header, mtu=1500) is reason


def test_every_refusal_has_a_case() -> None:
    assert {reason for *_, reason in REFUSALS} == set(CannotCarry)


def test_exactly_the_mtu_is_not_too_big() -> None:
    for built in (IP(**V4) / Raw(bytes(1468)), IPv6(**V6, nh=17) / Raw(bytes(1444))):
        carried = h.insert(bytes(built), NO_SLOTS, mtu=1500)
        assert isinstance(carried, bytes)
        assert len(carried) == 1500


def test_no_mtu_makes_a_length_overflow() -> None:
    assert h.insert(bytes(IP(**V4, proto=17) / Raw(bytes(65510))), NO_SLOTS, mtu=1 << 20) is CannotCarry.TOO_BIG
    assert h.insert(bytes(IPv6(**V6, nh=17) / Raw(bytes(65530))), NO_SLOTS, mtu=1 << 20) is CannotCarry.TOO_BIG


def test_other_extension_headers_stay_behind_ours() -> None:
    plain = bytes(IPv6(**V6) / IPv6ExtHdrDestOpt() / UDP())
    carried = carrying(plain, Header(20, 0, (FREE,), bytes(6)))
    assert_valid(carried)
    assert carried[40] == 60
    assert h.strip(carried, found(carried)) == plain


@pytest.mark.parametrize("count", range(12))
def test_what_a_long_chain_of_extension_headers_can_carry_is_found_again(count: int) -> None:
    chain = bytes((60, 0, 1, 4, 0, 0, 0, 0)) * (count - 1) + bytes((17, 0, 1, 4, 0, 0, 0, 0)) if count else b""
    plain = bytes(IPv6(**V6, nh=60 if count else 17) / Raw(chain + bytes(UDP(sport=1, dport=2, chksum=1))))
    carried = h.insert(plain, NO_SLOTS, mtu=1500)
    if count < 8:
        assert isinstance(carried, bytes)
        assert h.strip(carried, found(carried)) == plain
    else:
        assert carried is CannotCarry.NOT_IP


def test_bytes_that_are_no_header_are_our_own_bug() -> None:
    packet = bytes(IP(**V4) / UDP())
    for wrong in (b"", bytes(9), bytes(14), NO_SLOTS + b"\0"):
        with pytest.raises(LocalProtocolError):
            h.insert(packet, wrong, mtu=1500)


# --- unusual but well-formed layouts ---------------------------------------------------------------------------------


def with_options(options: bytes, *, fragment: int = 0) -> bytes:
    """A UDP packet with these IPv4 options, padded to a word."""
    options += bytes(-len(options) % 4)
    base = bytearray(bytes(IP(**V4) / UDP(sport=1, dport=2) / Raw(b"payload!")))
    base[0] += len(options) // 4
    base[2:4] = (len(base) + len(options)).to_bytes(2, "big")
    base[6:8] = fragment.to_bytes(2, "big")
    base[10:12] = bytes(2)
    base[10:12] = checksum16(bytes(base[:20]) + options).to_bytes(2, "big")
    return bytes(base[:20]) + options + bytes(base[20:])


OURS = b"\x9e\x0c" + NO_SLOTS


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"\x01", b""), (b"\x94\x04\0\0", b""), (b"\x01\x01\x01", b"\x94\x04\0\0"), (b"", b"\x94\x04\0\0"), (b"", b"\0")],
    ids=["odd", "after router alert", "odd between", "before router alert", "end of list"],
)
def test_an_option_is_found_updated_and_stripped_wherever_it_stands(before: bytes, after: bytes) -> None:
    packet = with_options(before + OURS + after)
    located = found(packet)
    assert (located.start, located.length) == (20 + len(before), 12)
    updated = h.update(packet, located, amount=0x123456, path_length=3, mac_field=h.last_gateway_field(Y))
    assert checksum16(updated[: (updated[0] & 15) * 4]) == 0
    assert h.read(updated, located) == Header(0x123456, 3, (), h.last_gateway_field(Y))
    stripped = h.strip(updated, located)
    assert checksum16(stripped[: (stripped[0] & 15) * 4]) == 0
    assert stripped == with_options(before + after)
    assert h.locate(stripped) is None


def test_insertion_beside_other_options() -> None:
    plain = with_options(b"\x94\x04\0\0\x01\0")
    carried = carrying(plain, Header(20, 0, (FREE,), bytes(6)))
    assert checksum16(carried[: (carried[0] & 15) * 4]) == 0
    assert h.strip(carried, found(carried)) == plain


# --- malformed -------------------------------------------------------------------------------------------------------


def hop_by_hop(options: bytes, *, following: int = 17) -> bytes:
    options += b"\0" * (-(len(options) + 2) % 8)
    extension = bytes((following, (len(options) + 2) // 8 - 1)) + options
    return bytes(IPv6(**V6, nh=0) / Raw(extension + bytes(UDP(sport=1, dport=2, chksum=1))))


OURS6 = b"\x3e\x0a" + NO_SLOTS
MALFORMED: list[tuple[str, bytes, Malformed]] = [
    ("truncated", with_options(OURS)[:30], Malformed.TRUNCATED),
    ("truncated behind ours", with_options(OURS + b"\x94\x04\0\0")[:34], Malformed.TRUNCATED),
    ("short", with_options(b"\x9e\x08" + bytes(6)), Malformed.LENGTH),
    ("over-long", with_options(b"\x9e\x28" + bytes(38) + b"")[:60], Malformed.OAD_COUNT),
    ("odd length", with_options(b"\x9e\x0e" + bytes(12)), Malformed.LENGTH),
    ("overrun", with_options(b"\x9e\x10" + NO_SLOTS), Malformed.OVERRUN),
    ("length 0", with_options(b"\x9e\x00" + NO_SLOTS), Malformed.OVERRUN),
    ("broken option behind ours", with_options(OURS + b"\x94\x09\0\0"), Malformed.OVERRUN),
    ("count says more", with_options(b"\x9e\x0c" + b"\0\0\x14\x01" + bytes(6)), Malformed.OAD_COUNT),
    ("count over 7", with_options(b"\x9e\x0c" + b"\0\0\x14\x08" + bytes(6)), Malformed.OAD_COUNT),
    ("two", with_options(OURS + OURS), Malformed.DUPLICATE),
    ("two of other lengths", with_options(OURS + b"\x01\x9e\x08" + bytes(6)), Malformed.DUPLICATE),
    ("over the ceiling", with_options(b"\x9e\x0c\0\x03\xe9\0" + bytes(6)), Malformed.AMOUNT_OVER_CEILING),
    ("over the ceiling, odd", with_options(b"\x01\x9e\x0c\0\x03\xe9\0" + bytes(6)), Malformed.AMOUNT_OVER_CEILING),
    ("first fragment", with_options(OURS, fragment=0x2000), Malformed.ON_FRAGMENT),
    ("later fragment", with_options(OURS, fragment=1), Malformed.ON_FRAGMENT),
    ("truncated 6", hop_by_hop(OURS6 + b"\x01\0")[:50], Malformed.TRUNCATED),
    ("wrong length 6", hop_by_hop(b"\x3e\x0c" + bytes(12)), Malformed.LENGTH),
    ("overrun 6", hop_by_hop(b"\x3e\x0e" + NO_SLOTS + b"\x01\0"), Malformed.OVERRUN),
    ("count 6", hop_by_hop(b"\x3e\x0a\0\0\x14\x05" + bytes(6) + b"\x01\0"), Malformed.OAD_COUNT),
    ("two 6", hop_by_hop(OURS6 + b"\x01\0" + OURS6), Malformed.DUPLICATE),
    ("beside another", hop_by_hop(OURS6 + b"\x05\x02\0\0"), Malformed.SHARED),
    ("other padding", hop_by_hop(OURS6 + b"\0\0"), Malformed.SHARED),
    ("padding before", hop_by_hop(b"\x01\0" + OURS6), Malformed.SHARED),
    ("padded further", hop_by_hop(OURS6 + b"\x01\x08" + bytes(8)), Malformed.SHARED),
    ("over the ceiling 6", hop_by_hop(b"\x3e\x0a\0\x03\xe9\0" + bytes(6) + b"\x01\0"), Malformed.AMOUNT_OVER_CEILING),
    ("fragment 6", hop_by_hop(OURS6 + b"\x01\0", following=44), Malformed.ON_FRAGMENT),
    ("chain that does not parse", hop_by_hop(OURS6 + b"\x01\0", following=60)[:58], Malformed.OVERRUN),
]


@pytest.mark.parametrize(("packet", "reason"), [m[1:] for m in MALFORMED], ids=[m[0] for m in MALFORMED])
def test_malformed_input_is_named(packet: bytes, reason: Malformed) -> None:
    assert h.locate(packet, max_amount=1000) is reason


def test_every_reason_has_a_case() -> None:
    here = {reason for *_, reason in MALFORMED}
    assert here == {reason for reason in Malformed if not reason.name.startswith("TUNNEL_")}


def test_a_fragment_further_down_the_chain_is_a_fragment() -> None:
    plain = bytes(IPv6(**V6) / IPv6ExtHdrDestOpt() / UDP())
    carried = bytearray(carrying(plain, Header(20, 0, (), bytes(6))))
    carried[56] = 44  # the destination options now say: a fragment header follows
    assert h.locate(bytes(carried)) is Malformed.ON_FRAGMENT


def test_the_ceiling_itself_is_allowed(vectors: dict[str, bytes]) -> None:
    for name in ("ipv4-first-hop", "ipv6-first-hop"):
        assert isinstance(h.locate(vectors[name], max_amount=20), Located)
        assert h.locate(vectors[name], max_amount=19) is Malformed.AMOUNT_OVER_CEILING


def test_options_after_the_end_of_the_list_are_padding() -> None:
    assert h.locate(with_options(b"\0" + OURS)) is None
    assert isinstance(h.locate(with_options(OURS + b"\0" + OURS)), Located)


def test_counter_names_are_in_the_specification() -> None:
    text = (Path(__file__).parents[2] / "docs" / "spec" / "wire.md").read_text(encoding="utf-8")
    assert all(f"`{reason.value}`" in text for reason in Malformed)
