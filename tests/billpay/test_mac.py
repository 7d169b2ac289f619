"""The packet MAC: vectors, epochs, and what a forger changes."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from siphash24 import siphash24

from billpay import mac
from billpay.errors import RemoteProtocolError
from billpay.header import base_and_slots, locate, mac_field
from billpay.packet import FlowKey, flow_key

KEY = bytes(range(16))
EPOCH = 29_000_000
TCP4 = FlowKey(bytes((10, 0, 0, 1)), bytes((10, 0, 1, 1)), 6, 40000, 443)
TCP6 = FlowKey(ipaddress.ip_address("fd00::1").packed, ipaddress.ip_address("fd00:1::1").packed, 6, 40000, 443)


def test_the_library_is_the_reference_siphash() -> None:
    assert siphash24(bytes(range(15)), key=KEY).hexdigest() == "e545be4961ca29a1"


@pytest.mark.row("BP-44")
def test_vectors() -> None:
    words = bytes.fromhex("00001400")
    given_input = mac.mac_input(TCP4, epoch=EPOCH, header_words=words)
    assert given_input.hex() == "0a0000010a00010106009c4001bb01ba814000001400"
    assert siphash24(given_input, key=KEY).hexdigest() == "cce61c6cfb2d717a"
    assert mac.compute_mac(KEY, TCP4, EPOCH, words).hex() == "cce61c6cfb2d"
    user_oad = bytes.fromhex("00001401fc000012")
    assert siphash24(mac.mac_input(TCP6, epoch=EPOCH, header_words=user_oad), key=KEY).hexdigest() == "abc93e4a8be19016"
    assert mac.compute_mac(KEY, TCP6, EPOCH, user_oad).hex() == "abc93e4a8be1"


@pytest.mark.row("BP-44")
@pytest.mark.parametrize("name", ["ipv4-first-hop", "ipv6-first-hop"])
def test_whole_packets_of_the_specification_carry_the_right_mac(vectors: dict[str, bytes], name: str) -> None:
    packet = vectors[name]
    located, flow = locate(packet), flow_key(packet)
    assert isinstance(located, tuple)
    assert flow is not None
    assert mac.verify(KEY, flow, EPOCH, base_and_slots(packet, located), mac_field(packet, located)) == EPOCH


def test_path_length_is_not_covered() -> None:
    assert mac.compute_mac(KEY, TCP4, EPOCH, bytes.fromhex("00001432" + "fc000031" * 2)) == mac.compute_mac(
        KEY, TCP4, EPOCH, bytes.fromhex("00001402" + "fc000031" * 2)
    )


def test_epoch_is_the_minute() -> None:
    assert mac.epoch_of(0) == 0
    assert mac.epoch_of(59) == 0
    assert mac.epoch_of(60) == 1
    assert mac.epoch_of(29_000_000 * 60 + 59) == EPOCH


@pytest.mark.parametrize(("sent_in", "accepted"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_previous_current_and_next_epoch_are_accepted(sent_in: int, accepted: bool) -> None:
    words = bytes.fromhex("00001400")
    tag = mac.compute_mac(KEY, TCP4, EPOCH + sent_in, words)
    matched = mac.matching_epoch(KEY, TCP4, EPOCH, words, tag)
    assert matched == (EPOCH + sent_in if accepted else None)
    if not accepted:
        with pytest.raises(RemoteProtocolError, match="mac_mismatch"):
            mac.verify(KEY, TCP4, EPOCH, words, tag)


def test_the_first_epochs_of_time_have_a_previous_one() -> None:
    words = bytes(4)
    assert mac.matching_epoch(KEY, TCP4, 0, words, mac.compute_mac(KEY, TCP4, 0xFFFFFFFF, words)) == -1


FORGERIES = {
    "source": TCP4._replace(source=bytes((10, 0, 0, 2))),
    "destination": TCP4._replace(destination=bytes((10, 0, 1, 2))),
    "protocol": TCP4._replace(protocol=17),
    "source port": TCP4._replace(source_port=40001),
    "destination port": TCP4._replace(destination_port=80),
    "reversed": TCP4.reversed(),
}


@pytest.mark.row("BP-44")
@pytest.mark.parametrize("flow", FORGERIES.values(), ids=FORGERIES.keys())
def test_an_altered_flow_is_never_accepted(flow: FlowKey) -> None:
    words = bytes.fromhex("00001402fc00001200000000")
    tag = mac.compute_mac(KEY, TCP4, EPOCH, words)
    assert mac.matching_epoch(KEY, flow, EPOCH, words, tag) is None


@pytest.mark.row("BP-44")
def test_an_altered_bit_of_header_key_or_mac_is_never_accepted() -> None:
    words = bytes.fromhex("00001402fc00001200000000")
    tag = mac.compute_mac(KEY, TCP4, EPOCH, words)

    def flipped(data: bytes, bit: int) -> bytes:
        return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")

    path_length_bits = range(8 * len(words) - 28, 8 * len(words) - 24)
    for bit in set(range(8 * len(words))) - set(path_length_bits):
        assert mac.matching_epoch(KEY, TCP4, EPOCH, flipped(words, bit), tag) is None, bit
    for bit in range(128):
        assert mac.matching_epoch(flipped(KEY, bit), TCP4, EPOCH, words, tag) is None
    for bit in range(48):
        assert mac.matching_epoch(KEY, TCP4, EPOCH, words, flipped(tag, bit)) is None
    assert mac.matching_epoch(KEY, TCP4, EPOCH, words, tag[:5]) is None
    assert mac.matching_epoch(KEY, TCP4, EPOCH, words, b"") is None


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1), st.integers(0, 7), st.data())
def test_the_fast_form_is_the_same_function(key: bytes, epoch: int, count: int, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([4, 16]))
    address = st.binary(min_size=size, max_size=size)
    port = st.integers(0, 0xFFFF)
    flow = FlowKey(*data.draw(st.tuples(address, address, st.integers(0, 255), port, port)))
    slots = data.draw(st.binary(min_size=4 * count, max_size=4 * count))
    words = data.draw(st.binary(min_size=3, max_size=3)) + bytes((count,)) + slots
    expected = mac.compute_mac(key, flow, epoch, words)
    assert mac.compute_mac_with_prefix(key, mac.flow_prefix(flow, epoch), words) == expected
    assert mac.verify(key, flow, epoch, words, expected) == epoch
