"""The Bill-Pay header and its carriers: find it, read it, put it in, change it on the way, take it out.

Decides whether bytes are a well-formed header, and whether a packet can carry one. Refuses to know whether it
is paid (mac, grants), what a toll is (tolls), and where the packet goes. docs/spec/wire.md is the format.

The layout follows Figure 2 of the Bill-Pay paper: a base word (amount 24 bits, Pathlen 4, OADcnt 4), one slot of
a word for each expected ISP, then (ours) a 6-byte field: a MAC on the first hop, afterwards the name of the last
gateway. IPv4 carries it as option 158, IPv6 as hop-by-hop option 0x3E (RFC 4727), alone in its header.

:func:`locate`, :func:`update`, :func:`insert` and :func:`strip` are the packet path. They never raise on what a
packet contains, build no objects for the usual layouts, and use that 2^16 = 1 modulo 65535: the IPv4 header
checksum of RFC 1624 is ``(old checksum + old bytes - new bytes) mod 65535`` for any run of whole 16-bit words.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from billpay.errors import LocalProtocolError
from billpay.packet import (
    AH,
    FRAGMENT,
    HOP_BY_HOP,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    MORE_FRAGMENTS_OR_OFFSET,
    PROTOCOLS_WITH_PORTS,
    transport_of,
)

IPV4_OPTION = 0x9E  # copied to fragments, class 0, number 30: RFC 4727's experimental option
IPV6_OPTION = 0x3E  # skip if unknown, may change en route: RFC 4727's experimental option

MAX_AMOUNT_NANODOLLARS = 0xFFFFFF
MAX_PATH_LENGTH = 15
MAX_OADS = 7
MAX_AS_NUMBER = 0xFFFF
MAC_FIELD_BYTES = 6
MAX_ALTERNATIVE = 11  # the twelfth bit says who wrote the slot
ISP_WRITTEN = 0x800
NO_CHOICE = 0

_MAX_IPV4_HEADER_BYTES = 60
_MAX_IPV4_PACKET_BYTES = 65535
_FIXED_BYTES = 4 + MAC_FIELD_BYTES  # base word and MAC field
_PAD_TWO = b"\x01\x00"
_PAD_SIX = b"\x01\x04\0\0\0\0"
_OAD_COUNTS = range(MAX_OADS + 1)


class Malformed(Enum):
    """Why a packet that carries our option is unpaid; the value is the name of its counter."""

    TRUNCATED = "malformed_truncated"  # the bytes end inside the option
    LENGTH = "malformed_length"  # option length is not 12, 16, ... 40
    OVERRUN = "malformed_overrun"  # the option, or one beside it, passes the end of its header
    OAD_COUNT = "malformed_oad_count"  # over 7, or not what the length says
    DUPLICATE = "malformed_duplicate"  # two Bill-Pay options
    AMOUNT_OVER_CEILING = "malformed_amount_over_ceiling"
    ON_FRAGMENT = "malformed_on_fragment"
    SHARED = "malformed_shared"  # a hop-by-hop header with other options or padding than ours
    TUNNEL_VERSION = "malformed_tunnel_version"
    TUNNEL_CHECKSUM = "malformed_tunnel_checksum"
    TUNNEL_INNER = "malformed_tunnel_inner"  # what the tunnel carries is not one whole IP packet
    TUNNEL_CE_ON_NOT_ECT = "malformed_tunnel_ce_on_not_ect"  # RFC 6040 wants it dropped


class CannotCarry(Enum):
    """Why a packet goes without a header, in order of precedence; the value is the name of its counter."""

    NOT_IP = "cannot_carry_not_ip"  # not one whole IPv4 or IPv6 packet, or its options do not parse
    FRAGMENT = "cannot_carry_fragment"
    AH = "cannot_carry_ah"
    HOP_BY_HOP_PRESENT = "cannot_carry_hop_by_hop_present"
    ALREADY_PRESENT = "cannot_carry_already_present"  # IPv4: it has a Bill-Pay option
    OPTIONS_FULL = "cannot_carry_options_full"
    TOO_BIG = "cannot_carry_too_big"


class Slot(NamedTuple):
    """An OAD. From the user: undesirable alternatives, wanted choice. From the ISP: available ones, choice made."""

    as_number: int
    alternatives: int
    choice: int


class Header(NamedTuple):
    """A whole header as values. ``mac`` is the 6-byte field, whatever it holds."""

    amount: int
    path_length: int
    slots: tuple[Slot, ...]
    mac: bytes


class Located(NamedTuple):
    """Where a well-formed header is: offset of the base word, and the carrier's ``start`` and ``length``."""

    offset: int
    oad_count: int
    version: int
    start: int
    length: int


