"""What an engine counts, as values: by program, by flow, by link.

Decides: nothing. Units: bytes at the IP layer; packets as they are on the wire, so a segment-offloaded packet counts as
its segments and their headers. Source: ARCHITECTURE (data plane); RFC 3168 for the ECN code points.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec


class Tally(NamedTuple):
    """Cumulative counts of one direction. `ect`: ECT(0) and ECT(1), without CE."""

    packets: int = 0
    bytes: int = 0
    ce_packets: int = 0
    ect_packets: int = 0

    def plus(self, other: Tally) -> Tally:
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Kind(StrEnum):
    PROGRAM = "program"
    FORWARDED = "forwarded"  # crosses this host: a container's or another host's; named by the interface it came in by
    UNATTRIBUTED = "unattributed"  # the kernel's own packets, and whatever could not be named


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends and receives. What is not known is empty."""

    kind: Kind
    executable: str = ""  # absolute path, or the file's name alone when the process ended before it was read
    unit: str = ""  # last part of its control group's name: "ssh.service", "docker-4f….scope", "session-2.scope"
    container: str = ""
    task: str = ""
    user_id: int | None = None
    interface: str = ""  # FORWARDED: where it came in


UNATTRIBUTED = Program(kind=Kind.UNATTRIBUTED)


class FlowKey(NamedTuple):
    """A flow as this host sees it. Addresses are packed (4 or 16 bytes); ports are 0 where a protocol has none."""

    interface_index: int
    protocol: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


class ProgramMeter(msgspec.Struct, frozen=True, kw_only=True):
    """`number` names the program within one engine's life; 0 is the unattributed."""

    number: int
    program: Program
    sent: Tally
    received: Tally


class FlowMeter(msgspec.Struct, frozen=True, kw_only=True):
    key: FlowKey
    program_number: int
    process_id: int  # 0: not known
    traffic_class: int  # index into the plan's classes
    sent: Tally
    received: Tally
    first_ns: int  # monotonic clock
    last_ns: int


class LinkMeter(msgspec.Struct, frozen=True, kw_only=True):
    """What we counted on an interface beside what the interface itself did, since we began."""

    interface: str
    sent: Tally
    received: Tally
    interface_sent_packets: int
    interface_received_packets: int


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative since the engine began. The sum over `programs` is the sum over `links`.

    flows_tracked: entries now; packets_beyond_table: counted for their program, but the flow table was full.
    """

    now_ns: int
    programs: tuple[ProgramMeter, ...]
    links: tuple[LinkMeter, ...]
    flows_tracked: int = 0
    packets_beyond_table: int = 0
