"""What the host's agent and its secretary say to each other: JSON lines on a unix socket.

Decides which questions and answers there are; refuses to know what follows from them. Each `Request` gets one `Reply`
with its number. docs/spec/secretary-protocol.md has examples.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from billpay.messages import Amount, Count, FlowSelector, Signed, Sum

LINE_BYTES_MAX = 64 * 1024

GatewayFingerprint = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
GrantId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base: the type's name travels with it."""


class AskGrant(_Tagged, frozen=True, kw_only=True):
    """What is this flow worth? The same question again gets the same open grant."""

    flow: FlowSelector
    gateway: GatewayFingerprint = ""  # where it will be opened, and nowhere else


class ExtendGrant(_Tagged, frozen=True, kw_only=True):
    """A later document for an open grant: more to spend, a later end."""

    grant: GrantId
    spent_nanodollars: Sum


class CloseGrant(_Tagged, frozen=True, kw_only=True):
    """The grant is not needed any more; what was not spent is free again."""

    grant: GrantId
    spent_nanodollars: Sum


class AskReturn(_Tagged, frozen=True, kw_only=True):
    """Payments arrived with the opposite flow, cumulative: may they go back with this one?"""

    flow: FlowSelector
    gateway: GatewayFingerprint = ""
    received_nanodollars: Sum
    received_packets: Count


class AskBudget(_Tagged, frozen=True, kw_only=True):
    pass


Question = AskGrant | ExtendGrant | CloseGrant | AskReturn | AskBudget


class Granted(_Tagged, frozen=True, kw_only=True):
    """`amount_nanodollars`: of each packet ("fixed"), or the most of a returned one ("return")."""

    signed: Signed
    rule: str
    strategy: str  # "fixed", "bulk", "return"
    amount_nanodollars: Amount
    willingness_nanodollars: Amount
    target_bit_s: Count
    share_nanodollars: Amount


class Unpaid(_Tagged, frozen=True, kw_only=True):
    """No: `code` is stable, `message` one line for a person."""

    code: str
    message: str


class Closed(_Tagged, frozen=True, kw_only=True):
    pass


class Budget(_Tagged, frozen=True, kw_only=True):
    """Of today (UTC). What open grants may still spend is reserved."""

    day_nanodollars: Sum
    spent_today_nanodollars: Sum
    reserved_nanodollars: Sum


class Refused(_Tagged, frozen=True, kw_only=True):
    """The line was no question, or the secretary could not take it; asking the same again gets the same."""

    code: str
    message: str


Answer = Granted | Unpaid | Closed | Budget | Refused


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Count  # drawn by the asker: 1, 2, … on a connection
    question: Question


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Count  # of the request; 0: its number could not be read
    answer: Answer
