"""Echoes: what the receiving agent tells the paying one, and what the payer believes.

Decides: what an echo says, and whether one that came is to be believed. Refuses to know sockets and clocks.  Pure.
Source: Bill-Pay 2.2 (the receiver "echoes back an appropriate summary"), 2.4 (signed, so that nobody between can
forge).

An echo is believed if the agent of its flow's destination signed it, if it is about a flow of ours, and if it is newer
than every one before from that agent.  Sequence numbers start at the time of day in milliseconds, so they grow over
restarts too, and one that is `MAX_AGE_MS` off our own clock is not believed: that bounds a replay after our restart.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.messages import Echo, Message, OadObservation, ProbeReply, Signed
from billpay.signing import SigningKey, canonical_bytes, sign, verify
from hostagent.payments.commands import FlowReport, Observed

DATAGRAM_BYTES = 1200
"""Passes every path unfragmented (IPv6's least MTU is 1280). A signed document is in it as base64."""

MAX_AGE_MS = 120_000
OBSERVATIONS = 3
PROBES = 4


class Disbelief(enum.Enum):
    """Why an echo changes nothing; the values are counter names."""

    UNKNOWN_SENDER = "echo_unknown_sender"
    MALFORMED = "echo_malformed"
    BAD_SIGNATURE = "echo_bad_signature"
    FOREIGN_FLOW = "echo_foreign_flow"
    REPLAYED = "echo_replayed"
    WRONG_TIME = "echo_wrong_time"


class EchoWriter:
    """Makes and signs the echoes of this agent. `session`: 32 hex digits, drawn at the start."""

    def __init__(self, key: SigningKey, session: str) -> None:
        self._key = key
        self._session = session
        self._sequence = 0

    def write(
        self, report: FlowReport, *, returned_nanodollars: int, probes: Iterable[ProbeReply], unix_ms: int
    ) -> bytes:
        """A datagram about an arriving flow: answers to probes, then what arrived by the latest path and by the
        busiest ones, as far as they fit.
        """
        self._sequence = max(self._sequence + 1, unix_ms)
        echo = Echo(
            session=self._session,
            sequence=self._sequence,
            flow=report.flow,
            packets=report.in_packets,
            bytes=report.in_bytes,
            paid_packets=report.in_paid_packets,
            ce_packets=report.in_ce_packets,
            received_nanodollars=report.received_nanodollars,
            returned_nanodollars=returned_nanodollars,
        )
        observations = [_observation(seen) for seen in _most_telling(report.observed)]
        room = self._room_for(echo)
        room, answers = _fitting(tuple(probes)[:PROBES], room)
        room, told = _fitting(observations[:OBSERVATIONS], room)
        echo = msgspec.structs.replace(echo, probes=tuple(answers), observations=tuple(told))
        return msgspec.json.encode(sign(self._key, echo))

    def _room_for(self, echo: Echo) -> int:
        """Bytes that an echo's document may still grow by."""
        around = len(msgspec.json.encode(Signed(kind="echo", document=b"", signer=self._key.fingerprint,
                                                signature=bytes(64))))  # fmt: skip
        return (DATAGRAM_BYTES - around) // 4 * 3 - len(canonical_bytes(echo))


ItemT = TypeVar("ItemT", bound=Message)


def _fitting(items: Sequence[ItemT], room: int) -> tuple[int, list[ItemT]]:
    """The first of the items that fit into so many bytes, and the room that they leave."""
    fitting = []
    for item in items:
        size = len(canonical_bytes(item)) + 1
        if size > room:
            break
        room -= size
        fitting.append(item)
    return room, fitting


def _most_telling(observed: Sequence[Observed]) -> list[Observed]:
    """The latest first: a path that was just taken is news, however few packets went by it yet."""
    return [*observed[:1], *sorted(observed[1:], key=lambda seen: -seen.packets)]


def _observation(seen: Observed) -> OadObservation:
    return OadObservation(
        oads=seen.oads,
        packets=seen.packets,
        received_nanodollars=seen.received_nanodollars,
        lowest_amount=seen.lowest_amount,
        path_length=seen.path_length,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoPeer:
    """An agent that we know: its raw public key, and the addresses that it speaks for."""

    name: str
    public_key: bytes
    fingerprint: str
    addresses: frozenset[str]


class EchoReader:
    """Judges what comes in on the echo port."""

    def __init__(self, peers: Iterable[EchoPeer]) -> None:
        self._peers = {peer.fingerprint: peer for peer in peers}
        self._last: dict[str, int] = {}

    def read(self, datagram: bytes, *, own_addresses: frozenset[str], unix_ms: int) -> Echo | Disbelief:
        try:
            signed = msgspec.json.decode(datagram, type=Signed)
        except (msgspec.DecodeError, UnicodeError):
            return Disbelief.MALFORMED
        peer = self._peers.get(signed.signer)
        if peer is None:
            return Disbelief.UNKNOWN_SENDER
        try:
            echo = verify(signed, peer.public_key, Echo)
        except RemoteProtocolError:
            return Disbelief.BAD_SIGNATURE
        if echo.flow.destination not in peer.addresses or echo.flow.source not in own_addresses:
            return Disbelief.FOREIGN_FLOW
        if abs(echo.sequence - unix_ms) > MAX_AGE_MS:
            return Disbelief.WRONG_TIME
        if echo.sequence <= self._last.get(peer.fingerprint, 0):
            return Disbelief.REPLAYED
        self._last[peer.fingerprint] = echo.sequence
        return echo
