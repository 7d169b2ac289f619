"""The session protocol's datagrams: signs what leaves, and judges what comes.

Decides: whether a message is its signer's own, fresh and new. Refuses to know: sockets, clocks, and what follows.
Pure. Normative: `docs/spec/session-protocol.md`; the echoes of `hostagent.payments` are judged the same way.

A sequence number is the time of day in milliseconds at which its signer made the message, or one more than that of the
message before in the same session. So it grows over restarts, and one that is `MAX_AGE_MS` off our own clock is not
believed: that bounds a replay after our own restart.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.messages import Message, Signed
from billpay.sessions import MarkPrice, MarkReport, SessionTerms, TargetRate
from billpay.signing import SigningKey, fingerprint_of, sign, verify
from hostagent.reacting.prices import Provider

DATAGRAM_BYTES = 1_200
"""Passes every path unfragmented; none of these messages comes near it."""

MAX_AGE_MS = 120_000
MOST_SESSIONS_KNOWN = 8_192

FromPeer = SessionTerms | MarkReport | TargetRate
_OF_PEERS: dict[str, type[SessionTerms] | type[MarkReport] | type[TargetRate]] = {
    "session-terms": SessionTerms,
    "mark-report": MarkReport,
    "target-rate": TargetRate,
}


class Disbelief(enum.Enum):
    """Why a message changes nothing; the values are counter names."""

    UNKNOWN_SENDER = "session_unknown_sender"
    MALFORMED = "session_malformed"
    BAD_SIGNATURE = "session_bad_signature"
    FOREIGN_FLOW = "session_foreign_flow"
    UNKNOWN_SESSION = "session_unknown"
    REPLAYED = "session_replayed"
    WRONG_TIME = "session_wrong_time"
    NOT_COUNTED = "session_not_counted"
    TOO_MANY = "session_too_many"


UNVERIFIED = frozenset((Disbelief.UNKNOWN_SENDER, Disbelief.MALFORMED, Disbelief.TOO_MANY))
"""Found before a signature had to be verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPeer:
    """Another agent: its raw public key, and the addresses that it speaks for."""

    name: str
    public_key: bytes
    fingerprint: str
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """A message whose signature holds. Whether it is fresh is asked once its session is known (`Reader.is_new`)."""

    peer: SessionPeer
    message: FromPeer


class Numbers:
    """The next sequence number of each session."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()

    def next(self, session: str, unix_ms: int) -> int:
        number = max(self._last.pop(session, 0) + 1, unix_ms)
        self._last[session] = number
        while len(self._last) > MOST_SESSIONS_KNOWN:
            self._last.popitem(last=False)
        return number


def write(key: SigningKey, message: Message) -> bytes:
    return msgspec.json.encode(sign(key, message))


class Reader:
    """Judges what comes in on the session port."""

    def __init__(self, peers: Iterable[SessionPeer], providers: Iterable[Provider] = ()) -> None:
        self._peers = {peer.fingerprint: peer for peer in peers}
        self._providers = {
            fingerprint_of(provider.public_key): provider for provider in providers if provider.public_key is not None
        }
        self._last: dict[str, OrderedDict[str, int]] = {}  # each peer's by itself: nobody makes us forget another's
        self._decoder = msgspec.json.Decoder(Signed)

    def read(self, datagram: bytes) -> Believed | MarkPrice | Disbelief:
        if len(datagram) > DATAGRAM_BYTES:
            return Disbelief.MALFORMED
        try:
            signed = self._decoder.decode(datagram)
        except (msgspec.DecodeError, UnicodeError):
            return Disbelief.MALFORMED
        if signed.kind == "mark-price":
            return self._price(signed)
        kind, peer = _OF_PEERS.get(signed.kind), self._peers.get(signed.signer)
        if kind is None:
            return Disbelief.MALFORMED
        if peer is None:
            return Disbelief.UNKNOWN_SENDER
        try:
            message: FromPeer = verify(signed, peer.public_key, kind)
        except RemoteProtocolError:
            return Disbelief.BAD_SIGNATURE
        return Believed(peer=peer, message=message)

    def _price(self, signed: Signed) -> MarkPrice | Disbelief:
        provider = self._providers.get(signed.signer)
        if provider is None or provider.public_key is None:
            return Disbelief.UNKNOWN_SENDER
        try:
            price = verify(signed, provider.public_key, MarkPrice)
        except RemoteProtocolError:
            return Disbelief.BAD_SIGNATURE
        return price if price.provider == provider.name else Disbelief.FOREIGN_FLOW

    def is_new(self, believed: Believed, unix_ms: int) -> Disbelief | None:
        """None: it is, and from now on it is not any more."""
        sequence = believed.message.sequence
        if abs(sequence - unix_ms) > MAX_AGE_MS:
            return Disbelief.WRONG_TIME
        known = self._last.setdefault(believed.peer.fingerprint, OrderedDict())
        last = known.pop(believed.message.session, 0)
        known[believed.message.session] = max(last, sequence)
        while len(known) > MOST_SESSIONS_KNOWN:
            known.popitem(last=False)
        return None if sequence > last else Disbelief.REPLAYED
