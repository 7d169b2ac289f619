"""The port behind which every engine of the host's own data plane works: count, attribute, shape.

Decides: the calls. Refuses to know: how an engine does it. Three engines pass one contract suite
(tests/dataplane/test_host_engines.py), each in so far as its `limits` allow:
`ebpf` (in the kernel), `nfqueue` (packet by packet in the reader process), `sockets` (reads what the kernel tells
anyone; no privilege, counts TCP only, shapes nothing).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from dataplane.metering import FlowKey, FlowMeter, Program, Reading
from dataplane.shaping.plan import ShapingPlan


class EngineName(StrEnum):
    EBPF = "ebpf"
    NFQUEUE = "nfqueue"
    SOCKETS = "sockets"


class Ability(StrEnum):
    """What an engine may lack; `Limit` says why."""

    COUNT = "count"
    COUNT_UDP = "count UDP"
    ATTRIBUTE_FIRST_PACKET = "attribute from the first packet"
    SHAPE_EGRESS = "shape egress"
    SHAPE_INGRESS = "shape ingress"
    PACE = "pace TCP"
    CONGESTION_CONTROL = "choose congestion control"
    PRICE_CONGESTION_CONTROL = "congestion control by price"
    ASK_FIRST = "ask first"


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """Something that this engine cannot do here, and why, in words for a person."""

    ability: Ability
    cause: str


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A flow whose first packet waits for `answer`; it goes on unanswered at `expires_ns`."""

    number: int
    key: FlowKey
    program: Program
    traffic_class: int
    expires_ns: int


class HostEngine(Protocol):
    """Calls come from one task. All may raise EnvironmentFault; after `close` nothing of it is left in the kernel."""

    name: EngineName
    limits: tuple[Limit, ...]

    async def start(self, plan: ShapingPlan) -> None:
        """Counts and shapes from now on."""
        ...

    async def apply(self, plan: ShapingPlan) -> None:
        """Another plan; counts go on. Flows that are there are judged anew."""
        ...

    async def on_second(self) -> None:
        """Once a second: interfaces that went and came back, sockets that changed hands, idle flows."""
        ...

    async def read(self) -> Reading: ...

    async def flows(self) -> list[FlowMeter]:
        """Every flow in the table."""
        ...

    async def questions(self) -> list[Question]: ...

    async def answer(self, number: int, *, allow: bool) -> None:
        """Lets the held packets of a flow go, or drops that flow. Nothing if the question is gone."""
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...
