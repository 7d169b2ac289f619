"""A whole run of a scenario, and its captures as scapy reads them: a third parser, which shares nothing with the
daemons and the taps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import HBHOptUnknown, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils import RawPcapReader

from lab.plan import Plan, make_plan
from lab.report import Report
from lab.run import run_scenario
from lab.scenarios import find_scenario

TUNNEL_PORT = 7415
TCP_PROTOCOL = 6
NUMBER_OFFSET = 6  # behind the magic of lab.traffic
IPV4_OPTION, IPV6_OPTION = 30, 0x3E  # scapy splits 0x9e into copy flag, class and number 30


class Payment(NamedTuple):
    """A Bill-Pay header in a captured frame."""

    source_mac: str
    amount: int
    slots: tuple[tuple[int, int, int], ...]
    mac_field: bytes
    number: tuple[int, int] | None  # (stream, sequence) of a numbered packet
    tunnelled: bool


def body_of(packet: Packet) -> bytes | None:
    """Base word, slots and MAC field, wherever they travel."""
    if IP in packet:
        for option in packet[IP].options:
            if option.option == IPV4_OPTION and option.copy_flag == 1 and option.optclass == 0:
                return bytes(option.value)
    if IPv6ExtHdrHopByHop in packet:
        for option in packet[IPv6ExtHdrHopByHop].options:
            if isinstance(option, HBHOptUnknown) and option.otype == IPV6_OPTION:
                return bytes(option.optdata)
    if UDP in packet and packet[UDP].dport == TUNNEL_PORT:
        data = bytes(packet[UDP].payload)
        return data[2 : data[1] * 4] if len(data) > 12 and data[1] else None
    return None


def number_of(packet: Packet) -> tuple[int, int] | None:
    data = bytes(packet[UDP].payload) if UDP in packet else b""
    at = data.find(b"HALAB1")
    if at < 0:
        return None
    number = data[at + NUMBER_OFFSET : at + NUMBER_OFFSET + 10]
    return int.from_bytes(number[:2], "big"), int.from_bytes(number[2:], "big")


def payment_of(frame: Packet) -> Payment | None:
    body = body_of(frame)
    if body is None:
        return None
    words = [int.from_bytes(body[at : at + 4], "big") for at in range(0, len(body) - 6, 4)]
    slots = tuple((word >> 16, word >> 4 & 0xFFF, word & 0xF) for word in words[1:])
    tunnelled = UDP in frame and frame[UDP].dport == TUNNEL_PORT
    return Payment(frame.src, words[0] >> 8, slots, body[-6:], number_of(frame), tunnelled)


def may_pay(data: bytes) -> bool:
    """A quick look before scapy's slow one: IPv4 options, an IPv6 hop-by-hop header, or the tunnel's port."""
    if data[12:14] == b"\x08\x00":
        return data[14] > 0x45 or data[36:38] == TUNNEL_PORT.to_bytes(2, "big")
    return data[12:14] == b"\x86\xdd" and (data[20] == 0 or data[56:58] == TUNNEL_PORT.to_bytes(2, "big"))


def without_tcp(data: bytes) -> bytes:
    """Of a segment with a header of ours in front of it all that says what it pays: scapy is slow."""
    if data[12:14] == b"\x08\x00":
        return data[: 14 + 4 * (data[14] & 0xF)] if data[23] == TCP_PROTOCOL else data
    return data[: 54 + 8 + 8 * data[55]] if data[20] == 0 and data[54] == TCP_PROTOCOL else data


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    report: Report
    plan: Plan
    folder: Path
    parsed: dict[tuple[str, str], list[Payment]] = field(default_factory=dict)

    def frames(self, node: str, peer: str) -> Iterator[bytes]:
        """What was captured at `node`'s end of its cable to `peer`, both directions."""
        ends = self.plan.cable(node, peer).ends
        with RawPcapReader(str(self.folder / f"{ends[0].node}-{ends[1].node}@{node}.pcap")) as file:
            for data, _ in file:
                yield data

    def payments(self, node: str, peer: str) -> list[Payment]:
        """The headers that left `node` towards `peer`, as its own end of the cable saw them."""
        key = (node, peer)
        if key not in self.parsed:  # scapy is slow, and several tests ask for the same
            self.parsed[key] = self._from(self.plan.end(node, peer).mac, self.frames(node, peer))
        return self.parsed[key]

    def arrivals(self, node: str, peer: str) -> list[Payment]:
        """The headers that came to `node` from `peer`, as its own end of the cable saw them."""
        return self._from(self.plan.end(peer, node).mac, self.frames(node, peer))

    def _from(self, mac: str, frames: Iterator[bytes]) -> list[Payment]:
        found = (payment_of(Ether(without_tcp(data))) for data in frames if may_pay(data))
        return [payment for payment in found if payment is not None and payment.source_mac == mac]

    def paid_by(self, node: str, peer: str) -> int:
        """The sum of what `node` paid there: of a gateway only what carries its name."""
        as_number = self.plan.scenario.node(node).as_number
        name = as_number.to_bytes(2, "big") + bytes(4)
        return sum(item.amount for item in self.payments(node, peer) if not as_number or item.mac_field == name)

    def followed(self, stream: int) -> Counter[tuple[int, ...]]:
        """The amounts of each numbered packet of a stream on the figure's links, in order, and how often."""
        seen: dict[int, list[int]] = defaultdict(list)
        path = list(pairwise(self.plan.scenario.figure))
        for node, peer in path:
            for item in self.payments(node, peer):
                if item.number is not None and item.number[0] == stream:
                    seen[item.number[1]].append(item.amount)
        return Counter(tuple(amounts) for amounts in seen.values() if len(amounts) == len(path))

    def stream(self, exchange: str) -> int:
        """The number of an exchange in its packets: its place among the steps."""
        steps = self.plan.scenario.steps
        return next(n for n, step in enumerate(steps, start=1) if getattr(step, "name", "") == exchange)


