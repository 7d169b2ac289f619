"""A packet core for tests: what it does with a packet is written in the packet's UDP payload, or told by a command."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

from dataplane.port import Action, Counters, Inject, Packet, Verdict

PORT = 7777


def datagram(source: str, destination: str, data: bytes) -> bytes:
    """An IPv4 or IPv6 UDP packet (no UDP checksum in IPv4; a right one in IPv6)."""
    here, there = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    udp = struct.pack("!HHHH", PORT, PORT, 8 + len(data), 0) + data
    if here.version == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 1, 0, 64, 17, 0, here.packed, there.packed)
        return head[:10] + checksum(head) + head[12:] + udp
    pseudo = here.packed + there.packed + struct.pack("!II", len(udp), 17)
    udp = udp[:6] + checksum(pseudo + udp) + udp[8:]
    return struct.pack("!IHBB16s16s", 0x6000_0000, len(udp), 17, 64, here.packed, there.packed) + udp


def checksum(data: bytes) -> bytes:
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", 0xFFFF - total)


def data_of(payload: bytes) -> bytes:
    """What the datagram carries."""
    return payload[28:] if payload[0] >> 4 == 4 else payload[48:]


class ScriptedCore:
    """accept, drop, mangle, mark NUMBER, hold MILLISECONDS, forget, inject, say TEXT; by command: rewrite all."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self.packets = counters.index("test.packets")
        self.sent = counters.index("test.sent")
        self.held: list[tuple[int, Packet]] = []
        self.events: list[bytes] = []
        self.rewrites_all = False

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        actions: list[Action] = []
        for packet in batch:
            self.counters.add(self.packets, 1)
            actions += self.decide(packet, now_ns)
        return actions

    def decide(self, packet: Packet, now_ns: int) -> list[Action]:
        words = data_of(packet.payload).split()
        order = words[0] if words else b""
        if order == b"drop":
            return [Verdict(packet.packet_id, packet.queue, False)]
        if order == b"hold":
            self.held.append((now_ns + int(words[1]) * 1_000_000, packet))
            return []
        if order == b"forget":
            return []
        if order == b"say":
            self.events.append(b" ".join(words[1:]))
        mark = int(words[1]) if order == b"mark" else packet.mark
        self.counters.add(self.sent, 1)
        payload = mangled(packet) if order == b"mangle" else None
        if self.rewrites_all:
            payload = one_hop_less(packet.payload)
        verdict = Verdict(packet.packet_id, packet.queue, True, mark, payload)
        return [verdict, Inject(packet.payload.replace(b"inject", b"copied"))] if order == b"inject" else [verdict]

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        due = [packet for due_ns, packet in self.held if due_ns <= now_ns]
        self.held = [entry for entry in self.held if entry[0] > now_ns]
        return self.release(due)

    def on_drain(self, now_ns: int) -> Sequence[Action]:
        due = [packet for _, packet in self.held]
        self.held = []
        return self.release(due)

    def release(self, packets: list[Packet]) -> list[Action]:
        self.counters.add(self.sent, len(packets))
        return [Verdict(packet.packet_id, packet.queue, True, packet.mark) for packet in packets]

    def next_deadline_ns(self) -> int | None:
        return min((due_ns for due_ns, _ in self.held), default=None)

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        if data == b"rewrite all":
            self.rewrites_all = True
        return None if data == b"quiet" else data[::-1]

    def take_events(self) -> list[bytes]:
        events, self.events = self.events, []
        return events


def one_hop_less(payload: bytes) -> bytes:
    """The transport checksum is left as it came, finished or not."""
    if payload[0] >> 4 == 6:
        return payload[:7] + bytes((payload[7] - 1,)) + payload[8:]
    head = payload[:8] + bytes((payload[8] - 1, payload[9], 0, 0)) + payload[12:20]
    return head[:10] + checksum(head) + payload[12:]


def mangled(packet: Packet) -> bytes:
    """The same datagram, four bytes longer."""
    payload = packet.payload
    data = data_of(payload) + b"!!!!"
    if payload[0] >> 4 == 4:
        ends = ipaddress.ip_address(payload[12:16]), ipaddress.ip_address(payload[16:20])
    else:
        ends = ipaddress.ip_address(payload[8:24]), ipaddress.ip_address(payload[24:40])
    return datagram(str(ends[0]), str(ends[1]), data)
