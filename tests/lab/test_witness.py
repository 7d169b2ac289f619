"""The taps' own parser, against the vectors of the wire format, and against damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.traffic import numbered_payload
from lab.witness import Tally, parse_frame

ETHERNET_4 = bytes(12) + b"\x08\x00"
ETHERNET_6 = bytes(12) + b"\x86\xdd"
# docs/spec: whole IPv4 option, UDP 5004 → 5004, amount 20, two free slots
OPTION = bytes.fromhex("9e14000014020000000000000000fa7232cf00ad")
# after X (AS 64512, alternatives {1, 2}, choice 1, ISP-written, kept 1), MAC field names X
AFTER_X = bytes.fromhex("9e1400001312fc00803100000000fc0000000000")


def udp(payload: bytes = b"", *, destination_port: int = 7000) -> bytes:
    return (5004).to_bytes(2, "big") + destination_port.to_bytes(2, "big") + bytes(4) + payload


def ipv4(options: bytes = b"", transport: bytes = b"", *, protocol: int = 17, fragment: int = 0) -> bytes:
    words = 5 + len(options) // 4
    head = bytes([0x40 | words, 0, 0, 0, 0, 0]) + fragment.to_bytes(2, "big") + bytes([64, protocol, 0, 0]) + bytes(8)
    return head + options + transport


def ipv6(options: bytes, transport: bytes = b"", *, protocol: int = 17) -> bytes:
    """With a hop-by-hop header of these options."""
    hop_by_hop = bytes([protocol, (2 + len(options)) // 8 - 1]) + options
    return bytes([0x60, 0, 0, 0, 0, 0, 0, 64]) + bytes(32) + hop_by_hop + transport


def tunnel(header: bytes, inner: bytes) -> bytes:
    body = header + inner
    return ipv4(transport=udp(bytes([1, len(body) // 4 % 256]) + body, destination_port=7415))


@pytest.mark.row("BP-05")
def test_amount_slots_and_mac_of_an_ipv4_option() -> None:
    seen = parse_frame(ETHERNET_4 + ipv4(OPTION, udp()))
    assert (seen.amount, seen.path_length, seen.slots) == (20, 0, ((0, 0, 0), (0, 0, 0)))
    assert seen.mac.hex() == "fa7232cf00ad"
    after = parse_frame(ETHERNET_4 + ipv4(b"\x01\x01\x01\x01" + AFTER_X, udp()))
    assert (after.amount, after.path_length, after.slots[0]) == (19, 1, (64512, 0x803, 1))


def test_amount_of_an_ipv6_hop_by_hop_option() -> None:
    option = bytes([0x3E, 18]) + AFTER_X[2:] + b"\x01\x00"  # PadN of 2
    seen = parse_frame(ETHERNET_6 + ipv6(option, udp(numbered_payload(3, 8, 0))))
    assert (seen.amount, seen.number) == (19, (3, 8))


def test_amount_inside_the_tunnel() -> None:
    seen = parse_frame(ETHERNET_4 + tunnel(AFTER_X[2:], ipv4(transport=udp(numbered_payload(7, 11, 0)))))
    assert (seen.amount, seen.number, seen.tunnelled) == (19, (7, 11), True)


def test_numbered_packets_are_followed() -> None:
    seen = parse_frame(ETHERNET_4 + ipv4(OPTION, udp(numbered_payload(2, 5, 100))))
    assert seen.number == (2, 5)


@pytest.mark.parametrize(
    "options",
    [
        OPTION + OPTION,  # two headers
        b"\x9e\x10" + OPTION[2:],  # length does not fit the slots
        OPTION[:5] + b"\x08" + OPTION[6:],  # eight slots
        b"\x9e\x04\x00\x00",  # shorter than a base word
        b"\x01\x01\x01\x9e",  # cut off
        b"\x01\x01\x9e\xff",  # overruns the header
    ],
)
def test_malformed_headers_are_no_payment(options: bytes) -> None:
    seen = parse_frame(ETHERNET_4 + ipv4(options, udp()))
    assert seen.malformed
    assert seen.amount is None


def test_fragments_carry_no_payment() -> None:
    assert parse_frame(ETHERNET_4 + ipv4(OPTION, udp(), fragment=0x2000)).amount is None


@pytest.mark.parametrize("frame", [b"", ETHERNET_4, ETHERNET_6, bytes(12) + b"\x08\x06" + bytes(28)])
def test_other_frames_are_nothing(frame: bytes) -> None:
    assert parse_frame(frame).amount is None


def test_a_router_alert_is_no_header() -> None:
    seen = parse_frame(ETHERNET_6 + ipv6(b"\x05\x02\x00\x00\x01\x00", protocol=58))
    assert (seen.amount, seen.malformed) == (None, False)


@given(st.sampled_from([ETHERNET_4, ETHERNET_6]), st.binary(max_size=200))
def test_no_frame_is_too_strange(ethernet: bytes, rest: bytes) -> None:
    parse_frame(ethernet + rest)


@given(st.integers(0, 80), st.integers(0, 255))
def test_no_damage_is_too_strange(at: int, value: int) -> None:
    frame = bytearray(ETHERNET_4 + tunnel(AFTER_X[2:], ipv4(OPTION, udp(numbered_payload(7, 11, 0)))))
    for position in (at, at + 3):
        frame[position % len(frame)] = value
    for end in (len(frame), len(frame) - at):
        parse_frame(bytes(frame[:end]))


def test_a_header_that_names_another_gateway_is_no_payment_on_this_link() -> None:
    from_x, from_y = Tally(expected_as=64512), Tally(expected_as=64513)
    for tally in (from_x, from_y):
        tally.count(parse_frame(ETHERNET_4 + ipv4(AFTER_X, udp(numbered_payload(1, 2, 0)))))
    assert (from_x.packets, from_x.nanodollars, from_x.followed) == (1, 19, {(1, 2): 19})
    assert (from_y.packets, from_y.nanodollars, from_y.passed_nanodollars, from_y.followed) == (0, 0, 19, {(1, 2): 0})
