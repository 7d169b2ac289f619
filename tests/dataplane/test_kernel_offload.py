"""Real packets through the real programs, from a host that pays to one that knows nothing: what is on the wires behind.

TCP and UDP hand down packets of many segments. Wherever they are cut, each segment carries the header where it should,
and both ends of a link count the same.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gateway_network import parsed, paying, plain, segment
from kernel_chain import AMOUNT, CABLES, A, B, Chain, Tap, amounts
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from billpay.packet import flow_key

pytestmark = pytest.mark.netns

UDP_SEGMENT = 103  # linux/udp.h
CONTENT = bytes(range(256)) * 2500
PORT = 443
FROM_PORT = 40001
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def transfer(chain: Chain, family: int) -> int:
    """All of it by TCP from a to b, byte by byte the same; the client's largest segment."""
    version = socket.AF_INET if family == 4 else socket.AF_INET6
    server = chain.inside("b", lambda: socket.create_server((B[family], PORT), family=version))
    server.settimeout(10)
    client = chain.socket("a", family, socket.SOCK_STREAM)
    client.bind((A[family], FROM_PORT))
    client.connect((B[family], PORT))
    with server, server.accept()[0] as connection:
        connection.settimeout(10)
        largest = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        sender = threading.Thread(target=lambda: (client.sendall(CONTENT), client.shutdown(socket.SHUT_WR)))
        sender.start()
        came = b"".join(iter(lambda: connection.recv(1 << 18), b""))
        sender.join()
        assert came == CONTENT
    assert client.recv(1) == b""
    return largest


@FAMILIES
@pytest.mark.parametrize("cut_at", ["a0", "yb"])
def test_each_segment_carries_its_header_and_both_ends_count_alike(family: int, cut_at: str) -> None:
    first = segment(A[family], B[family], sport=FROM_PORT, dport=PORT)
    with Chain(cut_at=cut_at) as chain:
        chain.pay(first)
        taps = {name: chain.tap(node, name) for _, _, node, name in CABLES}
        largest = transfer(chain, family)
        seen = {name: tap.of_flow(first) for name, tap in taps.items()}
        sent = chain.link_count("a", "x", "sent_packets")
        assert sent > len(CONTENT) // 1460
        assert chain.link_count("a", "x", "sent_nanodollars") == AMOUNT * sent
        assert chain.link_count("x", "a", "received_packets") == sent
        assert chain.link_count("x", "a", "received_nanodollars") == AMOUNT * sent
        assert chain.link_count("x", "y", "sent_packets") == chain.link_count("y", "x", "received_packets") == sent
        assert chain.link_count("x", "y", "sent_nanodollars") == (AMOUNT - 1) * sent
        assert chain.link_count("y", "x", "received_nanodollars") == (AMOUNT - 1) * sent
        assert chain.link_count("y", "b", "kept_nanodollars") == (AMOUNT - 2) * sent
        assert chain.count("x", "passed_unchanged") == chain.count("y", "passed_unchanged") == 0
    assert (amounts(seen["xa"]), amounts(seen["yx"]), amounts(seen["b0"])) == ({AMOUNT}, {AMOUNT - 1}, {None})
    assert largest < 1460 - 24, "room for the header was kept: the SYN, and the SYN and ACK, were changed"
    cut = [left for _, left, _, _ in CABLES].index(cut_at)
    for number, (_, _, _, name) in enumerate(CABLES):
        if number < cut:
            assert len(seen[name]) < sent, "packets of many segments went by it"
        else:
            assert len(seen[name]) == sent
            for packet in seen[name]:
                parsed(packet)


@FAMILIES
def test_the_mss_is_lowered_where_the_header_will_go_in(family: int) -> None:
    first = segment(A[family], B[family], sport=FROM_PORT, dport=PORT)
    with Chain() as chain:
        chain.pay(first)
        tap = chain.tap("x", "xa")
        largest = transfer(chain, family)
        syn = next(packet for packet in tap.of_flow(first) if parsed(packet)[TCP].flags.S)
        longest = max(len(packet) for packet in tap.of_flow(first) or [b""])
    said = dict(option for option in parsed(syn)[TCP].options if option[0] == "MSS")["MSS"]
    assert said < (1460 if family == 4 else 1440)
    assert largest <= said - 12, "by the SYN and ACK, less the time stamps"
    assert longest <= 1500


@FAMILIES
def test_datagrams_that_a_device_should_cut_go_on_whole_and_both_ends_count_alike(family: int) -> None:
    first = plain(A[family], B[family], sport=5004, dport=9000)
    with Chain(cut_at="yb", checksums=True) as chain:
        chain.pay(first)
        receiver, sender = chain.socket("b", family), chain.socket("a", family)
        receiver.bind((B[family], 9000))
        sender.bind((A[family], 5004))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 500)
        sender.sendto(b"u" * 2000, (B[family], 9000))
        assert [len(receiver.recv(4000)) for _ in range(4)] == [500] * 4
        sent = chain.link_count("a", "x", "sent_packets")
        assert sent + chain.count("a", "passed_unchanged") == 4
        assert chain.link_count("x", "a", "received_packets") == sent
        assert chain.link_count("x", "y", "sent_packets") == chain.link_count("y", "x", "received_packets") == sent
        assert chain.link_count("x", "y", "sent_nanodollars") == (AMOUNT - 1) * sent
        assert chain.link_count("y", "x", "received_nanodollars") == (AMOUNT - 1) * sent


