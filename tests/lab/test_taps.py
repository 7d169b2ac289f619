"""The taps count what really passed: frames that scapy built, sent through a cable of the lab."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import HBHOptUnknown, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapReader

from lab.namespaces import Network
from lab.plan import make_plan
from lab.run import watches
from lab.scenarios import find_scenario
from lab.taps import EndReport, Orders, Taps
from lab.traffic import numbered_payload
from lab.wire import Harm, WireOrder, Wires

pytestmark = pytest.mark.netns

X, Y = 64512, 64513


def body(amount: int, as_number: int) -> bytes:
    """Base word without slots, MAC field that names a gateway."""
    return amount.to_bytes(3, "big") + b"\x10" + as_number.to_bytes(2, "big") + bytes(4)


def ipv4(amount: int | None, as_number: int, payload: bytes = b"") -> Packet:
    option = b"" if amount is None else b"\x9e\x0c" + body(amount, as_number)
    return IP(src="10.77.200.1", dst="10.77.200.2", options=[option] if option else []) / UDP(dport=7000) / Raw(payload)


def ipv6(amount: int, as_number: int, payload: bytes = b"") -> Packet:
    option = HBHOptUnknown(otype=0x3E, optlen=10, optdata=body(amount, as_number))
    hop_by_hop = IPv6ExtHdrHopByHop(options=[option])
    return IPv6(src="fd77:200::1", dst="fd77:200::2") / hop_by_hop / UDP(dport=7000) / Raw(payload)


def tunnelled(amount: int, as_number: int, payload: bytes) -> Packet:
    head = bytes([1, 3]) + body(amount, as_number)
    return (
        IP(src="10.77.2.1", dst="10.77.2.2") / UDP(sport=7415, dport=7415) / Raw(head + bytes(ipv4(None, 0, payload)))
    )


FRAMES = [
    ipv4(20, X, numbered_payload(1, 1, 100)),
    ipv4(19, X, numbered_payload(1, 2, 1300)),
    ipv6(17, X, numbered_payload(2, 7, 100)),
    tunnelled(11, X, numbered_payload(3, 9, 100)),
    ipv4(50, Y),  # passed by X without being processed
    ipv4(None, 0),  # nothing in it
    ipv4(0, X),  # a header without money
]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(make_plan(find_scenario("figure1"))) as network:
        yield network


def send(network: Network, node: str, towards: str, packets: list[Packet]) -> None:
    end, peer = network.plan.end(node, towards), network.plan.end(towards, node)
    frames = [bytes(Ether(src=end.mac, dst=peer.mac) / packet) for packet in packets]

    def go() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind((end.interface, 0))
            for frame in frames:
                raw.send(frame)

    network[node].inside(go)


def capture(network: Network, packets: list[Packet], directory: Path, *, files: bool) -> dict[str, EndReport]:
    with (directory / "taps.log").open("wb") as log:
        taps = Taps(Orders(watches=watches(network), directory=str(directory) if files else ""), log)
        try:
            send(network, "X", "Y", packets)
            return {end.label: end for end in taps.report().ends}
        finally:
            taps.close()


@pytest.mark.row("BP-35")
def test_both_ends_of_a_cable_count_the_same(network: Network, tmp_path: Path) -> None:
    ends = capture(network, FRAMES, tmp_path, files=False)
    for tally in (ends["X-Y@X"].sent, ends["X-Y@Y"].received):
        assert (tally.packets, tally.nanodollars) == (4, 20 + 19 + 17 + 11)
        assert (tally.passed_packets, tally.passed_nanodollars, tally.malformed) == (1, 50, 0)
        assert set(tally.followed) == {(1, 1, 20), (1, 2, 19), (2, 7, 17), (3, 9, 11)}
    assert ends["X-Y@X"].received.packets == ends["X-Y@Y"].sent.packets == 0
    assert sum(end.dropped for end in ends.values()) == 0


def test_plain_traffic_is_not_even_captured_without_files(network: Network, tmp_path: Path) -> None:
    ends = capture(network, [ipv4(None, 0)] * 50, tmp_path, files=False)
    assert max(ends["X-Y@X"].captured, ends["X-Y@Y"].captured) < 10  # the kernel's own IPv6 multicast reports


def test_capture_files_hold_every_frame_whole(network: Network, tmp_path: Path) -> None:
    capture(network, FRAMES, tmp_path, files=True)
    mac = network.plan.end("X", "Y").mac
    wanted = [bytes(packet) for packet in FRAMES]
    for name in ("X-Y@X", "X-Y@Y"):
        with RawPcapReader(str(tmp_path / f"{name}.pcap")) as file:
            frames = [Ether(data) for data, _ in file]
        sent = [bytes(frame.payload) for frame in frames if frame.src == mac]
        ours = [packet for packet in sent if packet in wanted]  # and not the kernel's IPv6 multicast reports
        assert ours == wanted


def test_a_burst_is_counted_to_the_last_frame(network: Network, tmp_path: Path) -> None:
    packets = [ipv4(1, X, numbered_payload(1, number, 64)) for number in range(2000)]
    ends = capture(network, packets, tmp_path, files=False)
    assert ends["X-Y@Y"].received.packets == 2000
    assert len(ends["X-Y@Y"].received.followed) == 2000


def test_a_lossy_wire_shows_between_its_two_ends(tmp_path: Path) -> None:
    packets = [ipv4(19, X, numbered_payload(1, number, 64)) for number in range(500)]
    with Network(make_plan(find_scenario("faults"))) as network, (tmp_path / "wires.log").open("wb") as log:
        wires_namespace = network.wire_namespace
        assert wires_namespace is not None
        cable = network.plan.cable("X", "Y")
        order = WireOrder(
            name="X-Y",
            interfaces=network.wire_interfaces(cable),
            harm=Harm(loss_ppm=100_000, reorder_ppm=50_000),
            seed=1,
        )
        wires = Wires([order], wires_namespace.argv, log)
        try:
            ends = capture(network, packets, tmp_path, files=False)
            (report,) = wires.report()
        finally:
            wires.close()
    sent, received = ends["X-Y@X"].sent, ends["X-Y@Y"].received
    assert sent.packets == 500
    assert 0 < report.lost < 200
    assert received.packets == 500 - report.lost
    order_of_arrival = [sequence for _, sequence, _ in received.followed]
    assert report.reordered > 0
    assert order_of_arrival != sorted(order_of_arrival)
