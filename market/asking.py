"""What the parts of the market ask each other: lines of JSON over unix sockets.

Decides: the questions, the answers, and how long a line may be. Refuses to know what follows from one. Whatever is
worth money travels in it as a signed document; the rest (a counter's reading, the opening of a session) is between
parts of one operator, whose socket only that operator's user can reach.
Source: docs/spec/session-charging.md. The caller asks, the other side answers each line with one line, in order. Every
question may be asked again and is answered alike.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import msgspec

from billpay.clearing import MeteredKey, Run
from billpay.errors import EnvironmentFault
from billpay.messages import Count, Message, Name, Signed, Sum, Text
from billpay.sessions import Milliseconds, SessionId, UnixMilliseconds

LINE_BYTES_MAX: Final = 262_144
ANSWER_S: Final = 3.0


class Tell(Message, frozen=True, kw_only=True, tag=True):
    """A signed document. `Heard`: it is on the disk here, and need not be said again."""

    signed: Signed


class Certified(Message, frozen=True, kw_only=True, tag=True):
    """The authority's certificate of somebody, as PEM."""

    certificate: Annotated[str, msgspec.Meta(max_length=16_384)]


class Read(Message, frozen=True, kw_only=True, tag=True):
    """To a meter: a cumulative counter as it stood. `ends`: what was counted goes out now, whatever the policy says."""

    run: Run
    key: MeteredKey
    unix_ms: UnixMilliseconds
    packets: Count
    bytes: Count
    ce_packets: Count
    ends: bool = False


class Open(Message, frozen=True, kw_only=True, tag=True):
    """To mediation: what this meter counts of this key is this session's."""

    session: SessionId
    key: MeteredKey
    meter: Name
    regularity_ms: Milliseconds


class End(Message, frozen=True, kw_only=True, tag=True):
    """To mediation: the session is over; its last interval is complete as it is."""

    session: SessionId


class Characterise(Message, frozen=True, kw_only=True, tag=True):
    """To charging: the signed characterisation of a session for this customer, as far as it is charged."""

    session: SessionId
    customer: Name


class Statements(Message, frozen=True, kw_only=True, tag=True):
    """To the clearing house: the signed statements of a session."""

    session: SessionId


class Totals(Message, frozen=True, kw_only=True, tag=True):
    """To any part: what it knows of a session (a meter: of a key) by now."""

    session: SessionId
    key: MeteredKey


Question = Tell | Certified | Read | Open | End | Characterise | Statements | Totals


class Heard(Message, frozen=True, kw_only=True, tag=True):
    """`news`: false where it was known."""

    news: bool = True


class Said(Message, frozen=True, kw_only=True, tag=True):
    """Signed documents; none where nothing is known."""

    signed: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=8)]


class Total(Message, frozen=True, kw_only=True, tag=True):
    """`payer_nanodollars`: what the payer owes the clearing house; only it knows."""

    packets: Count = 0
    bytes: Count = 0
    marks: Count = 0
    nanodollars: Sum = 0
    payer_nanodollars: Sum = 0
    unsent: Count = 0


class Refused(Message, frozen=True, kw_only=True, tag=True):
    """`again`: it may be taken later, when something else has come."""

    code: Name
    message: Text
    again: bool = False


Answer = Heard | Said | Total | Refused


class Request(Message, frozen=True, kw_only=True):
    question: Question


class Reply(Message, frozen=True, kw_only=True):
    answer: Answer


async def ask(path: Path, question: Question) -> Answer:
    """One question on a connection of its own. Raises EnvironmentFault where nobody answers."""
    remedy = "start it, or ask again later"
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX)
            try:
                writer.write(msgspec.json.encode(Request(question=question)) + b"\n")
                await writer.drain()
                line = await reader.readuntil(b"\n")
            finally:
                writer.close()
        return msgspec.json.decode(line, type=Reply).answer
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise EnvironmentFault("ask", str(path), str(error) or "no answer", remedy) from error
    except msgspec.DecodeError as error:
        raise EnvironmentFault("ask", str(path), f"not an answer: {error}", remedy) from error
