"""The six hosts of figure 3-1, what gathers data at two of them, and what charges and clears.

    h1 (c1: server) ──┐                          ┌── h3 (c3: player)
                      r1 (p1) ══ 10 ms ══ r2 (p2)┤
    h2 (c2: traffic) ─┘  4 Mbit/s                └── h4 (c4: sink; p3: clearing house; p2's mediation and charging)

Decides: links and rates; r1 marks by a virtual queue and is a plain FIFO; what a gatherer counts, namely packets and
marks of each UDP flow, by the kernel's packet filter; at which host each of the four processes runs. Refuses to know:
programs, and how a reactor answers. Source: M3I scenarios 3.3.1 (Fig. 3-1), 3.3.3.3 (functions that may run apart),
3.3.3.4 (data gathering twice); experiment B.2.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import msgspec

from billpay.clearing import MeteredKey, Payee
from billpay.messages import Signed
from billpay.sessions import Payer
from dataplane.metering import Tally
from lab.dph.clearing import BEGINS_MS, NAMES, PARTS, SESSION, Cleared, Market, books_of, order_of, publish
from lab.namespaces import Namespace, Network
from lab.topology import Link, Node, NodeKind, Scenario
from market.asking import Certified, End, Open, Read, Tell, Total, Totals

SENDER, TRAFFIC, RECEIVER, SINK = "h1", "h2", "h3", "h4"
NEAR, EDGE = "r1", "r2"
RATE_BIT_S: Final = 4_000_000
DELAY_MS: Final = 10.0
UDP: Final = 17
TCP: Final = 6

_FLOW: Final = "ip saddr . udp sport . ip daddr . udp dport"
_SET: Final = f"typeof {_FLOW}; flags dynamic; size 1024;"
_ETHERNET_BYTES: Final = 14
_ALL_PROTOCOLS: Final = 3  # ETH_P_ALL
_TICK_S: Final = 0.1
_RUN: Final = "31" * 16


def scenario31() -> Scenario:
    """Hosts without agents: the programs at both ends count and react by themselves."""
    bottleneck = Link(
        ends=(NEAR, EDGE),
        rate_bit_s=RATE_BIT_S,
        delay_ms=DELAY_MS,
        marking="virtual-queue",
        virtual_ppm=960_000,
        queueing="fifo",
        limit_bytes=60 * 1_500,
        virtual_limit_bytes=30_000,  # a sender that waited for a processor catches up with a few packets at once
    )
    hosts = tuple(Node(name=name, kind=NodeKind.PLAIN) for name in (SENDER, TRAFFIC, RECEIVER, SINK))
    return Scenario(
        name="figure31",
        title="a stream over two providers beside cross traffic",
        nodes=(
            *hosts,
            Node(name=NEAR, kind=NodeKind.ISP, as_number=64512),
            Node(name=EDGE, kind=NodeKind.ISP, as_number=64513),
        ),
        links=(
            Link(ends=(SENDER, NEAR)),
            Link(ends=(TRAFFIC, NEAR)),
            bottleneck,
            Link(ends=(EDGE, RECEIVER)),
            Link(ends=(EDGE, SINK)),
        ),
    )


class Gatherer:
    """Counts each UDP flow at a hook of a namespace: packets and bytes of all of it, and packets that carry CE."""

    def __init__(self, namespace: Namespace, *, hook: str, match: str) -> None:
        self._namespace = namespace
        rules = [
            f"{match} meta l4proto udp ip ecn ce update @marked {{ {_FLOW} counter }}",
            f"{match} meta l4proto udp update @carried {{ {_FLOW} counter }}",
        ]
        chain = ["chain gather {", f"type filter hook {hook} priority 500;", *rules, "}"]
        sets = [f"set {name} {{ {_SET} }}" for name in ("carried", "marked")]
        namespace.run(["nft", "-f", "-"], stdin="\n".join(["table inet gathering {", *sets, *chain, "}"]) + "\n")

    def read(self) -> dict[MeteredKey, Tally]:
        """Since the start."""
        listing = msgspec.json.decode(self._namespace.run(["nft", "-j", "list", "table", "inet", "gathering"]))
        sets = {each["set"]["name"]: each["set"].get("elem", []) for each in listing["nftables"] if "set" in each}
        marked = {_key(each): each["elem"]["counter"]["packets"] for each in sets["marked"]}
        return {
            key: Tally(
                packets=each["elem"]["counter"]["packets"],
                bytes=each["elem"]["counter"]["bytes"],
                ce_packets=marked.get(key, 0),
            )
            for each in sets["carried"]
            for key in (_key(each),)
        }


def _key(element: dict[str, dict[str, dict[str, list[str | int]]]]) -> MeteredKey:
    source, source_port, destination, destination_port = element["elem"]["val"]["concat"]
    return MeteredKey(
        source=str(source),
        destination=str(destination),
        protocol=UDP,
        source_port=int(source_port),
        destination_port=int(destination_port),
    )


@dataclass(slots=True)
class ControlTap:
    """Writes down every byte over TCP that one interface sends or gets: what two hosts say to each other."""

    namespace: Namespace
    interface: str
    said: bytearray = field(default_factory=bytearray)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _socket: socket.socket | None = None

    def start(self) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
            made.bind((self.interface, _ALL_PROTOCOLS))
            return made

        self._socket = self.namespace.inside(make)
        self._socket.settimeout(_TICK_S)
        self._thread = threading.Thread(target=self._record, args=(self._socket,), name="control-tap")
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        if self._socket is not None:
            self._socket.close()

    def _record(self, tap: socket.socket) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                self.said += tcp_payload(tap.recv(65_535))


def tcp_payload(frame: bytes) -> bytes:
    """Of an Ethernet frame with IPv4; nothing for whatever else it is."""
    packet = frame[_ETHERNET_BYTES:]
    if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != TCP:
        return b""
    begins = (packet[0] & 0x0F) * 4
    whole = int.from_bytes(packet[2:4], "big")
    return packet[begins + (packet[begins + 12] >> 4) * 4 : whole] if len(packet) > begins + 12 else b""


class Market31(Market):
    """Its meter is at p2's edge, the other parts are at h4. In one sub-scenario customer and payer are the same."""

    def __init__(self, directory: Path, network: Network, payer: Payer, log: IO[bytes]) -> None:
        directory.mkdir()
        super().__init__(directory)
        self._network = network
        self._log = log
        self._sent: list[Signed] = []
        if payer is Payer.RECEIVER:
            self.people["c1"] = self.people["c3"]

    async def start(self) -> None:
        for part in PARTS:
            namespace = self._network[EDGE if part == "meter" else SINK]
            command = [sys.executable, "-m", "market.process", str(self._directory / f"{part}.toml")]
            self._running.append(namespace.start(command, stderr=self._log))
        for part in PARTS:
            await self.until(part, lambda _total: True)
        certified = {key.fingerprint: (name, key) for name, key in self.people.items()}  # c3 if both are the same
        for name, key in certified.values():
            certificate = self.authority.certify(name, key.public_key)
            for part in PARTS:
                await self.heard(part, Certified(certificate=certificate))

    async def publish(self, nanodollars: int) -> None:
        """p2's price, to all four, before the session."""
        self._sent.append(await publish(self, 1, 0, nanodollars))

    async def open(self, key: MeteredKey) -> None:
        """What the meter counts of this flow is the session's."""
        await self.heard("mediation", Open(session=SESSION, key=key, meter=NAMES["meter"], regularity_ms=500))

    async def read(self, key: MeteredKey, tally: Tally, *, ends: bool = False) -> None:
        reading = Read(
            run=_RUN,
            key=key,
            unix_ms=time.time_ns() // 1_000_000,
            packets=tally.packets,
            bytes=tally.bytes,
            ce_packets=tally.ce_packets,
            ends=ends,
        )
        await self.heard("meter", reading)

    async def clear(self, key: MeteredKey, marks: int) -> tuple[Cleared, int]:
        """From the meter's last reading to everybody's books; and what the meter had counted."""
        metered = await self.ask("meter", Totals(session=SESSION, key=key))
        assert isinstance(metered, Total), metered
        await self.until("mediation", lambda total: total.marks == marks and total.unsent == 0)
        await self.heard("mediation", End(session=SESSION))
        await self.until("charging", lambda total: total.marks == marks)
        order = await order_of(self, Payee.PROVIDER, time.time_ns() // 1_000_000 - BEGINS_MS)
        await self.heard("clearing", Tell(signed=order))
        return await books_of(self, order, Payee.PROVIDER, [*self._sent, order]), metered.marks
