"""Grants at the gateway: whether a packet's payment may be taken from a grant.

Decides by the caps of the signed grant alone: sum, rate, validity. Refuses to know MACs, packets and clocks; what was
spent is kept in the caller's crash-proof counters and passed in. Integers only: the bucket is in nanodollar·ns.
Also: whether a receipt is the word of the gateway that the grant names, and its last one.

Source: Bill-Pay 2.4 (a hijacked host can spend no more than its secretary authorised); ARCHITECTURE, "grant".
"""

from __future__ import annotations

import enum

from billpay.errors import RemoteProtocolError
from billpay.messages import Grant, GrantReceipt, Signed
from billpay.signing import fingerprint_of, verify

NS_PER_S = 1_000_000_000
MAX_BURST_NANODOLLARS = 9_000_000_000
"""More at once is not admitted, whatever a grant says: in nanodollar·ns the bucket fits 63 bits, and $9 of burst are
hundreds of the largest payments."""


class Refusal(enum.Enum):
    """Why a payment is not taken, in order of precedence; the packet goes on unpaid."""

    NOT_YET_VALID = "grant_not_yet_valid"
    EXPIRED = "grant_expired"
    OVER_SUM = "grant_over_sum"
    OVER_RATE = "grant_over_rate"


class ReplacementRefusal(enum.Enum):
    """Why a newer document does not replace a grant."""

    OLD_SERIAL = "old-serial"
    OTHER_FLOW = "other-flow"
    OTHER_KIND = "other-kind"
    OTHER_KEY = "other-key"


class GrantGate:
    """The caps of one open grant.

    Time comes as monotonic ns for the rate and as unix seconds for validity; a unix clock that is set back never
    makes an expired grant valid again.
    """

    __slots__ = ("_burst", "_last_ns", "_latest_unix_s", "_rate", "_tokens", "grant")

    def __init__(self, grant: Grant, *, now_ns: int) -> None:
        self.grant = grant
        self._rate = grant.rate_nanodollars_per_s
        self._burst = _burst_of(grant)
        self._tokens = self._burst
        self._last_ns = now_ns
        self._latest_unix_s = 0

    def replace(self, grant: Grant, *, now_ns: int | None = None) -> ReplacementRefusal | None:
        """Takes a newer version: higher serial, same flow, kind and key. Tokens and what was spent are kept.

        The time until `now_ns` counts at the old rate and burst; without it, the time since the last payment counts at
        the new ones.
        """
        old = self.grant
        if grant.serial <= old.serial:
            return ReplacementRefusal.OLD_SERIAL
        if grant.flow != old.flow:
            return ReplacementRefusal.OTHER_FLOW
        if grant.kind != old.kind:
            return ReplacementRefusal.OTHER_KIND
        if grant.key != old.key:
            return ReplacementRefusal.OTHER_KEY
        if now_ns is not None:
            self._fill(now_ns)
        self.grant = grant
        self._rate = grant.rate_nanodollars_per_s
        self._burst = _burst_of(grant)
        self._tokens = min(self._tokens, self._burst)
        return None

    def validity(self, unix_s: int) -> Refusal | None:
        """Whether the grant's time has come and has not passed."""
        if unix_s > self._latest_unix_s:
            self._latest_unix_s = unix_s
        if self._latest_unix_s < self.grant.not_before_unix_s:
            return Refusal.NOT_YET_VALID
        if self._latest_unix_s >= self.grant.expires_unix_s:
            return Refusal.EXPIRED
        return None

    def admit(self, amount_nanodollars: int, *, spent_nanodollars: int, now_ns: int) -> Refusal | None:
        """Takes the amount out of the rate bucket, or says why not. Ask `validity` once a second, not for
        each packet.
        """
        if spent_nanodollars + amount_nanodollars > self.grant.cap_nanodollars:
            return Refusal.OVER_SUM
        self._fill(now_ns)
        cost = amount_nanodollars * NS_PER_S
        if cost > self._tokens:
            return Refusal.OVER_RATE
        self._tokens -= cost
        return None

    def _fill(self, now_ns: int) -> None:
        elapsed = now_ns - self._last_ns
        if elapsed > 0:
            tokens = self._tokens + elapsed * self._rate
            self._tokens = tokens if tokens < self._burst else self._burst
            self._last_ns = now_ns


def _burst_of(grant: Grant) -> int:
    return min(grant.burst_nanodollars, MAX_BURST_NANODOLLARS) * NS_PER_S


def verify_receipt(signed: Signed, public_key: bytes, gateway: str, *, final: bool = True) -> GrantReceipt:
    """What was spent of a grant, by the word of the gateway that it names.

    `gateway` is the fingerprint in the grant (never one that came with the receipt); `public_key` (raw) may come from
    anybody, since its fingerprint has to be that one. Raises RemoteProtocolError: `other-gateway`, `not-final`, and the
    codes of `billpay.signing.verify`.
    """
    if not gateway or fingerprint_of(public_key) != gateway:
        raise RemoteProtocolError("other-gateway", "the receipt is of another gateway than the grant names")
    receipt = verify(signed, public_key, GrantReceipt)
    if final and not receipt.final:
        raise RemoteProtocolError("not-final", f"grant {receipt.grant[:8]}… is still open: more may be spent")
    return receipt
