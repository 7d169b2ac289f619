"""The entries of the gateway programs' maps, as gateway.h lays them out.

Decides: nothing. Refuses to know: what a gateway's plan is (`gateway.kernel_datapath`).
Source: dataplane/ebpf/gateway.h; tests/gateway/test_kernel_gateway.py compares names and offsets with the compiled
object.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

GATEWAY_OBJECT: Final = Path(__file__).parent / "gateway.bpf.o"

LINKS_MAX: Final = 64
GRANTS_MAX: Final = 4096
ROUTES_MAX: Final = 16384
ALTERNATIVES_MAX: Final = 11
GRANTS_PER_PLACE: Final = 4
REPLACES_NOTHING: Final = (1 << 64) - 1

LINK_COUNTERS: Final = (
    "received_nanodollars",
    "received_packets",
    "sent_nanodollars",
    "sent_packets",
    "retained_nanodollars",
    "kept_nanodollars",
    "kept_packets",
    "carry_picodollars",
    "cap_cut_picodollars",
    "marked_packets",
    "dropped_packets",
    "unpaid_packets",
    "cut_nanodollars",
    "cut_packets",
    "role_refused_nanodollars",
    "role_refused_packets",
)
"""enum link_counter: link/NAME/… as gateway/egress.py calls them."""

OVER_CEILING: Final = "over_ceiling"
REASONS: Final = (
    "malformed_truncated",
    "malformed_length",
    "malformed_overrun",
    "malformed_oad_count",
    "malformed_duplicate",
    "malformed_amount_over_ceiling",
    "malformed_on_fragment",
    "malformed_shared",
    "unpaid_no_grant",
    "unpaid_bad_mac",
    "unpaid_not_by_neighbour",
    "unpaid_in_default",
    "unpaid_over_cap",
    "unpaid_grant_not_valid",
    "unpaid_never_pays",
    "unpaid_over_mirror",
    OVER_CEILING,
    "passed_vlan",
    "passed_unreadable",
    "passed_unchanged",
)
"""enum reason: names of counters, but for OVER_CEILING, which is an alarm only."""

PEERS: Final = ("host", "gateway", "legacy")
ROLES: Final = ("payer", "mirror", "never")
MARKINGS: Final = ("none", "virtual-queue")
QUEUEINGS: Final = ("none", "fair", "fifo")

PICODOLLARS_MAX: Final = 1 << 42
"""Of a fixed toll or a price: no packet holds more than 2**34."""

CAP_MAX: Final = 1 << 43
NO_CAP: Final = (1 << 64) - 1
PICODOLLARS_PER_BYTE_MAX: Final = 1 << 35
BYTES_PER_S_MAX: Final = 18_000_000_000

Value = int | bytes | tuple[int, ...]


class Layout:
    """One C struct: its members' names and struct codes, aligned as the compiler does it."""

    def __init__(self, **members: str) -> None:
        self._members: dict[str, struct.Struct] = {}
        self.offsets: dict[str, int] = {}
        before = "@"
        for name, code in members.items():
            self.offsets[name] = struct.calcsize(f"{before}0{code[-1]}")
            self._members[name] = struct.Struct(f"={code}")
            before += code
        self.size = struct.calcsize(f"{before}0{'Q' if 'Q' in before else 'I'}")

    def pack(self, **values: Value) -> bytes:
        """What is not named is 0."""
        data = bytearray(self.size)
        self.write(data, **values)
        return bytes(data)

    def write(self, data: bytearray, **values: Value) -> None:
        """Only what is named changes."""
        for name, value in values.items():
            fields = value if isinstance(value, tuple) else (value,)
            self._members[name].pack_into(data, self.offsets[name], *fields)

    def number(self, data: bytes, name: str, index: int = 0) -> int:
        """One integer, or one of an array of them."""
        found: int = self._members[name].unpack_from(data, self.offsets[name])[index]
        return found


NUMBER: Final = struct.Struct("=I")
PRICE: Final = struct.Struct("=QQ")  # congestion_picodollars, until_ns

SETTINGS: Final = Layout(
    now_ns="Q",
    draws="4I",
    draws_used="I",
    epoch="I",
    as_number="I",
    honours_preferences="I",
    reasons=f"{len(REASONS)}I",
    imply="I",
)
LINK_TERMS: Final = Layout(
    interface_index="I",
    header_bytes="I",
    peer="B",
    agreed="B",
    in_default="B",
    role="B",
    marking="B",
    queueing="B",
    names_itself="B",
    has_congestion="B",
    peer_as="I",
    max_amount="I",
    packet_ceiling="I",
    overhead_bytes="I",
    proportional_ppm="I",
    fixed_picodollars="Q",
    per_byte_picodollars="Q",
    cap_picodollars="Q",
    virtual_bytes_per_s="Q",
    virtual_limit_bytes="Q",
    rate_bytes_per_s="Q",
    limit_bytes="Q",
    counters=f"{len(LINK_COUNTERS)}I",
)
LINK_STATE: Final = Layout(
    lock="I",
    flag="I",
    virtual_last_ns="Q",
    virtual_level_bytes="Q",
    virtual_fraction="Q",
    arrived_bytes="Q",
    alarms=f"{len(REASONS)}Q",
)
ALTERNATIVE: Final = struct.Struct("=BBH")  # number, index, link
ROUTE: Final = Layout(bitmap="H", count="H", alternatives=f"{ALTERNATIVES_MAX * ALTERNATIVE.size}s")
PLACE: Final = Layout(
    source="16s",
    destination="16s",
    source_port="2s",
    destination_port="2s",
    protocol="B",
    family="B",
    exact="B",
    link="B",
)
LINK_PLACES: Final = Layout(exact="I", version="I")
PLACE_GRANTS: Final = Layout(count="I", grants=f"{GRANTS_PER_PLACE}I")
GRANT_TERMS: Final = Layout(
    key="16s",
    cap_nanodollars="Q",
    rate_nanodollars_per_s="Q",
    burst="Q",
    old_rate_nanodollars_per_s="Q",
    old_burst="Q",
    since_ns="Q",
    version="I",
    valid="I",
    spent="I",
    packets="I",
    refused="I",
    implied_nanodollars="I",
)


def route_key(prefix_bits: int, address: bytes) -> bytes:
    """`address`: 4 or 16 bytes; the tries of the two versions have keys of that length."""
    return NUMBER.pack(prefix_bits) + address
