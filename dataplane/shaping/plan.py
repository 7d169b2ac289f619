"""The shaping plan: which traffic belongs to which class, and what a class may use of each link. Values only.

Decides: nothing; an engine carries it out. Refuses to know: what a class is worth to anyone.
Units: bits per second count bytes at the IP layer (header and payload of IP, no link layer), 10^6 to the megabit.
Source: ARCHITECTURE (data plane); tc-htb(8) for what rate, ceil, priority and quantum can say.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

CONTROL: Final = 0
"""Index of the class of control traffic, which goes first: DNS, DHCP, NTP, ICMP, agreements, an interactive shell."""

DEFAULT: Final = 1
"""Index of the class of whatever no rule names."""

CLASSES_MAX: Final = 64
RULES_MAX: Final = 256
LINKS_MAX: Final = 16

BitRate = Annotated[int, msgspec.Meta(ge=64_000, le=400_000_000_000)]
CapRate = Annotated[int, msgspec.Meta(ge=8, le=400_000_000_000)]
"""A class may be held back much more than a link can be slow: what waits for a data plan has a byte a second."""
Weight = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the plan's values; they cross to an engine's process as JSON."""


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"  # of both IP versions


class TrafficClass(Value, frozen=True, kw_only=True):
    """What its traffic may use of every link, in each direction that the link shapes.

    cap_bit_s: all of it together; flow_cap_bit_s: each flow. minimum_bit_s: what it gets whenever it wants it, as far
    as the link has it. weight: its part of what is left. ask_first: a flow's first packet waits for an answer.
    congestion_control: for its TCP sockets, None = the program's own choice.
    """

    name: str
    cap_bit_s: CapRate | None = None
    flow_cap_bit_s: BitRate | None = None
    minimum_bit_s: Annotated[int, msgspec.Meta(ge=0, le=400_000_000_000)] = 0
    weight: Weight = 1
    congestion_control: Annotated[str, msgspec.Meta(max_length=15)] | None = None
    ask_first: bool = False


class Match(Value, frozen=True, kw_only=True):
    """All that is given must hold; nothing given matches everything.

    program: a file name ("curl") or an absolute path. unit: the last part of the control group's name, as in
    "backup.service" or "docker-4f….scope"; a `*` at the end stands for any rest. task: the label of `hostagent run`.
    remote: an address or prefix. ports: the remote port, or the local one of a flow that came to us, first and last.
    """

    program: str | None = None
    unit: str | None = None
    task: str | None = None
    user_id: int | None = None
    protocol: Protocol | None = None
    remote: str | None = None
    ports: tuple[Port, Port] | None = None


class Rule(Value, frozen=True, kw_only=True):
    """The first rule that matches decides a flow's class (an index into `ShapingPlan.classes`)."""

    match: Match
    traffic_class: int


class ShapedLink(Value, frozen=True, kw_only=True):
    """An interface whose traffic is counted and shaped. A rate that is None is not ours to limit: only caps hold."""

    interface: str
    egress_bit_s: BitRate | None = None
    ingress_bit_s: BitRate | None = None


class ShapingPlan(Value, frozen=True, kw_only=True):
    """`classes[CONTROL]` and `classes[DEFAULT]` are always there."""

    classes: Annotated[tuple[TrafficClass, ...], msgspec.Meta(min_length=2, max_length=CLASSES_MAX)]
    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=RULES_MAX)] = ()
    links: Annotated[tuple[ShapedLink, ...], msgspec.Meta(max_length=LINKS_MAX)] = ()

    @property
    def shapes_ingress(self) -> bool:
        """Whether anything limits what arrives."""
        return any(link.ingress_bit_s for link in self.links) or any(
            each.cap_bit_s or each.flow_cap_bit_s for each in self.classes
        )


NO_SHAPING: Final = ShapingPlan(classes=(TrafficClass(name="control"), TrafficClass(name="default")))
"""Everything is counted, nothing is limited."""
