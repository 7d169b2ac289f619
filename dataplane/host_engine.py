"""The port behind which every engine of the host's own data plane works: count, attribute, shape.

Decides: the calls. Refuses to know: how an engine does it. Three engines pass one contract suite
(tests/dataplane/test_host_engines.py), each in so far as its `limits` allow:
`ebpf` (in the kernel), `nfqueue` (packet by packet in the reader process), `sockets` (reads what the kernel tells
anyone; no privilege, counts TCP only, shapes nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Protocol

import msgspec

from dataplane.metering import FlowKey, FlowMeter, Program, Reading
from dataplane.shaping.plan import ShapingPlan

PACED_MAX: Final = 256


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
    PACE_FLOW = "pace a flow and answer its marks"


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


class PacedFlow(msgspec.Struct, frozen=True, kw_only=True):
    """A flow that leaves this host no faster than `pace_bit_s` (IP layer; None: as it likes), whatever it wants.

    answers_marks: we answer congestion marks of this flow by its pace. So its packets leave as ECT(0), and its own
    transport is not told of marks (ECE of what is acknowledged is cleared on its way in): it would answer them again.
    Both end when the flow is not held any more, or with us. A SYN stays as it is: its ECN bits negotiate. Where the
    ends agreed on Accurate ECN the transport goes on hearing of marks: its flags are a number then, which we cannot
    hide. `key.interface_index` 0: on whichever link it takes.
    """

    key: FlowKey
    pace_bit_s: Annotated[int, msgspec.Meta(ge=8_000, le=400_000_000_000)] | None = None
    answers_marks: bool = False


class HostEngine(Protocol):
    """Calls come from one task; only `flows`, `meters` and `pace` may be asked by another one meanwhile.

    All may raise EnvironmentFault; after `close` nothing of it is left in the kernel.
    """

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

    async def meters(self, keys: Sequence[FlowKey]) -> list[FlowMeter | None]:
        """Of these flows alone, which is quick; None: not in the table. `interface_index` 0: whichever it has.

        Who is asked for every minute or so is not forgotten for being idle, so its counts never begin anew.
        """
        ...

    async def pace(self, flows: Sequence[PacedFlow]) -> None:
        """These flows and no others, from now on; what is said of one again changes in place.

        At most `PACED_MAX`. Raises EnvironmentFault: then the flows are as they were.
        """
        ...

    async def questions(self) -> list[Question]: ...

    async def answer(self, number: int, *, allow: bool) -> None:
        """Lets the held packets of a flow go, or drops that flow. Nothing if the question is gone."""
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...
