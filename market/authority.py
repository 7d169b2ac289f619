"""The trusted third party: who vouches that a key is whose it says.

Decides: the certificate, and whether one is to be believed. Refuses to know what a party may do with its key.
Source: M3I scenarios 3.3.2.1 (a TTP "whom everyone trusts to certify each principle's identity"; assumed there, here
it exists, DPH-11); RFC 5280.

One authority, one level. A certificate names one party and its Ed25519 key; the authority never gives one name to two
keys. Dates are fixed, as in `neighbour.identity`: the same arguments give the same bytes for ever. Certificates are not
taken back; a party whose key is lost gets another name.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from billpay.errors import LocalProtocolError, RemoteProtocolError
from billpay.messages import Signed
from billpay.signing import MessageT, SigningKey, fingerprint_of, verify
from neighbour.identity import ed25519_key

_NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_SERIAL_BYTES: Final = 16
PEM_BYTES_MAX: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A certified name with its key."""

    name: str
    public_key: bytes
    fingerprint: str


class Authority:
    """Issues certificates. It remembers whom it named; a driver keeps that with its key."""

    def __init__(self, name: str, key: SigningKey) -> None:
        self.name = name
        self._key = key
        self._named: dict[str, bytes] = {}

    @property
    def public_key(self) -> bytes:
        return self._key.public_key

    def certify(self, name: str, public_key: bytes) -> str:
        """The certificate, as PEM. Raises LocalProtocolError for a name that is another key's."""
        if self._named.setdefault(name, public_key) != public_key:
            raise LocalProtocolError(f"{name} is the name of another key")
        serial = int.from_bytes(bytes.fromhex(fingerprint_of(public_key))[:_SERIAL_BYTES], "big") >> 1 or 1
        certificate = (
            x509.CertificateBuilder(subject_name=_named(name), issuer_name=_named(self.name), serial_number=serial)
            .public_key(Ed25519PublicKey.from_public_bytes(public_key))
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key.private, algorithm=None)
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


class Register:
    """The certified parties that somebody knows, all by one authority's word."""

    def __init__(self, authority_key: bytes) -> None:
        self._authority = Ed25519PublicKey.from_public_bytes(authority_key)
        self._by_fingerprint: dict[str, Party] = {}

    def admit(self, pem: str) -> Party:
        """Raises RemoteProtocolError `not-certified` unless the authority signed it for one name and one key."""
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode()[:PEM_BYTES_MAX])
            self._authority.verify(certificate.signature, certificate.tbs_certificate_bytes)
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (ValueError, InvalidSignature, x509.ExtensionNotFound) as error:
            raise RemoteProtocolError("not-certified", "the authority did not sign this certificate") from error
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = ed25519_key(certificate)
        if key is None or len(names) != 1 or constraints.ca:
            raise RemoteProtocolError("not-certified", "the certificate names no single party")
        party = Party(name=str(names[0].value), public_key=key, fingerprint=fingerprint_of(key))
        return self._by_fingerprint.setdefault(party.fingerprint, party)

    def party(self, fingerprint: str) -> Party:
        """Raises RemoteProtocolError `not-certified`."""
        found = self._by_fingerprint.get(fingerprint)
        if found is None:
            raise RemoteProtocolError("not-certified", f"nobody vouches for {fingerprint[:16]}…")
        return found

    def named(self, name: str) -> Party:
        """Raises RemoteProtocolError `not-certified`."""
        for party in self._by_fingerprint.values():
            if party.name == name:
                return party
        raise RemoteProtocolError("not-certified", f"nobody vouches for {name}")

    def open(self, signed: Signed, expected: type[MessageT]) -> tuple[MessageT, Party]:
        """A signed message and who signed it. Raises RemoteProtocolError as `billpay.signing.verify` does."""
        party = self.party(signed.signer)
        return verify(signed, party.public_key, expected), party


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