# --- what is not an ordinary packet ---------------------------------------------------------------------------------


@contextmanager
def one_chain(family: int) -> Iterator[tuple[Chain, Tap, Tap]]:
    with Chain() as chain:
        yield chain, chain.tap("x", "xa"), chain.tap("b", "b0")


def network(family: int, **more: object) -> Packet:
    return IP(src=A[4], dst=B[4], **more) if family == 4 else IPv6(src=A[6], dst=B[6], **more)


def send_raw(chain: Chain, packet: bytes, *, tag: int = 0) -> None:
    """As a program of the host with its own idea of what a packet is."""

    def send() -> None:
        ours, theirs = (
            chain.nodes[node].run("ip", "-br", "link", "show", name).split()[2]
            for node, name in (("a", "a0"), ("x", "xa"))
        )
        frame = Ether(src=ours, dst=theirs, type=0x8100 if tag else 0x0800 if packet[0] >> 4 == 4 else 0x86DD)
        if tag:
            frame /= Dot1Q(vlan=tag, type=0x0800 if packet[0] >> 4 == 4 else 0x86DD)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("a0", 0))
            raw.send(bytes(frame / Raw(packet)))

    chain.inside("a", send)


def arrived(tap: Tap, packet: bytes, *, patience_s: float = 5.0) -> list[bytes]:
    """Those of its flow, as soon as there are any."""
    until_s = time.monotonic() + patience_s
    while not (found := tap.of_flow(packet)):
        assert time.monotonic() < until_s, "nothing came"
        time.sleep(0.01)
    return found


@pytest.mark.parametrize(("family", "kind"), [(4, "esp"), (6, "esp"), (4, "ip in ip")])
def test_what_has_no_ports_pays_with_ports_0(family: int, kind: str) -> None:
    """To a gateway; a host's agent leaves alone what is neither TCP nor UDP."""
    inner = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2) / Raw(b"inner")
    payload = {"esp": ESP(spi=7, seq=1, data=b"e" * 40), "ip in ip": inner}[kind]
    number = {"esp": 50, "ip in ip": 4}[kind]
    packet = bytes(network(family, **{"proto" if family == 4 else "nh": number}) / payload)
    key = flow_key(packet)
    assert key is not None
    assert (key.source_port, key.destination_port) == (0, 0)
    with one_chain(family) as (chain, _, last):
        chain.pay(packet)
        send_raw(chain, packet)
        assert arrived(last, packet)
        send_raw(chain, paying(packet, AMOUNT))
        (came,) = arrived(last, packet)
        assert chain.link_count("a", "x", "sent_packets") == 0
        assert chain.link_count("x", "a", "received_nanodollars") == AMOUNT
        assert chain.link_count("y", "x", "received_nanodollars") == AMOUNT - 1
        assert chain.link_count("y", "b", "unpaid_packets") == 1
    assert came[-len(bytes(payload)) :] == bytes(payload)
    assert parsed(came)


@FAMILIES
def test_fragments_go_unpaid(family: int) -> None:
    whole = plain(A[family], B[family], sport=5004, dport=9000)
    with one_chain(family) as (chain, first, _):
        chain.pay(whole)
        receiver, sender = chain.socket("b", family), chain.socket("a", family)
        receiver.bind((B[family], 9000))
        sender.bind((A[family], 5004))
        sender.sendto(b"f" * 4000, (B[family], 9000))
        assert receiver.recv(5000) == b"f" * 4000
        seen = first.packets()
        assert chain.link_count("a", "x", "sent_nanodollars") == 0
        assert chain.link_count("y", "b", "unpaid_packets") == 3
    pieces = [packet for packet in seen if _is_fragment(packet)]
    assert len(pieces) == 3
    assert amounts(pieces) == {None}


def _is_fragment(packet: bytes) -> bool:
    if packet[0] >> 4 == 6:
        return IPv6ExtHdrFragment in IPv6(packet)
    return bool(IP(packet).frag or IP(packet).flags.MF)


@FAMILIES
def test_what_is_too_long_for_a_header_goes_without_and_pays_nothing(family: int) -> None:
    packet = plain(A[family], B[family], sport=5004, dport=9000)
    size = 1500 - 28 if family == 4 else 1500 - 48
    with one_chain(family) as (chain, first, _):
        chain.pay(packet)
        receiver, sender = chain.socket("b", family), chain.socket("a", family)
        receiver.bind((B[family], 9000))
        sender.bind((A[family], 5004))
        for each in (size, 100):
            sender.sendto(b"o" * each, (B[family], 9000))
            assert len(receiver.recv(5000)) == each
        seen = first.of_flow(packet)
        assert chain.count("a", "cannot_carry_too_big") == 1
        assert chain.link_count("a", "x", "sent_packets") == chain.link_count("x", "a", "received_packets") == 1
    assert [amounts([each]) for each in seen] == [{None}, {AMOUNT}]


def test_a_tagged_frame_is_another_links_traffic() -> None:
    packet = plain(A[4], B[4])
    with one_chain(4) as (chain, first, _):
        chain.pay(packet)
        send_raw(chain, packet, tag=5)
        assert arrived(first, packet) == [packet]
        assert chain.count("x", "passed_vlan") == 1
        assert chain.link_count("a", "x", "sent_packets") == chain.link_count("x", "a", "received_packets") == 0
        assert chain.link_count("x", "y", "unpaid_packets") == 0
