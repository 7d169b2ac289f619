"""A meter: which session a packet belongs to, and how many of its packets carry a congestion mark.

Decides: what one key is, which packets count, and when a checkpoint is due. Refuses to know prices and sessions.
Source: M3I scenarios 3.3.4 ("only have to meter ECN marks"; checkpointing and flushing "through the policy interface")
and 3.5.1.1 (encrypted ports); RFC 3168 (CE); RFC 4303 section 2.1 (a security association is named by its SPI and,
here, its destination).

Two kinds of source feed a meter: whole packets, which it counts by itself, and cumulative readings of another counter
(the host's or the gateway's engine), which survive the meter's own death. Counts are since the run began, whatever is
lost on the way to mediation. A checkpoint is due at every whole multiple of the policy's interval of unix time, and
once at each instant that is asked for (a price changes there): no record of a packet meter straddles such an instant.
A reading is of one instant; if its source is late, the record straddles, and a price has a rule for that
(`billpay.markprices`: the price where the interval began).
"""

from __future__ import annotations

import ipaddress
import struct
from bisect import bisect_right, insort
from dataclasses import dataclass, field
from typing import Final

import msgspec

from billpay.clearing import ESP, MeteredKey, MeterRecord
from billpay.packet import flow_key, transport_of
from dataplane.metering import Tally

_ECN_MASK: Final = 0b11
CE: Final = 0b11
_SPI: Final = struct.Struct(">I")
CUTS_KEPT: Final = 64


class MeteringPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator sets (DPH-25): how often counts are written down, and how often what was written is sent."""

    checkpoint_ms: int = 1_000
    flush_ms: int = 5_000
    most_keys: int = 4_096

    def __post_init__(self) -> None:
        if not 10 <= self.checkpoint_ms <= self.flush_ms <= 3_600_000:
            raise ValueError("10 ms <= checkpoint_ms <= flush_ms <= 1 h")
        if not 1 <= self.most_keys <= 1_000_000:
            raise ValueError("most_keys is from 1 to 1,000,000")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one packet says to a meter."""

    key: MeteredKey
    bytes: int
    is_marked: bool


def look_at(packet: bytes) -> Seen | None:
    """The key and the mark in an IP header; None for what is no whole IP packet."""
    flow = flow_key(packet)
    transport = transport_of(packet)
    if flow is None or transport is None:
        return None
    ecn = packet[1] & _ECN_MASK if packet[0] >> 4 == 4 else packet[1] >> 4 & _ECN_MASK
    destination = str(ipaddress.ip_address(flow.destination))
    if transport.protocol == ESP and not transport.fragment and len(packet) >= transport.offset + _SPI.size:
        (spi,) = _SPI.unpack_from(packet, transport.offset)
        key = MeteredKey(destination=destination, protocol=ESP, spi=spi)
    else:
        key = MeteredKey(
            source=str(ipaddress.ip_address(flow.source)),
            destination=destination,
            protocol=flow.protocol,
            source_port=flow.source_port,
            destination_port=flow.destination_port,
        )
    return Seen(key=key, bytes=len(packet), is_marked=ecn == CE)


@dataclass(slots=True)
class _Count:
    """One key. The interval that is being counted began at `since`; nothing is known of it beyond `last`."""

    since_unix_ms: int
    last_unix_ms: int
    is_read: bool
    number: int = 0
    now: tuple[int, int, int] = (0, 0, 0)  # packets, bytes, marks
    written: tuple[int, int, int] = (0, 0, 0)  # at the last checkpoint