# --- sizes and layouts, for 0..7 slots -------------------------------------------------------------------------------


def header_size(oad_count: int) -> int:
    """Base word, slots and MAC field."""
    return _FIXED_BYTES + 4 * oad_count


def carrier_bytes_ipv4(oad_count: int) -> int:
    """What a packet grows by: 12, 16, ... 40 bytes for 0..7 slots."""
    return 2 + header_size(oad_count)


def carrier_bytes_ipv6(oad_count: int) -> int:
    """What a packet grows by: 16, 24, 24, 32, 32, 40, 40, 48 bytes for 0..7 slots."""
    return (4 + header_size(oad_count) + 7) // 8 * 8


# The usual places: IPv4's option straight after the fixed header and alone, IPv6's alone in its header.
_IPV4_PLACES = tuple(
    Located(IPV4_HEADER_BYTES + 2, n, 4, IPV4_HEADER_BYTES, carrier_bytes_ipv4(n)) for n in _OAD_COUNTS
)
_IPV6_PLACES = tuple(
    Located(IPV6_HEADER_BYTES + 4, n, 6, IPV6_HEADER_BYTES, carrier_bytes_ipv6(n)) for n in _OAD_COUNTS
)
_IPV4_USUAL = struct.Struct(">6xH12xHI")  # fragment word, option type and length, base word
_IPV6_USUAL = struct.Struct(">40xBBHI")  # next header, header length, option type and length, base word
_IPV4_TAGS = tuple(IPV4_OPTION << 8 | carrier_bytes_ipv4(n) for n in _OAD_COUNTS)
_IPV6_PADDING = tuple(_PAD_SIX if n & 1 else _PAD_TWO for n in _OAD_COUNTS)
_IPV6_PADDING_AT = tuple(IPV6_HEADER_BYTES + 4 + header_size(n) for n in _OAD_COUNTS)
_IPV6_BY_TAG = {IPV6_OPTION << 8 | header_size(n): (n, carrier_bytes_ipv6(n) // 8 - 1) for n in _OAD_COUNTS}
_COUNT_BY_SIZE = {header_size(n): n for n in _OAD_COUNTS}
_FIRST_BYTE_WITHOUT_OPTIONS = 0x45
_FIRST_BYTE_NO_SLOTS = 0x48  # 32 bytes: the fixed header and a 12-byte option; one more for each slot
_SAFE_AFTER_HOP_BY_HOP = PROTOCOLS_WITH_PORTS | {1, 50, 58, 59}  # certainly no fragment header follows

_WORD = struct.Struct(">I")
_SLOTS = tuple(struct.Struct(f">{n}I") for n in _OAD_COUNTS)
_SLOT_AS_NUMBERS = tuple(struct.Struct(">" + "H2x" * n) for n in _OAD_COUNTS)


# --- words -----------------------------------------------------------------------------------------------------------


def base_word(amount: int, path_length: int, oad_count: int) -> int:
    """The base word as a number. No range checks: :func:`encode` has them."""
    return amount << 8 | path_length << 4 | oad_count


def split_base_word(word: int) -> tuple[int, int, int]:
    """Amount, path length and OAD count of a base word."""
    return word >> 8, word >> 4 & 15, word & 15


def slot_word(slot: Slot) -> int:
    """A slot as a number. No range checks: :func:`encode` has them."""
    return slot[0] << 16 | slot[1] << 4 | slot[2]


def parse_slot(word: int) -> Slot:
    """Any 32-bit word is a slot; what it means is for its reader."""
    return Slot(word >> 16, word >> 4 & 0xFFF, word & 15)


def alternatives_bitmap(alternatives: Iterable[int]) -> int:
    """Bit i for alternative i + 1; alternatives are 1..11. Raises LocalProtocolError for another number."""
    bitmap = 0
    for alternative in alternatives:
        _require(1 <= alternative <= MAX_ALTERNATIVE, "alternative", alternative)
        bitmap |= 1 << alternative - 1
    return bitmap


def alternatives_in(bitmap: int) -> tuple[int, ...]:
    """The alternatives of a slot's bitmap in rising order; the ISP's bit is not one of them."""
    return tuple(i + 1 for i in range(MAX_ALTERNATIVE) if bitmap >> i & 1)


def user_oad(as_number: int, *, undesirable: Iterable[int] = (), choice: int = NO_CHOICE) -> Slot:
    """What a sender asks of one ISP."""
    return Slot(as_number, alternatives_bitmap(undesirable), choice)


def isp_oad(as_number: int, *, available: Iterable[int], choice: int) -> Slot:
    """What an ISP answers: the alternatives it has, and the one that this packet took."""
    return Slot(as_number, ISP_WRITTEN | alternatives_bitmap(available), choice)


def is_isp_written(slot: Slot) -> bool:
    """Whether a slot is an ISP-OAD."""
    return bool(slot.alternatives & ISP_WRITTEN)


def last_gateway_field(as_number: int) -> bytes:
    """The MAC field as a gateway leaves it: its AS number, then zeros."""
    return as_number.to_bytes(2, "big") + b"\0\0\0\0"


# --- whole headers ---------------------------------------------------------------------------------------------------


def encode(header: Header) -> bytes:
    """Base word, slots, MAC field. Raises LocalProtocolError for a value that its field cannot hold."""
    _require(0 <= header.amount <= MAX_AMOUNT_NANODOLLARS, "amount", header.amount)
    _require(0 <= header.path_length <= MAX_PATH_LENGTH, "path_length", header.path_length)
    _require(len(header.slots) <= MAX_OADS, "number of slots", len(header.slots))
    _require(len(header.mac) == MAC_FIELD_BYTES, "size of the MAC field", len(header.mac))
    for slot in header.slots:
        _require(0 <= slot.as_number <= MAX_AS_NUMBER, "as_number", slot.as_number)
        _require(0 <= slot.alternatives <= 0xFFF, "alternatives", slot.alternatives)
        _require(0 <= slot.choice <= MAX_ALTERNATIVE, "choice", slot.choice)
    count = len(header.slots)
    base = base_word(header.amount, header.path_length, count).to_bytes(4, "big")
    return base + _SLOTS[count].pack(*map(slot_word, header.slots)) + header.mac


def _require(condition: bool, what: str, value: int) -> None:
    if not condition:
        raise LocalProtocolError(f"{what} {value} does not fit the header")


def decode(header_bytes: bytes) -> Header | Malformed:
    """The inverse of :func:`encode`; never raises."""
    count = _COUNT_BY_SIZE.get(len(header_bytes))
    if count is None:
        return Malformed.LENGTH
    if header_bytes[3] & 15 != count:
        return Malformed.OAD_COUNT
    return _read_at(header_bytes, 0, count)


def _read_at(data: bytes, offset: int, count: int) -> Header:
    amount, path_length, _ = split_base_word(_WORD.unpack_from(data, offset)[0])
    slots = tuple(map(parse_slot, _SLOTS[count].unpack_from(data, offset + 4)))
    mac_at = offset + 4 + 4 * count
    return Header(amount, path_length, slots, data[mac_at : mac_at + MAC_FIELD_BYTES])


# --- finding ---------------------------------------------------------------------------------------------------------


def locate(packet: bytes, *, max_amount: int | None = None) -> Located | Malformed | None:
    """Where the header is; None for a packet without one; a reason for a header that must count as unpaid.

    ``max_amount``: the agreed ceiling, in nanodollars. Never raises and never reads past the IP header.
    """
    if len(packet) < 32:  # no IP header with a carrier in it is shorter
        return _locate_slowly(packet, max_amount)
    first = packet[0]
    if first == _FIRST_BYTE_WITHOUT_OPTIONS:
        return None
    if first >> 4 == 6:
        return _locate_ipv6(packet, max_amount) if packet[6] == HOP_BY_HOP else None
    count = first - _FIRST_BYTE_NO_SLOTS
    if 0 <= count <= MAX_OADS and len(packet) >= first - 0x40 << 2:
        fragment, tag, base = _IPV4_USUAL.unpack_from(packet)
        if tag == _IPV4_TAGS[count] and base & 15 == count and not fragment & MORE_FRAGMENTS_OR_OFFSET:
            if max_amount is not None and base >> 8 > max_amount:
                return Malformed.AMOUNT_OVER_CEILING
            return _IPV4_PLACES[count]
    return _locate_slowly(packet, max_amount)


def _locate_ipv6(packet: bytes, max_amount: int | None) -> Located | Malformed | None:
    if len(packet) >= IPV6_HEADER_BYTES + 8:
        following, words, tag, base = _IPV6_USUAL.unpack_from(packet)
        count, expected_words = _IPV6_BY_TAG.get(tag, (-1, -1))
        if words == expected_words and base & 15 == count and following in _SAFE_AFTER_HOP_BY_HOP:
            place = _IPV6_PLACES[count]
            padding_at, end = _IPV6_PADDING_AT[count], IPV6_HEADER_BYTES + place[4]
            if len(packet) >= end and packet[padding_at:end] == _IPV6_PADDING[count]:
                if max_amount is not None and base >> 8 > max_amount:
                    return Malformed.AMOUNT_OVER_CEILING
                return place
    return _locate_slowly(packet, max_amount)


def _locate_slowly(packet: bytes, max_amount: int | None) -> Located | Malformed | None:
    """Everything that is not the usual layout: walks the options one by one."""
    size = len(packet)
    if size < IPV4_HEADER_BYTES:
        return None
    version = packet[0] >> 4
    if version == 4:
        found = _walk_options(packet, IPV4_HEADER_BYTES, (packet[0] & 15) << 2, IPV4_OPTION, ipv6=False)
    elif version == 6 and size >= IPV6_HEADER_BYTES + 2 and packet[6] == HOP_BY_HOP:
        end = IPV6_HEADER_BYTES + (packet[41] + 1 << 3)
        found = _walk_options(packet, IPV6_HEADER_BYTES + 2, end, IPV6_OPTION, ipv6=True)
    else:
        return None
    if not isinstance(found, int):
        return found
    place = _place_ipv4(packet, found) if version == 4 else _place_ipv6(packet, found)
    if isinstance(place, Malformed):
        return place
    transport = transport_of(packet)
    if transport is None:
        return Malformed.OVERRUN  # extension headers after ours that do not parse: it might be a fragment
    if transport.fragment:
        return Malformed.ON_FRAGMENT
    if max_amount is not None and amount_of(packet, place) > max_amount:
        return Malformed.AMOUNT_OVER_CEILING
    return place


def _walk_options(packet: bytes, at: int, end: int, wanted: int, *, ipv6: bool) -> int | Malformed | None:
    """Where the one option of type ``wanted`` starts. Options of others that do not parse are no concern of ours.

    IPv4: type 0 ends the list, type 1 is one byte, the length counts type and length. IPv6: type 0 is one
    byte, the length counts the data only.
    """
    present = min(end, len(packet))
    one_byte, beyond_length = (0, 2) if ipv6 else (1, 0)
    found: int | None = None
    while at < present:
        kind = packet[at]
        if kind == one_byte:
            at += 1
            continue
        if kind == 0:
            break
        length = packet[at + 1] + beyond_length if at + 1 < present else 0
        if length < 2 or at + length > present:
            if kind == wanted or found is not None:
                return Malformed.OVERRUN if present == end else Malformed.TRUNCATED
            return None
        if kind == wanted:
            if found is not None:
                return Malformed.DUPLICATE
            found = at
        at += length
    if found is not None and present < end:
        return Malformed.TRUNCATED
    return found


def _place_ipv4(packet: bytes, start: int) -> Located | Malformed:
    length = packet[start + 1]
    count = _COUNT_BY_SIZE.get(length - 2)
    if count is None:
        return Malformed.LENGTH
    if packet[start + 5] & 15 != count:
        return Malformed.OAD_COUNT
    return Located(start + 2, count, 4, start, length)


def _place_ipv6(packet: bytes, start: int) -> Located | Malformed:
    """Ours is only the layout that :func:`insert` makes, so that taking it out can only take out what is ours."""
    count = _COUNT_BY_SIZE.get(packet[start + 1])
    if count is None:
        return Malformed.LENGTH
    if packet[start + 5] & 15 != count:
        return Malformed.OAD_COUNT
    place = _IPV6_PLACES[count]
    end = IPV6_HEADER_BYTES + (packet[41] + 1 << 3)
    usual = start == IPV6_HEADER_BYTES + 2 and end == IPV6_HEADER_BYTES + place.length
    if not usual or packet[_IPV6_PADDING_AT[count] : end] != _IPV6_PADDING[count]:
        return Malformed.SHARED
    return place


# --- reading ---------------------------------------------------------------------------------------------------------


def read(packet: bytes, located: Located) -> Header:
    """The header as values."""
    return _read_at(packet, located[0], located[1])


def read_base_word(packet: bytes, located: Located) -> int:
    """The base word as a number: ``>> 8`` is the amount, ``>> 4 & 15`` the path length."""
    word: int = _WORD.unpack_from(packet, located[0])[0]
    return word


def amount_of(packet: bytes, located: Located) -> int:
    """The amount alone, in nanodollars."""
    word: int = _WORD.unpack_from(packet, located[0])[0]
    return word >> 8


def mac_field(packet: bytes, located: Located) -> bytes:
    """The 6 bytes: a MAC on the first hop, else compare them with ``last_gateway_field(neighbour)``."""
    at = located[0] + 4 + (located[1] << 2)
    return packet[at : at + MAC_FIELD_BYTES]


def base_and_slots(packet: bytes, located: Located) -> bytes:
    """What the MAC covers of the header."""
    offset = located[0]
    return packet[offset : offset + 4 + (located[1] << 2)]


def header_bytes_of(packet: bytes, located: Located) -> bytes:
    """The header without its carrier, as :func:`encode` made it: what a tunnel takes over."""
    offset = located[0]
    return packet[offset : offset + _FIXED_BYTES + (located[1] << 2)]


def read_slot(packet: bytes, located: Located, index: int) -> Slot:
    """One slot."""
    return parse_slot(_WORD.unpack_from(packet, located[0] + 4 + (index << 2))[0])


def find_slot(packet: bytes, located: Located, as_number: int) -> int | None:
    """The index of the slot that an ISP uses: the one with its AS number, else the first free one, else None."""
    numbers = _SLOT_AS_NUMBERS[located[1]].unpack_from(packet, located[0] + 4)
    if as_number in numbers:
        return numbers.index(as_number)
    return numbers.index(0) if 0 in numbers else None


# --- writing ---------------------------------------------------------------------------------------------------------


def update(
    packet: bytes,
    located: Located,
    *,
    amount: int,
    path_length: int,
    slot_index: int | None = None,
    slot: Slot | int | None = None,
    mac_field: bytes | None = None,
) -> bytes:
    """The packet with a new amount and path length, and where given a new slot and MAC field; same size.

    Changes nothing else but the IPv4 header checksum. ``slot`` may be a word already. Path length saturates.
    Raises OverflowError for an amount that does not fit (our own bug: amounts only fall on the way).
    """
    offset, count, version, _, _ = located
    slots_at = offset + 4
    mac_at = slots_at + (count << 2)
    end = mac_at + MAC_FIELD_BYTES
    if path_length > MAX_PATH_LENGTH:
        path_length = MAX_PATH_LENGTH
    base = (amount << 8 | path_length << 4 | count).to_bytes(4, "big")
    if mac_field is None:
        mac_field = packet[mac_at:end]
    if slot is None or slot_index is None:
        words = base + packet[slots_at:mac_at] + mac_field
    else:
        word = slot if isinstance(slot, int) else slot[0] << 16 | slot[1] << 4 | slot[2]
        at = slots_at + (slot_index << 2)
        words = base + packet[slots_at:at] + word.to_bytes(4, "big") + packet[at + 4 : mac_at] + mac_field
    assert len(words) == end - offset, "an update never changes the size of a packet"
    if version == 6:
        return packet[:offset] + words + packet[end:]
    difference = int.from_bytes(packet[offset:end], "big") - int.from_bytes(words, "big")
    if offset & 1:
        difference <<= 8  # words at an odd place straddle those of the sum: their halves are swapped
    checksum = ((packet[10] << 8 | packet[11]) + difference) % 65535
    return b"".join((packet[:10], checksum.to_bytes(2, "big"), packet[12:offset], words, packet[end:]))


def insert(packet: bytes, header_bytes: bytes, *, mtu: int) -> bytes | CannotCarry:
    """The packet with ``header_bytes`` (from :func:`encode`) in its carrier, or why it goes without.

    Lengths and the IPv4 header checksum become right; TCP and UDP checksums do not cover the carrier. Raises
    LocalProtocolError if ``header_bytes`` is no header.
    """
    count = _COUNT_BY_SIZE.get(len(header_bytes))
    if count is None or header_bytes[3] & 15 != count:
        raise LocalProtocolError(f"{len(header_bytes)} bytes that are not a Bill-Pay header")
    if len(packet) < IPV4_HEADER_BYTES:
        return CannotCarry.NOT_IP
    version = packet[0] >> 4
    if version == 4:
        return _insert_ipv4(packet, header_bytes, _IPV4_TAGS[count], mtu)
    if version == 6 and len(packet) >= IPV6_HEADER_BYTES:
        return _insert_ipv6(packet, header_bytes, count, mtu)
    return CannotCarry.NOT_IP


_IPV4_LENGTHS = struct.Struct(">BxHxxHxB")  # first byte, total length, fragment word, protocol
_IPV4_START = struct.Struct(">BBH")


def _insert_ipv4(packet: bytes, header_bytes: bytes, tag: int, mtu: int) -> bytes | CannotCarry:
    """The option goes first, so that it is aligned and nothing that ends the list stands before it."""
    first, total, fragment, protocol = _IPV4_LENGTHS.unpack_from(packet)
    if total != len(packet) or first < _FIRST_BYTE_WITHOUT_OPTIONS or first - 0x40 << 2 > total:
        return CannotCarry.NOT_IP
    if fragment & MORE_FRAGMENTS_OR_OFFSET:
        return CannotCarry.FRAGMENT
    if protocol == AH:
        return CannotCarry.AH
    if first != _FIRST_BYTE_WITHOUT_OPTIONS and _locate_slowly(packet, None) is not None:
        return CannotCarry.ALREADY_PRESENT
    grow = tag & 0xFF
    if (first - 0x40 << 2) + grow > _MAX_IPV4_HEADER_BYTES:
        return CannotCarry.OPTIONS_FULL
    if total + grow > mtu or total + grow > _MAX_IPV4_PACKET_BYTES:
        return CannotCarry.TOO_BIG
    added = (grow >> 2 << 8) + grow + tag + int.from_bytes(header_bytes, "big")
    checksum = ((packet[10] << 8 | packet[11]) - added) % 65535
    carried = b"".join(
        (
            _IPV4_START.pack(first + (grow >> 2), packet[1], total + grow),
            packet[4:10],
            checksum.to_bytes(2, "big"),
            packet[12:20],
            tag.to_bytes(2, "big"),
            header_bytes,
            packet[20:],
        )
    )
    if first != _FIRST_BYTE_WITHOUT_OPTIONS and not isinstance(_locate_slowly(carried, None), Located):
        return CannotCarry.NOT_IP  # options that do not parse would hide whether ours is the only one
    return carried


def _insert_ipv6(packet: bytes, header_bytes: bytes, count: int, mtu: int) -> bytes | CannotCarry:
    payload = packet[4] << 8 | packet[5]
    if payload + IPV6_HEADER_BYTES != len(packet):
        return CannotCarry.NOT_IP  # truncated, or a jumbogram
    following = packet[6]
    if following not in _SAFE_AFTER_HOP_BY_HOP:
        refusal = _refuse_ipv6(packet, following)
        if refusal is not None:
            return refusal
    grow = _IPV6_PLACES[count][4]
    payload += grow
    if payload + IPV6_HEADER_BYTES > mtu or payload > 0xFFFF:
        return CannotCarry.TOO_BIG
    return b"".join(
        (
            packet[:4],
            payload.to_bytes(2, "big"),
            b"\0",
            packet[7:40],
            bytes((following, (grow >> 3) - 1, IPV6_OPTION, len(header_bytes))),
            header_bytes,
            _IPV6_PADDING[count],
            packet[40:],
        )
    )


def _refuse_ipv6(packet: bytes, following: int) -> CannotCarry | None:
    transport = transport_of(packet)
    if transport is None:
        return CannotCarry.NOT_IP
    if transport.fragment or following == FRAGMENT:
        return CannotCarry.FRAGMENT
    if transport.protocol == AH:
        return CannotCarry.AH
    return CannotCarry.HOP_BY_HOP_PRESENT if following == HOP_BY_HOP else None


def strip(packet: bytes, located: Located) -> bytes:
    """The packet as if it had never had the header: carrier out, lengths and IPv4 header checksum right."""
    _, _, version, start, length = located
    end = start + length
    if version == 6:
        payload = (packet[4] << 8 | packet[5]) - length & 0xFFFF
        return b"".join(
            (packet[:4], payload.to_bytes(2, "big"), packet[40:41], packet[7:start], packet[end:]),
        )
    total = packet[2] << 8 | packet[3]
    option = int.from_bytes(packet[start:end], "big")
    if start & 1:
        option <<= 8
    checksum = ((packet[10] << 8 | packet[11]) + (length >> 2 << 8) + length + option) % 65535
    return b"".join(
        (
            _IPV4_START.pack(packet[0] - (length >> 2), packet[1], total - length & 0xFFFF),
            packet[4:10],
            checksum.to_bytes(2, "big"),
            packet[12:start],
            packet[end:],
        )
    )
