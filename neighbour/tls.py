"""TLS between neighbours: version 1.3, both sides show a certificate, both keys are pinned.

Decides: whether the node at the other end of a connection is one that we agreed with.
Refuses to know: what is said over the connection.
Source: ARCHITECTURE ("Node identity"); docs/adr/0006; RFC 8446.

The peers' certificates are the only trust anchors.  After each handshake the public key is compared as well (in the
handshake itself, by an `SSLObject` of our own): no authority, name or chain ever replaces the pinned key.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from cryptography import x509

from billpay.errors import EnvironmentFault
from neighbour.identity import NodeIdentity, PeerCertificate, ed25519_key

_NOT_PINNED: Final = "the certificate of the other end is not one that we agreed with"


class PinnedPeers:
    """The neighbours' certificates that one context accepts; changes hold from the next handshake on."""

    __slots__ = ("_by_key", "_contexts")

    def __init__(self, peers: tuple[PeerCertificate, ...] = ()) -> None:
        self._by_key: dict[bytes, PeerCertificate] = {}
        self._contexts: list[ssl.SSLContext] = []
        for peer in peers:
            self.add(peer)

    def add(self, peer: PeerCertificate) -> None:
        self._by_key[peer.public_key] = peer
        for context in self._contexts:
            context.load_verify_locations(cadata=peer.pem)

    def remove(self, fingerprint: str) -> None:
        """A removed peer stays a trust anchor of living contexts, and fails at the comparison of keys."""
        self._by_key = {key: peer for key, peer in self._by_key.items() if peer.fingerprint != fingerprint}

    def by_public_key(self, public_key: bytes) -> PeerCertificate | None:
        return self._by_key.get(public_key)

    def bind(self, context: ssl.SSLContext) -> None:
        self._contexts.append(context)
        for peer in self._by_key.values():
            context.load_verify_locations(cadata=peer.pem)


def server_context(identity: NodeIdentity, peers: PinnedPeers) -> ssl.SSLContext:
    """For a gateway's control port: a client must show the certificate of one of `peers`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity, peers)
    context.num_tickets = 0  # no resumption: every connection shows its key anew
    return context


def client_context(identity: NodeIdentity, peer: PeerCertificate) -> ssl.SSLContext:
    """For calls to exactly one neighbour."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity, PinnedPeers((peer,)))


def peer_public_key(ssl_object: ssl.SSLObject | ssl.SSLSocket | None) -> bytes | None:
    """The raw key that the other end of a connection showed; None without TLS or a certificate."""
    der = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
    if not der:
        return None
    try:
        return ed25519_key(x509.load_der_x509_certificate(der))
    except ValueError:
        return None


def _context(protocol: int, identity: NodeIdentity, peers: PinnedPeers) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a key is pinned, whatever the address
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        with identity.key_file() as path:
            context.load_cert_chain(identity.certificate_path, path)
    except (OSError, ssl.SSLError) as error:
        raise EnvironmentFault(
            "load node key", str(identity.key_path), error, "start again to restore the certificate"
        ) from error
    peers.bind(context)
    context.sslobject_class = _object_class(peers)
    return context


def _object_class(peers: PinnedPeers) -> type[ssl.SSLObject]:
    class PinnedObject(ssl.SSLObject):
        def do_handshake(self, *args: Any, **kwargs: Any) -> None:
            super().do_handshake(*args, **kwargs)
            key = peer_public_key(self)
            if key is None or peers.by_public_key(key) is None:
                raise ssl.SSLCertVerificationError(_NOT_PINNED)

    return PinnedObject