@dataclass(slots=True)
class Meter:
    """Counts; `take` gives the checkpoints that are to be sent. `run` is drawn anew when counts begin at 0."""

    name: str
    run: str
    policy: MeteringPolicy = field(default_factory=MeteringPolicy)
    beyond_table_packets: int = 0
    _counts: dict[MeteredKey, _Count] = field(default_factory=dict)
    _cuts_unix_ms: list[int] = field(default_factory=list)
    _records: list[MeterRecord] = field(default_factory=list)
    _flushed_unix_ms: int | None = None

    def cut_at(self, unix_ms: int) -> None:
        """A checkpoint there, too: a price changes."""
        if unix_ms not in self._cuts_unix_ms:
            insort(self._cuts_unix_ms, unix_ms)
            del self._cuts_unix_ms[:-CUTS_KEPT]

    def on_packet(self, packet: bytes, unix_ms: int, segments: int = 1) -> None:
        """Whatever is not IP does not count. A time that runs backwards counts as the last one."""
        seen = look_at(packet)
        if seen is None:
            return
        count = self._count(seen.key, unix_ms, is_read=False)
        if count is None:
            self.beyond_table_packets += segments
            return
        self._pass(seen.key, count, unix_ms)
        packets, octets, marks = count.now
        count.now = (packets + segments, octets + seen.bytes, marks + (segments if seen.is_marked else 0))

    def on_reading(self, key: MeteredKey, tally: Tally, unix_ms: int) -> bool:
        """A cumulative counter as it stood at `unix_ms`; one that is older or lower than what is known changes nothing.

        The counter began at 0 with this meter's run, or at its first reading. False: the reading was not taken.
        """
        count = self._count(key, unix_ms, is_read=True)
        if count is None:
            self.beyond_table_packets += tally.packets
            return False
        reading = (tally.packets, tally.bytes, tally.ce_packets)
        falls = any(new < old for new, old in zip(reading, count.now, strict=True))
        if unix_ms < count.last_unix_ms or falls or tally.ce_packets > tally.packets:
            return False
        if self._next_boundary(count.last_unix_ms) < unix_ms:
            self._write(key, count, count.last_unix_ms)  # what is known from before the boundary that was missed
        due = self._next_boundary(count.last_unix_ms) <= unix_ms
        count.now, count.last_unix_ms = reading, unix_ms
        if due:
            self._write(key, count, unix_ms)
        return True

    def next_checkpoint_unix_ms(self, after_unix_ms: int) -> int:
        """When a source of readings is to read next."""
        return self._next_boundary(after_unix_ms)

    def take(self, unix_ms: int, *, all_of_it: bool = False) -> list[MeterRecord]:
        """What is to be sent now: nothing until the policy's flush is due. `all_of_it`: a session or the meter ends."""
        return self.written(unix_ms, all_of_it=all_of_it) if self.flush_due(unix_ms) or all_of_it else []

    def flush_due(self, unix_ms: int) -> bool:
        """Whether what was written down is to be sent now; from the first time that is told, each `flush_ms`."""
        if self._flushed_unix_ms is None:
            self._flushed_unix_ms = unix_ms
        if unix_ms - self._flushed_unix_ms < self.policy.flush_ms:
            return False
        self._flushed_unix_ms = unix_ms
        return True

    def written(self, unix_ms: int, *, all_of_it: bool = False) -> list[MeterRecord]:
        """The checkpoints since the last call: a driver puts them on the disk at once, whenever they are sent."""
        for key, count in self._counts.items():
            if not count.is_read:
                self._pass(key, count, unix_ms)
            if all_of_it:
                self._write(key, count, count.last_unix_ms)
        records, self._records = self._records, []
        return records

    def counted(self, key: MeteredKey) -> Tally:
        """All that this meter counted of a key, written down or not."""
        count = self._counts.get(key)
        packets, octets, marks = count.now if count else (0, 0, 0)
        return Tally(packets=packets, bytes=octets, ce_packets=marks)

    def restore(self, record: MeterRecord, *, is_read: bool = True) -> None:
        """After a start: a checkpoint that this meter wrote before, the latest of its key last."""
        written = (record.packets, record.bytes, record.ce_packets)
        self._counts[record.key] = _Count(
            since_unix_ms=record.to_unix_ms,
            last_unix_ms=record.to_unix_ms,
            is_read=is_read,
            number=record.number,
            now=written,
            written=written,
        )

    def _next_boundary(self, after_unix_ms: int) -> int:
        step = self.policy.checkpoint_ms
        regular = (after_unix_ms // step + 1) * step
        at = bisect_right(self._cuts_unix_ms, after_unix_ms)
        return min(regular, self._cuts_unix_ms[at]) if at < len(self._cuts_unix_ms) else regular

    def _last_boundary(self, until_unix_ms: int) -> int:
        regular = until_unix_ms // self.policy.checkpoint_ms * self.policy.checkpoint_ms
        at = bisect_right(self._cuts_unix_ms, until_unix_ms)
        return max(regular, self._cuts_unix_ms[at - 1]) if at else regular

    def _pass(self, key: MeteredKey, count: _Count, unix_ms: int) -> None:
        """Time goes on for a key whose packets we see: it stood still since its last one."""
        now = max(unix_ms, count.last_unix_ms)
        due = self._next_boundary(count.last_unix_ms)
        if due <= now:
            self._write(key, count, due)
            count.since_unix_ms = self._last_boundary(now)
        count.last_unix_ms = now

    def _count(self, key: MeteredKey, unix_ms: int, *, is_read: bool) -> _Count | None:
        count = self._counts.get(key)
        if count is None and len(self._counts) < self.policy.most_keys:
            count = self._counts[key] = _Count(since_unix_ms=unix_ms, last_unix_ms=unix_ms, is_read=is_read)
        return count

    def _write(self, key: MeteredKey, count: _Count, at_unix_ms: int) -> None:
        if count.now != count.written:
            count.number += 1
            count.written = count.now
            packets, octets, marks = count.now
            record = MeterRecord(
                meter=self.name,
                run=self.run,
                number=count.number,
                key=key,
                from_unix_ms=count.since_unix_ms,
                to_unix_ms=at_unix_ms,
                packets=packets,
                bytes=octets,
                ce_packets=marks,
            )
            self._records.append(record)
        count.since_unix_ms = at_unix_ms
