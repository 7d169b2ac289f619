"""The entries of the host programs' maps, as host.h lays them out.

Decides: how a shaping plan is written for the kernel. Refuses to know: descriptors; whose processes they are.
Source: dataplane/ebpf/host.h; tests/dataplane/test_ebpf_layout.py compares sizes and offsets with the compiled objects.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import ip_network
from typing import Final, NamedTuple

from dataplane.attribution.processes import TASK_PREFIX
from dataplane.metering import FlowKey, FlowMeter, Tally
from dataplane.shaping.htb import FLOW_LEAVES, leaf_minor
from dataplane.shaping.plan import Match, Protocol, Rule, ShapingPlan, TrafficClass

PROGRAMS_MAX: Final = 4096
FLOWS_MAX: Final = 131_072
RULES_MAX: Final = 256
FILE_NAME_BYTES: Final = 32
GROUP_NAME_BYTES: Final = 96
GROUPS_KEPT: Final = 3
PACING_TAG: Final = 0xA5
"""Low byte of every pacing rate that we set, by which a later clean-up knows it."""

IDENTITY: Final = struct.Struct("=QQIIII")
PROGRAM: Final = struct.Struct(f"=QQIIII{FILE_NAME_BYTES}s{GROUPS_KEPT * GROUP_NAME_BYTES}sII")
METER: Final = struct.Struct("=8Q")
FLOW_KEY: Final = struct.Struct("=16s16s2s2sIBBH")
FLOW: Final = struct.Struct("=QIIIIHHHBBI4x8QQ")
PACED: Final = struct.Struct("=II")
MARKS_CAPABLE: Final = 1
MARKS_HIDDEN: Final = 2
_FLOW_COUNTS_AT: Final = 11
RULE: Final = struct.Struct(f"=Q{FILE_NAME_BYTES}s{GROUP_NAME_BYTES}s{GROUP_NAME_BYTES}s16sIIIIHHBBBx")
TRAFFIC_CLASS: Final = struct.Struct("=IIII16s")
SETTINGS: Final = struct.Struct("=7I4xQQ")
LINK: Final = struct.Struct("=8QQQQ")
LINK_SHAPE: Final = struct.Struct("=III")
PROGRAM_SEEN: Final = struct.Struct("=II")
NUMBER: Final = struct.Struct("=I")


class IdentityKind(IntEnum):
    UNATTRIBUTED = 0
    PROGRAM = 1
    FORWARDED = 2


class _Field(IntFlag):
    INODE = 1
    NAME = 2
    GROUP = 4
    USER = 8
    PROTOCOL = 16
    REMOTE = 32
    PORTS = 64


@dataclass(slots=True)
class Settings:
    """struct settings."""

    generation: int = 0
    rules: int = 0
    bank: int = 0
    current_pass: int = 0
    adopting: int = 0
    putting_back: int = 0
    pacing: int = 0
    namespace: int = 0  # the cookie of our network namespace
    paced_until_ns: int = 0  # what is paced is let go then, unless we have said another time

    def pack(self) -> bytes:
        return SETTINGS.pack(
            self.generation,
            self.rules,
            self.bank,
            self.current_pass,
            self.adopting,
            self.putting_back,
            self.pacing,
            self.namespace,
            self.paced_until_ns,
        )


class ProgramEntry(NamedTuple):
    """What the kernel noted of a program at its first socket."""

    group: int
    inode: int
    device: int  # FORWARDED: the index of the interface that it came in by
    user: int
    kind: IdentityKind
    file_name: str
    group_name: str  # the innermost
    process: int
    identity: bytes


class LinkEntry(NamedTuple):
    sent: Tally
    received: Tally
    sent_skbs: int
    received_skbs: int
    beyond_table: int


def read_program(entry: bytes) -> ProgramEntry:
    group, inode, device, user, kind, _, file_name, group_names, process, _ = PROGRAM.unpack(entry)
    return ProgramEntry(
        group,
        inode,
        device,
        user,
        IdentityKind(kind),
        _text(file_name),
        _text(group_names),
        process,
        entry[: IDENTITY.size],
    )


def read_meter(entry: bytes) -> tuple[Tally, Tally]:
    """Sent and received."""
    numbers = METER.unpack(entry)
    return Tally(*numbers[:4]), Tally(*numbers[4:])


def read_link(entry: bytes) -> LinkEntry:
    numbers = LINK.unpack(entry)
    return LinkEntry(Tally(*numbers[:4]), Tally(*numbers[4:8]), *numbers[8:])


def read_flow(key: bytes, entry: bytes) -> FlowMeter:
    local, remote, local_port, remote_port, interface, family, protocol, _ = FLOW_KEY.unpack(key)
    size = 4 if family == 4 else 16
    last_ns, program, _, _, process, traffic_class, *_, first_ns = numbers = FLOW.unpack(entry)
    counts = numbers[_FLOW_COUNTS_AT:-1]
    return FlowMeter(
        key=FlowKey(
            interface,
            protocol,
            local[:size],
            int.from_bytes(local_port, "big"),
            remote[:size],
            int.from_bytes(remote_port, "big"),
        ),
        program_number=program,
        process_id=process,
        traffic_class=traffic_class,
        sent=Tally(*counts[:4]),
        received=Tally(*counts[4:8]),
        first_ns=first_ns,
        last_ns=last_ns,
    )


def write_flow_key(key: FlowKey) -> bytes:
    return FLOW_KEY.pack(
        key.local,
        key.remote,
        key.local_port.to_bytes(2, "big"),
        key.remote_port.to_bytes(2, "big"),
        key.interface_index,
        4 if len(key.local) == 4 else 6,
        key.protocol,
        0,
    )


def last_ns_of(entry: bytes) -> int:
    """A flow's last packet, without reading the rest."""
    last_ns: int = struct.unpack_from("=Q", entry)[0]
    return last_ns


