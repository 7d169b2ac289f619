"""What two hosts say to each other about a session whose rate follows the price of congestion.

Decides: the messages; all are signed, short, cumulative, and safe to lose, repeat and delay. Refuses to know: what a
session is worth to its payer. No message has a field for a willingness to pay, a budget or a value (DPH-07, DPH-08).
Source: M3I scenarios 3.3.2.2 (who knows what; the aggregator), 3.3.5.2 (the target rate over a remote interface;
push-only tariffs).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from billpay.messages import Count, FlowSelector, Message, Name, UnixSeconds

SESSION_PORT: Final = 7419
"""UDP; one datagram for each message."""

SessionId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
UnixMilliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**50)]
Milliseconds = Annotated[int, msgspec.Meta(ge=10, le=60_000)]
BitRate = Annotated[int, msgspec.Meta(ge=0, le=400_000_000_000)]


class Payer(StrEnum):
    """Whose reactor decides, at whose end it runs."""

    SENDER = "sender"
    RECEIVER = "receiver"


class SessionTerms(Message, frozen=True, kw_only=True):
    """The sender's agent asks the receiver's to count a flow. Said again until it is answered, and each ten seconds.

    `interval_ms`: how often the reactor decides; the receiver reports exactly so often. `ends`: the session is over.
    """

    session: SessionId
    sequence: Sequence  # of this signer's messages of this session, from the time of day in ms: over restarts too
    flow: FlowSelector
    payer: Payer
    interval_ms: Milliseconds
    ends: bool = False


class MarkReport(Message, frozen=True, kw_only=True):
    """The receiver's aggregator: what has arrived of the flow since the session began. Nothing but counts."""

    session: SessionId
    sequence: Sequence  # the time of the reading in ms of the receiver's time of day: bills split at a change of price
    counted_ms: Count  # by the receiver's own clock since the session began there: the interval of two reports
    packets: Count
    bytes: Count
    ce_packets: Count
    ect_packets: Count  # without CE; 0 of many packets: somebody bleaches them


class TargetRate(Message, frozen=True, kw_only=True):
    """Receiver pays: the rate that its reactor asks the sender for. 0: stop. `lets_go`: no rate, the transport's."""

    session: SessionId
    sequence: Sequence
    target_bit_s: BitRate
    lets_go: bool = False


class MarkPrice(Message, frozen=True, kw_only=True):
    """A provider pushes its price for each mark; from `valid_from_unix_ms` on it holds until a later serial does."""

    provider: Name
    serial: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    nanodollars_per_mark: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    valid_from_unix_ms: UnixMilliseconds
    published_unix_s: UnixSeconds
