"""What the main process and the shaping core say to each other.

Decides: the messages and their mark. Each begins with `PREFIX`, so that they can share the socket of another core's
(a core that pays has its own messages). Commands get an answer each; events come on their own.
Source: `dataplane.command` for the frames and their limit.
"""

from __future__ import annotations

from typing import Final

import msgspec

from billpay.messages import Message
from dataplane.host_engine import PacedFlow, Question
from dataplane.metering import FlowKey, FlowMeter, Program
from dataplane.shaping.plan import ShapingPlan

PREFIX: Final = b"S"
FLOWS_IN_PAGE: Final = 250


class Tagged(Message, frozen=True, kw_only=True, tag=True):
    """Base: the type's name travels with it."""


class SetPlan(Tagged, frozen=True, kw_only=True):
    """Shape by this from now on; flows that are there are judged anew with their next packet."""

    plan: ShapingPlan


class Attribution(Message, frozen=True, kw_only=True):
    key: FlowKey
    number: int
    program: Program


class Attribute(Tagged, frozen=True, kw_only=True):
    """Whose these flows are; a flow that is gone is left out."""

    flows: tuple[Attribution, ...]


class Answer(Tagged, frozen=True, kw_only=True):
    """To a question; nothing if it is gone."""

    number: int
    allow: bool


class Tick(Tagged, frozen=True, kw_only=True):
    """Once a second: interfaces are looked up again, idle flows forgotten."""


class AskFlows(Tagged, frozen=True, kw_only=True):
    """A page of the flow table. `first`: 0 takes a new list, later pages are of the same list."""

    first: int = 0


class AskMeters(Tagged, frozen=True, kw_only=True):
    """`FLOWS_IN_PAGE` at most."""

    keys: tuple[FlowKey, ...]


class SetPaced(Tagged, frozen=True, kw_only=True):
    """These flows have a pace of their own, and no others. accurate: what they are told of marks stays as it is."""

    flows: tuple[PacedFlow, ...]
    accurate: tuple[FlowKey, ...] = ()


class Done(Tagged, frozen=True, kw_only=True):
    """The command was carried out."""


class Refused(Tagged, frozen=True, kw_only=True):
    """The command was not understood."""

    message: str


class FlowsPage(Tagged, frozen=True, kw_only=True):
    """`following`: what to ask for next, 0 when this was the last page."""

    flows: tuple[FlowMeter, ...]
    tracked: int
    following: int


class Meters(Tagged, frozen=True, kw_only=True):
    """In the order of the question; None: not in the table."""

    flows: tuple[FlowMeter | None, ...]


class NewFlow(Tagged, frozen=True, kw_only=True):
    """A flow to be attributed: its first packet came, or its owner may have changed."""

    key: FlowKey


class Asked(Tagged, frozen=True, kw_only=True):
    """A flow waits for an answer."""

    question: Question


class Settled(Tagged, frozen=True, kw_only=True):
    """A question needs no answer any more."""

    number: int


Command = SetPlan | Attribute | Answer | Tick | AskFlows | AskMeters | SetPaced
Reply = Done | Refused | FlowsPage | Meters
Event = NewFlow | Asked | Settled

_COMMAND: Final[msgspec.json.Decoder[Command]] = msgspec.json.Decoder(Command)
_REPLY: Final[msgspec.json.Decoder[Reply]] = msgspec.json.Decoder(Reply)
_EVENT: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
_ENCODER: Final = msgspec.json.Encoder()


def encode(message: Tagged) -> bytes:
    return PREFIX + _ENCODER.encode(message)


def is_ours(data: bytes) -> bool:
    return data.startswith(PREFIX)


def decode_command(data: bytes) -> Command:
    """Raises msgspec.DecodeError."""
    return _COMMAND.decode(data[len(PREFIX) :])


def decode_reply(data: bytes) -> Reply:
    """Raises msgspec.DecodeError."""
    return _REPLY.decode(data[len(PREFIX) :])


def decode_event(data: bytes) -> Event:
    """Raises msgspec.DecodeError."""
    return _EVENT.decode(data[len(PREFIX) :])