def program_number_of(entry: bytes) -> int:
    number: int = struct.unpack_from("=I", entry, 8)[0]
    return number


def write_class(number: int, traffic_class: TrafficClass) -> bytes:
    rates = [rate for rate in (traffic_class.cap_bit_s, traffic_class.flow_cap_bit_s) if rate]
    return TRAFFIC_CLASS.pack(
        leaf_minor(number),
        FLOW_LEAVES if traffic_class.flow_cap_bit_s else 0,
        _pacing(min(rates)) if rates else 0,
        traffic_class.weight,
        (traffic_class.congestion_control or "").encode(),
    )


def _pacing(rate_bit_s: int) -> int:
    """Bytes a second with our tag, a little above the rate: HTB counts headers that pacing does not."""
    bytes_s = min(rate_bit_s // 8, 0xFFFF_0000)
    return (bytes_s | 0xFF) - 0xFF + PACING_TAG if bytes_s % 256 <= PACING_TAG else (bytes_s | 0xFF) + 1 + PACING_TAG


def write_rules(plan: ShapingPlan, *, inode_of: Callable[[str], int | None]) -> list[bytes]:
    """The rules in their order; one whose program is an absolute path that does not exist cannot match and is left out.

    inode_of: of the file at a path, None if there is none.
    """
    entries = (_write_rule(rule, inode_of) for rule in plan.rules)
    return [entry for entry in entries if entry is not None]


def _write_rule(rule: Rule, inode_of: Callable[[str], int | None]) -> bytes | None:
    match = rule.match
    fields, inode, file_name = _Field(0), 0, b""
    if match.program is not None:
        fields |= _Field.NAME
        path = match.program
        if path.startswith("/"):
            path = os.path.realpath(path)
            found = inode_of(path)
            if found is None:
                return None
            fields, inode = fields | _Field.INODE, found
        file_name = os.path.basename(path).encode()[: FILE_NAME_BYTES - 1]
    group, group_mask = _group(match)
    if group_mask:
        fields |= _Field.GROUP
    if match.user_id is not None:
        fields |= _Field.USER
    if match.protocol is not None:
        fields |= _Field.PROTOCOL
    if match.ports is not None:
        fields |= _Field.PORTS
    remote, family, prefix_bits = b"", 0, 0
    if match.remote is not None:
        fields |= _Field.REMOTE
        network = ip_network(match.remote, strict=False)
        remote, family, prefix_bits = network.network_address.packed, network.version, network.prefixlen
    first_port, last_port = match.ports or (0, 0)
    return RULE.pack(
        inode,
        file_name,
        group,
        group_mask,
        remote,
        fields,
        match.user_id or 0,
        rule.traffic_class,
        0,
        first_port,
        last_port,
        _PROTOCOLS[match.protocol] if match.protocol is not None else 0,
        family,
        prefix_bits,
    )


_PROTOCOLS: Final = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.ICMP: 1}


def _group(match: Match) -> tuple[bytes, bytes]:
    """The control group's name and which of its bytes have to agree: none when the rule names no group."""
    name = f"{TASK_PREFIX}{match.task}" if match.task is not None else match.unit
    if name is None:
        return b"", b""
    encoded = name.removesuffix("*").encode()[: GROUP_NAME_BYTES - 1]
    return encoded, b"\xff" * (len(encoded) if name.endswith("*") else GROUP_NAME_BYTES)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")
