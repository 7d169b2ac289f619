"""Signatures over canonical bytes: what makes a message worth something after its connection is gone.

Decides: the one byte form of a message, what is signed, and whether a signed document is what it claims to be.
Refuses to know: where keys are kept (`neighbour.identity`), and what follows from a message.
Source: ARCHITECTURE ("Node identity"); Ed25519, RFC 8032.  docs/spec/canonical-bytes.md has vectors.

Canonical bytes are JSON in UTF-8 with every object's keys sorted, no white space, integers only, bytes as base64, enums
by their value, and every field present.  The signature covers `kind ‖ 0x00 ‖ document`, so that a signature for one
kind is worth nothing for another.  A verified document must encode back to the very bytes that were signed.
"""

from __future__ import annotations

import hashlib
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from billpay.clearing import (
    ClearingOrder,
    ClearingStatement,
    IntentionToPay,
    MeterRecord,
    SessionCharacterisation,
    SessionUsage,
)
from billpay.errors import LocalProtocolError, RemoteProtocolError
from billpay.messages import (
    Echo,
    Grant,
    GrantReceipt,
    KeySuccession,
    Message,
    OadDescription,
    Settlement,
    Signed,
    Statement,
    Tariff,
)
from billpay.sessions import MarkPrice, MarkReport, SessionTerms, TargetRate

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32

_KINDS: Final[dict[type[Message], str]] = {
    Statement: "statement",
    Grant: "grant",
    Echo: "echo",
    Tariff: "tariff",
    OadDescription: "oad-description",
    Settlement: "settlement",
    GrantReceipt: "grant-receipt",
    KeySuccession: "key-succession",
    SessionTerms: "session-terms",
    MarkReport: "mark-report",
    TargetRate: "target-rate",
    MarkPrice: "mark-price",
    MeterRecord: "meter-record",
    SessionUsage: "session-usage",
    SessionCharacterisation: "session-characterisation",
    IntentionToPay: "intention-to-pay",
    ClearingOrder: "clearing-order",
    ClearingStatement: "clearing-statement",
}

MessageT = TypeVar("MessageT", bound=Message)


class SigningKey:
    """An Ed25519 private key that never shows itself. `seed` is 32 random bytes, drawn by the caller."""

    __slots__ = ("_private", "fingerprint", "public_key")

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key: bytes = self._private.public_key().public_bytes_raw()
        self.fingerprint: str = fingerprint_of(self.public_key)

    @property
    def private(self) -> Ed25519PrivateKey:
        """For the certificate and the key file of `neighbour.identity` only."""
        return self._private

    def __repr__(self) -> str:
        return f"SigningKey({self.fingerprint[:16]}…)"


def fingerprint_of(public_key: bytes) -> str:
    """SHA-256 of the raw public key (32 bytes) in hex: what people compare and statements name."""
    return hashlib.sha256(public_key).hexdigest()


def kind_of(message_type: type[Message]) -> str:
    """The name under which messages of this type are signed."""
    kind = _KINDS.get(message_type)
    if kind is None:
        raise LocalProtocolError(f"{message_type.__name__} is not a message that is signed")
    return kind


def canonical_bytes(message: Message) -> bytes:
    """The one byte form of a message."""
    return msgspec.json.encode(message, order="sorted")


def sign(key: SigningKey, message: Message) -> Signed:
    """Signs a message of one of the signed kinds."""
    kind, document = kind_of(type(message)), canonical_bytes(message)
    signature = key.private.sign(_signed_bytes(kind, document))
    return Signed(kind=kind, document=document, signer=key.fingerprint, signature=signature)


def verify(signed: Signed, public_key: bytes, expected: type[MessageT]) -> MessageT:
    """The message, if `public_key` (raw, 32 bytes) signed it as a message of type `expected`.

    Raises RemoteProtocolError with code `wrong-kind`, `wrong-signer`, `bad-signature` or `malformed`, in this order of
    precedence.  Nothing of the document is parsed before its signature holds.
    """
    kind = kind_of(expected)
    if signed.kind != kind:
        raise RemoteProtocolError("wrong-kind", f"expected a signed {kind}, got a signed {signed.kind}")
    if signed.signer != fingerprint_of(public_key):
        raise RemoteProtocolError(
            "wrong-signer", f"the {kind} is signed by {signed.signer[:16]}…, which is not the key expected"
        )
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signed.signature, _signed_bytes(kind, signed.document))
    except (InvalidSignature, ValueError) as error:
        raise RemoteProtocolError("bad-signature", f"the signature of the {kind} does not hold") from error
    return _decode_canonical(signed.document, expected, kind)


def _signed_bytes(kind: str, document: bytes) -> bytes:
    return kind.encode("ascii") + b"\x00" + document


def _decode_canonical(document: bytes, expected: type[MessageT], kind: str) -> MessageT:
    try:
        message = msgspec.json.decode(document, type=expected)
        again = canonical_bytes(message)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RemoteProtocolError("malformed", f"{kind}: {error}") from error
    if again != document:
        raise RemoteProtocolError("malformed", f"the {kind} is not in canonical form")
    return message