class Wanted(NamedTuple):
    """Which run: of what, how, how long."""

    name: str
    ipv6: bool = False
    seconds: int | None = None


class Runs:
    """`runs("figure1", ipv6=True, seconds=12)`: the run, the same one for every test of the session."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._done: dict[Wanted, Run] = {}

    def __call__(self, name: str, *, ipv6: bool = False, seconds: int | None = None) -> Run:
        wanted = Wanted(name, ipv6, seconds)
        self.side_by_side(wanted)
        return self._done[wanted]

    def side_by_side(self, *wanted: Wanted) -> None:
        """Makes these at once, each with namespaces, daemons and links of its own.

        A run mostly waits for its own clock. At once is for those that measure no more than a few Mbit/s: the machine
        must stay half idle.
        """
        missing = [each for each in wanted if each not in self._done]
        folders = [self._make_folder(each.name) for each in missing]
        with ProcessPoolExecutor(max(1, len(missing)), get_context("fork")) as processes:
            reports = list(processes.map(_run, missing, folders))
        for each, folder, report in zip(missing, folders, reports, strict=True):
            self._done[each] = Run(report=report, plan=make_plan(find_scenario(each.name)), folder=folder)


def _run(wanted: Wanted, folder: Path) -> Report:
    return run_scenario(wanted.name, ipv6=wanted.ipv6, seconds=wanted.seconds, pcap=folder, progress=lambda _line: None)


RunOnce = Runs


def checksums_hold(data: bytes) -> bool:
    """Scapy computes every checksum and length again and gets the same bytes.

    In ones' complement 0xFFFF is 0, too: a kernel that updates a sum may write either (RFC 1624, section 3).
    """
    packet = Ether(data).payload
    if TCP in packet and packet[TCP].chksum == 0xFFFF:
        packet[TCP].chksum = 0
    fresh = type(packet)(bytes(packet))
    layer = fresh
    while layer:
        for name in ("chksum", "len", "plen", "ihl"):
            if name in layer.fields and isinstance(layer, IP | IPv6 | TCP | UDP):
                if name == "chksum" and isinstance(layer, UDP) and layer.chksum == 0:
                    continue  # none, which IPv4 allows
                delattr(layer, name)
        layer = layer.payload
    return bytes(fresh) == bytes(packet)
