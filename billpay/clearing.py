"""What meters, mediation, charging and the clearing house say to each other, and to those who pay.

Decides: the messages. All are signed, bounded, and cumulative since the session (or the meter's run) began, so that one
that is lost, repeated or late changes no sum. Refuses to know: who believes whom, and what follows for any account.
Source: M3I scenarios 3.3.2.2 (clearing), 3.3.3.3-3.3.3.6 (who runs what), 3.3.4 (meters count marks; a price changes
in mid-session); docs/spec/session-charging.md.

No message has a field for what a session is worth to its payer (DPH-07). The intention to pay names no amount either:
an upper limit would be a budget, and would be read as one. The payer's risk is limited in time instead: an intention
is short, and is renewed as long as the payer likes the session. The clearing house limits its own risk by a credit that
it grants and that nobody is told in these messages.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from billpay.messages import Address, Count, Fingerprint, Message, Name, Port, Signed, Sum
from billpay.sessions import Sequence, SessionId, UnixMilliseconds

LINES_MAX: Final = 128
ESP: Final = 50

Run = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$", description="drawn when counters begin at 0")]
PricePerMark = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class MeteredKey(Message, frozen=True, kw_only=True):
    """What a meter can tell apart: a 5-tuple, or, where ports are encrypted, destination and SPI (RFC 4303).

    `spi` above 0: `protocol` is ESP, the source is empty and the ports are 0.
    """

    source: Annotated[str, msgspec.Meta(max_length=45)] = ""
    destination: Address
    protocol: Annotated[int, msgspec.Meta(ge=0, le=255)]
    source_port: Port = 0
    destination_port: Port = 0
    spi: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)] = 0


class MeterRecord(Message, frozen=True, kw_only=True):
    """One checkpoint of a meter. Counts are since the run began, at `to_unix_ms`; `from` is the checkpoint before."""

    meter: Name
    run: Run
    number: Sequence  # 1, 2, … for each key in a run
    key: MeteredKey
    from_unix_ms: UnixMilliseconds
    to_unix_ms: UnixMilliseconds
    packets: Count
    bytes: Count
    ce_packets: Count


class SessionUsage(Message, frozen=True, kw_only=True):
    """Mediation: what a session used until `to_unix_ms`, at the regularity that its reader wants."""

    session: SessionId
    number: Sequence  # 1, 2, … for each session
    key: MeteredKey
    from_unix_ms: UnixMilliseconds  # where the usage before ended
    to_unix_ms: UnixMilliseconds
    packets: Count
    bytes: Count
    ce_packets: Count


class PricedMarks(Message, frozen=True, kw_only=True):
    """Marks that were counted while one price held. `serial`: of the `MarkPrice` that said so."""

    serial: Sequence
    nanodollars_per_mark: PricePerMark
    marks: Count


class SessionCharacterisation(Message, frozen=True, kw_only=True):
    """The receiver's provider signs what a session was, since it began. The next one has a higher sequence."""

    session: SessionId
    sequence: Sequence
    provider: Fingerprint
    customer: Fingerprint
    key: MeteredKey
    from_unix_ms: UnixMilliseconds
    to_unix_ms: UnixMilliseconds
    packets: Count
    bytes: Count
    lines: Annotated[tuple[PricedMarks, ...], msgspec.Meta(max_length=LINES_MAX)]  # by serial, rising


class Payee(StrEnum):
    """Who gets the money of the one who pays."""

    PROVIDER = "provider"  # the clearing house pays the customer's debt with its provider
    CUSTOMER = "customer"  # split edge: the customer paid its provider by itself, and has its money back


class IntentionToPay(Message, frozen=True, kw_only=True):
    """The payer signs that it pays for another's session, for what is used until `valid_until_unix_ms`. No amount."""

    session: SessionId
    sequence: Sequence  # each renewal has a higher one
    payer: Fingerprint
    customer: Fingerprint  # whose bill it is
    clearing_house: Fingerprint
    payee: Payee = Payee.PROVIDER
    valid_until_unix_ms: UnixMilliseconds


class ClearingOrder(Message, frozen=True, kw_only=True):
    """The customer presents its bill, and who wants to pay it. Everything in it is signed by whom it comes from."""

    session: SessionId
    customer: Fingerprint
    clearing_house: Fingerprint
    characterisation: Signed
    intention: Signed


class ClearingSide(StrEnum):
    """To whom a clearing statement is said."""

    PAYER = "payer"  # owes it to the clearing house, at its prices
    PROVIDER = "provider"  # is owed it by the clearing house, at the provider's price
    CUSTOMER = "customer"  # owes it to its provider no more; split edge: is owed it by the clearing house


class ClearingStatement(Message, frozen=True, kw_only=True):
    """The clearing house to one party: what the session comes to so far. One party's prices are not told to another."""

    clearing_house: Fingerprint
    party: Fingerprint
    side: ClearingSide
    session: SessionId
    sequence: Sequence  # of the characterisation that was cleared last
    to_unix_ms: UnixMilliseconds
    lines: Annotated[tuple[PricedMarks, ...], msgspec.Meta(max_length=LINES_MAX)]
    amount_nanodollars: Sum
