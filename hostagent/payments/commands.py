"""What the agent's main process and its packet reader say to each other.

Commands get an answer each; events come on their own. Bodies are JSON of the tagged structs below; the reports of many
flows are arrays to keep an answer small (`dataplane.command` bounds it).
"""

from __future__ import annotations

import msgspec

from billpay.messages import FlowSelector, Grant

Oads = tuple[tuple[int, int, int], ...]
"""(AS, alternatives, choice) of each slot, in path order."""


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base: the type's name travels with it."""


class Tick(_Tagged, frozen=True, kw_only=True):
    """Once a second: tells the core the time of day, and lets it forget idle flows."""


class SetUplink(_Tagged, frozen=True, kw_only=True):
    """Whether the gateway behind it takes headers, so that we may pay and be paid there."""

    uplink: str
    agreed: bool


class PayFlow(_Tagged, frozen=True, kw_only=True):
    """From now on each packet of the flow carries `amount_nanodollars` under the grant, and these user-OADs."""

    flow: FlowSelector
    grant: Grant
    amount_nanodollars: int
    slots: Oads = ()


class ReturnFlow(_Tagged, frozen=True, kw_only=True):
    """What arrives with the opposite flow, less the share, goes back with this one's packets."""

    flow: FlowSelector
    grant: Grant
    share_nanodollars: int
    ceiling_nanodollars: int


class DropFlow(_Tagged, frozen=True, kw_only=True):
    """The flow pays and returns nothing any more."""

    flow: FlowSelector


class AskFlows(_Tagged, frozen=True, kw_only=True):
    """All flows that changed since the answer with this `turn` (0: all)."""

    since_turn: int = 0


Command = Tick | SetUplink | PayFlow | ReturnFlow | DropFlow | AskFlows


class Done(_Tagged, frozen=True, kw_only=True):
    pass


class Refused(_Tagged, frozen=True, kw_only=True):
    code: str
    message: str


class Observed(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What arrived of a flow with one combination of ISP-OADs."""

    oads: Oads
    packets: int
    received_nanodollars: int
    lowest_amount: int
    path_length: int


class FlowReport(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A flow as this host sends it (`out_*`) or receives it (`in_*`), cumulative since the reader knows it."""

    flow: FlowSelector
    uplink: str  # by which it leaves; "" when nothing has left yet
    out_packets: int
    out_bytes: int
    out_paid_packets: int
    spent_nanodollars: int  # of the grant that pays for it
    sent_returned_nanodollars: int
    in_packets: int
    in_bytes: int
    in_paid_packets: int
    in_ce_packets: int
    received_nanodollars: int
    refunded_nanodollars: int  # came back with this flow for what we paid on the opposite one
    pool_nanodollars: int  # to be returned with this flow
    observed: tuple[Observed, ...]
    last_ns: int


class FlowReports(_Tagged, frozen=True, kw_only=True):
    """`turn`: ask with it the next time."""

    turn: int
    flows: tuple[FlowReport, ...]


Answer = Done | Refused | FlowReports


class FlowSeen(_Tagged, frozen=True, kw_only=True):
    """The first packet of a flow that leaves by an uplink: poll the flows soon."""

    flow: FlowSelector


class ReceiptSeen(_Tagged, frozen=True, kw_only=True):
    """The first payment that arrived with `flow` and is not ours coming back: poll the flows soon."""

    flow: FlowSelector


class ProbeSeen(_Tagged, frozen=True, kw_only=True):
    """A paid probe of another agent arrived."""

    flow: FlowSelector
    payload: bytes
    remaining: int
    oads: Oads
    arrived_ns: int


Event = FlowSeen | ReceiptSeen | ProbeSeen
